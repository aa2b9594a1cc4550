//! The file of ticket keys that the engine reads: read once at the start, then replaced as a whole.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::geteuid;
use offramp_core::tls::ticket_keys::KeyRing;
use offramp_core::tls::{KeyFileError, TICKET_FILE_BYTES_MAX, read_secret};
use zeroize::Zeroizing;

use crate::seal::Generation;

/// In front of the number of the ring; a comment for the engine.
const GENERATION: &str = "# Written by offramp-ticket-key-agent; changes are overwritten. Generation: ";

/// Why the agent cannot have the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("{}: the directory of the ticket keys cannot be used: {cause}", .path.display())]
    Directory { path: PathBuf, cause: io::Error },
    #[error(
        "{}: is locked by process {holder}: another agent writes these ticket keys; stop it (`ps {holder}`, \
         `fuser {}`), or use another --file", .lock.display(), .lock.display()
    )]
    Taken { lock: PathBuf, holder: String },
    #[error(
        "{}: the lock of the ticket keys cannot be used: {cause}; try: ls -l {}",
        .lock.display(), .lock.display()
    )]
    Lock { lock: PathBuf, cause: io::Error },
    #[error(
        "{}: mode {mode:o}, user {owner}: another user can hold this lock; expected are mode 600 and the \
         agent's user; remove the file, and start the agent again", .lock.display()
    )]
    LockExposed { lock: PathBuf, mode: u32, owner: u32 },
    #[error("{}: is a symbolic link; name the file of ticket keys itself", .0.display())]
    Link(PathBuf),
}

/// The file, of which no other agent is the writer.
pub(crate) struct KeyFile {
    path: PathBuf,
    /// Of root or the agent's user alone, unless a group may read it.
    group: Option<u32>,
    /// Held as long as the agent runs.
    _lock: File,
}

impl KeyFile {
    pub(crate) fn claim(path: &Path, group: Option<u32>) -> Result<Self, FileError> {
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let unusable = |cause| FileError::Directory { path: directory.clone(), cause };
        if !std::fs::metadata(&directory).map_err(unusable)?.is_dir() {
            return Err(unusable(io::Error::from(ErrorKind::NotADirectory)));
        }
        let lock = lock(&beside(path, ".lock"))?;
        if std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink()) {
            return Err(FileError::Link(path.to_owned()));
        }
        Ok(Self { path: path.to_owned(), group, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether what is written stays in memory; without an answer, it is assumed.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.path
            .parent()
            .and_then(|parent| statfs(parent).ok())
            .is_none_or(|fs| fs.filesystem_type() == TMPFS_MAGIC)
    }

    /// The ring that the engine has, with its generation; that of a file made by hand is 0. `None` if there
    /// is no file.
    pub(crate) fn read(&self) -> Result<Option<Generation>, KeyFileError> {
        let content = match read_secret(&self.path, TICKET_FILE_BYTES_MAX) {
            Err(KeyFileError::Inaccessible { cause, .. }) if cause.kind() == ErrorKind::NotFound => {
                return Ok(None);
            }
            // The group that is to read it need not be one of the agent's.
            Err(error @ KeyFileError::Exposed { mode: 0o440, group, .. }) if Some(group) == self.group => {
                offramp_files::read(&self.path, TICKET_FILE_BYTES_MAX).map_err(|_| error)?
            }
            other => other?,
        };
        let text = String::from_utf8_lossy(content.raw());
        let number = text.lines().find_map(|line| line.strip_prefix(GENERATION)?.trim().parse().ok());
        let ring = KeyRing::parse(&self.path, &text)?;
        Ok(Some(Generation { number: number.unwrap_or(0), ring }))
    }

    /// Replaces the file, unless it is the same already. Says whether it wrote.
    pub(crate) fn write(&self, generation: &Generation) -> io::Result<bool> {
        let content = generation.ring.content();
        let mut text = Zeroizing::new(String::with_capacity(content.len() + GENERATION.len() + 24));
        text.push_str(GENERATION);
        text.push_str(&format!("{}\n", generation.number));
        text.push_str(&content);
        if self.is_there(&text) {
            return Ok(false);
        }
        replace(&self.path, text.as_bytes(), if self.group.is_some() { 0o440 } else { 0o600 }, self.group)?;
        Ok(true)
    }

    fn is_there(&self, text: &str) -> bool {
        let Ok(content) = offramp_files::read(&self.path, TICKET_FILE_BYTES_MAX) else { return false };
        let (mode, group) = (content.metadata().mode() & 0o777, content.metadata().gid());
        let access = match self.group {
            Some(wanted) => mode == 0o440 && group == wanted,
            None => mode & 0o077 == 0,
        };
        access && content.raw() == text.as_bytes()
    }
}

/// The lock, held until it is dropped: a file that only this user can open, and so only this user can hold.
/// It has the process that holds it, and stays when that ends.
fn lock(path: &Path) -> Result<File, FileError> {
    let unusable = |cause| FileError::Lock { lock: path.to_owned(), cause };
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags.bits());
    let mut file = options.open(path).map_err(unusable)?;
    let metadata = file.metadata().map_err(unusable)?;
    if !metadata.is_file() {
        return Err(unusable(io::Error::other("it is not a regular file")));
    }
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    if mode & 0o077 != 0 || owner != geteuid().as_raw() {
        return Err(FileError::LockExposed { lock: path.to_owned(), mode, owner });
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(FileError::Taken { lock: path.to_owned(), holder: holder(&mut file) });
        }
        Err(TryLockError::Error(cause)) => return Err(unusable(cause)),
    }
    let written =
        file.set_len(0).and_then(|()| file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0));
    written.map_err(unusable)?;
    Ok(file)
}

