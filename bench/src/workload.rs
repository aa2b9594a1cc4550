//! What is asked of a terminator, and what one unit of it costs.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustls::HandshakeKind;
use rustls::pki_types::CertificateDer;

use offramp_attack::hello::{Hello, Key};
use offramp_attack::stall;
use offramp_loadgen::backend::{self, Backend};
use offramp_loadgen::pattern;
use offramp_loadgen::plan::Version;
use offramp_ring::socket;

use crate::client::{Client, Connection, PATIENCE};
use crate::process::{self, CpuTime};
use crate::suite::Suite;
use crate::terminator::Running;

/// Clients that a worker has at work at once, each a thread with its own session store.
pub const CLIENTS: u32 = 8;
/// Connections that each client makes before a reading is taken; the first gives the ticket for the others.
const WARM_UP: u32 = 10;
/// Bytes of a request and of its answer.
const EXCHANGE_BYTES: usize = 1024;
/// So many clients make one connection that carries bulk data: a worker has one, since what is shared with
/// others would only blur the figure.
const BULK_SHARE: u32 = CLIENTS;
const MIB: u64 = 1024 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;
/// Threads of the backend: every client at work, and connections that are being closed.
pub const BACKEND_THREADS: usize = 64;

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// What is asked.
    pub work: Work,
    /// On which version of TLS.
    pub version: Version,
}

/// A unit of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// TCP connect, handshake, one byte to the backend and its echo back, reset.
    Connection {
        /// Whether the handshake shall be abbreviated.
        resumed: bool,
    },
    /// A MiB from the backend to the client.
    ToClient,
    /// A MiB from the client to the backend.
    FromClient,
    /// 1 KiB to the backend and 1 KiB back.
    Exchange,
    /// A connection that was used once and is held.
    Idle,
    /// A connection that has sent nine bytes of a ClientHello and is held.
    HalfHello,
    /// The first of these without TLS: TCP connect, one byte to the backend and its echo back, reset.
    PlainConnection,
    /// 1 KiB to the backend and 1 KiB back without TLS.
    PlainExchange,
}

/// How many units make one sample.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    connections: u32,
    mib: u32,
    exchanges: u32,
    idle: u32,
}

impl Amount {
    /// For a result: each sample is at least 0.3 s of the terminator's CPU.
    pub const FULL: Self = Self { connections: 4000, mib: 512, exchanges: 24_000, idle: 2000 };
    /// For a look: figures are rough.
    pub const QUICK: Self = Self { connections: 800, mib: 128, exchanges: 4000, idle: 400 };
    /// Where instructions are counted: that needs few.
    pub const COUNTED: Self = Self { connections: 80, mib: 8, exchanges: 400, idle: 80 };
}

impl Row {
    /// All rows in the order of the table.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let connections = [Version::Tls12, Version::Tls13].into_iter().flat_map(|version| {
            [false, true].map(|resumed| Self { work: Work::Connection { resumed }, version })
        });
        let others = [Work::ToClient, Work::FromClient, Work::Exchange, Work::Idle]
            .into_iter()
            .flat_map(|work| [Version::Tls12, Version::Tls13].map(|version| Self { work, version }));
        // Without a version: no record of it is whole.
        let others = others.chain([Self { work: Work::HalfHello, version: Version::Tls12 }]);
        let plain = [Work::PlainConnection, Work::PlainExchange];
        let plain = plain.map(|work| Self { work, version: Version::Tls12 });
        connections.chain(others).chain(plain).collect()
    }

    /// Whether there is TLS in it.
    #[must_use]
    pub fn is_plain(self) -> bool {
        matches!(self.work, Work::PlainConnection | Work::PlainExchange)
    }

    /// As in the table.
    #[must_use]
    pub fn label(self) -> String {
        let work = match self.work {
            Work::Connection { resumed: false } => "full connection",
            Work::Connection { resumed: true } => "resumed connection",
            Work::ToClient => "MiB to the client",
            Work::FromClient => "MiB from the client",
            Work::Exchange => "1 KiB request + 1 KiB answer",
            Work::Idle => "idle connection",
            Work::HalfHello => return "half hello".to_owned(),
            Work::PlainConnection => return "plain TCP connection".to_owned(),
            Work::PlainExchange => return "plain TCP 1 KiB request + 1 KiB answer".to_owned(),
        };
        format!("{} {work}", self.version.label())
    }

    /// The unit of a sample.
    #[must_use]
    pub fn unit(self) -> &'static str {
        if matches!(self.work, Work::Idle | Work::HalfHello) { "KiB of memory" } else { "µs of CPU" }
    }

    /// How many units one sample is made of.
    #[must_use]
    pub fn count(self, amount: Amount) -> u32 {
        match self.work {
            Work::Connection { .. } | Work::PlainConnection => amount.connections,
            Work::ToClient | Work::FromClient => amount.mib,
            Work::Exchange | Work::PlainExchange => amount.exchanges,
            Work::Idle | Work::HalfHello => amount.idle,
        }
    }
}

