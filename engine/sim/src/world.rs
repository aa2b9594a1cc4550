//! The world: what is on the wire, what the connection asked for, and the dice that decide what happens next.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::dice::Choices;
use super::kernel::Kernel;
use super::peer::{Peer, Role};
use super::plan::{Backend, InjectedFault, Outcome, Plan};
use super::sources;
use super::transcript::Transcript;
use super::watch::Wire;
use offramp_core::conn::Conn;
use offramp_core::conn::action::{Milestone, Outbox, ProxiedAddresses, Report};
use offramp_core::conn::event::{Event, Leg, Operation};
use offramp_core::conn::fault::Fault;
use offramp_core::conn::policy::{Policy, Turn};
use offramp_core::tls::TlsInfo;
use offramp_proto::buf::Buf;

/// More steps than any world takes: past it the connection is going round in circles.
const MAX_STEPS: usize = 200_000;

/// What a socket holds for a peer that does not read.
const SOCKET_BYTES: usize = 50_000;

/// What our socket holds of what a backend has not acknowledged.
const PLAIN_SOCKET_BYTES: usize = 30_000;

/// Buffers that one connection may hold: two a direction, the front of a record, and a last one.
const MOST_BUFFERS: usize = 6;

/// Endpoints of the route.
pub(super) const ENDPOINTS: usize = 2;

/// A world in progress.
pub struct World {
    pub(super) plan: Plan,
    /// The leg with TLS, and the other.
    pub(super) tls: Leg,
    pub(super) plain: Leg,
    pub(super) dice: Choices,
    pub(super) conn: Conn,
    pub(super) may_offload: bool,
    pub(super) out: Outbox,
    pub(super) now: Instant,
    pub(super) kernel: Kernel,
    pub(super) peer: Peer,
    pub(super) to_us: VecDeque<u8>,
    pub(super) to_peer: VecDeque<u8>,
    pub(super) wire: Wire,
    /// What the peer said in the handshake is not what came.
    pub(super) was_altered: bool,
    /// Bytes of its last flight, and behind it, that the peer has sent; `None` while it has sent nothing.
    pub(super) last_flight: Option<usize>,
    pub(super) was_cut: bool,
    pub(super) peer_finished: bool,
    pub(super) peer_reset: bool,
    /// That of the reset, until an operation has taken it from the socket.
    pub(super) reset_error: Option<i32>,
    pub(super) backend_down: bool,
    pub(super) from_backend: VecDeque<u8>,
    pub(super) backend_ends: bool,
    pub(super) received_from_backend: usize,
    /// In our socket of the plain leg, not acknowledged by the backend.
    pub(super) to_plain: VecDeque<u8>,
    pub(super) plain_is_open: bool,
    /// FIN follows that.
    pub(super) plain_finished: bool,
    pub(super) to_backend: Vec<u8>,
    /// Bytes of application data that the kernel has opened and handed out.
    pub(super) authentic: usize,
    pub(super) peer_said_close: bool,
    pub(super) backend_saw_end: bool,
    pub(super) backend_was_reset: bool,
    pub(super) asked: Asked,
    /// Bytes of the PROXY header that were not received.
    pub(super) header: usize,
    /// We have sent FIN on the TLS leg, or closed it in order.
    pub(super) tls_ends: bool,
    /// What the backend is to get of the preamble, in front of everything else.
    pub(super) preamble: VecDeque<u8>,
    /// Endpoints that were tried.
    pub(super) attempts: usize,
    /// What the handshake came to.
    pub(super) established: Option<Box<TlsInfo>>,
    /// What a PROXY header has said.
    pub(super) proxied: Option<ProxiedAddresses>,
    pub(super) events: VecDeque<Event>,
    pub(super) notes: Vec<Milestone>,
    pub(super) report: Option<Report>,
    pub(super) transcript: Transcript,
}

/// What the connection asked for and has no answer to yet.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) connect: Option<Leg>,
    pub(super) tls_receive: Option<Want>,
    pub(super) plain_receive: Option<usize>,
    pub(super) tls_send: Option<(Buf, Option<u8>)>,
    pub(super) plain_send: Option<Buf>,
    pub(super) plain_released: bool,
    pub(super) tls_finished: bool,
    pub(super) flush: bool,
    pub(super) tls_settle: bool,
    pub(super) plain_settle: bool,
}

