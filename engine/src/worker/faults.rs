//! Faults in the log: each kind at most once in ten seconds, so that no peer fills the disk, with how many
//! there were and who and what one of them was. No count is lost: what came during the quiet time has a line
//! when that is over, and at the end of the worker.
//!
//! Who it was is looked up while a line is due, and during the quiet time once a second at the most: the line
//! at its end then is about the last one, or one less than a second before it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::field::display;

use crate::conn::action::{Evidence, Report};
use crate::conn::fault::{Fault, Level, alert};
use crate::sys::errno;
use crate::sys::socket::Address;

const QUIET: Duration = Duration::from_secs(10);
/// Between two looks at who it was, during the quiet time.
const LOOK: Duration = Duration::from_secs(1);

/// What has a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Fault(Fault),
    /// A connection could not be accepted.
    AcceptFailed,
    /// No slot was free.
    Full,
}

impl Kind {
    const COUNT: usize = Fault::ALL.len() + 2;

    fn index(self) -> usize {
        match self {
            Self::Fault(fault) => fault.index(),
            Self::AcceptFailed => Self::COUNT - 2,
            Self::Full => Self::COUNT - 1,
        }
    }

    fn at(index: usize) -> Self {
        let others = [Self::AcceptFailed, Self::Full];
        Fault::ALL.get(index).map_or_else(|| others[index - Fault::ALL.len()], |fault| Self::Fault(*fault))
    }

    fn level(self) -> Level {
        match self {
            Self::Fault(fault) => fault.level(),
            Self::AcceptFailed | Self::Full => Level::Warn,
        }
    }

    fn is_logged(self) -> bool {
        match self.level() {
            Level::Debug => tracing::enabled!(tracing::Level::DEBUG),
            Level::Info => tracing::enabled!(tracing::Level::INFO),
            Level::Warn => tracing::enabled!(tracing::Level::WARN),
        }
    }
}

/// Who and what it was. What comes from the peer is bounded and printable (`tls::evidence`).
#[derive(Debug, Default)]
pub(super) struct Circumstances {
    /// Who was accepted.
    pub(super) client: Option<SocketAddr>,
    pub(super) listener: Option<Address>,
    pub(super) backend: Option<Address>,
    /// The description of the peer's alert, where that is the fault.
    pub(super) heard: Option<u8>,
    pub(super) evidence: Evidence,
    /// What to do.
    pub(super) hint: Option<&'static str>,
}

impl Circumstances {
    pub(super) fn of(report: &Report) -> Self {
        let evidence = report.evidence.as_deref().cloned().unwrap_or_default();
        Self { heard: report.heard, evidence, ..Self::default() }
    }
}

/// What was logged when, by kind.
pub(super) struct FaultLog {
    worker: usize,
    kinds: Vec<Entry>,
    /// When the first of the quiet times ends in which something came.
    due: Option<Instant>,
}

#[derive(Default)]
struct Entry {
    quiet_until: Option<Instant>,
    unlogged: u64,
    last: Option<Box<(Instant, Circumstances)>>,
}

/// A line.
#[derive(Debug)]
struct Line {
    kind: Kind,
    count: u64,
    circumstances: Circumstances,
}

impl FaultLog {
    pub(super) fn new(worker: usize) -> Self {
        Self { worker, kinds: (0..Kind::COUNT).map(|_| Entry::default()).collect(), due: None }
    }

    /// `look` is called where who and what it was is wanted.
    pub(super) fn take(&mut self, kind: Kind, now: Instant, look: impl FnOnce() -> Circumstances) {
        if kind.is_logged()
            && let Some(line) = self.note(kind, now, look)
        {
            line.write(self.worker);
        }
    }

    /// Until when lines are due, if any is.
    pub(super) fn patience(&self, now: Instant) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(now))
    }

    /// Writes what is due.
    pub(super) fn catch_up(&mut self, now: Instant) {
        if self.due.is_some_and(|due| due <= now) {
            self.overdue(now).into_iter().for_each(|line| line.write(self.worker));
        }
    }

    fn note(&mut self, kind: Kind, now: Instant, look: impl FnOnce() -> Circumstances) -> Option<Line> {
        let entry = self.kinds.get_mut(kind.index())?;
        entry.unlogged += 1;
        match entry.quiet_until {
            Some(until) if now < until => {
                let is_recent = |last: &(Instant, _)| now.saturating_duration_since(last.0) < LOOK;
                if !entry.last.as_deref().is_some_and(is_recent) {
                    entry.last = Some(Box::new((now, look())));
                }
                self.due = Some(self.due.map_or(until, |due| due.min(until)));
                None
            }
            _ => {
                entry.last = Some(Box::new((now, look())));
                entry.line(kind, now)
            }
        }
    }

    fn overdue(&mut self, now: Instant) -> Vec<Line> {
        let (mut lines, mut due) = (Vec::new(), None);
        for (index, entry) in self.kinds.iter_mut().enumerate() {
            match entry.quiet_until {
                Some(until) if entry.unlogged > 0 && until <= now => {
                    lines.extend(entry.line(Kind::at(index), now));
                }
                Some(until) if entry.unlogged > 0 => {
                    due = Some(due.map_or(until, |due: Instant| due.min(until)));
                }
                _ => {}
            }
        }
        self.due = due;
        lines
    }
}

