//! Files that are read: configuration, certificates, keys, authorities, OCSP responses, ticket keys. Every
//! one of them is opened by [`read`], in the engine and in the load generator.
//!
//! A path may name anything by accident or by malice: a pipe that nobody writes to, `/dev/zero`, a file of
//! many gigabytes. None of these may hold up the reader or let it grow. A file may hold a secret, so its
//! bytes are wiped when they are no longer needed, whichever file it is.

#![forbid(unsafe_code)]

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

pub mod notify;
pub mod pem;

/// Most bytes of a file, where its reader sets no lower limit: above any honest bundle of authorities.
pub const BYTES_MAX: usize = 1024 * 1024;

/// What is allocated for a file that claims to be empty, as those of `/proc` do.
const BYTES_MIN: usize = 4096;

/// Why a file cannot be read. The path is for the caller to name; no text quotes the content.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The system refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A device or a pipe could deliver bytes for ever, or none.
    #[error("it is {what}, and only a regular file is read")]
    NotRegular {
        /// What is there, with its article.
        what: &'static str,
    },
    /// Half a file must not pass for a whole one.
    #[error("it is longer than {limit} bytes")]
    TooLong {
        /// Most bytes of such a file.
        limit: usize,
    },
    /// It should be text.
    #[error("it is not text in UTF-8")]
    NotText,
}

impl From<Problem> for io::Error {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Io(error) => error,
            other => Self::other(other.to_string()),
        }
    }
}

/// The bytes of a file, wiped when dropped, and what the system says of the file that they came from.
pub struct Content {
    bytes: Zeroizing<Vec<u8>>,
    metadata: Metadata,
}

impl Content {
    /// All of them, a byte order mark of UTF-8 excluded.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.bytes)
    }

    /// All of them: for keys, which may begin with any byte.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.bytes
    }

    /// The same as [`Content::bytes`], as text.
    ///
    /// # Errors
    /// [`Problem::NotText`].
    pub fn text(&self) -> Result<&str, Problem> {
        std::str::from_utf8(self.bytes()).map_err(|_| Problem::NotText)
    }

    /// Owner, group and mode of the file that was read, whatever its path names by now.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

/// Opens a regular file for reading, without waiting: a pipe would wait for its writer.
///
/// # Errors
/// [`Problem::Io`] and [`Problem::NotRegular`].
pub fn open(path: &Path) -> Result<(File, Metadata), Problem> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_file() => return Ok((file, metadata)),
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_char_device() || kind.is_block_device() => "a device",
        () => "something else",
    };
    Err(Problem::NotRegular { what })
}

