//! The TCP server behind the terminators: a few threads, each with its ring and any number of connections.
//!
//! The first byte of a connection says what is asked: see [`ECHO`], [`HOLD`], [`SINK`], [`SOURCE`],
//! [`MESSAGE`] and [`MSRP`].

mod service;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use offramp_proto::buf::{BUF_BYTES, Buf, Bufs};
use offramp_ring::ring::{Completion, Outcome, Ring, hint};
use offramp_ring::socket;
use slab::Slab;

use service::Service;

/// All bytes come back, this one among them, until the end of file.
pub const ECHO: u8 = b'e';
/// This byte comes back; then the connection is held, idle, until [`Backend::release`].
pub const HOLD: u8 = b'h';
/// This byte comes back. Then, as often as asked: a length (8 bytes, big-endian) and so many bytes of the
/// [`pattern`](crate::pattern); the length comes back, or [`CHANGED`].
pub const SINK: u8 = b's';
/// This byte comes back. Then, as often as asked: a length (8 bytes, big-endian), and so many bytes of the
/// [`pattern`](crate::pattern) come back.
pub const SOURCE: u8 = b'd';
/// This byte comes back. Then, as often as asked: two lengths (4 bytes each, big-endian) and as many bytes of
/// the pattern as the first says; [`RIGHT`] or [`WRONG`] comes back, and as many bytes as the second says.
pub const MESSAGE: u8 = b'm';
/// The first byte of MSRP: each SEND that carries the next bytes of the pattern is answered 200.
pub const MSRP: u8 = b'M';
/// The first byte of a PROXY header of version 2, which is passed over; what is asked follows it.
pub const PROXY: u8 = 0x0d;
/// The answer in place of a length if a byte that arrived was not the one that belongs there.
pub const CHANGED: u64 = u64::MAX;
/// The verdict on a message all bytes of which, and of those before it, were the right ones.
pub const RIGHT: u8 = b'+';
/// The other verdict.
pub const WRONG: u8 = b'!';

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// Free buffers that each thread keeps.
const BUFFERS_KEPT: usize = 64;

/// A running backend; dropping it ends its threads and connections.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<(JoinHandle<io::Result<()>>, Arc<OwnedFd>)>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// How often the connections that are held were to be closed.
    releases: AtomicUsize,
    /// Connections that are open and not held.
    active: AtomicUsize,
    held: AtomicUsize,
}

impl Backend {
    /// Starts on a free loopback port; see [`Backend::listen`].
    ///
    /// # Errors
    /// As for [`Backend::listen`].
    pub fn start(threads: usize) -> io::Result<Self> {
        Self::listen((Ipv4Addr::LOCALHOST, 0).into(), threads)
    }

    /// Starts at `address`, with at most `threads` threads and no more than there are cores.
    ///
    /// # Errors
    /// The address is not to be had, or the host has no io_uring.
    pub fn listen(address: SocketAddr, threads: usize) -> io::Result<Self> {
        socket::is_free(address)?;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let mut backend = Self { address, shared: Arc::default(), threads: Vec::new() };
        for _ in 0..threads.clamp(1, cores) {
            let listener = socket::listener(backend.address, true, BACKLOG)?;
            backend.address = socket::local_addr(listener.as_fd())?;
            let (wake, shared) = (Arc::new(socket::event()?), Arc::clone(&backend.shared));
            let waker = Arc::clone(&wake);
            let (ready, is_ready) = mpsc::channel();
            let thread = thread::Builder::new().name("backend".to_owned()).spawn(move || {
                // A ring belongs to the thread that makes it.
                match Ring::new() {
                    Err(error) => {
                        let text = format!("io_uring cannot be set up ({error}): {}", hint(&error));
                        let _ = ready.send(Err(io::Error::new(error.kind(), text)));
                        Ok(())
                    }
                    Ok(ring) => {
                        let _ = ready.send(Ok(()));
                        Server::new(ring, listener, wake, shared).run()
                    }
                }
            })?;
            is_ready.recv().map_err(io::Error::other)??;
            backend.threads.push((thread, waker));
        }
        Ok(backend)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections are being served, not counting those held.
    #[must_use]
    pub fn active(&self) -> usize {
        self.shared.active.load(Ordering::Acquire)
    }

    /// How many connections are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.shared.held.load(Ordering::Acquire)
    }

