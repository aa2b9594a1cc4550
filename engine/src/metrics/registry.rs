//! The counters by listener and by pool, and the endpoints in force: what each worker writes, under the
//! labels by which it is read.
//!
//! A listener or pool of the next configuration with the label of an earlier one goes on with its counters.
//! One that is gone keeps its series until its connections have ended and a few more scrapes have seen the
//! last of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::listener::ListenerCounters;
use super::pool::PoolCounters;
use crate::pool::EndpointState;

/// Scrapes that still show what is gone.
const LAST_SCRAPES: u32 = 4;
/// Most listeners, and most pools, that are gone and still shown; those that went first are left out.
pub(super) const GONE_MAX: usize = 64;

/// Shared by the control plane, which makes counters, and by readers.
#[derive(Debug)]
pub struct Registry {
    workers: usize,
    /// When the process began (Unix time), which is the zero of the clock of endpoints.
    began: u64,
    state: Mutex<State>,
}

/// All that is known by label.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) listeners: Vec<Labelled<ListenerCounters>>,
    pub(super) pools: Vec<Labelled<PoolCounters>>,
    pub(super) endpoints: Vec<EndpointRow>,
}

/// The counters of all workers under one label.
#[derive(Debug)]
pub(super) struct Labelled<T> {
    pub(super) label: Box<str>,
    /// By worker.
    pub(super) workers: Vec<Arc<T>>,
    /// By the control plane, of a pool: probes that succeeded, and that failed.
    pub(super) probes: [AtomicU64; 2],
    scrapes_left: u32,
}

/// An endpoint that is in force.
#[derive(Clone, Debug)]
pub struct EndpointRow {
    /// The name of its pool.
    pub pool: Arc<str>,
    /// Its address.
    pub address: String,
    /// As configured.
    pub weight: u32,
    /// Whether it is up, since when, and its connections.
    pub state: Arc<EndpointState>,
}

impl Registry {
    /// An empty one of a process that began at this time, in seconds since 1970.
    #[must_use]
    pub fn new(workers: usize, began: u64) -> Self {
        Self { workers, began, state: Mutex::default() }
    }

    pub(super) fn began(&self) -> u64 {
        self.began
    }

    /// The counters of a worker for the listener with this label.
    #[must_use]
    pub fn listener(&self, label: &str, worker: usize) -> Arc<ListenerCounters> {
        counters(&mut self.lock().listeners, label, self.workers, worker)
    }

    /// The counters of a worker for the pool with this name.
    #[must_use]
    pub fn pool(&self, name: &str, worker: usize) -> Arc<PoolCounters> {
        counters(&mut self.lock().pools, name, self.workers, worker)
    }

    /// Counts a probe of an endpoint of this pool. Only the control plane may call this.
    pub fn probed(&self, pool: &str, is_good: bool) {
        if let Some(pool) = self.lock().pools.iter().find(|it| *it.label == *pool) {
            pool.probes[usize::from(!is_good)].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sets which endpoints are in force.
    pub fn set_endpoints(&self, endpoints: Vec<EndpointRow>) {
        self.lock().endpoints = endpoints;
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What is gone has been shown once more.
    pub(super) fn shown(&mut self) {
        age(&mut self.listeners);
        age(&mut self.pools);
    }
}

impl<T> Labelled<T> {
    /// Whether no worker writes it any more.
    fn is_gone(&self) -> bool {
        self.workers.iter().all(|counters| Arc::strong_count(counters) == 1)
    }
}

fn counters<T: Default>(all: &mut Vec<Labelled<T>>, label: &str, workers: usize, worker: usize) -> Arc<T> {
    let place = all.iter().position(|it| *it.label == *label).unwrap_or_else(|| {
        forget_gone(all, GONE_MAX);
        all.push(Labelled {
            label: label.into(),
            workers: (0..workers).map(|_| Arc::default()).collect(),
            probes: Default::default(),
            scrapes_left: LAST_SCRAPES,
        });
        all.len() - 1
    });
    all[place].scrapes_left = LAST_SCRAPES;
    // One without a place counts for nobody.
    all[place].workers.get(worker).cloned().unwrap_or_default()
}

/// Leaves out those that went first, if more than `most` are gone.
fn forget_gone<T>(all: &mut Vec<Labelled<T>>, most: usize) {
    let mut too_many = all.iter().filter(|it| it.is_gone()).count().saturating_sub(most);
    all.retain(|it| {
        let is_left_out = too_many > 0 && it.is_gone();
        too_many -= usize::from(is_left_out);
        !is_left_out
    });
}

fn age<T>(all: &mut Vec<Labelled<T>>) {
    for it in all.iter_mut() {
        it.scrapes_left = if it.is_gone() { it.scrapes_left.saturating_sub(1) } else { LAST_SCRAPES };
    }
    all.retain(|it| it.scrapes_left > 0);
}

#[cfg(test)]
mod tests {
    use super::super::listener::Counter;
    use super::*;

    fn labels(registry: &Registry) -> Vec<String> {
        registry.lock().listeners.iter().map(|it| it.label.to_string()).collect()
    }

    #[test]
    fn listener_that_is_gone_is_shown_a_few_times_more() {
        let registry = Registry::new(2, 0);
        let (one, other) = (registry.listener("a", 0), registry.listener("a", 1));
        let b = registry.listener("b", 0);
        one.add(Counter::Accepted, 1);
        drop(one);
        (0..10).for_each(|_| registry.lock().shown());
        assert_eq!(labels(&registry), ["a", "b"], "a worker has it");
        drop(other);
        (1..LAST_SCRAPES).for_each(|_| registry.lock().shown());
        assert_eq!(labels(&registry), ["a", "b"]);
        assert_eq!(registry.listener("a", 0).get(Counter::Accepted), 1, "it came back");
        (0..LAST_SCRAPES).for_each(|_| registry.lock().shown());
        assert_eq!(labels(&registry), ["b"]);
        drop(b);
    }

    #[test]
    fn listeners_that_are_gone_are_bounded_without_a_scrape() {
        let registry = Registry::new(1, 0);
        let kept = registry.listener("kept", 0);
        (0..1000).for_each(|nth| drop(registry.listener(&nth.to_string(), 0)));
        let labels = labels(&registry);
        assert_eq!((labels.len(), &*labels[0]), (GONE_MAX + 2, "kept"));
        drop(kept);
    }

    #[test]
    fn probes_are_counted_of_pools_that_are_known() {
        let registry = Registry::new(1, 0);
        let _counters = registry.pool("p", 0);
        for (pool, is_good) in [("p", true), ("p", false), ("p", false), ("q", true)] {
            registry.probed(pool, is_good);
        }
        let state = registry.lock();
        let probes: Vec<_> = state.pools[0].probes.iter().map(|it| it.load(Ordering::Relaxed)).collect();
        assert_eq!((probes, state.pools.len()), (vec![1, 2], 1));
    }
}
