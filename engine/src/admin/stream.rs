//! Where admin is served, TCP or a Unix socket, and what who connects there may do.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};

use tokio_uring::{BufResult, net};

use super::Siblings;
use crate::sys::unix;

/// A socket that listens.
pub(super) enum Listener {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// A connection.
pub(super) enum Stream {
    Tcp(net::TcpStream),
    Unix(net::UnixStream),
}

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Everything: it is another process of root, or of the user that runs this one, at the Unix socket.
    Full,
    /// It connects by TCP, where nobody knows who it is.
    ReadOnly,
    /// It is another user at the Unix socket, or a connection to a backend, for a client from anywhere, of
    /// this very process or of one that it replaces or that replaces it.
    Stranger,
}

const ROOT: u32 = 0;

impl Listener {
    /// To be called in the runtime.
    pub(super) fn new(listener: OwnedFd) -> io::Result<Self> {
        if unix::is_unix(listener.as_fd())? {
            let listener = std::os::unix::net::UnixListener::from(listener);
            listener.set_nonblocking(true)?;
            return tokio::net::UnixListener::from_std(listener).map(Self::Unix);
        }
        let listener = std::net::TcpListener::from(listener);
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener).map(Self::Tcp)
    }

    pub(super) async fn accept(&self, siblings: &Siblings) -> io::Result<(Stream, Access)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                let stream = stream.into_std()?;
                // The ring waits for it.
                stream.set_nonblocking(false)?;
                Ok((Stream::Tcp(net::TcpStream::from_std(stream)), Access::ReadOnly))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let access = access(&stream.peer_cred()?, siblings);
                let stream = stream.into_std()?;
                stream.set_nonblocking(false)?;
                Ok((Stream::Unix(net::UnixStream::from_std(stream)), access))
            }
        }
    }
}

/// What the process that has connected may do.
fn access(process: &tokio::net::unix::UCred, siblings: &Siblings) -> Access {
    let is_privileged = [ROOT, rustix::process::geteuid().as_raw()].contains(&process.uid());
    let is_other = process.pid().is_some_and(|pid| !siblings.is_one(pid.unsigned_abs()));
    if is_privileged && is_other { Access::Full } else { Access::Stranger }
}

impl Stream {
    pub(super) async fn read(&self, buf: Vec<u8>) -> BufResult<usize, Vec<u8>> {
        match self {
            Self::Tcp(stream) => stream.read(buf).await,
            Self::Unix(stream) => stream.read(buf).await,
        }
    }

    pub(super) async fn write_all(&self, buf: Vec<u8>) -> BufResult<(), Vec<u8>> {
        match self {
            Self::Tcp(stream) => stream.write_all(buf).await,
            Self::Unix(stream) => stream.write_all(buf).await,
        }
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        }
    }
}
