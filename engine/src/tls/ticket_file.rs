//! The file of ticket keys that several hosts share.
//!
//! It has a line for each key, `key NAME FROM UNTIL SECRET`: the name as 32 hexadecimal digits, two times as
//! RFC 3339 writes them, the secret as 96 hexadecimal digits (AES-128-CBC, then HMAC-SHA-256).

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use zeroize::Zeroizing;

use super::ticket_keys::{
    ENCRYPTION_BYTES, KEYS_MAX, KeyRefused, KeyRing, NAME_BYTES, NoRandomness, SECRET_BYTES, TicketKey,
    UnixSeconds, to_hex,
};

/// Most bytes of a key file: far above any honest one.
const FILE_BYTES_MAX: usize = 64 * 1024;
const ROOT: u32 = 0;

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
    /// Somebody else than we or root owns it, and may change it.
    #[error("{}: its owner is the user of number {owner}, neither root nor the one that runs Offramp \
             ({ours}); try: chown {ours} {}", .path.display(), .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it may be.
        ours: u32,
    },
    /// It is a directory, a pipe or a device.
    #[error("{}: is no regular file; make one with: offramp ticket-key new FILE", .path.display())]
    NoFile {
        /// What is there.
        path: PathBuf,
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
    #[error("{}: {count} keys; allowed is 1 to {KEYS_MAX}, expired ones included; take out the lines of keys \
             that have expired, or make another file with: offramp ticket-key new FILE", .path.display())]
    Count {
        /// The file.
        path: PathBuf,
        /// How many.
        count: usize,
    },
    /// There is no randomness for a new key.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// It takes no more keys.
    #[error("{}: {cause}", .path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: KeyRefused,
    },
}

impl TicketKey {
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
}

impl KeyRing {
    /// Reads a key file, which is a regular one, belongs to us or root, and which nobody but its owner may
    /// have access to. What is there instead does not hold up the reader.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let inaccessible =
            |cause| KeyFileError::Inaccessible { path: path.to_owned(), action: "read", cause };
        // Opened to be read, a pipe would wait for its writer.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let mut file = opened.map_err(inaccessible)?;
        let metadata = file.metadata().map_err(inaccessible)?;
        if !metadata.is_file() {
            return Err(KeyFileError::NoFile { path: path.to_owned() });
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Exposed { path: path.to_owned(), mode });
        }
        let owner = metadata.uid();
        if let Some(ours) = effective_user().filter(|ours| owner != ROOT && owner != *ours) {
            return Err(KeyFileError::Foreign { path: path.to_owned(), owner, ours });
        }
        // Of its full size at once: one that grows leaves copies of secrets behind.
        let mut content = Zeroizing::new(vec![0; FILE_BYTES_MAX + 1]);
        let mut filled = 0;
        loop {
            match file.read(&mut content[filled..]) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(inaccessible(error)),
            }
        }
        if filled > FILE_BYTES_MAX {
            let cause = std::io::Error::other(format!("it is longer than {FILE_BYTES_MAX} bytes"));
            return Err(inaccessible(cause));
        }
        let text = std::str::from_utf8(&content[..filled])
            .map_err(|_| inaccessible(std::io::Error::other("it is not text")))?;
        Self::parse(path, text)
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
}

/// As whom we run. The owner of /proc/self would do but for a program with capabilities of its own.
fn effective_user() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn seconds(text: &str) -> Option<UnixSeconds> {
    let time = humantime::parse_rfc3339(text).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
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
    fn what_is_no_file_of_ours_is_refused_and_holds_nobody_up() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ticket.keys");
        let made = std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&path).status();
        assert!(made.expect("coreutils").success());
        let error = KeyRing::read(&path).expect_err("a pipe").to_string();
        assert!(error.contains("ticket.keys: is no regular file"), "{error}");
        assert!(matches!(KeyRing::read(dir.path()), Err(KeyFileError::NoFile { .. })));
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "# \u{e9}\n".repeat(20_000)).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("chmod");
        let error = KeyRing::read(&path).expect_err("too long").to_string();
        assert!(error.contains("it is longer than 65536 bytes"), "{error}");
        std::fs::write(&path, b"key \xff").expect("written");
        let error = KeyRing::read(&path).expect_err("no text").to_string();
        assert!(error.contains("it is not text"), "{error}");
        if std::os::unix::fs::chown(&path, Some(4711), None).is_ok() {
            let error = KeyRing::read(&path).expect_err("somebody else's").to_string();
            assert!(error.contains("the user of number 4711") && error.contains("try: chown"), "{error}");
        }
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
}
