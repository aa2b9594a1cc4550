//! Sides: the TLS role does not follow from who opened the TCP connection. No configuration asks for a
//! client's role on an accepted leg or a server's on a connected one, as `a=setup` of SDP may: here a worker
//! is given such a policy directly.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use offramp::config::{IdentityFiles, Originate, PeerRules, PostQuantum, TrustAnchor, UnknownName};
use offramp::conn::policy::{Legs, Policy};
use offramp::conn::record_path::Offer;
use offramp::limit::{LimitRules, Limits};
use offramp::metrics::{Counter, Counters, Metrics, Registry};
use offramp::pool::{Endpoint, EndpointState, Pool};
use offramp::sys::probe::{self, Rekey};
use offramp::sys::socket::{self, Address};
use offramp::tls::{Settings, TlsRole};
use offramp::worker::{self, Command, Mailbox, Route, Service, ServiceId};
use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::{Identity, NAME};
use offramp_testing::peer::{BOTH, Version, plain};
use offramp_testing::rng::Noise;
use offramp_testing::tls_server;
use offramp_testing::tools::{PATIENCE, in_guest, scratch};
use rustls::{ClientConnection, ServerConnection, StreamOwned};

const BYTES: usize = 300_000;

/// The role that we have on the leg with TLS.
#[derive(Clone, Copy, Debug, PartialEq)]
enum OurRole {
    Server,
    Client,
}

/// Which leg has TLS.
#[derive(Clone, Copy, Debug, PartialEq)]
enum TlsLeg {
    Near,
    Far,
}

/// A worker with one service.
struct Running {
    addr: SocketAddr,
    mailbox: Arc<Mailbox>,
    counters: Arc<Counters>,
    registry: Arc<Registry>,
    thread: JoinHandle<()>,
}

impl Running {
    fn start(role: OurRole, leg: TlsLeg, far: SocketAddr) -> Self {
        let listener = socket::listener(([127, 0, 0, 1], 0).into(), false, 16).expect("a free port");
        let addr = socket::local_addr(listener.as_fd()).expect("it is bound");
        let state = Arc::new(EndpointState::new(1));
        let endpoint = Endpoint::new(Address::Tcp(far), state).expect("an address");
        let registry = Arc::new(Registry::new(1, 0));
        let route = Route::to(addr, Pool::of("far".into(), vec![endpoint]));
        let route = Arc::new(Route { counters: registry.listener("near", 0), ..route });
        let (mailbox, policy) = (Arc::new(Mailbox::new().expect("an eventfd")), Arc::new(policy(role, leg)));
        let service = Service { id: ServiceId(1), listener, is_shared: false, policy, route };
        mailbox.post(Command::Add(service));
        let counters = Arc::new(Counters::default());
        let setup = worker::Setup {
            index: 0,
            cage: worker::WorkerCage::of_ring(true),
            name: 0,
            workers: 1,
            max_connections: 16,
            counters: Arc::clone(&counters),
            limits: Arc::new(Limits::new(LimitRules::default(), Instant::now())),
            mailbox: Arc::clone(&mailbox),
        };
        let thread = thread::spawn(|| worker::run(setup, |ready| ready.expect("a ring")));
        Self { addr, mailbox, counters, registry, thread }
    }

    /// Drains it, and says how many directions the kernel had and how many faults there were.
    fn stop(self) -> (u64, u64) {
        self.mailbox.post(Command::Drain);
        self.thread.join().expect("the worker ends");
        let metrics = Metrics::new(vec![self.counters], self.registry, Arc::default());
        let kernel = [Counter::OffloadedTx, Counter::OffloadedRx].map(|counter| metrics.total(counter));
        (kernel.iter().sum(), metrics.faults().iter().map(|(_, count)| count).sum())
    }
}

/// TLS in this role on this leg, offered to the kernel where that can carry records.
fn policy(role: OurRole, leg: TlsLeg) -> Policy {
    let files = scratch();
    let (certificate, key) = Identity::ecdsa().write(files.path());
    let identities = [IdentityFiles { certificate: certificate.clone(), key, ocsp: None }];
    let server = Originate {
        server_name: NAME.to_owned(),
        forward_server_name: false,
        trust: TrustAnchor::Authorities(certificate),
    };
    let (role, identities) = match role {
        OurRole::Server => (TlsRole::Server, &identities[..]),
        OurRole::Client => (TlsRole::Client(&server), &[][..]),
    };
    let (unknown_name, peers) = (UnknownName::First, &PeerRules::default());
    let (alpn, tickets, post_quantum) = (&[][..], false, PostQuantum::Off);
    let settings =
        Some(Settings { role, identities, found: &[], unknown_name, alpn, tickets, post_quantum, peers });
    let (near, far) = if leg == TlsLeg::Near { (settings, None) } else { (None, settings) };
    let Legs { near, far } = Legs::load(near, far, None, None).expect("a good policy");
    let found = probe::ktls();
    let rekeys = matches!(found.rekey, Rekey::Supported);
    Policy {
        near,
        far,
        timeouts: offramp::config::limits::Timeouts::default(),
        offload: Offer { tx: found.tx, rx: found.rx, after_bytes: 0, rekeys },
        record_limit: u64::MAX,
        accepts_proxy: false,
        passes_tls_through: false,
        takes_fin_for_the_end: false,
        expect_no_pad: false,
    }
}

