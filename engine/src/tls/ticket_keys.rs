//! Ticket keys: a ring of them, with the times between which each seals and opens, and the file that several
//! hosts share.
//!
//! The file has a line for each key, `key NAME FROM UNTIL SECRET`: the name as 32 hexadecimal digits, two
//! times as RFC 3339 writes them, the secret as 96 hexadecimal digits (AES-128-CBC, then HMAC-SHA-256). A key
//! opens from the moment that it is read until UNTIL, and seals from FROM until a later key does: hosts that
//! read a key before its FROM may do so in any order, and none seals what another cannot open.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;
use zeroize::Zeroizing;

/// Keys in a ring, those that wait to seal and those that only open included.
pub const KEYS_MAX: usize = 32;
/// Seconds for which a key seals, where nobody says otherwise (RFC 5077 §5.5 asks for regular changes).
pub const SEALS_SECONDS: u64 = 8 * 3600;
/// Seconds for which it opens after that.
pub const OPENS_SECONDS: u64 = 16 * 3600;
/// Most bytes of a key file: far above any honest one.
const FILE_BYTES_MAX: u64 = 64 * 1024;

pub(super) const NAME_BYTES: usize = 16;
const ENCRYPTION_BYTES: usize = 16;
const AUTHENTICATION_BYTES: usize = 32;
const SECRET_BYTES: usize = ENCRYPTION_BYTES + AUTHENTICATION_BYTES;

/// A point in time: seconds since 1970-01-01T00:00:00Z.
pub type UnixSeconds = u64;

/// The system has no randomness to give.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the system's random number generator gave nothing; check that getrandom(2) is allowed by seccomp")]
pub struct NoRandomness;

/// Why a key file cannot be used. No text quotes a secret.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read, or written.
    #[error("{}: cannot be {action}: {cause}", .path.display())]
    Inaccessible {
        /// The file.
        path: PathBuf,
        /// "read" or "written".
        action: &'static str,
        /// What the system says.
        cause: std::io::Error,
    },
    /// Others than its owner may read or write it.
    #[error("{}: its mode is {mode:04o}, and others than its owner must have no access; try: chmod 600 {}",
            .path.display(), .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A line is no key.
    #[error("{}:{line}: {problem}; a line is: key NAME FROM UNTIL SECRET, as `offramp ticket-key new` \
             makes it", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Two lines have one name, or one secret.
    #[error("{}:{line}: a key with this name or secret stands above; each key must be one of its own",
            .path.display())]
    Repeated {
        /// The file.
        path: PathBuf,
        /// 1-based.
        line: usize,
    },
    /// There are none, or too many.
    #[error("{}: {count} keys; allowed is 1 to {KEYS_MAX}, expired ones included; try: offramp ticket-key \
             rotate {}", .path.display(), .path.display())]
    Count {
        /// The file.
        path: PathBuf,
        /// How many.
        count: usize,
    },
    /// There is no randomness for a new key.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

/// A name that travels in the ticket, two keys that never leave, and when it is for what.
#[derive(Clone)]
pub struct TicketKey {
    pub(super) name: [u8; NAME_BYTES],
    pub(super) encryption: Zeroizing<[u8; ENCRYPTION_BYTES]>,
    pub(super) authentication: Zeroizing<[u8; AUTHENTICATION_BYTES]>,
    from: UnixSeconds,
    until: UnixSeconds,
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

    fn parse(line: &str) -> Result<Self, &'static str> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let &["key", name, from, until, secret] = words.as_slice() else {
            return Err("not the word `key` and four more");
        };
        let name = from_hex::<NAME_BYTES>(name).ok_or("its name is not 32 hexadecimal digits")?;
        let from = seconds(from).ok_or("FROM is no time such as 2026-11-24T08:00:00Z")?;
        let until = seconds(until).ok_or("UNTIL is no time such as 2026-11-24T08:00:00Z")?;
        if until <= from {
            return Err("UNTIL is not later than FROM");
        }
        let secret = from_hex::<SECRET_BYTES>(secret).ok_or("its secret is not 96 hexadecimal digits")?;
        if secret.iter().all(|byte| *byte == secret[0]) {
            return Err("its secret is one byte over and over");
        }
        let mut key = Self {
            name: *name,
            encryption: Zeroizing::default(),
            authentication: Zeroizing::default(),
            from,
            until,
        };
        key.encryption.copy_from_slice(&secret[..ENCRYPTION_BYTES]);
        key.authentication.copy_from_slice(&secret[ENCRYPTION_BYTES..]);
        Ok(key)
    }

    fn is_like(&self, other: &Self) -> bool {
        self.name == other.name
            || *self.encryption == *other.encryption
            || *self.authentication == *other.authentication
    }

    /// Its name, as hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> String {
        to_hex(&self.name).to_string()
    }

    /// When it seals and until when it opens, as RFC 3339 writes it.
    #[must_use]
    pub fn span(&self) -> (String, String) {
        (text(self.from), text(self.until))
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
    keys: Vec<TicketKey>,
}

