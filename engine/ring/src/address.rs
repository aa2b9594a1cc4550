//! Where a socket is bound, or is to be connected to.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use socket2::SockAddr;

/// The address of a listener or a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix stream socket: its path, or behind an `@` its abstract name (unix(7)).
    Unix(PathBuf),
}

impl fmt::Display for Address {
    /// As a configuration writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl Address {
    /// The TCP address, if it is one.
    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Whether it is a Unix socket.
    #[must_use]
    pub fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// The file of a Unix socket; an abstract one has none.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) if !path.as_os_str().as_bytes().starts_with(b"@") => Some(path),
            _ => None,
        }
    }

    /// The port, of TCP.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.tcp().map(|address| address.port())
    }

    /// The address as `bind` and `connect` take it.
    ///
    /// # Errors
    /// EINVAL: a Unix path longer than 107 bytes, or an abstract name, its `@` included, longer than 108
    /// (`sockaddr_un`, unix(7)).
    pub fn to_sockaddr(&self) -> io::Result<SockAddr> {
        match self {
            Self::Tcp(address) => Ok(SockAddr::from(*address)),
            Self::Unix(path) => match path.as_os_str().as_bytes() {
                // An abstract name has a NUL in front.
                [b'@', name @ ..] => SockAddr::unix(OsStr::from_bytes(&[b"\0", name].concat())),
                _ => SockAddr::unix(path),
            },
        }
    }

    /// Whether the peer is this very host, by its address alone: it cannot vanish without a word.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.tcp().is_none_or(|address| address.ip().is_loopback())
    }
}