/// Opens a file as [`open`] does and holds its lock (flock(2)), for which it waits as long as another process
/// holds it. Whoever held it may have put another file in this place: then that one is locked instead. The
/// lock ends with the value.
///
/// # Errors
/// [`Problem::Io`] and [`Problem::NotRegular`].
pub fn lock(path: &Path) -> Result<File, Problem> {
    loop {
        let (file, metadata) = open(path)?;
        file.lock()?;
        let there = std::fs::metadata(path)?;
        if (there.dev(), there.ino()) == (metadata.dev(), metadata.ino()) {
            return Ok(file);
        }
    }
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// [`Problem`], but for [`Problem::NotText`].
pub fn read(path: &Path, limit: usize) -> Result<Content, Problem> {
    let (mut file, metadata) = open(path)?;
    let expected = usize::try_from(metadata.len()).unwrap_or(usize::MAX).max(BYTES_MIN).min(limit);
    // One byte more, which stays free unless the file is longer than it was or may be.
    let mut bytes = Zeroizing::new(vec![0; expected + 1]);
    let mut filled = 0;
    loop {
        if filled > limit {
            return Err(Problem::TooLong { limit });
        }
        if filled == bytes.len() {
            bytes = larger(&bytes, limit);
        }
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(filled);
    Ok(Content { bytes, metadata })
}

/// A vector that grows by itself leaves a copy of a secret behind.
fn larger(bytes: &[u8], limit: usize) -> Zeroizing<Vec<u8>> {
    let mut larger = Zeroizing::new(vec![0; (bytes.len() * 2).min(limit + 1)]);
    larger[..bytes.len()].copy_from_slice(bytes);
    larger
}

/// By what a change of a file is seen, through symbolic links: a link or a directory on the way that names
/// another file is a change as well. A new mode or owner changes neither content nor mtime, and may be what
/// it takes to read the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    place: (u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
    bytes: u64,
    access: (u32, u32, u32),
}

impl Stamp {
    /// Of the file that is there now; `None` if there is none, as in the moment in which it is replaced.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            place: (metadata.dev(), metadata.ino()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            bytes: metadata.size(),
            access: (metadata.mode(), metadata.uid(), metadata.gid()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn said(path: &Path, limit: usize) -> String {
        read(path, limit).map(|_| ()).unwrap_err().to_string()
    }

    fn written(directory: &tempfile::TempDir, name: &str, content: &[u8]) -> PathBuf {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    #[test]
    fn read_takes_regular_files_alone_and_never_waits() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(said(&pipe, BYTES_MAX), "it is a pipe, and only a regular file is read");
        for device in ["/dev/zero", "/dev/null"] {
            let text = said(Path::new(device), BYTES_MAX);
            assert_eq!(text, "it is a device, and only a regular file is read");
        }
        assert!(said(directory.path(), BYTES_MAX).starts_with("it is a directory"));
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        assert!(said(&link, BYTES_MAX).starts_with("it is a device"));
        assert!(said(&directory.path().join("none"), 1).starts_with("No such file"));
    }

    #[test]
    fn read_is_bounded_and_half_a_file_is_no_file() {
        let directory = tempfile::tempdir().unwrap();
        for (bytes, limit) in [(0, 0), (0, 10), (10, 10), (5000, 5000), (5000, BYTES_MAX)] {
            let path = written(&directory, "file", &vec![7; bytes]);
            assert_eq!(read(&path, limit).unwrap().bytes(), vec![7; bytes], "{bytes} of {limit}");
        }
        for (bytes, limit) in [(1, 0), (11, 10), (5001, 5000), (200_000, 5000)] {
            let path = written(&directory, "file", &vec![7; bytes]);
            assert_eq!(said(&path, limit), format!("it is longer than {limit} bytes"));
        }
        // It says that it has none.
        let status = read(Path::new("/proc/self/smaps"), BYTES_MAX).unwrap();
        assert!(status.bytes().len() > BYTES_MIN && status.text().is_ok());
    }

    #[test]
    fn text_may_have_a_byte_order_mark() {
        let directory = tempfile::tempdir().unwrap();
        let path = written(&directory, "file", b"\xef\xbb\xbfa = 1");
        assert_eq!(read(&path, 100).unwrap().text().unwrap(), "a = 1");
        let path = written(&directory, "file", b"\xff\xfea\0");
        assert!(matches!(read(&path, 100).unwrap().text(), Err(Problem::NotText)));
    }

    #[test]
    fn a_stamp_sees_through_symbolic_links() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["a", "b"] {
            std::fs::create_dir(at(name)).unwrap();
            std::fs::write(at(name).join("c.pem"), "same").unwrap();
        }
        std::os::unix::fs::symlink("a", at("now")).unwrap();
        let seen = Stamp::of(&at("now/c.pem")).unwrap();
        assert_eq!(Stamp::of(&at("now/c.pem")), Some(seen));
        std::os::unix::fs::symlink("b", at("next")).unwrap();
        std::fs::rename(at("next"), at("now")).unwrap();
        assert!(Stamp::of(&at("now/c.pem")).is_some_and(|stamp| stamp != seen));
        std::fs::remove_file(at("now")).unwrap();
        assert_eq!(Stamp::of(&at("now/c.pem")), None);
    }
}
