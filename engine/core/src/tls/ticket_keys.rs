//! Ticket keys: a ring of them, with the times between which each seals and opens.
//!
//! A key opens from the moment that it is known until UNTIL, and seals from FROM until a later key does:
//! hosts that learn a key before its FROM may do so in any order, and none seals what another cannot open.
//! Where the latest has expired and an earlier one has not, the earlier one seals.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::rand;
use zeroize::Zeroizing;

/// Keys in a ring, those that wait to seal and those that only open included.
pub const KEYS_MAX: usize = 32;
/// Seconds for which a key seals, where nobody says otherwise (RFC 5077 §5.5 asks for regular changes).
pub const SEALS_SECONDS: u64 = 8 * 3600;
/// Seconds for which it opens after that.
pub const OPENS_SECONDS: u64 = 16 * 3600;

pub(super) const NAME_BYTES: usize = 16;
pub(super) const ENCRYPTION_BYTES: usize = 16;
pub(super) const AUTHENTICATION_BYTES: usize = 32;
pub(super) const SECRET_BYTES: usize = ENCRYPTION_BYTES + AUTHENTICATION_BYTES;

/// A point in time: seconds since 1970-01-01T00:00:00Z.
pub type UnixSeconds = u64;

/// The system has no randomness to give.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the system's random number generator gave nothing; check that getrandom(2) is allowed by seccomp")]
pub struct NoRandomness;

/// A name that travels in the ticket, two keys that never leave, and when it is for what.
#[derive(Clone)]
pub struct TicketKey {
    pub(super) name: [u8; NAME_BYTES],
    pub(super) encryption: Zeroizing<[u8; ENCRYPTION_BYTES]>,
    pub(super) authentication: Zeroizing<[u8; AUTHENTICATION_BYTES]>,
    pub(super) from: UnixSeconds,
    pub(super) until: UnixSeconds,
}

/// Why a ring takes no more keys; it stays as it was.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyRefused {
    /// There is no randomness for one.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// All that it may have seal or wait to.
    #[error(
        "there are {KEYS_MAX} keys that seal or wait to, and no more are allowed; wait until one has sealed, \
         or take out the lines of some that wait"
    )]
    Full,
}

/// What a key is for, at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It opens, and will seal when its time has come.
    Waits,
    /// It opens and seals.
    Seals,
    /// It only opens.
    Opens,
    /// Nothing any more.
    Expired,
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waits => "waits",
            Self::Seals => "seals",
            Self::Opens => "opens",
            Self::Expired => "expired",
        })
    }
}

/// What there is to show of a key in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyState {
    /// Its name, as hexadecimal digits.
    pub id: String,
    /// What it is for now.
    pub purpose: Use,
    /// From when on it seals.
    pub from: UnixSeconds,
    /// When it stops opening.
    pub until: UnixSeconds,
}

impl TicketKey {
    /// A fresh one that seals from `from` on and opens until `until`.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn generate(from: UnixSeconds, until: UnixSeconds) -> Result<Self, NoRandomness> {
        let mut key = Self {
            name: [0; NAME_BYTES],
            encryption: Zeroizing::default(),
            authentication: Zeroizing::default(),
            from,
            until,
        };
        for part in [&mut key.name[..], &mut key.encryption[..], &mut key.authentication[..]] {
            rand::fill(part).map_err(|_| NoRandomness)?;
        }
        Ok(key)
    }

    /// A fresh one that seals from `from` on, for as long as is usual.
    pub(super) fn fresh(from: UnixSeconds) -> Result<Self, NoRandomness> {
        Self::generate(from, from.saturating_add(SEALS_SECONDS + OPENS_SECONDS))
    }

    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.name == other.name
            || *self.encryption == *other.encryption
            || *self.authentication == *other.authentication
    }

    /// Whether its time has come and is not over.
    fn seals(&self, now: UnixSeconds) -> bool {
        self.from <= now && now < self.until
    }

    /// Its name, as hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> String {
        to_hex(&self.name).to_string()
    }

    /// From when on it seals.
    #[must_use]
    pub fn from(&self) -> UnixSeconds {
        self.from
    }

    /// Until when it opens.
    #[must_use]
    pub fn until(&self) -> UnixSeconds {
        self.until
    }

    /// When it seals and until when it opens, as RFC 3339 writes it.
    #[must_use]
    pub fn span(&self) -> (String, String) {
        (rfc3339(self.from), rfc3339(self.until))
    }
}

impl fmt::Debug for TicketKey {
    /// The name alone, which every ticket shows anyway.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketKey({})", self.id())
    }
}

