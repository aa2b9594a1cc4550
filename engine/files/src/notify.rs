//! The socket of a service manager such as systemd (sd_notify(3)): what a process sends there.
//!
//! The socket is connected at the start and does not block: a process that is confined later opens no socket,
//! and a manager that does not read holds up nobody. The crate `sd-notify` opens a socket for each message
//! and waits until the message is taken.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The variable of the environment that names the socket.
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
/// Most bytes of a status.
const STATUS_BYTES_MAX: usize = 1024;

/// The socket that the environment names cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error(
    "{NOTIFY_SOCKET}={}: the service manager cannot be notified: {cause}; try: Type=exec in the unit, or \
     unset {NOTIFY_SOCKET}",
    .path.display()
)]
pub struct Unreachable {
    path: OsString,
    cause: io::Error,
}

/// The connected socket.
#[derive(Debug)]
pub struct Notifier(UnixDatagram);

impl Notifier {
    /// The one that the environment names (`NOTIFY_SOCKET`), if it names one.
    ///
    /// # Errors
    /// [`Unreachable`].
    pub fn from_environment() -> Result<Option<Self>, Unreachable> {
        let Some(path) = std::env::var_os(NOTIFY_SOCKET).filter(|path| !path.is_empty()) else {
            return Ok(None);
        };
        Self::connect(&path).map(Some).map_err(|cause| Unreachable { path, cause })
    }

    /// A path, or an abstract name behind an `@`.
    ///
    /// # Errors
    /// Nobody listens there, or the process may not write to it.
    pub fn connect(path: &OsString) -> io::Result<Self> {
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(path)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect_addr(&address)?;
        Ok(Self(socket))
    }

    /// Sends assignments, one per line.
    ///
    /// # Errors
    /// The manager does not read (WouldBlock) or has gone; the message is lost.
    pub fn send(&self, message: &str) -> io::Result<()> {
        self.0.send(message.as_bytes()).map(drop)
    }
}

/// The assignment of a status text: in one line, and cut where it is too long.
#[must_use]
pub fn status(text: &str) -> String {
    let mut line: String = text.replace(char::is_control, " ");
    line.truncate(line.floor_char_boundary(STATUS_BYTES_MAX));
    format!("STATUS={line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_one_line_and_bounded() {
        assert_eq!(status("two\nlines"), "STATUS=two lines");
        let long = status(&"ü".repeat(STATUS_BYTES_MAX));
        assert_eq!(long.len(), "STATUS=".len() + STATUS_BYTES_MAX);
        assert_eq!(status(&format!("x{}", "ü".repeat(STATUS_BYTES_MAX))).len(), long.len() - 1);
    }

    #[test]
    fn manager_that_reads_nothing_blocks_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::connect(&path.into_os_string()).unwrap();
        let refused = (0..10_000).find_map(|_| notifier.send("READY=1").err());
        assert_eq!(refused.map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"READY=1");
    }

    #[test]
    fn notify_socket_may_be_abstract_and_must_exist() {
        let name = format!("offramp-notify-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Notifier::connect(&format!("@{name}").into()).unwrap().send("STATUS=here").unwrap();
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"STATUS=here");
        assert!(Notifier::connect(&"/nowhere/notify".into()).is_err());
    }
}
