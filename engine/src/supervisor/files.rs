//! The thread that reads files once the engine runs: the configuration and what it names at SIGHUP, ticket
//! keys, certificates and authorities when they have changed. Nothing else waits for it, neither signals nor
//! the watch over the workers nor the end of the engine: a file may be on a disk that does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, SyncSender, sync_channel};

use super::StartError;
use super::crew::{Report, vital};
use crate::config::limits::TICK;

/// What is done at SIGHUP.
pub(super) type Reload = Box<dyn FnMut() + Send>;

/// Asks the thread for things; it ends with the last copy.
#[derive(Clone, Debug)]
pub(super) struct Files(SyncSender<()>);

impl Files {
    /// Starts the thread. It calls `tick` each TICK, and counts its rounds in `rounds`.
    pub(super) fn start(
        mut tick: impl FnMut() + Send + 'static,
        mut reload: Reload,
        rounds: Arc<AtomicU64>,
        reports: Sender<Report>,
    ) -> Result<Self, StartError> {
        // One that waits is as good as many: what is read is what is there then.
        let (asks, inbox) = sync_channel(1);
        vital("files", reports, move || {
            loop {
                match inbox.recv_timeout(TICK) {
                    Ok(()) => reload(),
                    Err(RecvTimeoutError::Timeout) => tick(),
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        })?;
        Ok(Self(asks))
    }

    /// Has everything read again, as soon as the thread is free; does not wait for it.
    pub(super) fn reload(&self) {
        if self.0.try_send(()).is_err() {
            tracing::warn!("SIGHUP: the one before is not done yet; it will be done once more");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_file_that_does_not_answer_holds_up_nobody_who_asks() {
        let (begun, reloads) = channel();
        let (answer, file) = channel::<()>();
        let reload = Box::new(move || {
            begun.send(()).unwrap();
            // Until the test says so, or is over.
            let _ = file.recv();
        });
        let (reports, lost) = channel();
        let rounds: Arc<AtomicU64> = Arc::default();
        let files = Files::start(|| {}, reload, Arc::clone(&rounds), reports).unwrap();
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