impl Drop for FaultLog {
    /// What is left at the end of the worker, whatever ends it.
    fn drop(&mut self) {
        for (index, entry) in self.kinds.iter_mut().enumerate() {
            if let Some(line) = entry.take(Kind::at(index)) {
                line.write(self.worker);
            }
        }
    }
}

impl Entry {
    fn line(&mut self, kind: Kind, now: Instant) -> Option<Line> {
        self.quiet_until = Some(now + QUIET);
        self.take(kind)
    }

    fn take(&mut self, kind: Kind) -> Option<Line> {
        let count = std::mem::take(&mut self.unlogged);
        let circumstances = self.last.take().map(|last| last.1).unwrap_or_default();
        (count > 0).then_some(Line { kind, count, circumstances })
    }
}

impl Line {
    fn write(self, worker: usize) {
        let Self { kind, count, circumstances } = self;
        let Circumstances { client, listener, backend, heard, evidence, hint } = circumstances;
        let what = match kind {
            Kind::Fault(fault) => format!("fault {}", fault.label()),
            Kind::AcceptFailed => "a connection could not be accepted".to_owned(),
            Kind::Full => {
                "every slot is in use (max_connections): connections wait in the backlog".to_owned()
            }
        };
        let alert = heard.map(|number| format!(": {} ({number})", alert::name(number))).unwrap_or_default();
        let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        let (client, listener) = (client.map(display), listener.map(display));
        let backend = backend.map(display);
        let error =
            evidence.errno.map(|errno| display(errno::name(&std::io::Error::from_raw_os_error(errno))));
        let quoted = |text: Box<str>| display(format!("\"{text}\""));
        let (sni, reason) = (evidence.name.map(quoted), evidence.reason.map(quoted));
        let offered = evidence.versions.map(display);
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    worker,
                    count,
                    client,
                    listener,
                    backend,
                    error,
                    sni,
                    offered,
                    reason,
                    "{what}{alert}{hint}"
                )
            };
        }
        match kind.level() {
            Level::Debug => line!(debug),
            Level::Info => line!(info),
            Level::Warn => line!(warn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT_TLS: Kind = Kind::Fault(Fault::NotTls);

    fn from(port: u16) -> Circumstances {
        Circumstances { client: Some(([127, 0, 0, 1], port).into()), ..Circumstances::default() }
    }

    fn port(line: &Line) -> u16 {
        line.circumstances.client.map_or(0, |client| client.port())
    }

    #[test]
    fn every_kind_has_a_place_of_its_own() {
        for index in 0..Kind::COUNT {
            assert_eq!(Kind::at(index).index(), index);
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn flood_logs_one_line_per_ten_seconds_and_all_counts() {
        let start = Instant::now();
        let mut log = FaultLog::new(0);
        let line = log.note(NOT_TLS, start, || from(1)).unwrap();
        assert_eq!((line.count, port(&line)), (1, 1));
        assert!(log.patience(start).is_none(), "nothing is due");
        let looks = std::cell::Cell::new(0);
        for millis in 0..9000_u32 {
            let look = || {
                looks.set(looks.get() + 1);
                from(looks.get())
            };
            assert!(log.note(NOT_TLS, start + millis * Duration::from_millis(1), look).is_none());
        }
        assert_eq!(looks.get(), 9, "one a second");
        assert_eq!(log.patience(start), Some(QUIET));
        assert!(log.overdue(start + QUIET - LOOK).is_empty());
        let other = log.note(Kind::Full, start + LOOK, || from(2)).unwrap();
        assert_eq!(other.count, 1, "another kind has its own line");
        let lines = log.overdue(start + QUIET);
        assert_eq!((lines.len(), lines[0].count, port(&lines[0])), (1, 9000, 9));
        assert!(log.patience(start + QUIET).is_none(), "all was said");
        assert!(log.note(NOT_TLS, start + QUIET + LOOK, || from(3)).is_none(), "the quiet time begins again");
        let line = log.note(NOT_TLS, start + 2 * QUIET, || from(4)).unwrap();
        assert_eq!((line.count, port(&line)), (2, 4));
    }
}
