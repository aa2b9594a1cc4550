//! The thread that reads files once the engine runs: the configuration and what it names at SIGHUP, or what
//! a configuration names that was sent; ticket keys, certificates and authorities when they have changed.
//! Nothing else waits for it, neither signals nor the watch over the workers nor the end of the engine: a
//! file may be on a disk that does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

use super::StartError;
use super::crew::{Report, vital};
use super::pools::now;
use crate::admin::ConfigRequest;
use crate::config::limits::{ADMIN_CHANGES_MAX, TICK};

/// What the thread is asked for; it obeys in the order in which it was asked.
#[derive(Debug)]
pub(super) enum Ask {
    /// SIGHUP.
    Signal,
    /// At the admin address.
    Config(ConfigRequest),
}

/// Does what is asked for.
pub(super) type Obey = Box<dyn FnMut(Ask) + Send>;

/// Asks the thread for things; it ends with the last copy. What waits is bounded: one signal, and
/// [`ADMIN_CHANGES_MAX`] requests.
#[derive(Clone, Debug)]
pub(super) struct Files {
    asks: Sender<Ask>,
    waiting: Arc<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    signal: AtomicBool,
    /// Those that wait, and the one that has its turn.
    requests: AtomicUsize,
}

/// What the thread is made of.
pub(super) struct Inbox {
    asks: Receiver<Ask>,
    waiting: Arc<Waiting>,
}

impl Files {
    /// Whoever has it may ask, before the thread is there.
    pub(super) fn new() -> (Self, Inbox) {
        let ((sender, asks), waiting) = (channel(), Arc::<Waiting>::default());
        (Self { asks: sender, waiting: Arc::clone(&waiting) }, Inbox { asks, waiting })
    }

    /// Has everything read again, as soon as the thread is free; does not wait for it.
    pub(super) fn reload(&self) {
        // One that waits is as good as many: what is read is what is there then.
        if self.waiting.signal.swap(true, Ordering::AcqRel) {
            tracing::warn!("SIGHUP: the one before is not done yet; it will be done once more");
            return;
        }
        // Without the thread the engine is about to end.
        drop(self.asks.send(Ask::Signal));
    }

    /// Has a request answered, as soon as the thread is free. Gives `false` if too many wait.
    pub(super) fn request(&self, request: ConfigRequest) -> bool {
        let more = |count| (count < ADMIN_CHANGES_MAX).then_some(count + 1);
        let requests = &self.waiting.requests;
        let has_room = requests.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok();
        has_room && self.asks.send(Ask::Config(request)).is_ok()
    }
}

impl Inbox {
    /// Starts the thread. It calls `tick` each TICK, and counts its rounds in `rounds`.
    pub(super) fn start(
        self,
        mut tick: impl FnMut() + Send + 'static,
        mut obey: Obey,
        rounds: Arc<AtomicU64>,
        reports: Sender<Report>,
    ) -> Result<(), StartError> {
        vital("files", reports, move || {
            let mut next_tick = now() + TICK;
            loop {
                // However often somebody asks, the tick comes.
                if next_tick <= now() {
                    tick();
                    next_tick = now() + TICK;
                }
                match self.asks.recv_timeout(next_tick.saturating_duration_since(now())) {
                    Ok(Ask::Signal) => {
                        self.waiting.signal.store(false, Ordering::Release);
                        obey(Ask::Signal);
                    }
                    Ok(ask @ Ask::Config(_)) => {
                        obey(ask);
                        self.waiting.requests.fetch_sub(1, Ordering::AcqRel);
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn the_tick_comes_however_often_somebody_asks() {
        let (ticked, ticks) = channel();
        let ((files, inbox), (reports, _lost)) = (Files::new(), channel());
        let tick = move || ticked.send(()).unwrap_or_default();
        inbox.start(tick, Box::new(drop), Arc::default(), reports).unwrap();
        while ticks.try_recv().is_err() {
            files.reload();
            std::thread::park_timeout(TICK / 20);
        }
    }

    #[test]
    fn unresponsive_file_does_not_block_reload_requests() {
        let (begun, reloads) = channel();
        let (answer, file) = channel::<()>();
        let obey = Box::new(move |_| {
            begun.send(()).unwrap();
            // Until the test says so, or is over.
            let _ = file.recv();
        });
        let (reports, lost) = channel();
        let rounds: Arc<AtomicU64> = Arc::default();
        let (files, inbox) = Files::new();
        inbox.start(|| {}, obey, Arc::clone(&rounds), reports).unwrap();
        files.reload();
        reloads.recv().unwrap();
        let stuck_at = rounds.load(Ordering::Relaxed);
        (0..10).for_each(|_| files.reload());
        assert_eq!(rounds.load(Ordering::Relaxed), stuck_at);
        answer.send(()).unwrap();
        reloads.recv().expect("what was asked for meanwhile is done once");
        answer.send(()).unwrap();
        drop((files, answer));
        assert!(matches!(lost.recv().unwrap(), Report::Gone(_)));
        assert!(reloads.try_recv().is_err(), "and not ten times");
    }
}