#[derive(Debug)]
pub(super) enum Want {
    Any(usize),
    Into(Buf, usize),
    Record(Buf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    PeerReads,
    PeerWrites,
    TlsReceives,
    TlsSends,
    Connect,
    PlainReceives,
    PlainSends,
    PlainArrives,
    KernelSends,
    Flushes,
    Settles(Leg),
}

impl World {
    /// Sets the world up.
    #[must_use]
    pub fn new(plan: Plan, policy: Policy, peer: impl Into<Role>, now: Instant) -> Self {
        sources::seed(plan.seed);
        let role = peer.into();
        let passes = policy.passes_tls_through;
        let (tls, plain) = match (policy.near.tls(), policy.far.tls()) {
            (Some(_), None) => (Leg::Near, Leg::Far),
            (None, None) if passes => (Leg::Near, Leg::Far),
            _ => (Leg::Far, Leg::Near),
        };
        let originates = policy.security(tls).tls().is_some_and(|policy| policy.is_client());
        assert_eq!(originates, matches!(role, Role::Server(_)), "the peer has the other role");
        let script = plan.script.clone();
        let peer = if passes { Peer::passed_through(&role, script) } else { Peer::new(&role, script) };
        let wire = Wire { originates, sent: Vec::new(), received: Vec::new(), secrets: peer.secrets() };
        Self {
            tls,
            plain,
            dice: Choices::of(&plan),
            conn: Conn::new(Arc::new(policy)),
            may_offload: true,
            out: Outbox::new(4, now),
            now,
            kernel: Kernel::new(plan.habits),
            peer,
            to_us: VecDeque::new(),
            to_peer: VecDeque::new(),
            wire,
            was_altered: false,
            last_flight: None,
            was_cut: false,
            peer_finished: false,
            peer_reset: false,
            reset_error: None,
            backend_down: false,
            from_backend: VecDeque::new(),
            backend_ends: false,
            received_from_backend: 0,
            to_plain: VecDeque::new(),
            plain_is_open: false,
            plain_finished: false,
            to_backend: Vec::new(),
            authentic: 0,
            peer_said_close: false,
            backend_saw_end: false,
            backend_was_reset: false,
            asked: Asked::default(),
            header: 0,
            tls_ends: false,
            preamble: VecDeque::new(),
            attempts: 0,
            established: None,
            proxied: None,
            events: VecDeque::new(),
            notes: Vec::new(),
            report: None,
            transcript: Transcript::default(),
            plan,
        }
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// If the connection breaks its contract: that is what a world is for.
    #[must_use]
    pub fn run(mut self) -> Outcome {
        self.header_comes();
        if self.policy().far.tls().is_some() {
            self.backend_begins();
        }
        self.step(Event::Opened);
        let mut steps = 0;
        while self.report.is_none() {
            steps += 1;
            assert!(steps < MAX_STEPS, "seed {}: round in circles, {:?}", self.plan.seed, self.asked);
            if let Some((_, mishap)) = self.plan.mishap.filter(|(at, _)| *at == steps) {
                self.befall(mishap);
                continue;
            }
            let moves = self.moves();
            if let Some((_, fingerprints)) =
                self.plan.pinned.take_if(|(at, _)| *at == steps || moves.is_empty())
            {
                self.step(Event::Pinned { leg: self.tls, fingerprints });
                continue;
            }
            if moves.is_empty() && std::mem::take(&mut self.plan.evicted_when_idle) {
                self.step(Event::TurnedAway(Fault::HandshakeTimeout));
            } else if moves.is_empty() {
                self.expire();
            } else {
                let chosen = moves[self.dice.below(moves.len())];
                self.make(chosen);
            }
        }
        self.settle(steps)
    }

    /// The balancer's, in front of everything on the leg that is accepted.
    fn header_comes(&mut self) {
        let header = self.plan.header.take().unwrap_or_default();
        self.header = header.len();
        let near = if self.tls == Leg::Near { &mut self.to_us } else { &mut self.from_backend };
        near.extend(header);
    }

    /// How many of these bytes, which were received of the leg that was accepted, are none of the header.
    pub(super) fn behind_header(&mut self, leg: Leg, count: usize) -> usize {
        let of_header = if leg == Leg::Near { count.min(self.header) } else { 0 };
        self.header -= of_header;
        count - of_header
    }

    /// What can happen now.
    fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        let mut add = |possible: bool, what: Move| {
            if possible {
                moves.push(what);
            }
        };
        let peer_gone = self.peer_reset;
        let peer_listens = self.peer.listens();
        add(!self.to_peer.is_empty() && !peer_gone && peer_listens, Move::PeerReads);
        add(!self.peer_finished && !peer_gone && self.peer.has_something_to_say(), Move::PeerWrites);
        add(self.has_something_to_receive(), Move::TlsReceives);
        let has_room = peer_listens || peer_gone || self.to_peer.len() < SOCKET_BYTES;
        add(self.asked.tls_send.is_some() && has_room, Move::TlsSends);
        add(self.asked.connect.is_some(), Move::Connect);
        let plain_ready = !self.from_backend.is_empty() || self.backend_ends || self.backend_down;
        add(self.asked.plain_receive.is_some() && plain_ready, Move::PlainReceives);
        let unsent = !self.kernel.unsent.is_empty();
        add(unsent && (has_room || self.asked.tls_finished), Move::KernelSends);
        add(self.asked.flush && !unsent, Move::Flushes);
        let takes = self.backend_down || self.to_plain.len() < PLAIN_SOCKET_BYTES;
        add(self.asked.plain_send.is_some() && takes, Move::PlainSends);
        let is_on_its_way = !self.to_plain.is_empty();
        add(is_on_its_way && !self.backend_down && self.backend_room() > 0, Move::PlainArrives);
        add(self.asked.plain_settle && (!is_on_its_way || self.backend_down), Move::Settles(self.plain));
        add(self.asked.tls_settle && !unsent, Move::Settles(self.tls));
        moves
    }