    /// Closes the connections that are held, soon.
    pub fn release(&self) {
        self.shared.releases.fetch_add(1, Ordering::AcqRel);
        self.wake();
    }

    /// Waits until a thread ends, which only a failure makes it do.
    ///
    /// # Errors
    /// The failure.
    pub fn wait(mut self) -> io::Result<()> {
        let Some((thread, _)) = self.threads.pop() else { return Ok(()) };
        thread.join().map_err(|_| io::Error::other("a backend thread panicked"))?
    }

    fn wake(&self) {
        for (_, waker) in &self.threads {
            // The count of an eventfd that is read does not overflow.
            let _ = socket::signal(waker.as_fd());
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.wake();
        for (thread, _) in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What an operation was, and on which connection.
#[derive(Clone, Copy)]
enum Owner {
    Wake,
    Accept,
    Receive(usize),
    Send(usize),
}

/// One thread's part.
struct Server {
    ring: Ring<Owner>,
    bufs: Bufs,
    listener: OwnedFd,
    waker: Arc<OwnedFd>,
    shared: Arc<Shared>,
    connections: Slab<Connection>,
    releases: usize,
}

struct Connection {
    socket: OwnedFd,
    service: Service,
    receiving: bool,
    sending: bool,
    /// Whether the peer's end of file has come: what is owed is still sent.
    ended: bool,
    /// Whether it is over as soon as nothing is in flight.
    broken: bool,
    held: bool,
}

impl Server {
    fn new(ring: Ring<Owner>, listener: OwnedFd, waker: Arc<OwnedFd>, shared: Arc<Shared>) -> Self {
        let (bufs, connections) = (Bufs::new(BUFFERS_KEPT), Slab::new());
        Self { ring, bufs, listener, waker, shared, connections, releases: 0 }
    }

    fn run(mut self) -> io::Result<()> {
        self.ring.accept(self.listener.as_fd(), Owner::Accept);
        self.ring.await_event(self.waker.as_fd(), Owner::Wake);
        while !self.shared.stop.load(Ordering::Acquire) {
            self.ring.wait(&mut self.bufs, None)?;
            while let Some(completion) = self.ring.next_completion() {
                self.complete(completion);
            }
        }
        for (_, connection) in &self.connections {
            self.shared.count(connection.held).fetch_sub(1, Ordering::AcqRel);
        }
        Ok(())
    }

    fn complete(&mut self, completion: Completion<Owner>) {
        let key = match completion.user_data {
            Owner::Accept => return self.accepted(completion.outcome),
            Owner::Wake => {
                self.ring.await_event(self.waker.as_fd(), Owner::Wake);
                return self.release();
            }
            Owner::Receive(key) | Owner::Send(key) => key,
        };
        let Some(connection) = self.connections.get_mut(key) else { return };
        let is_receive = matches!(completion.user_data, Owner::Receive(_));
        if is_receive {
            connection.receiving = false;
        } else {
            connection.sending = false;
        }
        match completion.outcome {
            Outcome::Received { buf, count, .. } => {
                connection.ended |= count == 0;
                connection.broken |= connection.service.receive(buf.filled()).is_err();
                self.bufs.give(buf);
            }
            Outcome::Sent { buf, .. } if !buf.is_empty() => {
                connection.sending = true;
                self.ring.send(connection.socket.as_fd(), buf, completion.user_data);
            }
            Outcome::Sent { buf, .. } => self.bufs.give(buf),
            Outcome::Failed { errno, buf } => {
                // A receive that found no buffer is started again.
                connection.broken |= errno != NO_BUFFER || !is_receive;
                if let Some(buf) = buf {
                    self.bufs.give(buf);
                }
            }
            _ => connection.broken = true,
        }
        self.advance(key);
    }

    fn accepted(&mut self, outcome: Outcome) {
        // A failure is lack of descriptors, or a connection that is gone already: the next may be better.
        let is_over = !matches!(outcome, Outcome::Accepted { more: true, .. });
        if let Outcome::Accepted { socket: Ok(socket), .. } = outcome {
            self.open(socket);
        }
        if is_over {
            self.ring.accept(self.listener.as_fd(), Owner::Accept);
        }
    }

    fn open(&mut self, socket: OwnedFd) {
        let service = Service::default();
        let connection = Connection {
            socket,
            service,
            receiving: false,
            sending: false,
            ended: false,
            broken: false,
            held: false,
        };
        self.shared.active.fetch_add(1, Ordering::AcqRel);
        let key = self.connections.insert(connection);
        self.advance(key);
    }

    /// Keeps what is due in flight, or ends the connection.
    fn advance(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.service.is_held() && !connection.held {
            // Whoever hears the echo may rely on this.
            connection.held = true;
            self.shared.held.fetch_add(1, Ordering::AcqRel);
            self.shared.active.fetch_sub(1, Ordering::AcqRel);
        }
        let over = connection.broken || (connection.ended && !connection.service.owes());
        if over && !connection.sending && !connection.receiving {
            let connection = self.connections.remove(key);
            self.ring.close(connection.socket);
            self.shared.count(connection.held).fetch_sub(1, Ordering::AcqRel);
            return;
        }
        if over {
            self.ring.cancel_all(connection.socket.as_fd());
            return;
        }
        if connection.service.owes() && !connection.sending {
            let mut buf: Buf = self.bufs.take();
            connection.service.fill(&mut buf);
            connection.sending = true;
            self.ring.send(connection.socket.as_fd(), buf, Owner::Send(key));
        }
        // What is owed bounds what is taken.
        if !connection.receiving && !connection.ended && !connection.service.owes() {
            connection.receiving = true;
            self.ring.receive(connection.socket.as_fd(), BUF_BYTES, true, Owner::Receive(key));
        }
    }

    fn release(&mut self) {
        let releases = self.shared.releases.load(Ordering::Acquire);
        if releases == self.releases {
            return;
        }
        self.releases = releases;
        let held = |(key, connection): (usize, &Connection)| connection.held.then_some(key);
        let keys: Vec<_> = self.connections.iter().filter_map(held).collect();
        for key in keys {
            self.connections[key].broken = true;
            self.advance(key);
        }
    }
}

impl Shared {
    /// Where a connection is counted.
    fn count(&self, held: bool) -> &AtomicUsize {
        if held { &self.held } else { &self.active }
    }
}

/// The errno (ENOBUFS) for which a receive is simply started again.
const NO_BUFFER: i32 = 105;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;
    use crate::pattern;

    fn connect(backend: &Backend, mode: u8) -> TcpStream {
        let mut socket = TcpStream::connect(backend.address()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.write_all(&[mode]).unwrap();
        let mut answer = [0];
        socket.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [mode]);
        socket
    }

    #[test]
    fn it_sources_more_than_a_socket_holds_and_echoes() {
        let backend = Backend::start(2).unwrap();
        let mut socket = connect(&backend, SOURCE);
        let mut bytes = vec![0; 10_000_000];
        socket.write_all(&10_000_000_u64.to_be_bytes()).unwrap();
        socket.read_exact(&mut bytes).unwrap();
        assert!(pattern::matches(0, &bytes));
        let mut socket = connect(&backend, ECHO);
        let mut answer = [0; 8];
        socket.write_all(b"abcdefgh").unwrap();
        socket.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"abcdefgh");
    }

    #[test]
    fn what_is_held_is_counted_until_it_is_released() {
        let backend = Backend::start(1).unwrap();
        let mut held: Vec<_> = (0..100).map(|_| connect(&backend, HOLD)).collect();
        assert_eq!((backend.held(), backend.active()), (100, 0));
        backend.release();
        for socket in &mut held {
            assert_eq!(socket.read(&mut [0]).unwrap_or(0), 0, "closed");
        }
        drop(connect(&backend, ECHO));
    }

    #[test]
    fn a_port_in_use_is_refused() {
        let backend = Backend::start(1).unwrap();
        let error = Backend::listen(backend.address(), 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
