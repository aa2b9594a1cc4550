//! A handshake flood: N clients at once, each of which connects, sends its hello, waits for the server's
//! flight, resets the connection and begins again.
//!
//! One thread, one epoll. What a handshake costs the flood is a socket and some 150 bytes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use crate::hello::Hello;
use crate::yield_to_others;

/// Enough of a flight for its end to be seen; a read takes no more at once.
const READ_BYTES: usize = 16 << 10;
/// Events taken at once.
const EVENTS: usize = 256;
/// Between two looks at whether to stop, and between two tries where nothing could be opened.
const LOOK: Duration = Duration::from_millis(20);

/// A flood under way; it ends when dropped.
#[derive(Debug)]
pub struct Flood {
    counts: Arc<Counts>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

#[derive(Debug, Default)]
struct Counts {
    stop: AtomicBool,
    answered: AtomicU64,
    refused: AtomicU64,
}

/// The priority of the flood's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// That of the thread that starts it: where other work on the machine would stop the flood.
    Usual,
    /// Ten steps lower: where the victim shares a CPU with the flood alone.
    Lower,
}

impl Flood {
    /// Starts `clients` at once on a thread of their own. The caller has raised the limit on open descriptors
    /// above that number.
    ///
    /// # Errors
    /// No thread or no epoll was to be had.
    pub fn start(target: SocketAddr, clients: usize, hello: Hello, priority: Priority) -> io::Result<Self> {
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        let mut clients = Clients::new(target, clients, hello, shared)?;
        let thread = thread::Builder::new().name("flood".to_owned()).spawn(move || {
            if priority == Priority::Lower {
                yield_to_others()?;
            }
            clients.run()
        })?;
        Ok(Self { counts, thread: Some(thread) })
    }

    /// Handshakes that the server has answered with its whole flight so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.counts.answered.load(Ordering::Relaxed)
    }

    /// Connections that ended otherwise so far: refused, reset, or answered with an alert.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.counts.refused.load(Ordering::Relaxed)
    }

    /// Ends it: its connections are reset.
    ///
    /// # Errors
    /// What ended the flood before.
    pub fn stop(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        self.counts.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| io::Error::other("the flood panicked"))?
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

struct Clients {
    target: SocketAddr,
    hello: Hello,
    record: Vec<u8>,
    epoll: rustix::fd::OwnedFd,
    /// By their number, which is what epoll says; `None` until the next try.
    open: Vec<Option<Client>>,
    counts: Arc<Counts>,
}

struct Client {
    tcp: TcpStream,
    has_sent: bool,
    /// The end of what has come.
    came: Vec<u8>,
}

impl Clients {
    fn new(target: SocketAddr, count: usize, hello: Hello, counts: Arc<Counts>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let open = (0..count).map(|_| None).collect();
        Ok(Self { target, record: hello.record(), hello, epoll, open, counts })
    }

    fn run(&mut self) -> io::Result<()> {
        let look = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
        let mut events = Vec::with_capacity(EVENTS);
        let mut scratch = vec![0; READ_BYTES];
        let mut closed: Vec<usize> = (0..self.open.len()).collect();
        while !self.counts.stop.load(Ordering::Relaxed) {
            // Some at a time: those that are open are served in between.
            let mut failed = Vec::new();
            for number in closed.drain(closed.len().saturating_sub(EVENTS)..) {
                if self.open(number).is_err() {
                    failed.push(number);
                }
            }
            let wait = if closed.is_empty() || !failed.is_empty() { look } else { Timespec::default() };
            closed.extend(failed);
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait)) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                let number = event.data.u64() as usize;
                if let Some(answered) = self.step(number, &mut scratch) {
                    let count = if answered { &self.counts.answered } else { &self.counts.refused };
                    count.fetch_add(1, Ordering::Relaxed);
                    self.open[number] = None;
                    closed.push(number);
                }
            }
        }
        Ok(())
    }

    fn open(&mut self, number: usize) -> io::Result<()> {
        let tcp = connect(self.target)?;
        let mut client = Client { tcp, has_sent: false, came: Vec::new() };
        client.send(&self.record)?;
        let wanted = if client.has_sent { epoll::EventFlags::IN } else { epoll::EventFlags::OUT };
        epoll::add(&self.epoll, &client.tcp, epoll::EventData::new_u64(number as u64), wanted)?;
        self.open[number] = Some(client);
        Ok(())
    }

    /// `Some` when a client has come to its end: whether with an answer.
    fn step(&mut self, number: usize, scratch: &mut [u8]) -> Option<bool> {
        let client = self.open[number].as_mut()?;
        if !client.has_sent {
            let sent = client.send(&self.record).is_ok() && client.has_sent;
            let data = epoll::EventData::new_u64(number as u64);
            let waits = sent && epoll::modify(&self.epoll, &client.tcp, data, epoll::EventFlags::IN).is_ok();
            return if waits { None } else { Some(false) };
        }
        match client.tcp.read(scratch) {
            Ok(0) => Some(false),
            Ok(count) => client.answered(&scratch[..count], self.hello),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(_) => Some(false),
        }
    }
}

impl Client {
    /// Sends the hello if the connection is open already.
    fn send(&mut self, record: &[u8]) -> io::Result<()> {
        match self.tcp.write(record) {
            Ok(count) if count == record.len() => self.has_sent = true,
            Ok(_) => return Err(ErrorKind::WriteZero.into()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn answered(&mut self, bytes: &[u8], hello: Hello) -> Option<bool> {
        // One read brings the flight as a rule.
        if self.came.is_empty() && hello.is_answered(bytes) {
            return Some(true);
        }
        self.came.extend_from_slice(bytes);
        if hello.is_answered(&self.came) {
            return Some(true);
        }
        let is_handshake = self.came.first() == Some(&22) && self.came.len() < READ_BYTES;
        if is_handshake { None } else { Some(false) }
    }
}

/// A connection that does not block, is under way or open, and is reset when closed: no port waits for
/// TIME_WAIT.
pub(crate) fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(socket.into()),
    }
}
