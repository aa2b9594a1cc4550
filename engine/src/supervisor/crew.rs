//! The threads: those of the workers, watched, and that of the admin address.

use std::any::Any;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};

use super::{Control, StartError, WorkerLost};
use crate::admin;
use crate::config::limits::{START_DEADLINE, TICK};
use crate::config::{Config, Pinning};
use crate::sys::affinity;
use crate::sys::errno;
use crate::sys::socket;
use crate::worker::{self, Setup};

/// The workers' threads and what they report.
pub(super) struct Crew {
    inbox: Receiver<Report>,
    threads: Vec<JoinHandle<()>>,
    control: Control,
}

enum Report {
    /// The worker accepts connections, or cannot start.
    Ready(usize, Result<(), worker::StartError>),
    /// The worker's thread is about to end; with the message if it panicked.
    Ended(usize, Option<String>),
}

impl Crew {
    /// Starts a thread for each of `setups`, on a CPU of its own if there are `cpus`, and waits until all
    /// accept connections; otherwise ends those that do.
    pub(super) fn start(
        setups: impl Iterator<Item = Setup>,
        cpus: &[usize],
        control: Control,
    ) -> Result<Self, StartError> {
        let (reports, inbox) = channel();
        let mut crew = Self { inbox, threads: Vec::new(), control };
        let started = setups.into_iter().try_for_each(|setup| {
            let cpu = cpus.get(setup.index).copied();
            crew.hire(setup, cpu, reports.clone())
        });
        drop(reports);
        match started.and_then(|()| crew.wait_until_ready()) {
            Ok(()) => Ok(crew),
            Err(error) => {
                if matches!(error, StartError::Late { .. }) {
                    // Whoever is late to start may be as late to end: nobody waits for that.
                    crew.threads.clear();
                }
                Err(error)
            }
        }
    }

    /// Until every worker has ended; ends all as soon as one is lost. Calls `tick` once a second.
    pub(super) fn watch(mut self, mut tick: impl FnMut(), admin: Option<Admin>) -> Result<(), WorkerLost> {
        let mut outcome = Ok(());
        loop {
            match self.inbox.recv_timeout(TICK) {
                Ok(Report::Ready(..)) => {}
                Ok(Report::Ended(index, panic)) => {
                    if let Some(lost) = self.lost(index, panic) {
                        tracing::error!("worker {index} is lost: the others are ended");
                        self.control.end();
                        outcome = outcome.and(Err(lost));
                    }
                }
                Err(RecvTimeoutError::Timeout) => tick(),
                // Every worker has let go of its end.
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.join();
        if let Some(admin) = admin {
            admin.stop();
        }
        outcome
    }

    fn hire(&mut self, setup: Setup, cpu: Option<usize>, reports: Sender<Report>) -> Result<(), StartError> {
        let index = setup.index;
        let ready = reports.clone();
        // Nobody listens any more only after the start has failed: there is nobody to tell.
        let ready = move |result| drop(ready.send(Report::Ready(index, result)));
        let work = move || {
            if let Some(cpu) = cpu {
                stay_on(cpu, index);
            }
            let result = catch_unwind(AssertUnwindSafe(|| worker::run(setup, ready)));
            drop(reports.send(Report::Ended(index, result.err().map(|panic| message(panic.as_ref())))));
        };
        self.threads.push(spawn(format!("offramp-{index}"), work)?);
        Ok(())
    }

    fn wait_until_ready(&self) -> Result<(), StartError> {
        for _ in &self.threads {
            match self.inbox.recv_timeout(START_DEADLINE) {
                Ok(Report::Ready(_, Ok(()))) => {}
                Ok(Report::Ready(index, Err(cause))) => return Err(StartError::Worker { index, cause }),
                Ok(Report::Ended(index, panic)) => {
                    let how = panic.map_or_else(|| "ended before it was ready".to_owned(), panicked);
                    return Err(WorkerLost { index, how }.into());
                }
                Err(_) => return Err(StartError::Late { seconds: START_DEADLINE.as_secs() }),
            }
        }
        Ok(())
    }

    /// Whether a worker's end is a loss: it panicked, or nobody had told it to end.
    fn lost(&self, index: usize, panic: Option<String>) -> Option<WorkerLost> {
        let how = match panic {
            Some(message) => panicked(message),
            None if self.control.stopping.load(Ordering::Relaxed) => return None,
            None => "ended untold".to_owned(),
        };
        Some(WorkerLost { index, how })
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // The worker's panics were caught: the thread itself has nothing to say.
            drop(thread.join());
        }
    }
}

impl Drop for Crew {
    /// A crew that nobody watches has nobody to work for.
    fn drop(&mut self) {
        self.control.end();
        self.join();
    }
}

/// The admin address's thread.
pub(super) struct Admin {
    stop: OwnedFd,
    thread: JoinHandle<()>,
}

impl Admin {
    pub(super) fn start(listener: OwnedFd, service: admin::Service) -> Result<Self, StartError> {
        let resource = |error| StartError::resource("event descriptor", &error);
        let stop = socket::event().map_err(resource)?;
        let theirs = stop.try_clone().map_err(resource)?;
        let address: Option<SocketAddr> = socket::local_addr(listener.as_fd()).ok();
        let thread = spawn("offramp-admin".to_owned(), move || {
            if let Err(error) = admin::serve(listener, theirs, &service) {
                tracing::error!(
                    ?address,
                    error = errno::name(&error),
                    "admin is not served; try: offramp probe"
                );
            }
        })?;
        Ok(Self { stop, thread })
    }

