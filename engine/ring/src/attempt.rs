//! A connect that nobody waits for: begun now, looked at later.

use std::io;
use std::os::fd::AsFd;

use socket2::{SockRef, Socket};

use super::socket::{self, Address};

/// A connect under way. Dropped, it is given up.
#[derive(Debug)]
pub struct Attempt(Socket);

impl Attempt {
    /// Begins to connect to `address`, and does not wait.
    ///
    /// # Errors
    /// What connect(2) says at once, such as ECONNREFUSED from this host; EMFILE, ENFILE, ENOBUFS.
    pub fn begin(address: &Address) -> io::Result<Self> {
        let socket = Socket::from(socket::outgoing(address)?);
        socket.set_nonblocking(true)?;
        match socket.connect(&address.to_sockaddr()?) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(Self(socket)),
        }
    }

    /// Whether it is connected by now. The other side sees a reset then: nothing was to be sent.
    ///
    /// # Errors
    /// Why it is not: what connect(2) would say, ETIMEDOUT if nothing has been heard.
    pub fn finish(self) -> io::Result<()> {
        let socket = SockRef::from(&self.0);
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        if socket.peer_addr().is_err() {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
        // It is a socket, which is all that could fail here.
        let _ = socket::abort_on_close(self.0.as_fd());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn attempt_is_connected_where_somebody_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = Address::Tcp(listener.local_addr().expect("an address"));
        Attempt::begin(&address).and_then(Attempt::finish).expect("it is on this host");
        drop(listener);
        let refused = Attempt::begin(&address).and_then(Attempt::finish).expect_err("nobody listens");
        assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED));
    }

    #[test]
    fn attempt_without_an_answer_is_timed_out() {
        // A backlog that is full answers nothing more.
        let listener = socket::listener(([127, 0, 0, 1], 0).into(), false, 0).expect("a free port");
        let address = Address::Tcp(socket::local_addr(listener.as_fd()).expect("an address"));
        let waiting: Vec<_> = (0..4).map(|_| Attempt::begin(&address).expect("begun")).collect();
        let outcomes: Vec<_> = waiting.into_iter().map(Attempt::finish).collect();
        let last = outcomes.into_iter().next_back().expect("four").expect_err("the backlog is full");
        assert_eq!(last.raw_os_error(), Some(libc::ETIMEDOUT));
    }
}
