//! The file of ticket keys that the engine reads: read once at the start, then replaced as a whole.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
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
    #[error("{}: another agent writes ticket keys to this directory; stop that one, or use another directory",
            .0.display())]
    Taken(PathBuf),
    #[error("{}: is a symbolic link; name the file of ticket keys itself", .0.display())]
    Link(PathBuf),
}

/// The file, of which no other agent is the writer.
pub(crate) struct KeyFile {
    path: PathBuf,
    /// Of root or the agent's user alone, unless a group may read it.
    group: Option<u32>,
    /// Held as long as the agent runs; it also keeps systemd-tmpfiles from clearing the directory.
    _lock: File,
}

impl KeyFile {
    pub(crate) fn claim(path: &Path, group: Option<u32>) -> Result<Self, FileError> {
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let unusable = |cause| FileError::Directory { path: directory.clone(), cause };
        let lock = File::open(&directory).map_err(unusable)?;
        if !lock.metadata().map_err(unusable)?.is_dir() {
            return Err(unusable(io::Error::from(ErrorKind::NotADirectory)));
        }
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => FileError::Taken(directory.clone()),
            TryLockError::Error(cause) => unusable(cause),
        })?;
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

/// Writes beside `path` and renames: a reader has the old content or the new one. What an earlier agent left
/// beside it, when that was killed, goes.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32, group: Option<u32>) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
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
        assert!(matches!(KeyFile::claim(&path, None), Err(FileError::Taken(_))));
        drop(first);
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(matches!(KeyFile::claim(&path, None), Err(FileError::Link(_))));
        assert!(matches!(KeyFile::claim(Path::new("/none/such"), None), Err(FileError::Directory { .. })));
    }
}