    fn stop(self) {
        if let Err(error) = socket::signal(self.stop.as_fd()) {
            tracing::error!(error = errno::name(&error), "admin cannot be told to stop");
            return;
        }
        if self.thread.join().is_err() {
            tracing::error!("admin panicked: a defect of Offramp; please report it with the lines above");
        }
    }
}

/// The CPU of each worker; empty if they are not to be pinned, or must share.
pub(super) fn cpus(config: &Config) -> Vec<usize> {
    if config.pin_workers == Pinning::Off {
        return Vec::new();
    }
    let workers = config.workers;
    match affinity::one_each(workers) {
        Ok(cpus) if cpus.is_empty() => {
            tracing::warn!(
                "pin_workers: fewer CPUs for this process than {workers} workers: none is pinned; \
                 try: fewer --workers"
            );
            cpus
        }
        Ok(cpus) => cpus,
        Err(error) => {
            tracing::warn!(error = errno::name(&error), "pin_workers: no worker is pinned");
            Vec::new()
        }
    }
}

/// Keeps the calling thread on this CPU. A worker that cannot be kept there works as well elsewhere.
fn stay_on(cpu: usize, index: usize) {
    if let Err(error) = affinity::pin(cpu) {
        tracing::warn!(cpu, error = errno::name(&error), "worker {index} is not pinned");
    }
}

/// A thread with a name, of which the kernel shows the first 15 bytes (`top -H`).
pub(super) fn spawn<T: Send + 'static>(
    name: String,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, StartError> {
    thread::Builder::new().name(name).spawn(work).map_err(|error| StartError::resource("thread", &error))
}

/// What a thread returned; its panic goes on in the caller.
pub(super) fn joined<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

fn panicked(message: String) -> String {
    format!("panicked: {message}")
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{Key, Raw};

    fn control() -> Control {
        let tickets = Arc::new(crate::tls::Tickets::generate(1, 0).unwrap());
        Control::new(0, Arc::new(worker::Offers::new(Vec::new(), Vec::new())), tickets).unwrap()
    }

    fn crew(reports: impl IntoIterator<Item = Report>) -> Crew {
        let (sender, inbox) = channel();
        reports.into_iter().for_each(|report| sender.send(report).unwrap());
        Crew { inbox, threads: Vec::new(), control: control() }
    }

    #[test]
    fn a_panic_is_a_loss_with_its_message_and_stops_the_others() {
        let crew = crew([Report::Ended(3, Some("no such slot".to_owned()))]);
        let control = crew.control.clone();
        let lost = crew.watch(|| (), None).unwrap_err();
        assert_eq!(lost, WorkerLost { index: 3, how: "panicked: no such slot".to_owned() });
        assert!(control.stopping.load(Ordering::Relaxed));
    }

    #[test]
    fn an_end_is_a_loss_unless_it_was_told() {
        let crew = crew([]);
        assert_eq!(crew.lost(0, None).unwrap().how, "ended untold");
        crew.control.drain();
        assert_eq!(crew.lost(0, None), None);
        assert!(crew.lost(0, Some("late".to_owned())).is_some());
    }

    fn config(workers: usize, pin: &str) -> Config {
        let mut raw = Raw::default();
        let workers = workers.to_string();
        for (key, value) in [
            (Key::Listen, "127.0.0.1:0"),
            (Key::Backend, "127.0.0.1:1"),
            (Key::Workers, &*workers),
            (Key::PinWorkers, pin),
        ] {
            raw.give_flag(key, Some(value.to_owned()));
        }
        raw.give_identities(&["c".into()], &["k".into()]).unwrap();
        raw.check().unwrap()
    }

    #[test]
    fn each_worker_has_a_cpu_of_its_own_or_none_has() {
        let allowed = affinity::allowed().unwrap();
        assert_eq!(cpus(&config(allowed.len(), "on")), allowed);
        assert_eq!(cpus(&config(1, "on")), allowed[..1]);
        assert_eq!(cpus(&config(1, "incoming-cpu")), allowed[..1]);
        assert_eq!(cpus(&config(allowed.len() + 1, "on")), [0; 0]);
        assert_eq!(cpus(&config(1, "off")), [0; 0]);
    }

    #[test]
    fn a_thread_stays_on_its_cpu_and_goes_on_where_there_is_no_such() {
        let allowed = affinity::allowed().unwrap();
        let last = *allowed.last().unwrap();
        let after = |cpu| {
            let thread = thread::spawn(move || {
                stay_on(cpu, 0);
                affinity::allowed()
            });
            thread.join().unwrap().unwrap()
        };
        assert_eq!(after(last), [last]);
        assert_eq!(after(usize::MAX), allowed);
    }

    #[test]
    fn the_message_of_a_panic_is_kept() {
        let caught = catch_unwind(|| panic!("number {}", 7)).unwrap_err();
        assert_eq!(message(caught.as_ref()), "number 7");
        assert_eq!(message(&7_u8), "without a message");
    }
}