impl KeyRing {
    /// One fresh key, for this process alone.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn generate(now: UnixSeconds) -> Result<Self, NoRandomness> {
        let mut ring = Self::default();
        ring.add(now, now)?;
        Ok(ring)
    }

    /// Adds a fresh key that seals from `from` on, and leaves out those that have expired by `now`.
    ///
    /// # Errors
    /// [`NoRandomness`]; the ring stays as it was.
    pub fn add(&mut self, now: UnixSeconds, from: UnixSeconds) -> Result<(), NoRandomness> {
        let key = TicketKey::generate(from, from.saturating_add(SEALS_SECONDS + OPENS_SECONDS))?;
        self.keys.retain(|key| now < key.until);
        // The oldest go first where there are too many of them.
        self.keys.truncate(KEYS_MAX - 1);
        self.keys.push(key);
        self.sort();
        Ok(())
    }

    /// Reads a key file, which nobody but its owner may have access to.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let inaccessible =
            |cause| KeyFileError::Inaccessible { path: path.to_owned(), action: "read", cause };
        let file = File::open(path).map_err(inaccessible)?;
        let mode = file.metadata().map_err(inaccessible)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Exposed { path: path.to_owned(), mode });
        }
        let mut content = Zeroizing::new(String::new());
        let bytes = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut content).map_err(inaccessible)?;
        if bytes as u64 > FILE_BYTES_MAX {
            let cause = std::io::Error::other(format!("it is longer than {FILE_BYTES_MAX} bytes"));
            return Err(inaccessible(cause));
        }
        Self::parse(path, &content)
    }

    /// Reads the text of a key file; `path` is only for the messages.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn parse(path: &Path, content: &str) -> Result<Self, KeyFileError> {
        let mut ring = Self::default();
        for (line, text) in (1..).zip(content.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let malformed = |problem| KeyFileError::Malformed { path: path.to_owned(), line, problem };
            let key = TicketKey::parse(text).map_err(malformed)?;
            if ring.keys.iter().any(|other| key.is_like(other)) {
                return Err(KeyFileError::Repeated { path: path.to_owned(), line });
            }
            ring.keys.push(key);
        }
        let count = ring.keys.len();
        if !(1..=KEYS_MAX).contains(&count) {
            return Err(KeyFileError::Count { path: path.to_owned(), count });
        }
        ring.sort();
        Ok(ring)
    }

    /// Writes a key file with mode 0600, whole or not at all; `replace` says whether there may be one.
    ///
    /// # Errors
    /// [`KeyFileError::Inaccessible`].
    pub fn write(&self, path: &Path, replace: bool) -> Result<(), KeyFileError> {
        let inaccessible =
            |cause| KeyFileError::Inaccessible { path: path.to_owned(), action: "written", cause };
        if !replace && path.exists() {
            return Err(inaccessible(std::io::Error::other("there is one; to add a key: rotate")));
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let beside = path.with_file_name(name);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)
            .and_then(|mut file| file.write_all(self.content().as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&beside, path));
        if written.is_err() {
            // It may not have come into being.
            let _ = std::fs::remove_file(&beside);
        }
        written.map_err(inaccessible)
    }

    fn content(&self) -> Zeroizing<String> {
        let mut content = Zeroizing::new(String::with_capacity(256 * (self.keys.len() + 1)));
        content.push_str("# Offramp ticket keys. A secret: mode 0600, and the same file on every host.\n");
        content.push_str("# A key seals from FROM until a later one does, and opens until UNTIL.\n");
        for key in &self.keys {
            let (from, until) = key.span();
            let mut secret = Zeroizing::new([0; SECRET_BYTES]);
            secret[..ENCRYPTION_BYTES].copy_from_slice(&key.encryption[..]);
            secret[ENCRYPTION_BYTES..].copy_from_slice(&key.authentication[..]);
            // Writing into a string cannot fail.
            let _ = writeln!(content, "key {} {from} {until} {}", key.id(), *to_hex(&secret[..]));
        }
        content
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

    /// The key that seals at `now`: the latest whose time has come.
    pub(super) fn sealing(&self, now: UnixSeconds) -> Option<&TicketKey> {
        self.keys.iter().find(|key| key.from <= now).filter(|key| now < key.until)
    }

    /// The key of this name, if it opens at `now`.
    pub(super) fn opening(&self, name: &[u8; NAME_BYTES], now: UnixSeconds) -> Option<&TicketKey> {
        self.keys.iter().find(|key| key.name == *name).filter(|key| now < key.until)
    }

    /// Whether the key that seals has done so for long enough, or none does.
    pub(super) fn is_due(&self, now: UnixSeconds) -> bool {
        self.sealing(now).is_none_or(|key| now >= key.from.saturating_add(SEALS_SECONDS))
    }

    /// Leaves out what has expired; its secrets are wiped. Says whether there was any.
    pub(super) fn without_expired(&self, now: UnixSeconds) -> Option<Self> {
        let keys: Vec<_> = self.keys.iter().filter(|key| now < key.until).cloned().collect();
        (keys.len() < self.keys.len()).then_some(Self { keys })
    }

    fn sort(&mut self) {
        self.keys.sort_by_key(|key| std::cmp::Reverse(key.from));
    }
}