    pub(super) fn policy(&self) -> &Policy {
        self.conn.policy()
    }

    /// How many bytes the backend takes.
    pub(super) fn backend_room(&self) -> usize {
        match self.plan.backend {
            Backend::Stalls(most) => most.saturating_sub(self.to_backend.len()),
            _ => usize::MAX,
        }
    }

    fn has_something_to_receive(&self) -> bool {
        let ended = self.peer_finished || self.peer_reset;
        match &self.asked.tls_receive {
            None => false,
            Some(_) if ended => true,
            Some(_) if self.kernel.has_rx() => self.kernel.would_answer(&self.to_us),
            Some(_) => !self.to_us.is_empty() && !self.awaits_more_to_cut(),
        }
    }

    /// Whether there is less of the last flight, and of what comes with it, than is to be cut off it.
    fn awaits_more_to_cut(&self) -> bool {
        let has_begun = self.last_flight.is_some_and(|bytes| bytes > 0);
        has_begun && self.to_us.len() <= self.plan.cut && self.peer.has_something_to_say()
    }

    fn make(&mut self, chosen: Move) {
        match chosen {
            Move::PeerReads => {
                let bytes = self.some(self.to_peer.len());
                let chunk: Vec<u8> = self.to_peer.drain(..bytes).collect();
                self.peer.read(&chunk);
                self.peer_may_finish();
            }
            Move::PeerWrites => {
                let most = 1 + self.dice.below(40_000);
                let before = self.to_us.len();
                self.peer.write(most, &mut self.to_us);
                let written = self.to_us.len() - before;
                let counts = self.last_flight.is_some() || self.peer.begins_with_its_last_flight();
                let before = self.last_flight.unwrap_or(0);
                self.last_flight = Some(before + if counts { written } else { 0 });
                self.peer_may_finish();
            }
            Move::TlsReceives => self.tls_receives(),
            Move::TlsSends => self.tls_sends(),
            Move::Connect => self.connect(),
            Move::PlainReceives => self.plain_receives(),
            Move::PlainSends => self.plain_sends(),
            Move::PlainArrives => {
                let bytes = self.some(self.to_plain.len());
                self.plain_arrives(bytes);
            }
            Move::KernelSends => self.kernel_sends(),
            Move::Flushes => {
                self.asked.flush = false;
                self.step(Event::Flushed { leg: self.tls });
            }
            Move::Settles(leg) => {
                let Asked { tls_settle, plain_settle, .. } = &mut self.asked;
                *if leg == self.tls { tls_settle } else { plain_settle } = false;
                self.step(Event::Settled { leg });
            }
        }
    }

