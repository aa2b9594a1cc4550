//! The state of one endpoint, shared by all workers and the control plane: whether it is up, its open
//! connections and its consecutive failures.
//!
//! The control plane decides whether an endpoint is up; the workers report connections and failures. No lock
//! is taken, and every access is relaxed: no other memory is published by these values.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The share of an endpoint that has its full weight, in per mille.
const SHARE_FULL: u32 = 1000;
/// The share of an endpoint at the beginning of its slow start, in per mille.
const SHARE_MIN: u32 = 100;

/// [`EndpointState::up_since`] of an endpoint that is down.
const DOWN: u64 = u64::MAX;
/// [`EndpointState::up_since`] of an endpoint that has been up from the beginning: it has no slow start.
const ALWAYS_UP: u64 = 0;

/// The state of one endpoint, for an `Arc` that all workers and the control plane hold.
///
/// Aligned to two cache lines: workers read it for every choice, so the reference counts of its `Arc` and of
/// its neighbours do not share its line. The counters of connections are elsewhere.
#[derive(Debug)]
#[repr(align(128))]
pub struct EndpointState {
    /// [`DOWN`], [`ALWAYS_UP`], or one more than the millisecond at which the endpoint came up.
    up_since: AtomicU64,
    /// The millisecond at which it went up or down last; 0 if it never did.
    changed_ms: AtomicU64,
    /// Consecutive failures.
    failures: AtomicU32,
    connections: ConnectionCount,
}

/// Connections of all workers, each of which writes a counter of its own.
#[derive(Debug)]
pub struct ConnectionCount(Box<[WorkerConnections]>);

/// The connections of one worker. Only that worker writes them.
///
/// Aligned to two cache lines: no two workers' counters share a line, nor a pair that is fetched together.
#[derive(Debug, Default)]
#[repr(align(128))]
struct WorkerConnections(AtomicU32);

impl EndpointState {
    /// An endpoint that is up and has no slow start, no connections and no failures. `workers` is the number
    /// of workers; their indices are 0 to `workers - 1`.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            up_since: AtomicU64::new(ALWAYS_UP),
            changed_ms: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            connections: ConnectionCount::new(workers),
        }
    }

    /// Whether new connections may go to the endpoint.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up_since.load(Ordering::Relaxed) != DOWN
    }

    /// Marks the endpoint as up or down. Only the control plane may call this. `now_ms` is the time in
    /// milliseconds of a monotonic clock that began with the process.
    ///
    /// An endpoint that comes up begins its slow start and has no failures: earlier failures led to its being
    /// down. A call that changes nothing does not restart the slow start.
    pub fn set_up(&self, up: bool, now_ms: u64) {
        if up == self.is_up() {
            return;
        }
        if up {
            self.failures.store(0, Ordering::Relaxed);
        }
        let up_since = if up { now_ms.saturating_add(1).min(DOWN - 1) } else { DOWN };
        self.up_since.store(up_since, Ordering::Relaxed);
        self.changed_ms.store(now_ms, Ordering::Relaxed);
    }

    /// The time of the last change between up and down, by the clock of [`set_up`](Self::set_up); 0 if the
    /// endpoint has been up from the beginning.
    #[must_use]
    pub fn changed_ms(&self) -> u64 {
        self.changed_ms.load(Ordering::Relaxed)
    }

    /// Counts a connection that this worker opens. Only the worker with this index may call this.
    pub fn enter(&self, worker: usize) {
        self.connections.enter(worker);
    }

    /// Counts a connection that this worker closes. Only the worker with this index may call this, once per
    /// [`enter`](Self::enter).
    pub fn leave(&self, worker: usize) {
        self.connections.leave(worker);
    }

    /// The open connections of all workers to the endpoint; see [`ConnectionCount::sum`].
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.connections.sum()
    }

    /// Counts a connection to the endpoint that failed. Any worker may call this.
    pub fn failed(&self) {
        // The count wraps after 2^32 failures without a success; the endpoint has been down for long by then.
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends the run of consecutive failures: a connection to the endpoint succeeded. Any worker may call
    /// this.
    ///
    /// Without failures this is only a read, so that the cache line stays shared between the workers. A
    /// failure that another worker reports at the same moment may be lost.
    pub fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// The number of consecutive failures since the last success, or since the endpoint came up if that was
    /// later. Reading does not reset the count.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// The part of its weight that the endpoint has at `now_ms`, in per mille: 100 to 1000.
    ///
    /// For `slow_start_ms` milliseconds after the endpoint came up, the share rises linearly from 100 to
    /// 1000; 0 means no slow start. An endpoint that is down has the full share: it matters only to a caller
    /// that chooses among endpoints that are all down. `now_ms` is of the clock of [`set_up`](Self::set_up).
    #[must_use]
    pub fn share(&self, now_ms: u64, slow_start_ms: u64) -> u32 {
        let up_since = match self.up_since.load(Ordering::Relaxed) {
            DOWN | ALWAYS_UP => return SHARE_FULL,
            later => later - 1,
        };
        // A worker's clock may be behind the clock of the control plane.
        let elapsed = now_ms.saturating_sub(up_since);
        if elapsed >= slow_start_ms {
            return SHARE_FULL;
        }
        let gained = elapsed.saturating_mul(u64::from(SHARE_FULL - SHARE_MIN)) / slow_start_ms;
        u32::try_from(gained).map_or(SHARE_FULL, |gained| SHARE_MIN + gained)
    }
}

