//! A socket that nobody waits for: it is connected, read and written without blocking.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::Socket;

use super::socket::{self, Address};

/// A connection, or a connect under way. Dropped, it is given up.
#[derive(Debug)]
pub struct Attempt {
    socket: Socket,
    /// Of a TCP address.
    port: Option<u16>,
}

impl Attempt {
    /// Begins to connect to `address`, and does not wait.
    ///
    /// # Errors
    /// What connect(2) says at once, such as ECONNREFUSED from this host; EMFILE, ENFILE, ENOBUFS; EAGAIN of
    /// a Unix socket whose backlog is full.
    pub fn begin(address: &Address) -> io::Result<Self> {
        let socket = Socket::from(socket::outgoing(address)?);
        socket.set_nonblocking(true)?;
        match socket.connect(&address.to_sockaddr()?) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(Self { socket, port: address.port() }),
        }
    }

    /// Whether it is connected by now. A connection to the socket's own address is none: nobody listens.
    ///
    /// # Errors
    /// Why it is not, as connect(2) would say.
    pub fn is_connected(&self) -> io::Result<bool> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        if self.socket.peer_addr().is_err() {
            return Ok(false);
        }
        if self.port.is_some_and(|port| socket::is_self_connected(self.socket.as_fd(), port)) {
            self.reset_on_close();
            return Err(io::Error::from_raw_os_error(libc::ECONNREFUSED));
        }
        Ok(true)
    }

    /// Reads what has come; 0 is the end.
    ///
    /// # Errors
    /// EAGAIN: nothing has come yet; otherwise those of recv(2).
    pub fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        (&self.socket).read(into)
    }

    /// Sends as much as there is room for.
    ///
    /// # Errors
    /// EAGAIN: there is no room now; otherwise those of send(2).
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        (&self.socket).write(bytes)
    }

    /// The other side reads the end behind what was sent.
    pub fn end(&self) {
        // Where the connection has gone, there is nobody to read it.
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// The other side sees a reset when this is dropped: nothing was to be sent.
    pub fn reset_on_close(&self) {
        // It is a socket, which is all that could fail here.
        let _ = socket::abort_on_close(self.socket.as_fd());
    }
}

impl AsFd for Attempt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;
    use crate::poll::{Wanted, poll};

    fn finish(attempt: &Attempt) -> io::Result<bool> {
        poll(&[(attempt.as_fd(), Wanted::Send)], Duration::from_secs(60))?;
        attempt.is_connected()
    }

    #[test]
    fn attempt_is_connected_where_somebody_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = Address::Tcp(listener.local_addr().expect("an address"));
        let attempt = Attempt::begin(&address).expect("begun");
        assert!(finish(&attempt).expect("it is on this host"));
        drop(listener);
        let refused = Attempt::begin(&address).and_then(|it| finish(&it)).expect_err("nobody listens");
        assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED));
    }

    #[test]
    fn attempt_without_an_answer_is_not_connected() {
        // A backlog that is full answers nothing more.
        let listener = socket::listener(([127, 0, 0, 1], 0).into(), false, 0).expect("a free port");
        let address = Address::Tcp(socket::local_addr(listener.as_fd()).expect("an address"));
        let waiting: Vec<_> = (0..4).map(|_| Attempt::begin(&address).expect("begun")).collect();
        let last = waiting.last().expect("four");
        let ready = poll(&[(last.as_fd(), Wanted::Send)], Duration::from_millis(50)).expect("polled");
        assert_eq!((ready, last.is_connected().expect("no error")), (vec![false], false));
    }

    #[test]
    fn attempt_to_its_own_socket_is_refused() {
        use socket2::{Domain, Type};

        let any_port: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&any_port.into()).expect("a free port");
        let own = socket.local_addr().expect("an address");
        socket.connect(&own).expect("TCP allows it");
        let attempt = Attempt { socket, port: own.as_socket().map(|own| own.port()) };
        let refused = attempt.is_connected().expect_err("nobody listens");
        assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED));
    }
}
