//! Descriptors and listening sockets that another process has opened: the service manager, or the process
//! that is replaced.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use socket2::{SockRef, Type};

use super::socket::Address;

/// What a listening socket is bound to, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Where.
    pub address: Address,
    /// Whether other sockets of this user may listen there too (SO_REUSEPORT).
    pub shares_port: bool,
    /// Of IPv6: whether it takes IPv4 too (no IPV6_V6ONLY).
    pub takes_ipv4_too: bool,
}

/// Takes a descriptor that this process was given when it was started. It is closed on exec from then on.
///
/// # Errors
/// EBADF: there is none of this number, it is a standard stream, or it is closed on exec, so that this
/// process has opened it.
pub fn take(descriptor: RawFd) -> io::Result<OwnedFd> {
    if descriptor <= libc::STDERR_FILENO {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: F_GETFD takes no argument and passes no memory; a number that is not open gives EBADF.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: F_SETFD takes an int by value and passes no memory.
    let set = unsafe { libc::fcntl(descriptor, libc::F_SETFD, flags | libc::FD_CLOEXEC) };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and nobody in this process owns it: all that this process opens is
    // closed on exec, which this one was not, and a second call finds that it is. The standard streams, which
    // the standard library uses without owning them, were refused above.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// What the socket listens on.
///
/// # Errors
/// What it is instead of a stream socket that listens.
pub fn listening(descriptor: BorrowedFd<'_>) -> Result<Listening, &'static str> {
    let socket = SockRef::from(&descriptor);
    match socket.r#type() {
        Err(_) => return Err("no socket"),
        Ok(Type::STREAM) => {}
        Ok(Type::DGRAM) => return Err("a datagram socket"),
        Ok(_) => return Err("no stream socket"),
    }
    if !socket.is_listener().unwrap_or(false) {
        return Err("a socket that does not listen");
    }
    let local = socket.local_addr().map_err(|_| "a socket without an address")?;
    let address = match local.as_socket() {
        Some(address) => Address::Tcp(address),
        None => match (local.as_pathname(), local.as_abstract_namespace()) {
            (Some(path), _) => Address::Unix(path.to_owned()),
            (None, Some(name)) => {
                let name = std::str::from_utf8(name).map_err(|_| "a socket whose name is not UTF-8")?;
                Address::Unix(PathBuf::from(format!("@{name}")))
            }
            (None, None) => return Err("neither a TCP nor a Unix socket"),
        },
    };
    let is_ipv6 = address.tcp().is_some_and(|address| address.is_ipv6());
    Ok(Listening {
        shares_port: !address.is_unix() && socket.reuse_port().unwrap_or(false),
        takes_ipv4_too: is_ipv6 && !socket.only_v6().unwrap_or(true),
        address,
    })
}

/// Sets what a listening socket of ours has: it blocks, as io_uring expects it, and TCP_NODELAY, which
/// accepted sockets inherit.
///
/// # Errors
/// ENOTSOCK: it is none.
pub fn adopt(listener: BorrowedFd<'_>, is_unix: bool) -> io::Result<()> {
    let socket = SockRef::from(&listener);
    socket.set_nonblocking(false)?;
    if is_unix { Ok(()) } else { socket.set_tcp_nodelay(true) }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::socket;

    #[test]
    fn take_refuses_what_this_process_has_opened() {
        let own = TcpListener::bind("127.0.0.1:0").expect("a free port");
        assert_eq!(take(own.as_raw_fd()).expect_err("ours").raw_os_error(), Some(libc::EBADF));
        assert!(take(2).is_err(), "a standard stream");
        assert_eq!(take(9999).expect_err("not open").raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn take_gives_what_was_inherited_once() {
        // SAFETY: dup takes no pointer.
        let inherited = unsafe { libc::dup(libc::STDERR_FILENO) };
        let taken = take(inherited).expect("not closed on exec");
        assert!(take(inherited).is_err(), "it has an owner now");
        drop(taken);
    }

    #[test]
    fn listening_names_what_is_no_listener() {
        let what = |it: &dyn AsFd| listening(it.as_fd()).expect_err("no listener");
        assert_eq!(what(&UdpSocket::bind("127.0.0.1:0").expect("a free port")), "a datagram socket");
        assert_eq!(what(&UnixStream::pair().expect("a pair").0), "a socket that does not listen");
        assert_eq!(what(&io::stderr()), "no socket");
    }

    #[test]
    fn listening_finds_address_and_options() {
        let tcp = socket::listener("127.0.0.1:0".parse().expect("an address"), true, 1).expect("free");
        let found = listening(tcp.as_fd()).expect("it listens");
        assert_eq!(found.address.tcp(), socket::local_addr(tcp.as_fd()).ok());
        assert!(found.shares_port && !found.takes_ipv4_too);
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s");
        let unix = UnixListener::bind(&path).expect("a new file");
        let found = listening(unix.as_fd()).expect("it listens");
        assert_eq!((found.address, found.shares_port), (Address::Unix(path), false));
        unix.set_nonblocking(true).expect("it is a socket");
        adopt(unix.as_fd(), true).expect("it is a socket");
    }
}
