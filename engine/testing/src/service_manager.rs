//! A service manager such as systemd, as far as a service notifies it.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use crate::tools::PATIENCE;

/// The socket that `NOTIFY_SOCKET` names (sd_notify(3)).
pub struct ServiceManager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl ServiceManager {
    /// In this directory.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a directory of ours");
        socket.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
        Self { socket, path }
    }

    /// For `NOTIFY_SOCKET`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next message.
    #[must_use]
    pub fn next_message(&self) -> String {
        let mut bytes = [0; 8192];
        let length = self.socket.recv(&mut bytes).expect("a message");
        String::from_utf8(bytes[..length].to_vec()).expect("text")
    }
}