/// The process that a lock names.
fn holder(lock: &mut File) -> String {
    let mut text = String::new();
    let read = lock.take(16).read_to_string(&mut text);
    let number = text.trim().parse::<u32>().ok().filter(|_| read.is_ok());
    number.map_or_else(|| "unknown".to_owned(), |number| number.to_string())
}

/// The path with this behind its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Writes beside `path` and renames: a reader has the old content or the new one. What an earlier agent left
/// beside it, when that was killed, goes.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32, group: Option<u32>) -> io::Result<()> {
    let beside = beside(path, ".new");
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = write_new(&beside, content, mode, group).and_then(|()| std::fs::rename(&beside, path));
    written.inspect_err(|_| drop(std::fs::remove_file(&beside)))
}

fn write_new(path: &Path, content: &[u8], mode: u32, group: Option<u32>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    if let Some(group) = group.filter(|group| file.metadata().is_ok_and(|metadata| metadata.gid() != *group))
    {
        fchown(&file, None, Some(group))
            .map_err(|error| io::Error::other(format!("it cannot be given to the group {group}: {error}")))?;
    }
    file.write_all(content)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000;

    fn generation(number: u64) -> Generation {
        Generation { number, ring: KeyRing::generate(NOW).unwrap() }
    }

    #[test]
    fn file_is_written_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ticket.keys");
        let file = KeyFile::claim(&path, None).unwrap();
        assert!(file.read().unwrap().is_none());
        let ring = generation(18);
        assert!(file.write(&ring).unwrap());
        assert!(!file.write(&ring).unwrap(), "the same is not written again");
        let inode = std::fs::metadata(&path).unwrap().ino();
        assert_eq!(file.read().unwrap().unwrap().number, 18);
        assert_eq!(*KeyRing::read(&path).unwrap().content(), *ring.ring.content(), "the engine reads it");
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(file.write(&ring).unwrap(), "the mode is put right");
        assert_ne!(std::fs::metadata(&path).unwrap().ino(), inode, "replaced, not changed in place");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn file_is_readable_for_the_group_that_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ticket.keys");
        let group = std::fs::metadata(dir.path()).unwrap().gid();
        let file = KeyFile::claim(&path, Some(group)).unwrap();
        let ring = generation(1);
        assert!(file.write(&ring).unwrap() && !file.write(&ring).unwrap());
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!((metadata.mode() & 0o777, metadata.gid()), (0o440, group));
    }

    #[test]
    fn file_made_by_hand_has_generation_zero() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ticket.keys");
        KeyRing::generate(NOW).unwrap().create(&path).unwrap();
        assert_eq!(KeyFile::claim(&path, None).unwrap().read().unwrap().unwrap().number, 0);
    }

    #[test]
    fn file_has_one_agent_and_is_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ticket.keys");
        let first = KeyFile::claim(&path, None).unwrap();
        let refused = KeyFile::claim(&path, None).err().unwrap().to_string();
        let lock = dir.path().join("ticket.keys.lock");
        let expected =
            format!("{}: is locked by process {}: another agent", lock.display(), std::process::id());
        assert!(refused.starts_with(&expected), "{refused}");
        assert_eq!(std::fs::metadata(&lock).unwrap().mode() & 0o7777, 0o600);
        let other = KeyFile::claim(&dir.path().join("other.keys"), None);
        assert!(other.is_ok(), "another file in this directory has an agent of its own");
        drop(first);
        drop(KeyFile::claim(&path, None).unwrap());
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(matches!(KeyFile::claim(&path, None), Err(FileError::Link(_))));
        assert!(matches!(KeyFile::claim(Path::new("/none/such"), None), Err(FileError::Directory { .. })));
    }

    /// Whoever may only open the directory, or prepares a lock that others can open, holds up no agent.
    #[test]
    fn lock_is_nothing_that_another_user_can_hold() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ticket.keys");
        let directory = File::open(dir.path()).unwrap();
        directory.try_lock().unwrap();
        drop(KeyFile::claim(&path, None).unwrap());
        let lock = beside(&path, ".lock");
        std::fs::set_permissions(&lock, Permissions::from_mode(0o644)).unwrap();
        let exposed = KeyFile::claim(&path, None).err().unwrap().to_string();
        assert!(exposed.contains("ticket.keys.lock: mode 644, user "), "{exposed}");
        std::fs::remove_file(&lock).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &lock).unwrap();
        let link = KeyFile::claim(&path, None).err().unwrap().to_string();
        assert!(link.contains("ticket.keys.lock: the lock of the ticket keys cannot be used"), "{link}");
    }
}