/// A terminator at work: all that a sample is taken with.
#[derive(Debug)]
pub struct Bench<'a> {
    /// What is measured. Fresh, so that no earlier sample has left it memory to use again.
    pub terminator: &'a Running,
    /// What it forwards to.
    pub backend: &'a Backend,
    /// Its certificate.
    pub trusted: &'a CertificateDer<'static>,
    /// Clients at work at once: 1, 2, 4, 8, 16 or 32.
    pub clients: u32,
}

impl Bench<'_> {
    /// The cost of one unit in [`Row::unit`]s.
    ///
    /// # Errors
    /// Any connection failed or was not what the row asks for; the text has the end of what the terminator
    /// printed.
    pub fn sample(&self, row: Row, amount: Amount) -> Result<f64> {
        let (count, suite) = (row.count(amount), Suite::usual(row.version));
        let bulk_clients = (self.clients / BULK_SHARE).max(1);
        let total = match row.work {
            Work::Connection { resumed } => self.connections(suite, resumed, count),
            Work::ToClient => self.streams(suite, backend::SOURCE, bulk_clients, cold, |connection| {
                to_client(connection, share(count, bulk_clients))
            }),
            Work::FromClient => self.streams(suite, backend::SINK, bulk_clients, cold, |connection| {
                from_client(connection, share(count, bulk_clients))
            }),
            Work::Exchange => self.streams(suite, backend::ECHO, self.clients, cold, |connection| {
                exchange(connection, share(count, self.clients))
            }),
            Work::Idle => self.idle(suite, count),
            Work::HalfHello => self.half_hellos(count),
            Work::PlainConnection => self.plain_connections(count),
            Work::PlainExchange => self.plain_exchanges(count),
        };
        let total = total.with_context(|| self.terminator.last_words()).context(row.label())?;
        Ok(total / f64::from(count))
    }

    fn connections(&self, suite: Suite, resumed: bool, count: u32) -> Result<f64> {
        let wanted = if resumed { HandshakeKind::Resumed } else { HandshakeKind::Full };
        let connect = |client: &Client, count| -> Result<()> {
            (0..count).try_for_each(|_| client.open(backend::ECHO, wanted).map(drop))
        };
        let clients = at_once(self.new_clients(suite, resumed, self.clients)?, |client| {
            client.open(backend::ECHO, HandshakeKind::Full)?;
            connect(&client, WARM_UP)?;
            Ok(client)
        })?;
        self.cpu_us(|| {
            at_once(clients, |client| connect(&client, share(count, self.clients)))?;
            Ok(())
        })
    }

    fn plain_connections(&self, count: u32) -> Result<f64> {
        let connect = |count: u32| {
            let each = share(count, self.clients);
            at_once(self.addresses(), |address| (0..each).try_for_each(|_| plain(address).map(drop)))
        };
        connect(WARM_UP * self.clients)?;
        self.cpu_us(|| connect(count).map(drop))
    }

    fn plain_exchanges(&self, count: u32) -> Result<f64> {
        let mut open = at_once(self.addresses(), plain)?;
        self.cpu_us(|| {
            at_once(open.iter_mut().collect(), |tcp| exchange(tcp, share(count, self.clients))).map(drop)
        })
    }

    /// Where each client connects to.
    fn addresses(&self) -> Vec<SocketAddr> {
        (0..self.clients).map(|_| self.terminator.address).collect()
    }

    /// Connections that are open before and after: only what `work` does on them is measured.
    pub(crate) fn streams(
        &self,
        suite: Suite,
        mode: u8,
        clients: u32,
        warm_up: impl Fn(&mut Connection) -> Result<()> + Sync,
        work: impl Fn(&mut Connection) -> Result<()> + Sync,
    ) -> Result<f64> {
        let warm = at_once(self.new_clients(suite, false, clients)?, |client| {
            let mut connection = client.open(mode, HandshakeKind::Full)?;
            warm_up(&mut connection)?;
            Ok(connection)
        })?;
        let mut open = Vec::new();
        let total = self.cpu_us(|| {
            open = at_once(warm, |mut connection| {
                work(&mut connection)?;
                Ok(connection)
            })?;
            Ok(())
        });
        drop(open);
        total
    }

    fn idle(&self, suite: Suite, count: u32) -> Result<f64> {
        let clients = self.new_clients(suite, false, CLIENTS)?;
        let hold = |count| {
            at_once(clients.clone(), |client| {
                (0..count)
                    .map(|_| client.open(backend::HOLD, HandshakeKind::Full))
                    .collect::<Result<Vec<_>>>()
            })
        };
        let warm = hold(1)?;
        let before_kib = process::resident_kib(self.terminator.pid())?;
        let held = hold(share(count, CLIENTS))?;
        let after_kib = process::resident_kib(self.terminator.pid())?;
        let held_count = self.backend.held();
        drop((warm, held));
        self.backend.release();
        let expected = usize::try_from(count + CLIENTS)?;
        ensure!(held_count == expected, "the backend holds {held_count} connections and not {expected}");
        Ok(after_kib.saturating_sub(before_kib) as f64)
    }

    /// Growth of the terminator's memory, once it does not grow any more, in KiB.
    fn half_hellos(&self, count: u32) -> Result<f64> {
        let hello = Hello { tls13: false, key: Key::Ecdsa };
        let open = |count| -> Result<Vec<_>> {
            let half = |_| stall::half_hello(self.terminator.address, hello);
            (0..count).map(half).collect::<io::Result<_>>().context("half a hello")
        };
        let warm = open(CLIENTS)?;
        let before_kib = self.settled_kib()?;
        let held = open(count)?;
        let after_kib = self.settled_kib()?;
        // Whoever closes one that waits would seem to need nothing for it.
        for tcp in &held {
            tcp.set_nonblocking(true)?;
            let closed =
                !matches!((&mut &*tcp).read(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock);
            ensure!(!closed, "a connection with half a hello was closed");
        }
        drop((warm, held));
        Ok(after_kib.saturating_sub(before_kib) as f64)
    }

    /// The terminator's resident memory, when it is the same for 200 ms, or after 2 s.
    fn settled_kib(&self) -> Result<u64> {
        let (mut last_kib, mut same) = (0, 0);
        for _ in 0..40 {
            thread::park_timeout(Duration::from_millis(50));
            let now_kib = process::resident_kib(self.terminator.pid())?;
            same = if now_kib == last_kib { same + 1 } else { 0 };
            if same == 4 {
                break;
            }
            last_kib = now_kib;
        }
        Ok(last_kib)
    }

    fn new_clients(&self, suite: Suite, resume: bool, count: u32) -> Result<Vec<Client>> {
        (0..count).map(|_| Client::new(self.terminator, self.trusted, suite, resume)).collect()
    }

    /// The terminator's CPU time for `work`, in µs, including what it does about connections that the work
    /// closed.
    fn cpu_us(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        self.settle();
        let before = CpuTime::read(self.terminator.pid())?;
        work()?;
        self.settle();
        let after = CpuTime::read(self.terminator.pid())?;
        Ok(after.since(before).as_secs_f64() * 1e6)
    }

    /// Waits until what was reset is gone from the backend too, at least 50 ms and at most 1 s.
    fn settle(&self) {
        let mut active = self.backend.active();
        for _ in 0..20 {
            thread::park_timeout(Duration::from_millis(50));
            let now = self.backend.active();
            if now == active {
                return;
            }
            active = now;
        }
    }
}

