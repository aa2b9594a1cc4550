//! The file of ticket keys that several hosts share.
//!
//! It has a line for each key, `key NAME FROM UNTIL SECRET`: the name as 32 hexadecimal digits, two times as
//! RFC 3339 writes them, the secret as 96 hexadecimal digits (AES-128-CBC, then HMAC-SHA-256).

use std::fmt::Write as _;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use zeroize::Zeroizing;

use super::ticket_keys::{
    ENCRYPTION_BYTES, KEYS_MAX, KeyRefused, KeyRing, NAME_BYTES, NoRandomness, SECRET_BYTES, TicketKey,
    UnixSeconds, to_hex,
};
use offramp_files::{self as files, Problem};

/// Most bytes of a key file: far above any honest one.
pub const FILE_BYTES_MAX: usize = 64 * 1024;
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
        cause: io::Error,
    },
    /// Others than its owner may read or write it.
    #[error("{}: its mode is {mode:04o}, and others than its owner must have no access; try: chmod 600 {}; \
             or mode 0440 and a group that Offramp runs in or root's (it is now the one of number {group}; \
             in Kubernetes: fsGroup and defaultMode 0440)", .path.display(), .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The group that owns it.
        group: u32,
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
    /// Reads a key file, which is a regular one, belongs to us or root, and which nobody else may have access
    /// to. A group may read it that we are in, as Kubernetes' fsGroup sets it up, or root's; and whoever
    /// systemd lets read its credentials.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let content = read_secret(path, FILE_BYTES_MAX)?;
        let text = content.text().map_err(|problem| KeyFileError::inaccessible(path, "read", problem))?;
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

    /// Writes a key file with mode 0600, whole or not at all, where there is none yet.
    ///
    /// # Errors
    /// [`KeyFileError::Inaccessible`].
    pub fn create(&self, path: &Path) -> Result<(), KeyFileError> {
        let inaccessible = |error: io::Error| KeyFileError::inaccessible(path, "written", error.into());
        let beside = beside(path);
        self.write_new(&beside, None).map_err(inaccessible)?;
        // Refused where there is a file by now, whoever has made that.
        let linked = std::fs::hard_link(&beside, path).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => io::Error::other("there is one; to add a key: rotate"),
            _ => error,
        });
        let removed = std::fs::remove_file(&beside);
        linked.and(removed).map_err(inaccessible)
    }

    /// Reads a key file, has it changed and writes it back, whole or not at all, with the owner, group and
    /// mode that it had. Of several processes that do so, one waits for the other; none undoes what another
    /// has done. Returns the ring as written.
    ///
    /// # Errors
    /// [`KeyFileError`]; the file stays as it was.
    pub fn update(
        path: &Path,
        change: impl FnOnce(&mut Self) -> Result<(), KeyRefused>,
    ) -> Result<Self, KeyFileError> {
        let inaccessible = |problem| KeyFileError::inaccessible(path, "written", problem);
        let _lock = files::lock(path).map_err(|problem| KeyFileError::inaccessible(path, "read", problem))?;
        let mut ring = Self::read(path)?;
        change(&mut ring).map_err(|cause| KeyFileError::Refused { path: path.to_owned(), cause })?;
        ring.replace(path).map_err(|error| inaccessible(error.into()))?;
        Ok(ring)
    }

    fn replace(&self, path: &Path) -> io::Result<()> {
        // Of a link the file that it names is replaced, and the link stays.
        let path = std::fs::canonicalize(path)?;
        let beside = beside(&path);
        let metadata = std::fs::metadata(&path)?;
        self.write_new(&beside, Some(&metadata))?;
        std::fs::rename(&beside, &path).inspect_err(|_| drop(std::fs::remove_file(&beside)))
    }

    /// Mode 0600, unless it is to be as accessible as another. Leaves nothing behind where it fails.
    fn write_new(&self, path: &Path, like: Option<&Metadata>) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let as_like = like.map_or(Ok(()), |like| be_like(&file, like));
        as_like
            .and_then(|()| file.write_all(self.content().as_bytes()))
            .and_then(|()| file.sync_all())
            .inspect_err(|_| drop(std::fs::remove_file(path)))
    }

    /// The text of a key file.
    #[must_use]
    pub fn content(&self) -> Zeroizing<String> {
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

impl KeyFileError {
    /// Whether a process of another user or another group might not have it: the owner is neither root nor
    /// we, or the group that may read the file is none of ours.
    #[must_use]
    pub fn depends_on_the_user(&self) -> bool {
        match self {
            Self::Exposed { mode, .. } => mode & 0o037 == 0,
            Self::Foreign { .. } => true,
            _ => false,
        }
    }

    fn inaccessible(path: &Path, action: &'static str, problem: Problem) -> Self {
        let path = path.to_owned();
        match problem {
            Problem::NotRegular { .. } => Self::NoFile { path },
            other => Self::Inaccessible { path, action, cause: other.into() },
        }
    }
}

/// Reads a file with a secret: a regular one, which belongs to us or root and to which nobody else has
/// access, as [`KeyRing::read`] describes.
///
/// # Errors
/// [`KeyFileError::Inaccessible`], [`KeyFileError::NoFile`], [`KeyFileError::Exposed`] and
/// [`KeyFileError::Foreign`].
pub fn read_secret(path: &Path, limit: usize) -> Result<files::Content, KeyFileError> {
    let content =
        files::read(path, limit).map_err(|problem| KeyFileError::inaccessible(path, "read", problem))?;
    check_access(path, content.metadata())?;
    Ok(content)
}

/// A name in the same directory, of this process alone.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}

fn be_like(file: &File, like: &Metadata) -> io::Result<()> {
    let now = file.metadata()?;
    if (now.uid(), now.gid()) != (like.uid(), like.gid()) {
        fchown(file, Some(like.uid()), Some(like.gid()))
            .map_err(|error| io::Error::other(format!("its owner and group cannot be kept: {error}")))?;
    }
    file.set_permissions(Permissions::from_mode(like.mode() & 0o777))
}

/// Whether nobody may read the file who should not, and nobody may change it.
fn check_access(path: &Path, metadata: &Metadata) -> Result<(), KeyFileError> {
    let (mode, owner, group) = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
    // Without /proc nobody is known, and the owner alone has access.
    let ours = Ourselves::look();
    let is_for_group = mode & 0o077 == 0o040
        && (group == ROOT || ours.as_ref().is_some_and(|ours| ours.groups.contains(&group)));
    if mode & 0o077 != 0 && !is_for_group && !(mode & 0o037 == 0 && is_credential(path)) {
        return Err(KeyFileError::Exposed { path: path.to_owned(), mode, group });
    }
    match ours {
        Some(Ourselves { user, .. }) if owner != ROOT && owner != user => {
            Err(KeyFileError::Foreign { path: path.to_owned(), owner, ours: user })
        }
        _ => Ok(()),
    }
}

/// Whether systemd has put it there for this service (systemd.exec(5), LoadCredential=): with DynamicUser= an
/// access list lets the service read it, which shows as the permission of the group.
fn is_credential(path: &Path) -> bool {
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|directory| !directory.is_empty());
    let directory = directory.and_then(|directory| std::fs::canonicalize(directory).ok());
    let file = std::fs::canonicalize(path).ok();
    directory.zip(file).is_some_and(|(directory, file)| file.starts_with(directory))
}