    /// The peer closes its socket when both sides have said that they end, or when it has said why it
    /// cannot go on. Without TLS its FIN says that it ends, and so does ours.
    pub(super) fn peer_may_finish(&mut self) {
        if self.tls_ends && self.to_peer.is_empty() {
            self.peer.hears_end();
        }
        let said_all = self.peer.is_passed_through() && self.peer.is_silent();
        let both_closed = self.peer.is_silent() && self.peer.saw_close;
        let failed = self.peer.error.is_some() && !self.peer.has_something_to_say();
        self.peer_finished |= both_closed || failed || said_all;
    }

    /// Some of `available` bytes, at least one.
    pub(super) fn some(&mut self, available: usize) -> usize {
        let most = match self.dice.below(4) {
            0 => 1,
            1 => 100,
            2 => 20_000,
            _ => usize::MAX,
        };
        1 + self.dice.below(available.min(most).max(1))
    }

    fn befall(&mut self, mishap: InjectedFault) {
        match mishap {
            InjectedFault::PeerReset if !self.peer_reset => {
                // What has arrived stays (Linux leaves the receive queue), the rest never comes.
                self.peer_reset = true;
                self.reset_error = Some(libc::ECONNRESET);
                let arrived = self.dice.below(self.to_us.len() + 1);
                self.to_us.truncate(arrived);
            }
            InjectedFault::PeerReset => {}
            InjectedFault::PeerFin => self.peer_finished = true,
            InjectedFault::PlainPeerReset => self.backend_down = true,
            InjectedFault::FlippedBit => {
                if let Some(at) = self.to_us.len().checked_sub(1).map(|last| self.dice.below(last + 1)) {
                    self.to_us[at] ^= 1 << self.dice.below(8);
                    self.was_altered |= self.established.is_none();
                }
            }
            InjectedFault::NoMoreOffload => self.may_offload = false,
            InjectedFault::NoMoreKeys(errno) => self.kernel.refuse(errno),
            InjectedFault::NoMoreMemory => self.step(Event::TurnedAway(Fault::BufferMemory)),
            InjectedFault::Evicted => self.step(Event::TurnedAway(Fault::HandshakeTimeout)),
            InjectedFault::Drain => self.step(Event::Drain { until: self.now + Duration::from_secs(1) }),
        }
    }

    /// Nobody moves: time passes until the deadline.
    fn expire(&mut self) {
        let deadline = self.conn.deadline();
        self.now = deadline.unwrap_or_else(|| panic!("seed {}: stuck without a deadline", self.plan.seed));
        self.step(Event::Expired);
    }

    pub(super) fn fail(&mut self, leg: Leg, operation: Operation, errno: i32) {
        self.step(Event::Failed { leg, operation, errno });
    }

    pub(super) fn step(&mut self, event: Event) {
        self.events.push_back(event);
        while let Some(event) = self.events.pop_front() {
            assert!(self.report.is_none(), "seed {}: an event after Close", self.plan.seed);
            self.transcript.event(&event);
            let (now, may_offload) = (self.now, self.may_offload);
            let turn = Turn { now, may_offload, may_begin_full: self.plan.may_begin_full };
            self.conn.step(event, turn, &mut self.out);
            while let Some(action) = self.out.take_first() {
                assert!(self.report.is_none(), "seed {}: {action:?} after Close", self.plan.seed);
                self.transcript.action(&action);
                self.apply(action);
            }
            let lent = self.out.bufs.lent();
            assert!(lent <= MOST_BUFFERS, "seed {}: {lent} buffers for one connection", self.plan.seed);
        }
    }
}
