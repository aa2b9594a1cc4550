//! Probes of endpoints: up to [`PROBES_MAX`] at once on the one thread that calls, none of which waits for
//! another. Each lasts [`PROBE_DEADLINE`] at most, whatever its endpoint does.

mod exchange;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use exchange::Check;
use exchange::{Exchange, Problem, unreachable};

use crate::config::limits::{PROBE_DEADLINE, PROBES_MAX};
use crate::sys::attempt::Attempt;
use crate::sys::errno;
use crate::sys::poll::{Wanted, poll};
use crate::sys::socket::Address;

/// Most bytes that are read from an endpoint behind the probe, until it closes too.
const CLOSING_BYTES_MAX: usize = 64 * 1024;
/// How long is waited where the kernel does not say what is ready.
const POLL_FAILED: Duration = Duration::from_millis(10);

/// An endpoint that is to be probed.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) serial: u64,
    pub(super) address: Address,
    pub(super) check: Arc<Check>,
}

/// What has become of it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) serial: u64,
    /// Why it failed, for the log. None where this host lacks something, which says nothing of the endpoint.
    pub(super) result: Option<Result<(), Problem>>,
}

/// Those under way.
#[derive(Debug, Default)]
pub(super) struct Probes(Vec<Probe>);

#[derive(Debug)]
struct Probe {
    serial: u64,
    socket: Attempt,
    deadline: Instant,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Connecting(Arc<Check>),
    Talking(Box<Exchange>),
    /// The outcome was returned. So many bytes were read since.
    Closing(usize),
}

/// What a step came to.
enum Step {
    Waits,
    /// It was good, and is to be closed in order.
    Good,
    Over(Option<Result<(), Problem>>),
}

impl Probes {
    /// Whether there is none, not even one that is being closed.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Begins one; the outcome, if it is known at once. One that is being closed makes room for it.
    pub(super) fn begin(&mut self, job: Job, now: Instant) -> Option<Outcome> {
        if self.0.len() >= PROBES_MAX
            && let Some(at) = self.0.iter().position(|probe| matches!(probe.stage, Stage::Closing(_)))
        {
            self.0.remove(at);
        }
        let Job { serial, address, check } = job;
        match Attempt::begin(&address) {
            Ok(socket) => {
                let (deadline, stage) = (now + PROBE_DEADLINE, Stage::Connecting(check));
                self.0.push(Probe { serial, socket, deadline, stage });
                None
            }
            Err(error) => Some(Outcome { serial, result: lost(&error) }),
        }
    }

    /// Waits until one can go on or its time is over, but no longer than `timeout`: what was found out.
    pub(super) fn wait(&mut self, timeout: Duration, clock: fn() -> Instant) -> Vec<Outcome> {
        let now = clock();
        let first = self.0.iter().map(|probe| probe.deadline.saturating_duration_since(now)).min();
        let timeout = first.map_or(timeout, |first| first.min(timeout));
        let sockets: Vec<_> = self.0.iter().map(|it| (it.socket.as_fd(), it.stage.wanted())).collect();
        // Without an answer of the kernel each is tried; those that cannot go on wait for their deadlines.
        let ready = poll(&sockets, timeout).unwrap_or_else(|_| {
            std::thread::park_timeout(POLL_FAILED);
            vec![true; sockets.len()]
        });
        let (now, mut outcomes, mut ready) = (clock(), Vec::new(), ready.into_iter());
        self.0.retain_mut(|probe| {
            let step = if ready.next() == Some(true) { probe.step() } else { Step::Waits };
            let was_closing = matches!(probe.stage, Stage::Closing(_));
            let (result, stays) = match step {
                Step::Waits if probe.deadline > now => return true,
                Step::Waits => (Some(Err(probe.late())), false),
                Step::Good => {
                    probe.stage = Stage::Closing(0);
                    (Some(Ok(())), true)
                }
                Step::Over(result) => (result, false),
            };
            if !was_closing {
                outcomes.push(Outcome { serial: probe.serial, result });
            }
            stays
        });
        outcomes
    }
}

impl Stage {
    fn wanted(&self) -> Wanted {
        match self {
            Self::Connecting(_) => Wanted::Send,
            Self::Talking(exchange) if !exchange.outgoing.is_empty() => Wanted::Send,
            Self::Talking(_) | Self::Closing(_) => Wanted::Receive,
        }
    }
}

impl Probe {
    fn step(&mut self) -> Step {
        if let Stage::Connecting(check) = &self.stage {
            match self.socket.is_connected() {
                Ok(false) => return Step::Waits,
                Ok(true) if check.only_connects() => {
                    self.socket.reset_on_close();
                    return Step::Over(Some(Ok(())));
                }
                Ok(true) => match Exchange::begin(Arc::clone(check)) {
                    Ok(exchange) => self.stage = Stage::Talking(Box::new(exchange)),
                    Err(problem) => return Step::Over(Some(Err(problem))),
                },
                Err(error) => return Step::Over(lost(&error)),
            }
        }
        match &mut self.stage {
            Stage::Connecting(_) => Step::Waits,
            Stage::Talking(exchange) => talk(&self.socket, exchange),
            Stage::Closing(count) => {
                match self.socket.receive(&mut [0; 4096]) {
                    Ok(0) => return Step::Over(None),
                    Ok(more) => *count += more,
                    Err(error) if is_early(&error) => {}
                    Err(_) => return Step::Over(None),
                }
                if *count > CLOSING_BYTES_MAX { Step::Over(None) } else { Step::Waits }
            }
        }
    }

    fn late(&self) -> Problem {
        match &self.stage {
            Stage::Talking(exchange) => exchange.late(),
            Stage::Connecting(_) | Stage::Closing(_) => "it does not answer (ETIMEDOUT)".to_owned(),
        }
    }
}

/// Sends what is to be sent, or else reads once: one endpoint that sends for ever holds up no other.
fn talk(socket: &Attempt, exchange: &mut Exchange) -> Step {
    if exchange.outgoing.is_empty() {
        match socket.receive(exchange.room()) {
            Ok(0) => return Step::Over(Some(Err(exchange.ended("it closed the connection")))),
            Ok(count) => {
                if let Err(problem) = exchange.received(count) {
                    // The alert, if one is due.
                    let _ = flush(socket, exchange);
                    return Step::Over(Some(Err(problem)));
                }
            }
            Err(error) if is_early(&error) => return Step::Waits,
            Err(error) => return Step::Over(Some(Err(exchange.ended(&errno::name(&error))))),
        }
    }
    if let Err(error) = flush(socket, exchange) {
        return Step::Over(Some(Err(exchange.ended(&errno::name(&error)))));
    }
    if !exchange.outgoing.is_empty() || !exchange.is_complete() {
        return Step::Waits;
    }
    exchange.close();
    // The endpoint has done all that it has to, whether it reads the end or not.
    let _ = flush(socket, exchange);
    socket.end();
    Step::Good
}

fn flush(socket: &Attempt, exchange: &mut Exchange) -> io::Result<()> {
    while !exchange.outgoing.is_empty() {
        match socket.send(&exchange.outgoing) {
            Ok(count) => drop(exchange.outgoing.drain(..count)),
            Err(error) if is_early(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn lost(error: &io::Error) -> Option<Result<(), Problem>> {
    (!errno::is_ours(error)).then(|| Err(unreachable(error)))
}
