//! A long line inside this process: a TCP relay that delivers every byte later, and sees what passes.
//!
//! A relay cannot delay a SYN. Where TCP's own round trip shall count, the first bytes of a client wait for
//! one round trip longer: they arrive when they would behind a SYN and its answer.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use offramp_ring::socket;

use super::flights::{Flights, Way};
use crate::runner::now;

/// What the line is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    /// How much later bytes arrive.
    pub(super) one_way: Duration,
    /// Whether the first bytes also wait for TCP's round trip.
    pub(super) tcp_round_trip: bool,
    /// Records of type application_data that a client sends before its application data: in TLS 1.3 its
    /// Finished is one.
    pub(super) sealed_handshake_records: u32,
}

/// What passed on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passed {
    /// Handshake messages as RFC 5246 §7.3 draws them: runs of records in one direction, before the client's
    /// first application data.
    pub(super) messages: u32,
    /// From the start of the connection until the client's first application data reached the server.
    pub(super) first_byte: Duration,
}

/// A running relay; dropping it ends it and breaks its connections.
#[derive(Debug)]
pub(super) struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    line: Line,
    stop: AtomicBool,
    passed: Mutex<Vec<Passed>>,
}

/// The longest a pump waits before it looks whether the relay has ended.
const LOOK: Duration = Duration::from_millis(200);
const BUFFER_BYTES: usize = 16 * 1024;

impl Relay {
    /// Starts on a free loopback port.
    ///
    /// # Errors
    /// The socket or a thread could not be made.
    pub(super) fn start(target: SocketAddr, line: Line) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (stop, passed) = (AtomicBool::new(false), Mutex::default());
        let shared = Arc::new(Shared { target, line, stop, passed });
        let relay = Arc::clone(&shared);
        let acceptor = thread::Builder::new().name("relay".to_owned()).spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let began = now();
                if relay.stop.load(Ordering::Acquire) {
                    return;
                }
                // A connection that breaks is the client's to report.
                let _ = join(client, began, &relay);
            }
        })?;
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    #[must_use]
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What passed, in the order in which first bytes arrived.
    #[must_use]
    pub(super) fn passed(&self) -> Vec<Passed> {
        self.shared.passed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // The accept needs a connection to wake it.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// Joins a client with the target: a thread that reads and one that delivers, each way.
fn join(client: TcpStream, began: Instant, shared: &Arc<Shared>) -> io::Result<()> {
    let server = TcpStream::connect(shared.target)?;
    if socket::is_self_connected(server.as_fd(), shared.target.port()) {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    for socket in [&client, &server] {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(LOOK))?;
    }
    let flights = Arc::new(Mutex::new(Flights::new(shared.line.sealed_handshake_records)));
    let open_from = if shared.line.tcp_round_trip { began + 2 * shared.line.one_way } else { began };
    for way in [Way::Up, Way::Down] {
        let (from, to) = if way == Way::Up { (&client, &server) } else { (&server, &client) };
        let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
        let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
        let (reading, delivering) = (Arc::clone(shared), Arc::clone(shared));
        let flights = Arc::clone(&flights);
        thread::Builder::new().name("relay-read".to_owned()).spawn(move || {
            let mut buffer = vec![0; BUFFER_BYTES];
            while !reading.stop.load(Ordering::Acquire) {
                let count = match from.read(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Ok(count @ 1..) => count,
                    _ => break,
                };
                let due = now().max(open_from) + reading.line.one_way;
                if sender.send((due, buffer[..count].to_vec())).is_err() {
                    break;
                }
            }
        })?;
        thread::Builder::new().name("relay-deliver".to_owned()).spawn(move || {
            for (due, bytes) in receiver {
                wait_until(due);
                let first = flights.lock().unwrap_or_else(PoisonError::into_inner).saw(way, &bytes);
                if let Some(messages) = first {
                    let passed = Passed { messages, first_byte: now() - began };
                    delivering.passed.lock().unwrap_or_else(PoisonError::into_inner).push(passed);
                }
                if to.write_all(&bytes).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
        })?;
    }
    Ok(())
}

fn wait_until(due: Instant) {
    while let Some(left) = due.checked_duration_since(now()).filter(|left| !left.is_zero()) {
        thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_arrives_and_not_before_its_time() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let one_way = Duration::from_millis(20);
        for (tcp_round_trip, trips) in [(false, 2), (true, 4)] {
            let line = Line { one_way, tcp_round_trip, sealed_handshake_records: 0 };
            let relay = Relay::start(server.local_addr().unwrap(), line).unwrap();
            let began = now();
            let mut client = TcpStream::connect(relay.address()).unwrap();
            let (mut accepted, _) = server.accept().unwrap();
            client.write_all(b"abc").unwrap();
            let mut bytes = [0; 3];
            accepted.read_exact(&mut bytes).unwrap();
            accepted.write_all(&bytes).unwrap();
            client.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"abc");
            assert!(began.elapsed() >= one_way * trips);
        }
    }
}
