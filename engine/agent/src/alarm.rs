//! What is wrong now: logged when it begins, again from time to time, and when it ends; and the file of
//! metrics.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::file;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Alarm {
    /// etcd gives no answer that can be used.
    Etcd,
    /// The ring in etcd is not taken.
    Ring,
    /// The file cannot be written.
    File,
    /// The next key should have come.
    Rotation,
    /// The leader cannot make the next ring.
    Publish,
    /// The file of metrics cannot be written.
    Metrics,
}

/// Those that the file of metrics shows.
const SHOWN: [Alarm; 5] = [Alarm::Etcd, Alarm::Ring, Alarm::File, Alarm::Rotation, Alarm::Publish];

impl Alarm {
    fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Ring => "ring",
            Self::File => "file",
            Self::Rotation => "rotation",
            Self::Publish => "publish",
            Self::Metrics => "metrics",
        }
    }
}

/// Those that are raised.
pub(crate) struct Alarms {
    again: Duration,
    raised: BTreeMap<Alarm, Raised>,
}

struct Raised {
    text: String,
    /// The time of its next line in the log.
    next: Instant,
}

impl Alarms {
    pub(crate) fn new(again: Duration) -> Self {
        Self { again, raised: BTreeMap::new() }
    }

    /// Logs it, unless it has been raised and logged a short time ago. Says whether it was logged.
    pub(crate) fn raise(&mut self, alarm: Alarm, now: Instant, text: &str) -> bool {
        let next = self.raised.get(&alarm).map(|raised| raised.next).filter(|next| now < *next);
        let raised = Raised { text: text.to_owned(), next: next.unwrap_or(now + self.again) };
        self.raised.insert(alarm, raised);
        if next.is_none() {
            tracing::error!(alarm = alarm.name(), "{text}");
        }
        next.is_none()
    }

    /// The text of the first one, in the order of [`Alarm`].
    pub(crate) fn first(&self) -> Option<&str> {
        self.raised.values().next().map(|raised| raised.text.as_str())
    }

    pub(crate) fn clear(&mut self, alarm: Alarm) {
        if self.raised.remove(&alarm).is_some() {
            tracing::info!(alarm = alarm.name(), "the alarm has ended");
        }
    }
}

/// What the file of metrics says beside the alarms.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) is_leader: bool,
    pub(crate) generation: u64,
    /// When the ring was read from etcd last, and taken.
    pub(crate) contact: u64,
    /// When the last key ends.
    pub(crate) end: u64,
}

/// Writes a file for node_exporter's textfile collector.
pub(crate) fn write(path: &Path, state: &State, alarms: &Alarms) -> io::Result<()> {
    file::replace(path, text(state, alarms).as_bytes(), 0o644, None)
}

fn text(state: &State, alarms: &Alarms) -> String {
    const PREFIX: &str = "offramp_ticket_key_agent";
    let mut text = String::new();
    let _ = writeln!(text, "# TYPE {PREFIX}_alarm gauge");
    for alarm in SHOWN {
        let raised = u8::from(alarms.raised.contains_key(&alarm));
        let _ = writeln!(text, "{PREFIX}_alarm{{alarm=\"{}\"}} {raised}", alarm.name());
    }
    for (name, value) in [
        ("leader", u64::from(state.is_leader)),
        ("generation", state.generation),
        ("last_contact_timestamp_seconds", state.contact),
        ("keys_end_timestamp_seconds", state.end),
    ] {
        let _ = writeln!(text, "# TYPE {PREFIX}_{name} gauge\n{PREFIX}_{name} {value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "some moment to count from")]
    fn alarm_is_logged_at_its_start_and_at_intervals() {
        let mut alarms = Alarms::new(Duration::from_secs(60));
        let begin = Instant::now();
        let mut raise = |seconds| alarms.raise(Alarm::Etcd, begin + Duration::from_secs(seconds), "lost");
        assert_eq!(
            [0, 1, 59, 60, 61, 119, 120].map(&mut raise),
            [true, false, false, true, false, false, true]
        );
        assert!(text(&State::default(), &alarms).contains("alarm{alarm=\"etcd\"} 1\n"));
        alarms.raise(Alarm::Rotation, begin, "late");
        alarms.raise(Alarm::Etcd, begin + Duration::from_secs(121), "lost otherwise");
        assert_eq!(alarms.first(), Some("lost otherwise"));
        alarms.clear(Alarm::Etcd);
        assert!(text(&State::default(), &alarms).contains("alarm{alarm=\"etcd\"} 0\n"));
        assert!(alarms.raise(Alarm::Etcd, begin, "lost again"));
    }
}
