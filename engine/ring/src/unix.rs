//! Unix sockets that listen (unix(7)).

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use socket2::{Domain, SockRef, Socket, Type};

use super::socket::{self, Address};

/// A stream socket that is bound to a Unix `address` and does not listen yet: who connects is refused
/// (ECONNREFUSED). Its file has the mode that the umask leaves.
///
/// # Errors
/// EADDRINUSE: there is a file, or a socket with the abstract name. ENOENT, ENOTDIR, EACCES, EROFS, ENOSPC:
/// no file can be made there.
pub fn bind(address: &Address) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&address.to_sockaddr()?)?;
    Ok(socket.into())
}

/// Whether a socket is a Unix socket.
///
/// # Errors
/// ENOTSOCK.
pub fn is_unix(socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(SockRef::from(&socket).local_addr()?.is_unix())
}

/// From here on others may connect. The kernel caps `backlog` at `net.core.somaxconn`.
///
/// # Errors
/// EBADF, EINVAL: the socket is not bound.
pub fn listen(socket: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    SockRef::from(&socket).listen(backlog)
}

/// Whether a process listens at a Unix `address`, found by connecting to it: that process accepts a
/// connection that ends at once. Does not wait.
///
/// # Errors
/// EACCES: this user may not connect. ENOENT: there is no file.
pub fn has_listener(address: &Address) -> io::Result<bool> {
    let socket = Socket::from(socket::outgoing(address)?);
    socket.set_nonblocking(true)?;
    match socket.connect(&address.to_sockaddr()?).map_err(|error| (error.raw_os_error(), error)) {
        // Its backlog is full, or it is no stream socket: somebody is there.
        Ok(()) | Err((Some(libc::EAGAIN | libc::EPROTOTYPE), _)) => Ok(true),
        Err((Some(libc::ECONNREFUSED), _)) => Ok(false),
        Err((_, error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    #[test]
    fn listener_is_found_only_once_it_listens() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s");
        let address = Address::Unix(path.clone());
        let missing = has_listener(&address).expect_err("no file");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let socket = bind(&address).expect("a new file");
        assert!(!has_listener(&address).expect("refused"));
        listen(socket.as_fd(), 0).expect("it is bound");
        let _waiting: Vec<_> = (0..1).map(|_| UnixStream::connect(&path).expect("the backlog")).collect();
        assert!(has_listener(&address).expect("the backlog is full"));
        assert_eq!(bind(&address).expect_err("taken").kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert!(!has_listener(&address).expect("refused"), "the file stays");
    }

    #[test]
    fn datagram_socket_counts_as_a_listener() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s");
        let socket = UnixDatagram::bind(&path).expect("a new file");
        assert!(has_listener(&Address::Unix(path.clone())).expect("of another type"));
        drop(socket);
        assert!(!has_listener(&Address::Unix(path)).expect("refused"));
    }
}
