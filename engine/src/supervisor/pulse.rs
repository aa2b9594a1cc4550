//! Whether the workers turn, and whether the thread that reads files comes back.
//!
//! A worker counts its turns. The control plane looks at the count each
//! [`TICK`](crate::config::limits::TICK): where it has not changed, the worker may be asleep for want of
//! work, so it is woken, and one turn is due. What counts is how many looks in a row saw none, and not the
//! time: a process that was stopped, or a machine that was suspended, is not stuck when it goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::limits::STUCK_SECONDS;
use crate::metrics::Metrics;
use crate::worker::Mailbox;

/// What was seen at the last look.
pub(super) struct Pulse {
    metrics: Metrics,
    /// By worker.
    mailboxes: Arc<[Arc<Mailbox>]>,
    /// By worker; none of one that has ended.
    turns: Vec<Option<u64>>,
    files: Beat,
}

/// The rounds of the thread that reads files; it makes one each TICK.
struct Beat {
    rounds: Arc<AtomicU64>,
    seen: u64,
    stalled: u64,
}

impl Pulse {
    /// Wakes by `mailboxes`, which are in the order of the workers.
    pub(super) fn new(metrics: Metrics, mailboxes: Arc<[Arc<Mailbox>]>, file_rounds: Arc<AtomicU64>) -> Self {
        let turns = (0..metrics.workers()).map(|worker| Some(metrics.turns(worker))).collect();
        Self { metrics, mailboxes, turns, files: Beat { rounds: file_rounds, seen: 0, stalled: 0 } }
    }

    /// Looks, once a TICK; whether no worker is stuck.
    pub(super) fn all_turn(&mut self) -> bool {
        let before: Vec<u64> = self.metrics.stalled().collect();
        for (worker, stalled) in before.into_iter().enumerate() {
            self.look_at(worker, stalled);
        }
        self.files.look();
        self.metrics.stalled().all(|seconds| seconds < STUCK_SECONDS)
    }

    /// The worker has ended, as in a drain one does before another, and turns no more.
    pub(super) fn ended(&mut self, worker: usize) {
        if let Some(turns) = self.turns.get_mut(worker) {
            *turns = None;
            self.metrics.set_stalled(worker, 0);
        }
    }

    /// Whether the worker has not turned for too long.
    pub(super) fn is_stuck(&self, worker: usize) -> bool {
        self.metrics.stalled().nth(worker).is_some_and(|seconds| seconds >= STUCK_SECONDS)
    }

    fn look_at(&mut self, worker: usize, stalled: u64) {
        let Some(seen) = self.turns[worker] else { return };
        let turns = self.metrics.turns(worker);
        if turns != seen {
            self.turns[worker] = Some(turns);
            self.metrics.set_stalled(worker, 0);
            if stalled >= STUCK_SECONDS {
                tracing::warn!(worker, "the worker turns again after {stalled} s");
            }
            return;
        }
        let stalled = stalled + 1;
        self.metrics.set_stalled(worker, stalled);
        if let Some(mailbox) = self.mailboxes.get(worker) {
            mailbox.wake();
        }
        if stalled == STUCK_SECONDS {
            tracing::error!(
                worker,
                "the worker has not responded for {stalled} s: its connections stand still, /healthz says \
                 503; a defect of Offramp or the machine; restart, and report it with: cat \
                 /proc/PID/task/*/stack"
            );
        }
    }
}

impl Beat {
    fn look(&mut self) {
        let rounds = self.rounds.load(Ordering::Relaxed);
        if rounds != self.seen {
            if self.stalled >= STUCK_SECONDS {
                tracing::warn!("files are read again after {} s", self.stalled);
            }
            (self.seen, self.stalled) = (rounds, 0);
            return;
        }
        self.stalled += 1;
        if self.stalled == STUCK_SECONDS {
            tracing::error!(
                "a file has not been read for {} s: SIGHUP and new ticket keys wait for it; is it on a file \
                 system that does not answer?",
                self.stalled
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::metrics::{Counters, Registry};

    #[test]
    fn worker_without_turns_is_stuck_until_it_turns_again() {
        let counters = Arc::new(Counters::default());
        let metrics = Metrics::new(
            vec![Arc::clone(&counters)],
            Arc::new(Registry::new(1, 0)),
            Arc::new(AtomicBool::new(true)),
        );
        let mailboxes: Arc<[_]> = Arc::new([Arc::new(Mailbox::new().unwrap())]);
        let mut pulse = Pulse::new(metrics.clone(), mailboxes, Arc::default());
        for look in 1..STUCK_SECONDS {
            assert!(pulse.all_turn() && !pulse.is_stuck(0), "{look}");
        }
        assert!(!pulse.all_turn() && pulse.is_stuck(0));
        assert_eq!(metrics.stalled().collect::<Vec<_>>(), [STUCK_SECONDS]);
        counters.turn();
        assert!(pulse.all_turn() && !pulse.is_stuck(0));
        assert_eq!(metrics.stalled().collect::<Vec<_>>(), [0]);
        pulse.ended(0);
        (0..2 * STUCK_SECONDS).for_each(|look| assert!(pulse.all_turn(), "{look}"));
    }

    #[test]
    fn file_thread_without_rounds_is_reported_as_stalled() {
        let mut files = Beat { rounds: Arc::default(), seen: 0, stalled: 0 };
        (0..STUCK_SECONDS).for_each(|_| files.look());
        assert_eq!(files.stalled, STUCK_SECONDS);
        files.rounds.store(1, Ordering::Relaxed);
        files.look();
        assert_eq!(files.stalled, 0);
    }
}
