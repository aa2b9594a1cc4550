//! Plain TCP through the engine's ring: what a connection costs before any TLS.
//!
//! One thread, one io_uring, the same operations in the same order as the engine's worker has for a
//! connection: a multishot accept, receives into provided buffers, connect, and sends by ownership. There is
//! no policy here, no timer and no counter: it is a floor for the engine, not a relay for use.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use offramp_proto::buf::{BUF_BYTES, Bufs};
use offramp_ring::ring::{Completion, Outcome, Ring};
use offramp_ring::socket::{self, Address, SockAddr};
use slab::Slab;

const BACKLOG: i32 = 4096;
const FREE_BUFFERS: usize = 64;

/// What an operation was, of which pair, and on which of its legs: the accepted one is 0, the other 1.
#[derive(Clone, Copy)]
enum Owner {
    Accept,
    Connect(usize),
    Receive(usize, usize),
    Send(usize, usize),
}

/// The two legs of a connection; which is which is the index.
struct Pair {
    sockets: [Option<OwnedFd>; 2],
    in_flight: usize,
    /// The last receive on this leg left nothing to read.
    drained: [bool; 2],
}

/// Listens on a free loopback port, says `plain relay ready: listening on ADDRESS`, and relays for ever.
///
/// # Errors
/// There is no io_uring, or the port cannot be had.
pub fn relay(backend: SocketAddr) -> io::Result<()> {
    let listener = socket::listener(([127, 0, 0, 1], 0).into(), false, BACKLOG)?;
    println!("plain relay ready: listening on {}", socket::local_addr(listener.as_fd())?);
    let address = Address::Tcp(backend);
    let mut relay = Relay {
        ring: Ring::new()?,
        bufs: Bufs::new(FREE_BUFFERS),
        pairs: Slab::new(),
        sockaddr: address.to_sockaddr()?,
        backend: address,
        again: VecDeque::new(),
    };
    relay.ring.accept(listener.as_fd(), Owner::Accept);
    loop {
        relay.ring.wait(&mut relay.bufs, None)?;
        while let Some(Completion { user_data, outcome }) = relay.ring.next_completion() {
            if matches!(user_data, Owner::Accept) {
                if let Outcome::Accepted { socket, more } = outcome {
                    if !more {
                        relay.ring.accept(listener.as_fd(), Owner::Accept);
                    }
                    relay.begin(socket.map_err(io::Error::from_raw_os_error)?)?;
                }
            } else {
                relay.on(user_data, outcome);
            }
        }
        while let Some((index, leg)) = relay.again.pop_front() {
            relay.pairs[index].in_flight -= 1;
            relay.receive(index, leg);
        }
    }
}

struct Relay {
    ring: Ring<Owner>,
    bufs: Bufs,
    pairs: Slab<Pair>,
    backend: Address,
    sockaddr: SockAddr,
    again: VecDeque<(usize, usize)>,
}

impl Relay {
    fn begin(&mut self, accepted: OwnedFd) -> io::Result<()> {
        let other = socket::outgoing(&self.backend)?;
        let pair = Pair { sockets: [Some(accepted), Some(other)], in_flight: 1, drained: [false; 2] };
        let index = self.pairs.insert(pair);
        let Some(socket) = self.pairs[index].sockets[1].as_ref() else { return Ok(()) };
        self.ring.connect(socket.as_fd(), self.sockaddr.clone(), Owner::Connect(index));
        Ok(())
    }

    fn receive(&mut self, index: usize, leg: usize) {
        let pair = &mut self.pairs[index];
        if let Some(socket) = &pair.sockets[leg] {
            pair.in_flight += 1;
            self.ring.receive(socket.as_fd(), BUF_BYTES, pair.drained[leg], Owner::Receive(index, leg));
        }
    }

    fn on(&mut self, owner: Owner, outcome: Outcome) {
        let (index, leg) = match owner {
            Owner::Accept => return,
            Owner::Connect(index) => (index, 1),
            Owner::Receive(index, leg) | Owner::Send(index, leg) => (index, leg),
        };
        let Some(pair) = self.pairs.get_mut(index) else { return };
        pair.in_flight -= 1;
        match outcome {
            Outcome::Connected => {
                self.receive(index, 0);
                self.receive(index, 1);
            }
            Outcome::Received { buf, count, drained } if count > 0 => {
                pair.drained[leg] = drained;
                let to = 1 - leg;
                match &pair.sockets[to] {
                    Some(socket) => {
                        pair.in_flight += 1;
                        self.ring.send(socket.as_fd(), buf, Owner::Send(index, to));
                    }
                    None => self.bufs.give(buf),
                }
            }
            Outcome::Sent { buf, .. } if buf.is_empty() => {
                self.bufs.give(buf);
                self.receive(index, 1 - leg);
            }
            Outcome::Sent { buf, .. } => {
                if let Some(socket) = &pair.sockets[leg] {
                    pair.in_flight += 1;
                    self.ring.send(socket.as_fd(), buf, owner);
                }
            }
            Outcome::Failed { errno: libc::ENOBUFS, buf: None } => {
                // It stays in flight until it is started again.
                pair.in_flight += 1;
                self.again.push_back((index, leg));
            }
            Outcome::Received { buf, .. } => {
                self.bufs.give(buf);
                self.end(index);
            }
            Outcome::Failed { buf, .. } => {
                buf.into_iter().for_each(|buf| self.bufs.give(buf));
                self.end(index);
            }
            Outcome::Record { .. } | Outcome::Accepted { .. } | Outcome::Signalled => {}
        }
        if self.pairs.get(index).is_some_and(|pair| pair.in_flight == 0) {
            self.end(index);
            self.pairs.remove(index);
        }
    }

    /// Either leg has ended: both are closed, as after a client's reset.
    fn end(&mut self, index: usize) {
        for socket in self.pairs[index].sockets.iter_mut().filter_map(Option::take) {
            // It is a socket of ours; a reset leaves no port in TIME_WAIT, as the engine does after a fault.
            let _ = socket::abort_on_close(socket.as_fd());
            self.ring.cancel_all(socket.as_fd());
            self.ring.close(socket);
        }
    }
}