/// As whom we run. The owner of /proc/self would do but for a program with capabilities of its own.
struct Ourselves {
    user: u32,
    /// The effective one, and the supplementary ones.
    groups: Vec<u32>,
}

impl Ourselves {
    fn look() -> Option<Self> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let words = |name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::split_ascii_whitespace).into_iter().flatten()
        };
        // Real, effective, saved, of the file system.
        let user = words("Uid:").nth(1)?.parse().ok()?;
        let groups = words("Gid:").skip(1).take(1).chain(words("Groups:"));
        Some(Self { user, groups: groups.filter_map(|group| group.parse().ok()).collect() })
    }
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
    fn ticket_file_is_private_to_its_owner_and_reads_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ticket.keys");
        let mut ring = KeyRing::generate(NOW).expect("randomness");
        ring.create(&path).expect("written");
        let error = ring.create(&path).expect_err("one that is there is not overwritten").to_string();
        assert!(error.ends_with("there is one; to add a key: rotate"), "{error}");
        ring = KeyRing::update(&path, |ring| ring.add(NOW, NOW + 60)).expect("replaced");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let read = KeyRing::read(&path).expect("read back");
        assert_eq!(*read.content(), *ring.content());
        for mode in [0o644, 0o660, 0o444, 0o604, 0o620] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("chmod");
            let error = KeyRing::read(&path).expect_err("exposed").to_string();
            assert!(error.contains(&format!("mode is {mode:04o}")) && error.contains("chmod 600"), "{error}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1, "nothing is left beside it");
    }

    #[test]
    fn ticket_file_readable_by_our_group_keeps_its_mode() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ticket.keys");
        KeyRing::generate(NOW).expect("randomness").create(&path).expect("written");
        let access = || {
            let metadata = std::fs::metadata(&path).expect("there");
            (metadata.mode() & 0o7777, metadata.gid())
        };
        let set = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("chmod");
        let (_, ours) = access();
        for mode in [0o440, 0o640] {
            set(mode);
            KeyRing::update(&path, |ring| ring.add(NOW, NOW + 60)).expect("a group of ours");
            assert_eq!(access(), (mode, ours), "rotated, and for the same");
        }
        let foreign = 4711;
        if std::os::unix::fs::chown(&path, None, Some(foreign)).is_ok() {
            set(0o440);
            let error = KeyRing::read(&path).expect_err("a group of others").to_string();
            assert!(error.contains("mode is 0440") && error.contains("the one of number 4711"), "{error}");
            set(0o600);
            KeyRing::update(&path, |ring| ring.add(NOW, NOW + 60)).expect("the owner alone");
            assert_eq!(access(), (0o600, foreign));
        }
    }

    #[test]
    fn ticket_file_updates_at_once_lose_no_key() {
        const AT_ONCE: usize = 8;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ticket.keys");
        KeyRing::generate(NOW).expect("randomness").create(&path).expect("written");
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| KeyRing::update(&path, |ring| ring.add(NOW, NOW + 60)).expect("in turn"));
            }
        });
        assert_eq!(KeyRing::read(&path).expect("readable").keys.len(), 1 + AT_ONCE);
    }

    #[test]
    fn ticket_file_update_replaces_what_a_link_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, link) = (dir.path().join("real"), dir.path().join("link"));
        KeyRing::generate(NOW).expect("randomness").create(&file).expect("written");
        std::os::unix::fs::symlink("real", &link).expect("linked");
        let ring = KeyRing::update(&link, |ring| ring.add(NOW, NOW + 60)).expect("replaced");
        assert!(std::fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(*KeyRing::read(&file).expect("readable").content(), *ring.content());
    }

    #[test]
    fn invalid_ticket_file_is_refused_without_blocking() {
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