/// A connection without TLS, through which one byte has come back.
fn plain(address: SocketAddr) -> Result<TcpStream> {
    let mut tcp = TcpStream::connect(address).context("connecting to the relay")?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    // Closing then resets, as the other rows do.
    socket::abort_on_close(tcp.as_fd())?;
    tcp.write_all(&[backend::ECHO])?;
    let mut echo = [0];
    tcp.read_exact(&mut echo).context("waiting for the echo of one byte")?;
    ensure!(echo == [backend::ECHO], "one byte came back changed");
    Ok(tcp)
}

/// No warm-up: so much is asked that the beginning does not count.
fn cold(_: &mut Connection) -> Result<()> {
    Ok(())
}

fn to_client(connection: &mut Connection, mib: u32) -> Result<()> {
    more_to_client(connection, 0, mib)
}

/// The same behind the `before` MiB that the connection has had: the pattern goes on.
pub(crate) fn more_to_client(connection: &mut Connection, before: u32, mib: u32) -> Result<()> {
    let len = u64::from(mib) * MIB;
    connection.write_all(&len.to_be_bytes())?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut offset = u64::from(before) * MIB;
    let len = offset + len;
    while offset < len {
        let count = connection.read(&mut chunk)?;
        ensure!(count > 0, "the data ended after {offset} of {len} bytes");
        ensure!(pattern::matches(offset, &chunk[..count]), "data came changed");
        offset += count as u64;
    }
    Ok(())
}