fn seconds(text: &str) -> Option<UnixSeconds> {
    let time = humantime::parse_rfc3339(text).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

fn text(seconds: UnixSeconds) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_seconds(time).to_string()
}

fn to_hex(bytes: &[u8]) -> Zeroizing<String> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len()));
    text.extend(digits.map(|digit| char::from(DIGITS[usize::from(digit)])));
    text
}

fn from_hex<const N: usize>(text: &str) -> Option<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    if text.len() != 2 * N {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = (digit(digits[0])? << 4 | digit(digits[1])?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const NOW: UnixSeconds = 1_790_000_000;

    fn ids(ring: &KeyRing, wanted: Use, now: UnixSeconds) -> Vec<String> {
        ring.uses(now).filter(|(_, purpose)| *purpose == wanted).map(|(key, _)| key.id()).collect()
    }

    #[test]
    fn a_key_opens_at_once_seals_from_its_time_and_expires() {
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

    #[test]
    fn a_file_is_written_for_its_owner_alone_and_read_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ticket.keys");
        let mut ring = KeyRing::generate(NOW).expect("randomness");
        ring.write(&path, false).expect("written");
        assert!(ring.write(&path, false).is_err(), "one that is there is not overwritten");
        ring.add(NOW, NOW + 60).expect("randomness");
        ring.write(&path, true).expect("replaced");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let read = KeyRing::read(&path).expect("read back");
        assert_eq!(*read.content(), *ring.content());
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).expect("chmod");
        let error = KeyRing::read(&path).expect_err("exposed").to_string();
        assert!(error.contains("its mode is 0640") && error.contains("chmod 600"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1, "nothing is left beside it");
    }

    #[test]
    fn each_bad_line_is_named_and_no_secret_is_quoted() {
        let name = "00112233445566778899aabbccddeeff";
        let secret = "0123456789abcdef".repeat(6);
        let (from, until) = ("2026-11-24T08:00:00Z", "2026-11-25T08:00:00Z");
        let good = format!("key {name} {from} {until} {secret}");
        let parse = |content: &str| KeyRing::parse(Path::new("t.keys"), content);
        assert!(parse(&format!("# a comment\n\n{good}\n")).is_ok());
        let long = "00".repeat(70_000);
        for (line, problem) in [
            ("key".to_owned(), "not the word `key` and four more"),
            (format!("{good} more"), "not the word `key` and four more"),
            (format!("key x {from} {until} {secret}"), "its name is not 32"),
            (format!("key {name} yesterday {until} {secret}"), "FROM is no time"),
            (format!("key {name} {from} 2026-13-01T00:00:00Z {secret}"), "UNTIL is no time"),
            (format!("key {name} {until} {from} {secret}"), "UNTIL is not later than FROM"),
            (format!("key {name} {from} {until} {}", &secret[1..]), "its secret is not 96"),
            (format!("key {name} {from} {until} {}", "zz".repeat(48)), "its secret is not 96"),
            (format!("key {name} {from} {until} {}", "00".repeat(48)), "one byte over and over"),
            (format!("key {name} {from} {until} {long}"), "its secret is not 96"),
            (format!("key {name} {from} {until} é{}", &secret[2..]), "its secret is not 96"),
        ] {
            let error = parse(&format!("# first\n{line}\n")).expect_err(problem).to_string();
            assert!(error.starts_with("t.keys:2: ") && error.contains(problem), "{error}");
            assert!(!error.contains(&secret[..20]), "{error}");
        }
        let error = parse(&format!("{good}\n{good}\n")).expect_err("twice").to_string();
        assert!(error.starts_with("t.keys:2: a key with this name or secret stands above"), "{error}");
        assert!(parse("").expect_err("none").to_string().contains("0 keys; allowed is 1 to 32"));
    }

    #[test]
    fn debug_shows_the_name_alone() {
        let key = TicketKey::generate(NOW, NOW + 1).expect("randomness");
        assert_eq!(format!("{key:?}"), format!("TicketKey({})", key.id()));
    }
}
