//! The threads: those of the workers, watched, and the others that must not be lost.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use super::pulse::Pulse;
use super::{Control, StartError, ThreadLost};
use crate::config::limits::{START_DEADLINE, TICK};
use crate::config::{Config, Pinning};
use crate::log::Log;
use crate::sys::affinity;
use crate::sys::errno;
use crate::worker::{self, Setup};

/// The workers' threads and what all threads report.
pub(super) struct Crew {
    inbox: Receiver<Report>,
    reports: Sender<Report>,
    /// By worker; none of one that has ended or was given up.
    threads: Vec<Option<JoinHandle<()>>>,
    control: Control,
}

/// What a thread reports to the one that watches.
pub(super) enum Report {
    /// The worker accepts connections, or cannot start.
    Ready(usize, Result<(), worker::StartError>),
    /// The worker's thread is about to end; with the message if it panicked.
    Ended(usize, Option<String>),
    /// Another thread is about to end that was to go on.
    Gone(ThreadLost),
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
        let mut crew = Self { inbox, reports, threads: Vec::new(), control };
        let started = setups.into_iter().try_for_each(|setup| {
            let cpu = cpus.get(setup.index).copied();
            crew.hire(setup, cpu)
        });
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

    /// Where other threads report their end: see [`vital`].
    pub(super) fn reports(&self) -> Sender<Report> {
        self.reports.clone()
    }

    /// Until every worker has ended; ends all as soon as a thread is lost. A worker that is stuck when all
    /// are to end is given up: nobody waits for it.
    pub(super) fn watch(mut self, mut pulse: Pulse, log: Option<Log>) -> Result<(), ThreadLost> {
        let mut outcome = Ok(());
        while self.threads.iter().any(Option::is_some) {
            let lost = match self.inbox.recv_timeout(TICK) {
                Ok(Report::Ready(..)) => None,
                Ok(Report::Ended(index, panic)) => {
                    self.join(index);
                    pulse.ended(index);
                    self.lost(index, panic)
                }
                Ok(Report::Gone(lost)) => Some(lost),
                Err(_) if pulse.all_turn() => {
                    self.control.manager.all_turn();
                    None
                }
                Err(_) => self.give_up(&pulse),
            };
            let lost = lost.or_else(|| log.as_ref().filter(|log| log.is_lost()).map(|_| log_lost()));
            if let Some(lost) = lost
                && outcome.is_ok()
            {
                tracing::error!("{lost}: everything is ended");
                self.control.manager.status(&format!("{lost}: everything is ended"));
                self.control.end();
                outcome = Err(lost);
            }
        }
        outcome
    }

    /// Stops waiting for workers that do not turn, if all are to end.
    fn give_up(&mut self, pulse: &Pulse) -> Option<ThreadLost> {
        if !self.control.is_stopping() {
            return None;
        }
        let stuck = |(index, thread): &(usize, &mut Option<JoinHandle<()>>)| {
            thread.is_some() && pulse.is_stuck(*index)
        };
        let given_up = self.threads.iter_mut().enumerate().filter(stuck);
        given_up
            .map(|(index, thread)| {
                *thread = None;
                ThreadLost::worker(index, "does not turn and was given up: its connections are cut")
            })
            .last()
    }

    fn hire(&mut self, setup: Setup, cpu: Option<usize>) -> Result<(), StartError> {
        let index = setup.index;
        let (reports, ready) = (self.reports(), self.reports());
        // Nobody listens any more only after the start has failed: there is nobody to tell.
        let ready = move |result| drop(ready.send(Report::Ready(index, result)));
        let work = move || {
            if let Some(cpu) = cpu {
                stay_on(cpu, index);
            }
            let result = catch_unwind(AssertUnwindSafe(|| worker::run(setup, ready)));
            drop(reports.send(Report::Ended(index, result.err().map(|panic| message(panic.as_ref())))));
        };
        self.threads.push(Some(spawn(format!("offramp-{index}"), work)?));
        Ok(())
    }

    fn wait_until_ready(&self) -> Result<(), StartError> {
        for _ in &self.threads {
            match self.inbox.recv_timeout(START_DEADLINE) {
                Ok(Report::Ready(_, Ok(()))) => {}
                Ok(Report::Ready(index, Err(cause))) => return Err(StartError::Worker { index, cause }),
                Ok(Report::Ended(index, panic)) => {
                    let how = panic.map_or_else(|| "ended before it was ready".to_owned(), panicked);
                    return Err(ThreadLost::worker(index, how).into());
                }
                Ok(Report::Gone(lost)) => return Err(lost.into()),
                Err(_) => return Err(StartError::Late { seconds: START_DEADLINE.as_secs() }),
            }
        }
        Ok(())
    }

    /// Whether a worker's end is a loss: it panicked, or nobody had asked it to end.
    fn lost(&self, index: usize, panic: Option<String>) -> Option<ThreadLost> {
        match panic {
            Some(message) => Some(ThreadLost::worker(index, panicked(message))),
            None if self.control.is_stopping() => None,
            None => Some(ThreadLost::worker(index, ENDED_EARLY)),
        }
    }

    fn join(&mut self, index: usize) {
        if let Some(thread) = self.threads.get_mut(index).and_then(Option::take) {
            // The worker's panics were caught: the thread itself has nothing to say.
            drop(thread.join());
        }
    }
}