fn from_client(connection: &mut Connection, mib: u32) -> Result<()> {
    let len = u64::from(mib) * MIB;
    connection.write_all(&len.to_be_bytes())?;
    let mut offset = 0;
    while offset < len {
        let most = CHUNK_BYTES.min(usize::try_from(len - offset).unwrap_or(CHUNK_BYTES));
        let chunk = pattern::at(offset, most);
        connection.write_all(chunk)?;
        offset += chunk.len() as u64;
    }
    let mut arrived = [0; 8];
    connection.read_exact(&mut arrived)?;
    ensure!(u64::from_be_bytes(arrived) == len, "not all data arrived unchanged");
    Ok(())
}

fn exchange(connection: &mut (impl Read + Write), count: u32) -> Result<()> {
    let request = [0x5a; EXCHANGE_BYTES];
    let mut answer = [0; EXCHANGE_BYTES];
    for _ in 0..count {
        connection.write_all(&request)?;
        connection.read_exact(&mut answer)?;
        ensure!(answer == request, "an answer is not the echo of its request");
    }
    Ok(())
}

/// Each client's share; what [`Amount`] says is a multiple of all numbers of clients.
fn share(count: u32, clients: u32) -> u32 {
    debug_assert!(count.is_multiple_of(clients), "an amount is a multiple of the number of clients");
    count / clients
}

/// Runs `work` on every input at once, a thread each, and collects the results; the first error wins.
fn at_once<T: Send, R: Send>(inputs: Vec<T>, work: impl Fn(T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = inputs.into_iter().map(|input| scope.spawn(move || work(input))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a client thread panicked"))))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_distinct_and_amounts_divide_by_clients() {
        let rows = Row::all();
        assert_eq!(rows.len(), 15);
        for (index, row) in rows.iter().enumerate() {
            assert!(rows[index + 1..].iter().all(|other| other.label() != row.label()));
            for amount in [Amount::FULL, Amount::QUICK, Amount::COUNTED] {
                assert_eq!(row.count(amount) % CLIENTS, 0, "{}", row.label());
            }
            let no_clients =
                [Work::Idle, Work::HalfHello, Work::ToClient, Work::FromClient].contains(&row.work);
            for amount in [Amount::FULL, Amount::QUICK].into_iter().filter(|_| !no_clients) {
                assert_eq!(row.count(amount) % (4 * CLIENTS), 0, "{}", row.label());
            }
        }
    }

    #[test]
    fn one_failure_among_many_threads_is_reported() {
        assert_eq!(at_once(vec![1, 2, 3], |n| Ok(n * 2)).unwrap(), [2, 4, 6]);
        let error = at_once(vec![1, 2, 3], |n| if n == 2 { Err(anyhow!("two")) } else { Ok(n) }).unwrap_err();
        assert_eq!(error.to_string(), "two");
    }
}
