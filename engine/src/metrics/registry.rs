//! The counters by listener and by pool, and the endpoints in force: what each worker writes, under the
//! labels by which it is read.
//!
//! A listener or pool of the next configuration with the label of an earlier one goes on with its counters.
//! One that is gone keeps its series until its connections have ended, and for [`SECONDS_AFTER_END`] more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::listener::ListenerCounters;
use super::pool::PoolCounters;
use crate::pool::EndpointState;
use crate::tls::ticket_keys::UnixSeconds;

/// How long the series of what is gone are shown, from the first reading that finds it so: long enough for
/// several scrapes of Prometheus, however often others read.
const SECONDS_AFTER_END: UnixSeconds = 600;
/// Most listeners, and most pools, that are gone and still shown; those that went first are left out.
pub(super) const GONE_MAX: usize = 64;

/// Shared by the control plane, which makes counters, and by readers.
#[derive(Debug)]
pub struct Registry {
    workers: usize,
    /// When the process began (Unix time), which is the zero of the clock of endpoints.
    began: UnixSeconds,
    /// Reloads that are in force, and that failed.
    reloads: [AtomicU64; 2],
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
    /// When a reading found for the first time that it is gone.
    gone_since: Option<UnixSeconds>,
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
        Self { workers, began, reloads: Default::default(), state: Mutex::default() }
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

    /// Counts a reload: of the configuration, or of files that have changed. Only the control plane may call
    /// this.
    pub fn reloaded(&self, is_good: bool) {
        self.reloads[usize::from(!is_good)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn reloads(&self) -> [u64; 2] {
        self.reloads.each_ref().map(|count| count.load(Ordering::Relaxed))
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
    /// Drops what has been shown for long enough after it was gone.
    pub(super) fn shown(&mut self, now: UnixSeconds) {
        age(&mut self.listeners, now);
        age(&mut self.pools, now);
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
            gone_since: None,
        });
        all.len() - 1
    });
    all[place].gone_since = None;
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

fn age<T>(all: &mut Vec<Labelled<T>>, now: UnixSeconds) {
    for it in all.iter_mut() {
        it.gone_since = it.is_gone().then(|| it.gone_since.unwrap_or(now));
    }
    let is_over = |since: UnixSeconds| now.saturating_sub(since) >= SECONDS_AFTER_END;
    all.retain(|it| !it.gone_since.is_some_and(is_over));
}

#[cfg(test)]
mod tests {
    use super::super::listener::Counter;
    use super::*;

    fn labels(registry: &Registry) -> Vec<String> {
        registry.lock().listeners.iter().map(|it| it.label.to_string()).collect()
    }

    #[test]
    fn listener_that_is_gone_is_shown_for_its_time() {
        let registry = Registry::new(2, 0);
        let (one, other) = (registry.listener("a", 0), registry.listener("a", 1));
        let b = registry.listener("b", 0);
        one.add(Counter::Accepted, 1);
        let read = |at: UnixSeconds| {
            // However often somebody reads.
            (0..10).for_each(|_| registry.lock().shown(at));
            labels(&registry)
        };
        drop(one);
        assert_eq!(read(9 * SECONDS_AFTER_END), ["a", "b"], "a worker has it");
        drop(other);
        let gone = 10 * SECONDS_AFTER_END;
        assert_eq!(read(gone), ["a", "b"]);
        assert_eq!(read(gone + SECONDS_AFTER_END - 1), ["a", "b"]);
        assert_eq!(registry.listener("a", 0).get(Counter::Accepted), 1, "it came back");
        assert_eq!(read(gone + SECONDS_AFTER_END), ["a", "b"], "it went again");
        assert_eq!(read(gone + 2 * SECONDS_AFTER_END), ["b"]);
        drop(b);
    }

    #[test]
    fn removed_listeners_are_bounded_without_a_scrape() {
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

    #[test]
    fn reloads_are_counted_by_result() {
        let registry = Registry::new(1, 0);
        [true, false, true].into_iter().for_each(|is_good| registry.reloaded(is_good));
        assert_eq!(registry.reloads(), [2, 1]);
    }
}