/// Keys, the one that begins to seal last in front.
#[derive(Clone, Debug, Default)]
pub struct KeyRing {
    pub(super) keys: Vec<TicketKey>,
}

impl KeyRing {
    /// One fresh key, for this process alone.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn generate(now: UnixSeconds) -> Result<Self, NoRandomness> {
        Ok(Self { keys: vec![TicketKey::fresh(now)?] })
    }

    /// Adds a fresh key that seals from `from` on, and leaves out those that have expired by `now`.
    ///
    /// # Errors
    /// [`KeyRefused`]; the ring stays as it was.
    pub fn add(&mut self, now: UnixSeconds, from: UnixSeconds) -> Result<(), KeyRefused> {
        *self = self.with(TicketKey::fresh(from)?, now)?;
        Ok(())
    }

    /// The same with one key more and without those that have expired by `now`. Where there would be too
    /// many, those that only open go, the oldest first; one that seals or waits is never left out.
    ///
    /// # Errors
    /// [`KeyRefused::Full`].
    pub fn with(&self, key: TicketKey, now: UnixSeconds) -> Result<Self, KeyRefused> {
        let mut ring = self.without_expired(now).unwrap_or_else(|| self.clone());
        let sealing = ring.sealing(now).map(|key| key.name);
        while ring.keys.len() >= KEYS_MAX {
            // The last is the one that began to seal first.
            if ring.keys.last().is_some_and(|oldest| now < oldest.from || Some(oldest.name) == sealing) {
                return Err(KeyRefused::Full);
            }
            ring.keys.pop();
        }
        ring.keys.push(key);
        ring.sort();
        Ok(ring)
    }

    /// The next time, from `now` on, in which no key seals until a later one does: from when, until when.
    /// What comes behind the last key is no gap.
    #[must_use]
    pub fn gap(&self, now: UnixSeconds) -> Option<(String, String)> {
        let mut begin = now;
        while let Some(until) = self.keys.iter().filter(|key| key.seals(begin)).map(|key| key.until).max() {
            begin = until;
        }
        let next = self.keys.iter().map(|key| key.from).filter(|from| *from > begin).min()?;
        Some((rfc3339(begin), rfc3339(next)))
    }

    /// What there is to show of every key at `now`.
    pub(super) fn states(&self, now: UnixSeconds) -> Vec<KeyState> {
        let state = |(key, purpose): (&TicketKey, Use)| KeyState {
            id: key.id(),
            purpose,
            from: key.from,
            until: key.until,
        };
        self.uses(now).map(state).collect()
    }

    /// Every key with what it is for at `now`.
    pub fn uses(&self, now: UnixSeconds) -> impl Iterator<Item = (&TicketKey, Use)> {
        let sealing = self.sealing(now).map(|key| key.name);
        self.keys.iter().map(move |key| {
            let purpose = if now >= key.until {
                Use::Expired
            } else if Some(key.name) == sealing {
                Use::Seals
            } else if now < key.from {
                Use::Waits
            } else {
                Use::Opens
            };
            (key, purpose)
        })
    }

    /// The key that seals at `now`: the latest whose time has come and that has not expired.
    pub(super) fn sealing(&self, now: UnixSeconds) -> Option<&TicketKey> {
        self.keys.iter().find(|key| key.seals(now))
    }

    /// The key of this name, if it opens at `now`.
    pub(super) fn opening(&self, name: &[u8; NAME_BYTES], now: UnixSeconds) -> Option<&TicketKey> {
        self.keys.iter().find(|key| key.name == *name).filter(|key| now < key.until)
    }

    /// Whether the key that seals has done so for long enough, or none does.
    pub(super) fn is_due(&self, now: UnixSeconds) -> bool {
        self.sealing(now).is_none_or(|key| now >= key.from.saturating_add(SEALS_SECONDS))
    }

    /// Leaves out what has expired; its secrets are wiped. `None` if nothing has.
    #[must_use]
    pub fn without_expired(&self, now: UnixSeconds) -> Option<Self> {
        let keys: Vec<_> = self.keys.iter().filter(|key| now < key.until).cloned().collect();
        (keys.len() < self.keys.len()).then_some(Self { keys })
    }

    pub(super) fn sort(&mut self) {
        self.keys.sort_by_key(|key| std::cmp::Reverse(key.from));
    }
}

pub(super) fn to_hex(bytes: &[u8]) -> Zeroizing<String> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len()));
    text.extend(digits.map(|digit| char::from(DIGITS[usize::from(digit)])));
    text
}