/// The end of a TLS connection that has the role that we leave it.
enum TlsEnd {
    Client(StreamOwned<ClientConnection, TcpStream>),
    Server(StreamOwned<ServerConnection, TcpStream>),
}

impl TlsEnd {
    fn new(ours: OurRole, version: Version, tcp: TcpStream) -> Self {
        tcp.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        match ours {
            OurRole::Server => {
                let name = NAME.try_into().expect("a server name");
                let client = ClientConnection::new(plain(version), name).expect("a client");
                Self::Client(StreamOwned::new(client, tcp))
            }
            OurRole::Client => {
                let server = ServerConnection::new(tls_server::config(version)).expect("a server");
                Self::Server(StreamOwned::new(server, tcp))
            }
        }
    }

    fn stream(&mut self) -> &mut dyn ReadWrite {
        match self {
            Self::Client(stream) => stream,
            Self::Server(stream) => stream,
        }
    }

    /// close_notify.
    fn end(&mut self) {
        match self {
            Self::Client(stream) => stream.conn.send_close_notify(),
            Self::Server(stream) => stream.conn.send_close_notify(),
        }
        self.stream().flush().expect("it can be sent");
    }
}

trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}

/// What is left up to an orderly end.
fn to_the_end(stream: &mut dyn ReadWrite) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("an orderly end");
    all
}

/// Sends the data in pieces that are echoed one by one: one thread is enough then.
fn exchange(stream: &mut dyn ReadWrite, data: &[u8]) {
    for piece in data.chunks(20_000) {
        stream.write_all(piece).expect("it can be sent");
        stream.flush().expect("it can be sent");
        let mut back = vec![0; piece.len()];
        stream.read_exact(&mut back).expect("its echo");
        assert!(back == piece, "the echo differs");
    }
}

#[test]
fn sides_take_either_role_on_the_accepted_leg() {
    let backend = Backend::start(BackendBehavior::Echo);
    for version in BOTH {
        for role in [OurRole::Server, OurRole::Client] {
            let running = Running::start(role, TlsLeg::Near, backend.addr);
            let mut peer = TlsEnd::new(role, version, TcpStream::connect(running.addr).expect("it accepts"));
            exchange(peer.stream(), &Noise::bytes(1, BYTES));
            peer.end();
            assert!(to_the_end(peer.stream()).is_empty(), "{version:?} {role:?}");
            assert_eq!(running.stop(), (if in_guest() { 2 } else { 0 }, 0), "{version:?} {role:?}");
        }
    }
}

#[test]
fn sides_take_either_role_on_the_connected_leg() {
    for version in BOTH {
        for role in [OurRole::Server, OurRole::Client] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let far = listener.local_addr().expect("it is bound");
            let running = Running::start(role, TlsLeg::Far, far);
            let echo = thread::spawn(move || {
                let mut peer = TlsEnd::new(role, version, listener.accept().expect("it connects").0);
                let mut block = vec![0; 1 << 16];
                while let count @ 1.. = peer.stream().read(&mut block).expect("an orderly end") {
                    peer.stream().write_all(&block[..count]).expect("it can be sent");
                    peer.stream().flush().expect("it can be sent");
                }
                peer.end();
            });
            let mut tcp = TcpStream::connect(running.addr).expect("it accepts");
            tcp.set_read_timeout(Some(PATIENCE)).expect("a socket option");
            exchange(&mut tcp, &Noise::bytes(2, BYTES));
            tcp.shutdown(Shutdown::Write).expect("it can end");
            assert!(to_the_end(&mut tcp).is_empty(), "{version:?} {role:?}");
            echo.join().expect("the peer ends in order");
            assert_eq!(running.stop(), (if in_guest() { 2 } else { 0 }, 0), "{version:?} {role:?}");
        }
    }
}