impl Drop for Crew {
    /// A crew that nobody watches has nobody to work for.
    fn drop(&mut self) {
        self.control.end();
        (0..self.threads.len()).for_each(|index| self.join(index));
    }
}

const ENDED_EARLY: &str = "ended without being asked to: a defect of Offramp; please report it with the \
                           lines above";

fn log_lost() -> ThreadLost {
    ThreadLost::new("the thread that writes the log", ENDED_EARLY)
}

/// Starts a thread without which the engine does not go on: its end is reported, whatever it is.
pub(super) fn vital(
    name: &'static str,
    reports: Sender<Report>,
    work: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    watched(name, reports, move || work().and_then(|()| Err(ENDED_EARLY.to_owned())))
}

/// The same of a thread that may end when it is asked to.
pub(super) fn watched(
    name: &'static str,
    reports: Sender<Report>,
    work: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    spawn(format!("offramp-{name}"), move || {
        let how = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(())) => return,
            Ok(Err(how)) => how,
            Err(panic) => panicked(message(panic.as_ref())),
        };
        // When the engine ends there is nobody left who would read it.
        drop(reports.send(Report::Gone(ThreadLost::new(format!("the thread {name}"), how))));
    })
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
    format!("panicked: {message}: a defect of Offramp; please report it with the lines above")
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::config::{ConfigOption, Raw};
    use crate::metrics::{Counters, Metrics, Registry};

    fn control() -> Control {
        let tickets = Arc::new(crate::tls::Tickets::generate(1, 0).unwrap());
        Control::new(0, tickets).unwrap()
    }

    /// With as many workers, whose threads have nothing to do.
    fn crew(workers: usize, sent: impl IntoIterator<Item = Report>) -> Crew {
        let (reports, inbox) = channel();
        sent.into_iter().for_each(|report| reports.send(report).unwrap());
        let threads = (0..workers).map(|_| Some(thread::spawn(|| ()))).collect();
        Crew { inbox, reports, threads, control: control() }
    }

    fn pulse(workers: usize) -> Pulse {
        let counters = (0..workers).map(|_| Arc::new(Counters::default())).collect();
        let allowed = Arc::new(AtomicBool::new(true));
        Pulse::new(
            Metrics::new(counters, Arc::new(Registry::new(1, 0)), allowed),
            Arc::new([]),
            Arc::default(),
        )
    }

    #[test]
    fn worker_panic_is_reported_and_stops_the_others() {
        let panic = Report::Ended(1, Some("no such slot".to_owned()));
        let crew = crew(2, [panic, Report::Ended(0, None)]);
        let control = crew.control.clone();
        let lost = crew.watch(pulse(2), None).unwrap_err().to_string();
        assert!(lost.starts_with("worker 1 panicked: no such slot: a defect"), "{lost}");
        assert!(control.is_stopping());
    }

    #[test]
    fn an_end_is_a_loss_unless_it_was_asked_for() {
        let crew = crew(1, []);
        assert!(crew.lost(0, None).unwrap().how.starts_with("ended without being asked"));
        crew.control.drain();
        assert_eq!(crew.lost(0, None), None);
        assert!(crew.lost(0, Some("late".to_owned())).is_some());
    }

    #[test]
    fn the_end_of_a_vital_thread_ends_the_others() {
        let ends: [fn() -> Result<(), String>; 3] =
            [|| Ok(()), || Err("cannot go on".to_owned()), || panic!("no more signals")];
        for (work, expected) in ends.into_iter().zip(["ended without", "cannot go on", "panicked: no more"]) {
            let crew = crew(1, []);
            let (reports, control) = (crew.reports(), crew.control.clone());
            vital("signals", crew.reports(), work).unwrap().join().unwrap();
            reports.send(Report::Ended(0, None)).unwrap();
            let lost = crew.watch(pulse(1), None).unwrap_err().to_string();
            assert!(lost.starts_with(&format!("the thread signals {expected}")), "{lost}");
            assert!(control.is_stopping());
        }
    }

    #[test]
    fn the_end_of_the_log_ends_the_others() {
        struct Panics;
        impl std::io::Write for Panics {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                panic!("as a test wants it");
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let log = Log::start(Panics).unwrap();
        log.say("one");
        log.finish(START_DEADLINE);
        let crew = crew(1, [Report::Ready(0, Ok(())), Report::Ended(0, None)]);
        let lost = crew.watch(pulse(1), Some(log)).unwrap_err();
        assert_eq!(lost, log_lost());
    }

    #[test]
    fn a_stuck_worker_is_given_up_once_all_are_to_end() {
        let crew = crew(1, []);
        crew.control.drain();
        let lost = crew.watch(pulse(1), None).unwrap_err().to_string();
        assert!(lost.starts_with("worker 0 does not turn and was given up"), "{lost}");
    }

    fn config(workers: usize, pin: &str) -> Config {
        let mut raw = Raw::default();
        let workers = workers.to_string();
        for (key, value) in [
            (ConfigOption::Listen, "127.0.0.1:0"),
            (ConfigOption::Backend, "127.0.0.1:1"),
            (ConfigOption::Workers, &*workers),
            (ConfigOption::PinWorkers, pin),
        ] {
            raw.give_flag(key, value.to_owned());
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
    fn worker_is_pinned_or_runs_unpinned_without_that_cpu() {
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