impl ConnectionCount {
    /// None yet. `workers` is the number of workers; their indices are 0 to `workers - 1`.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| WorkerConnections::default()).collect())
    }

    /// Counts a connection that this worker opens. Only the worker with this index may call this.
    pub fn enter(&self, worker: usize) {
        self.update(worker, |connections| connections.saturating_add(1));
    }

    /// Counts a connection that this worker closes. Only the worker with this index may call this, once per
    /// [`enter`](Self::enter).
    pub fn leave(&self, worker: usize) {
        self.update(worker, |connections| {
            debug_assert!(connections > 0, "a connection leaves that did not enter");
            connections.saturating_sub(1)
        });
    }

    /// Those of all workers.
    ///
    /// Two workers that count at the same moment do not see each other's new connection. A limit that is
    /// compared with this sum may be exceeded by up to the number of workers minus 1.
    #[must_use]
    pub fn sum(&self) -> u32 {
        let each = self.0.iter().map(|WorkerConnections(own)| own.load(Ordering::Relaxed));
        each.fold(0, u32::saturating_add)
    }

    /// Those of one worker.
    #[must_use]
    pub fn of(&self, worker: usize) -> u32 {
        self.0.get(worker).map_or(0, |WorkerConnections(own)| own.load(Ordering::Relaxed))
    }

    /// There is one writer per counter, so a load and a store suffice. A worker without a counter is ignored.
    fn update(&self, worker: usize, change: impl FnOnce(u32) -> u32) {
        debug_assert!(worker < self.0.len(), "a worker without a counter");
        if let Some(WorkerConnections(connections)) = self.0.get(worker) {
            connections.store(change(connections.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn state_new_is_up_and_empty() {
        let state = EndpointState::new(2);
        assert!(state.is_up());
        assert_eq!((state.connections(), state.failures()), (0, 0));
        assert_eq!(state.share(0, 10_000), SHARE_FULL, "the first state has no slow start");
    }

    #[test]
    fn set_up_false_and_true_is_seen() {
        let state = EndpointState::new(1);
        state.set_up(false, 5);
        assert!(!state.is_up());
        state.set_up(true, 6);
        assert!(state.is_up());
    }

    #[test]
    fn set_up_after_down_forgets_failures() {
        let state = EndpointState::new(1);
        state.failed();
        state.set_up(true, 1);
        assert_eq!(state.failures(), 1, "it was up already");
        state.set_up(false, 2);
        assert_eq!(state.failures(), 1);
        state.set_up(true, 3);
        assert_eq!(state.failures(), 0);
    }

    #[test]
    fn share_during_slow_start_rises_linearly() {
        let state = EndpointState::new(1);
        state.set_up(false, 0);
        state.set_up(true, 2_000);
        let shares = [1_000, 2_000, 3_000, 7_000, 11_999, 12_000, 50_000];
        let shares = shares.map(|now_ms| state.share(now_ms, 10_000));
        assert_eq!(shares, [100, 100, 190, 550, 999, 1000, 1000]);
    }

    #[test]
    fn share_of_an_endpoint_up_at_zero_is_slow() {
        let state = EndpointState::new(1);
        state.set_up(false, 0);
        state.set_up(true, 0);
        assert_eq!(state.share(0, 10), SHARE_MIN, "millisecond 0 is not the same as always up");
    }

    #[test]
    fn share_without_slow_start_is_full() {
        let state = EndpointState::new(1);
        state.set_up(false, 0);
        assert_eq!(state.share(0, 10), SHARE_FULL, "down");
        state.set_up(true, 7);
        assert_eq!(state.share(7, 0), SHARE_FULL);
    }

    #[test]
    fn share_with_extreme_times_stays_in_bounds() {
        let state = EndpointState::new(1);
        state.set_up(false, 0);
        state.set_up(true, u64::MAX);
        assert!(state.is_up());
        assert_eq!(state.share(0, u64::MAX), SHARE_MIN);
        state.set_up(false, 0);
        state.set_up(true, 0);
        let share = state.share(u64::MAX - 1, u64::MAX);
        assert!((SHARE_MIN..=SHARE_FULL).contains(&share), "{share}");
    }

    #[test]
    fn set_up_again_keeps_the_slow_start() {
        let state = EndpointState::new(1);
        state.set_up(false, 0);
        state.set_up(true, 1_000);
        state.set_up(true, 5_000);
        assert_eq!(state.share(6_000, 10_000), 550);
        assert_eq!(state.changed_ms(), 1_000);
    }

    #[test]
    fn connections_of_all_workers_are_summed() {
        let state = EndpointState::new(3);
        for worker in [0, 1, 1, 2] {
            state.enter(worker);
        }
        assert_eq!(state.connections(), 4);
        state.leave(1);
        state.leave(2);
        assert_eq!(state.connections(), 2);
    }

    #[test]
    fn connections_counted_in_parallel_are_exact() {
        let state = Arc::new(EndpointState::new(4));
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let state = Arc::clone(&state);
                thread::spawn(move || {
                    for _ in 0..1_000 {
                        state.enter(worker);
                        state.enter(worker);
                        state.leave(worker);
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().expect("a worker that ends");
        }
        assert_eq!(state.connections(), 4_000);
    }

    #[test]
    fn counters_of_workers_share_no_cache_line() {
        assert_eq!(size_of::<WorkerConnections>(), 128);
        assert_eq!(align_of::<WorkerConnections>(), 128);
    }

    #[test]
    fn failures_read_twice_are_not_reset() {
        let state = EndpointState::new(1);
        state.failed();
        state.failed();
        assert_eq!((state.failures(), state.failures()), (2, 2));
    }

    #[test]
    fn failures_after_a_success_start_at_zero() {
        let state = EndpointState::new(1);
        state.failed();
        state.failed();
        state.succeeded();
        assert_eq!(state.failures(), 0);
        state.failed();
        assert_eq!(state.failures(), 1);
    }
}