/// 9999-12-31T23:59:59Z: RFC 3339 has years of four digits.
const RFC3339_MAX: UnixSeconds = 253_402_300_799;

/// A point in time as RFC 3339 writes it; the last one that it can write for any later one.
#[must_use]
pub fn rfc3339(seconds: UnixSeconds) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(seconds.min(RFC3339_MAX));
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = 1_790_000_000;

    fn ids(ring: &KeyRing, wanted: Use, now: UnixSeconds) -> Vec<String> {
        ring.uses(now).filter(|(_, purpose)| *purpose == wanted).map(|(key, _)| key.id()).collect()
    }

    #[test]
    fn key_opens_at_once_seals_at_its_time_and_expires() {
        let mut ring = KeyRing::generate(NOW).expect("randomness");
        let old = ids(&ring, Use::Seals, NOW);
        ring.add(NOW, NOW + 600).expect("randomness");
        let new = ids(&ring, Use::Waits, NOW);
        assert_eq!((old.len(), new.len()), (1, 1));
        assert_eq!(ids(&ring, Use::Seals, NOW + 599), old);
        assert_eq!(
            (ids(&ring, Use::Seals, NOW + 600), ids(&ring, Use::Opens, NOW + 600)),
            (new, old.clone())
        );
        let end = NOW + SEALS_SECONDS + OPENS_SECONDS;
        assert_eq!(ids(&ring, Use::Expired, end), old);
        assert_eq!(ring.without_expired(end).map(|ring| ring.keys.len()), Some(1));
        assert!(ring.without_expired(end - 1).is_none());
        assert!(!ring.is_due(NOW + 600) && ring.is_due(NOW + 600 + SEALS_SECONDS));
    }

    /// Of keys with these times, relative to `NOW`, in an order that is not the ring's.
    fn ring(times: &[(u64, u64)]) -> KeyRing {
        let key = |(from, until): &(u64, u64)| TicketKey::generate(NOW + from, NOW + until);
        let keys = times.iter().map(key).collect::<Result<_, _>>().expect("randomness");
        let mut ring = KeyRing { keys };
        ring.sort();
        ring
    }

    #[test]
    fn where_the_latest_has_expired_an_earlier_one_seals() {
        let ring = ring(&[(0, 1000), (100, 200)]);
        let sealing_until = |now| ring.sealing(NOW + now).map(|key| key.until - NOW);
        let seen = [50, 150, 200, 999, 1000].map(sealing_until);
        assert_eq!(seen, [Some(1000), Some(200), Some(1000), Some(1000), None]);
    }

    #[test]
    fn full_ring_drops_only_keys_that_no_longer_seal() {
        let waiting = |count: u64| (1..=count).map(|nth| (nth * 100, 10_000));
        let full: Vec<_> = std::iter::once((0, 10_000)).chain(waiting(KEYS_MAX as u64 - 1)).collect();
        let mut seals = ring(&full);
        let before = format!("{seals:?}");
        assert_eq!(seals.add(NOW, NOW + 9000), Err(KeyRefused::Full));
        assert_eq!(format!("{seals:?}"), before);
        // At 250 two only open, and the first of them goes.
        let first = seals.keys.last().map(TicketKey::id).expect("one");
        seals.add(NOW + 250, NOW + 9000).expect("there is room");
        assert_eq!(seals.keys.len(), KEYS_MAX);
        assert!(seals.keys.iter().all(|key| key.id() != first));
        assert_eq!(ids(&seals, Use::Seals, NOW + 250).len(), 1);
    }

    #[test]
    fn a_time_in_which_no_key_seals_is_found() {
        let gap = |times: &[(u64, u64)]| ring(times).gap(NOW);
        assert_eq!(gap(&[(0, 100)]), None);
        assert_eq!(gap(&[(0, 100), (100, 200), (50, 150)]), None);
        assert_eq!(gap(&[(0, 100), (120, 200)]), Some((rfc3339(NOW + 100), rfc3339(NOW + 120))));
        assert_eq!(gap(&[(60, 200)]), Some((rfc3339(NOW), rfc3339(NOW + 60))));
        assert_eq!(gap(&[]), None);
    }

    #[test]
    fn times_past_the_year_9999_are_its_end() {
        for seconds in [RFC3339_MAX, RFC3339_MAX + 1, u64::MAX] {
            assert_eq!(rfc3339(seconds), "9999-12-31T23:59:59Z");
        }
    }

    #[test]
    fn debug_shows_the_name_alone() {
        let key = TicketKey::generate(NOW, NOW + 1).expect("randomness");
        assert_eq!(format!("{key:?}"), format!("TicketKey({})", key.id()));
    }
}
