//! Records that are not application data, whoever opened them: alerts, an attempt to renegotiate, and what we
//! send of the kind. The messages of TLS 1.3 are in `messages`.

use offramp_proto::alert::{LEVEL_FATAL, LEVEL_WARNING, USER_CANCELED};
use offramp_proto::handshake::{CLIENT_HELLO, HELLO_REQUEST, KEY_UPDATE};
use std::time::{Duration, Instant};

use crate::conn::action::{Action, ControlKind, Milestone, Outbox};
use crate::conn::fault::{Fault, alert};
use crate::tls::record::RecordType;
use crate::tls::secrets::Version;

/// A whole KeyUpdate message that asks for none in return (RFC 8446 §4.6.3).
pub(super) const KEY_UPDATE_NOT_REQUESTED: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];
/// The same, asking for one in return.
pub(super) const KEY_UPDATE_REQUESTED: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 1];

/// What a record asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    /// Nothing: it may be passed over.
    Ignore,
    /// The peer sends no more (close_notify).
    CloseNotify,
    /// The peer wants to renegotiate, which is refused, whoever carries the records (RFC 5746 §4.5; TS 33.328
    /// Annex M) (A6c).
    Renegotiation,
}

/// Reads a record, other than of handshake messages in TLS 1.3.
///
/// # Errors
/// The fault that ends the connection: a fatal alert, or what does not belong here.
pub(super) fn read(version: Version, record_type: RecordType, payload: &[u8]) -> Result<Control, Fault> {
    match (record_type, payload) {
        (RecordType::Alert, &[level, description]) => read_alert(version, level, description),
        (RecordType::Alert, _) => Err(Fault::Malformed),
        (RecordType::Handshake, _) if version == Version::Tls12 => match payload.first() {
            Some(&(CLIENT_HELLO | HELLO_REQUEST)) => Ok(Control::Renegotiation),
            _ => Err(Fault::UnexpectedRecord),
        },
        (RecordType::Handshake | RecordType::ChangeCipherSpec | RecordType::ApplicationData, _) => {
            Err(Fault::UnexpectedRecord)
        }
    }
}

/// In TLS 1.3 the level means nothing and all but two descriptions are fatal (RFC 8446 §6).
fn read_alert(version: Version, level: u8, description: u8) -> Result<Control, Fault> {
    match (description, version) {
        (alert::CLOSE_NOTIFY, _) => Ok(Control::CloseNotify),
        (USER_CANCELED, _) => Ok(Control::Ignore),
        (_, Version::Tls12) if level == LEVEL_WARNING => Ok(Control::Ignore),
        _ => Err(Fault::AlertReceived),
    }
}

/// What a record counts as.
pub(super) fn kind(record_type: RecordType, control: Result<Control, Fault>) -> ControlKind {
    match control {
        Ok(Control::CloseNotify) => ControlKind::CloseNotify,
        Ok(Control::Renegotiation) => ControlKind::Renegotiation,
        Ok(Control::Ignore) => ControlKind::Alert,
        Err(_) if record_type == RecordType::Alert => ControlKind::Alert,
        Err(_) => ControlKind::Unexpected,
    }
}

/// The records other than application data of one event, by kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    by_kind: [u32; ControlKind::ALL.len()],
    has_any: bool,
}

impl Counts {
    pub(super) fn add(&mut self, kind: ControlKind) {
        self.by_kind[kind as usize] += 1;
        self.has_any = true;
    }

    /// Reports them, and begins again at none.
    #[inline]
    pub(super) fn note(&mut self, out: &mut Outbox) {
        if self.has_any {
            self.note_each(out);
        }
    }

    #[cold]
    fn note_each(&mut self, out: &mut Outbox) {
        self.has_any = false;
        for kind in ControlKind::ALL {
            let count = std::mem::take(&mut self.by_kind[kind as usize]);
            if count > 0 {
                out.push(Action::Note(Milestone::Received { kind, count }));
            }
        }
    }
}

/// KeyUpdates that a peer may send at once, and one more each time that so long has passed. As many as there
/// are records on the way (Java sends one for each that it receives beyond its limit, until ours comes), and
/// too few to keep a core busy with deriving keys.
const KEY_UPDATES_AT_ONCE: u32 = 1024;
const KEY_UPDATE_EVERY: Duration = Duration::from_millis(50);

/// How many KeyUpdates the peer may still send.
#[derive(Clone, Copy, Debug)]
pub(super) struct RateLimit {
    left: u32,
    since: Instant,
}

impl RateLimit {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: KEY_UPDATES_AT_ONCE, since: now }
    }

    /// Whether there was one left.
    pub(super) fn spend(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.since).as_millis() / KEY_UPDATE_EVERY.as_millis();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(earned).min(KEY_UPDATES_AT_ONCE);
            self.since = now;
        }
        let had_one = self.left > 0;
        self.left = self.left.saturating_sub(1);
        had_one
    }
}

/// The payload of an alert record of ours.
pub(super) fn alert_payload(description: u8) -> [u8; 2] {
    let is_warning = matches!(description, alert::CLOSE_NOTIFY | alert::NO_RENEGOTIATION);
    [if is_warning { LEVEL_WARNING } else { LEVEL_FATAL }, description]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_are_read_by_version() {
        let read = |version, payload: &[u8]| read(version, RecordType::Alert, payload);
        for version in [Version::Tls12, Version::Tls13] {
            assert_eq!(read(version, &[1, 0]), Ok(Control::CloseNotify));
            assert_eq!(read(version, &[2, 20]), Err(Fault::AlertReceived));
            assert_eq!(read(version, &[1]), Err(Fault::Malformed));
            assert_eq!(read(version, &[]), Err(Fault::Malformed));
        }
        assert_eq!(read(Version::Tls12, &[1, 112]), Ok(Control::Ignore));
        assert_eq!(read(Version::Tls13, &[1, 112]), Err(Fault::AlertReceived));
        assert_eq!(read(Version::Tls13, &[1, 90]), Ok(Control::Ignore));
    }

    #[test]
    fn in_tls_1_2_only_hellos_mean_renegotiation() {
        let read = |payload: &[u8]| read(Version::Tls12, RecordType::Handshake, payload);
        assert_eq!(read(&[1, 0, 1, 0]), Ok(Control::Renegotiation));
        assert_eq!(read(&[0, 0, 0, 0]), Ok(Control::Renegotiation));
        assert_eq!(read(&[24, 0, 0, 1, 0]), Err(Fault::UnexpectedRecord));
        assert_eq!(read(&[]), Err(Fault::UnexpectedRecord));
    }

    #[test]
    fn our_alerts_have_the_level_that_goes_with_them() {
        assert_eq!(alert_payload(alert::CLOSE_NOTIFY), [1, 0]);
        assert_eq!(alert_payload(alert::NO_RENEGOTIATION), [1, 100]);
        assert_eq!(alert_payload(alert::BAD_RECORD_MAC), [2, 20]);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn a_flood_of_key_updates_is_told_from_a_lively_peer() {
        let begin = Instant::now();
        let mut allowance = RateLimit::new(begin);
        assert!((0..KEY_UPDATES_AT_ONCE).all(|_| allowance.spend(begin)));
        assert!(!allowance.spend(begin));
        assert!((1..1000).all(|nth| allowance.spend(begin + nth * KEY_UPDATE_EVERY)));
        assert!(!allowance.spend(begin + 999 * KEY_UPDATE_EVERY));
    }
}
