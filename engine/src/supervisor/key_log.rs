//! The key log: the secrets of every TLS connection of this process, in a file, for debugging.
//!
//! The format is that of SSLKEYLOGFILE, which Wireshark reads. Workers hand lines to a thread by a bounded
//! queue, as those of the log: none waits for the file, and lines that do not fit are dropped. The file takes
//! [`KEY_LOG_BYTES_MAX`] bytes, so that clients cannot fill the disk.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::StartError;
use crate::config::limits::KEY_LOG_BYTES_MAX;
use crate::log::Log;
use crate::sys::errno;
use crate::tls::key_log::{self, KeyLog};

/// Of the file; the secrets are for who runs this process.
const MODE: u32 = 0o600;

/// The file, opened, before the process confines itself.
pub(super) struct KeyLogFile {
    path: PathBuf,
    file: Bounded,
}

/// Opens it.
pub(super) fn open(path: &Path) -> Result<KeyLogFile, StartError> {
    let file = open_bounded(path).map_err(|why| StartError::KeyLog { path: path.to_owned(), why })?;
    Ok(KeyLogFile { path: path.to_owned(), file })
}

impl KeyLogFile {
    /// From here on secrets are written to the end of the file, by a thread of its own. To be called when
    /// threads may be started, and before the first policy is loaded.
    pub(super) fn start(self) -> Result<(), StartError> {
        let Self { path, file } = self;
        let refused = |why: String| StartError::KeyLog { path: path.clone(), why };
        let log = Log::start(file).map_err(|error| refused(errno::name(&error)))?;
        if !key_log::set(Arc::new(Lines(log))) {
            return Err(refused("this process has a key log".to_owned()));
        }
        warn(&path);
        Ok(())
    }
}

/// Says that they are, at the start and with each reload.
pub(super) fn warn(path: &Path) {
    tracing::warn!(
        "key log: the secrets of every connection are written to {}: whoever reads it can read the traffic; \
         for debugging only: restart without --key-log, and remove the file",
        path.display()
    );
}

/// The file belongs to the user of this process, under one name: whoever made it can read it.
fn open_bounded(path: &Path) -> Result<Bounded, String> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(MODE).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let name = |error: io::Error| errno::name(&error);
    let file = options.open(path).map_err(name)?;
    let found = file.metadata().map_err(name)?;
    if !found.is_file() {
        return Err("it is no regular file".to_owned());
    }
    if found.uid() != rustix::process::geteuid().as_raw() || found.nlink() != 1 {
        return Err("it belongs to another user, or has another name too; try: a path that does not \
                    exist, in a directory of this user"
            .to_owned());
    }
    file.set_permissions(Permissions::from_mode(MODE)).map_err(name)?;
    Ok(Bounded { left: KEY_LOG_BYTES_MAX.saturating_sub(found.len()), file, is_full: false })
}

/// What rustls calls in a handshake, on a worker.
#[derive(Debug)]
struct Lines(Log);

impl KeyLog for Lines {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = Zeroizing::new(String::with_capacity(256));
        line.push_str(label);
        for bytes in [client_random, secret] {
            line.push(' ');
            for byte in bytes {
                // Writing into a string cannot fail.
                let _ = write!(line, "{byte:02x}");
            }
        }
        self.0.say(&line);
    }
}

/// A file that takes no more than so many bytes; the rest is thrown away.
struct Bounded {
    file: File,
    left: u64,
    is_full: bool,
}

impl Write for Bounded {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let length = line.len() as u64;
        if self.is_full || length > self.left {
            if !std::mem::replace(&mut self.is_full, true) {
                tracing::warn!(
                    "key log: the file is full at {KEY_LOG_BYTES_MAX} bytes; nothing more is written"
                );
            }
            return Ok(line.len());
        }
        self.left -= length;
        self.file.write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_log_is_for_its_owner_and_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        std::fs::write(&path, "before\n").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let mut file = open_bounded(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, MODE);
        file.left = 6;
        for line in ["first\n", "second\n", "x"] {
            file.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before\nfirst\n");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(open_bounded(&link).is_err() && open_bounded(directory.path()).is_err());
        std::fs::hard_link(&path, directory.path().join("other")).unwrap();
        assert!(open_bounded(&path).err().unwrap().contains("another name"));
    }
}
