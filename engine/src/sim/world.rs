//! The world: what is on the wire, what the connection asked for, and the dice that decide what happens next.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::Client;
use super::dice::Dice;
use super::kernel::{Kernel, Received};
use super::plan::{Backend, Mishap, Outcome, Plan};
use crate::buf::{BUF_BYTES, Buf};
use crate::conn::action::{Milestone, Outbox, Report};
use crate::conn::carrier::{Offer, Suites};
use crate::conn::event::{Event, Leg, Operation};
use crate::conn::{Conn, Rules};

/// More steps than any world takes: past it the connection is going round in circles.
const MAX_STEPS: usize = 200_000;

/// What a socket holds for a client that does not read.
const SOCKET_BYTES: usize = 50_000;

/// Buffers that one connection may hold: two a direction, the front of a record, and a last one.
const MOST_BUFFERS: usize = 6;

/// A world in progress.
pub struct World {
    pub(super) plan: Plan,
    pub(super) dice: Dice,
    pub(super) conn: Conn,
    pub(super) rules: Rules,
    pub(super) out: Outbox,
    pub(super) now: Instant,
    pub(super) kernel: Kernel,
    pub(super) client: Client,
    pub(super) to_server: VecDeque<u8>,
    pub(super) to_client: VecDeque<u8>,
    pub(super) server_wire: Vec<u8>,
    /// Bytes that the client has sent behind its first flight; `None` before that.
    pub(super) behind_hello: Option<usize>,
    pub(super) was_cut: bool,
    pub(super) client_finished: bool,
    pub(super) client_reset: bool,
    pub(super) backend_down: bool,
    pub(super) from_backend: VecDeque<u8>,
    pub(super) backend_ends: bool,
    pub(super) received_from_backend: usize,
    pub(super) to_backend: Vec<u8>,
    pub(super) backend_saw_end: bool,
    pub(super) backend_was_reset: bool,
    pub(super) asked: Asked,
    pub(super) events: VecDeque<Event>,
    pub(super) notes: Vec<Milestone>,
    pub(super) report: Option<Report>,
}

/// What the connection asked for and has no answer to yet.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) connect: bool,
    pub(super) tls_receive: Option<Want>,
    pub(super) plain_receive: Option<usize>,
    pub(super) tls_send: Option<(Buf, Option<u8>)>,
    pub(super) plain_send: Option<Buf>,
    pub(super) plain_released: bool,
    pub(super) tls_finished: bool,
    pub(super) flush: bool,
}

#[derive(Debug)]
pub(super) enum Want {
    Any(usize),
    Into(Buf, usize),
    Record(Buf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    ClientReads,
    ClientWrites,
    ServerReceives,
    ServerSends,
    Connect,
    PlainReceives,
    PlainSends,
    KernelSends,
    Flushes,
}

impl World {
    /// Sets the world up.
    #[must_use]
    pub fn new(plan: Plan, rules: Rules, client: Arc<rustls::ClientConfig>, now: Instant) -> Self {
        Self {
            dice: Dice::of(&plan),
            conn: Conn::new(),
            rules,
            out: Outbox::new(4),
            now,
            kernel: Kernel::new(plan.habits),
            client: Client::new(client, plan.script.clone()),
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            server_wire: Vec::new(),
            behind_hello: None,
            was_cut: false,
            client_finished: false,
            client_reset: false,
            backend_down: false,
            from_backend: VecDeque::new(),
            backend_ends: false,
            received_from_backend: 0,
            to_backend: Vec::new(),
            backend_saw_end: false,
            backend_was_reset: false,
            asked: Asked::default(),
            events: VecDeque::new(),
            notes: Vec::new(),
            report: None,
            plan,
        }
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// If the connection breaks its contract: that is what a world is for.
    #[must_use]
    pub fn run(mut self) -> Outcome {
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
            if moves.is_empty() {
                self.expire();
            } else {
                let chosen = moves[self.dice.below(moves.len())];
                self.make(chosen);
            }
        }
        self.settle(steps)
    }

    /// What can happen now.
    fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        let mut add = |possible: bool, what: Move| {
            if possible {
                moves.push(what);
            }
        };
        let client_gone = self.client_reset;
        let client_listens = self.client.listens();
        add(!self.to_client.is_empty() && !client_gone && client_listens, Move::ClientReads);
        add(!self.client_finished && !client_gone && self.client.has_something_to_say(), Move::ClientWrites);
        add(self.has_something_to_receive(), Move::ServerReceives);
        let has_room = client_listens || client_gone || self.to_client.len() < SOCKET_BYTES;
        add(self.asked.tls_send.is_some() && has_room, Move::ServerSends);
        add(self.asked.connect, Move::Connect);
        let plain_ready = !self.from_backend.is_empty() || self.backend_ends || self.backend_down;
        add(self.asked.plain_receive.is_some() && plain_ready, Move::PlainReceives);
        let unsent = !self.kernel.unsent.is_empty();
        add(unsent && (has_room || self.asked.tls_finished), Move::KernelSends);
        add(self.asked.flush && !unsent, Move::Flushes);
        let takes = self.backend_down || self.backend_room() > 0;
        add(self.asked.plain_send.is_some() && takes, Move::PlainSends);
        moves
    }

    /// How many bytes the backend takes.
    fn backend_room(&self) -> usize {
        match self.plan.backend {
            Backend::Stalls(most) => most.saturating_sub(self.to_backend.len()),
            _ => usize::MAX,
        }
    }

    fn has_something_to_receive(&self) -> bool {
        let ended = self.client_finished || self.client_reset;
        match &self.asked.tls_receive {
            None => false,
            Some(_) if ended => true,
            Some(_) if self.kernel.has_rx() => self.kernel.would_answer(&self.to_server),
            Some(_) => !self.to_server.is_empty() && !self.awaits_more_to_cut(),
        }
    }

    /// Whether there is less of the last flight, and of what comes with it, than is to be cut off it.
    fn awaits_more_to_cut(&self) -> bool {
        let is_behind = self.behind_hello.is_some_and(|bytes| bytes > 0);
        is_behind && self.to_server.len() <= self.plan.cut && self.client.has_something_to_say()
    }

    fn make(&mut self, chosen: Move) {
        match chosen {
            Move::ClientReads => {
                let bytes = self.some(self.to_client.len());
                let chunk: Vec<u8> = self.to_client.drain(..bytes).collect();
                self.client.read(&chunk);
                self.client_may_finish();
            }
            Move::ClientWrites => {
                let most = 1 + self.dice.below(40_000);
                let before = self.to_server.len();
                self.client.write(most, &mut self.to_server);
                let written = self.to_server.len() - before;
                self.behind_hello = Some(self.behind_hello.map_or(0, |bytes| bytes + written));
                self.client_may_finish();
            }
            Move::ServerReceives => self.server_receives(),
            Move::ServerSends => self.server_sends(),
            Move::Connect => self.connect(),
            Move::PlainReceives => self.plain_receives(),
            Move::PlainSends => self.plain_sends(),
            Move::KernelSends => self.kernel_sends(),
            Move::Flushes => {
                self.asked.flush = false;
                self.step(Event::Flushed);
            }
        }
    }

    /// The client closes its socket when both sides have said that they end, or when it has said why it
    /// cannot go on.
    fn client_may_finish(&mut self) {
        let both_closed = self.client.is_silent() && self.client.saw_close;
        let failed = self.client.error.is_some() && !self.client.has_something_to_say();
        self.client_finished |= both_closed || failed;
    }

    /// Some of `available` bytes, at least one.
    fn some(&mut self, available: usize) -> usize {
        let most = match self.dice.below(4) {
            0 => 1,
            1 => 100,
            2 => 20_000,
            _ => usize::MAX,
        };
        1 + self.dice.below(available.min(most).max(1))
    }

    fn connect(&mut self) {
        self.asked.connect = false;
        match self.plan.backend.clone() {
            Backend::Refuses(errno) => return self.fail(Leg::Plain, Operation::Connect, errno),
            Backend::Greets(greeting) => self.from_backend.extend(greeting),
            Backend::AnswersAndCloses(answer) => {
                self.from_backend.extend(answer);
                self.backend_ends = true;
            }
            Backend::Echo | Backend::ResetsAfter(_) | Backend::Silent | Backend::Stalls(_) => {}
        }
        self.step(Event::Connected);
    }

    fn server_receives(&mut self) {
        let Some(want) = self.asked.tls_receive.take() else { return };
        if self.client_reset {
            self.give_back(want);
            return self.fail(Leg::Tls, Operation::Receive, libc::ECONNRESET);
        }
        if self.kernel.has_rx() {
            return self.kernel_receives(want);
        }
        let (mut buf, max) = match want {
            Want::Any(max) => (self.out.bufs.take(), max),
            Want::Into(buf, max) => (buf, max),
            Want::Record(_) => panic!("a record is asked for without keys in the kernel"),
        };
        let mut count = self.to_server.len().min(max);
        if count > 0 {
            count = match std::mem::take(&mut self.plan.cut) {
                0 => self.some(count).min(count),
                // The first flight goes as the dice have it.
                cut if self.behind_hello == Some(0) => {
                    self.plan.cut = cut;
                    self.some(count).min(count)
                }
                // It may come in parts, as the client's answer to parts of the server's flight.
                cut => {
                    let count = count.min(cut);
                    self.plan.cut = cut - count;
                    self.was_cut = self.plan.cut == 0;
                    count
                }
            };
            let chunk: Vec<u8> = self.to_server.drain(..count).collect();
            assert_eq!(buf.extend(&chunk), count, "the buffer has room for what was asked for");
        }
        self.step(Event::Received { leg: Leg::Tls, buf, count });
    }

    fn kernel_receives(&mut self, want: Want) {
        let (max, with_record_type) = match &want {
            Want::Any(max) | Want::Into(_, max) => (*max, false),
            Want::Record(_) => (BUF_BYTES, true),
        };
        let max = self.some(max).min(max);
        match self.kernel.receive(&mut self.to_server, max, with_record_type) {
            // Records were opened and there is nothing to be told: it goes on waiting.
            Received::Nothing if !self.client_finished => self.asked.tls_receive = Some(want),
            Received::Nothing => self.kernel_received(want, &[], with_record_type.then_some(None)),
            Received::Data(bytes) => self.kernel_received(want, &bytes, with_record_type.then_some(Some(23))),
            Received::Record(record_type, bytes) => {
                self.kernel_received(want, &bytes, Some(Some(record_type)));
            }
            Received::Error(errno) => {
                self.give_back(want);
                self.fail(Leg::Tls, Operation::Receive, errno);
            }
        }
    }

    /// `record_type` is what the kernel says of the type, if it was asked.
    fn kernel_received(&mut self, want: Want, bytes: &[u8], record_type: Option<Option<u8>>) {
        let mut buf = match want {
            Want::Any(_) => self.out.bufs.take(),
            Want::Into(buf, _) | Want::Record(buf) => buf,
        };
        let count = buf.extend(bytes);
        assert_eq!(count, bytes.len(), "the buffer has room");
        match record_type {
            None => self.step(Event::Received { leg: Leg::Tls, buf, count }),
            Some(record_type) => self.step(Event::Record { record_type, buf }),
        }
    }

    fn server_sends(&mut self) {
        let Some((mut buf, record_type)) = self.asked.tls_send.take() else { return };
        if self.client_reset {
            self.out.bufs.give(buf);
            return self.fail(Leg::Tls, Operation::Send, libc::EPIPE);
        }
        // The kernel takes a whole small record or none of it; application data it may take in part.
        let count = if record_type.is_some() { buf.len() } else { self.some(buf.len()).min(buf.len()) };
        let bytes = buf.filled()[..count].to_vec();
        let on_wire = match (self.kernel.has_tx(), record_type) {
            (false, None) => bytes,
            (false, Some(_)) => panic!("a record is sent without keys in the kernel"),
            (true, Some(record_type)) => self.kernel.seal(record_type, &bytes),
            (true, None) => bytes.chunks(16_384).flat_map(|chunk| self.kernel.seal(23, chunk)).collect(),
        };
        if self.kernel.has_tx() {
            self.kernel.unsent.extend(&on_wire);
            if self.dice.below(2) > 0 {
                self.kernel_sends();
            }
        } else {
            self.to_client.extend(&on_wire);
            self.server_wire.extend(&on_wire);
        }
        buf.consume(count);
        if buf.is_empty() {
            self.step(Event::Sent { leg: Leg::Tls, buf });
        } else {
            self.asked.tls_send = Some((buf, record_type));
            self.step(Event::Moved { leg: Leg::Tls });
        }
    }

    /// What the kernel has sealed goes to TCP, which takes nothing behind FIN.
    fn kernel_sends(&mut self) {
        let sealed = std::mem::take(&mut self.kernel.unsent);
        if !self.asked.tls_finished && !self.client_reset {
            self.to_client.extend(&sealed);
            self.server_wire.extend(&sealed);
        }
    }

    fn plain_receives(&mut self) {
        let Some(max) = self.asked.plain_receive.take() else { return };
        if self.backend_down {
            return self.fail(Leg::Plain, Operation::Receive, libc::ECONNRESET);
        }
        let mut buf = self.out.bufs.take();
        let mut count = self.from_backend.len().min(max);
        if count > 0 {
            count = self.some(count).min(count);
            let chunk: Vec<u8> = self.from_backend.drain(..count).collect();
            buf.extend(&chunk);
            self.received_from_backend += count;
        }
        self.step(Event::Received { leg: Leg::Plain, buf, count });
    }

    fn plain_sends(&mut self) {
        let Some(mut buf) = self.asked.plain_send.take() else { return };
        if self.backend_down {
            self.out.bufs.give(buf);
            return self.fail(Leg::Plain, Operation::Send, libc::EPIPE);
        }
        let count = self.some(buf.len()).min(buf.len()).min(self.backend_room());
        let bytes = buf.filled()[..count].to_vec();
        self.to_backend.extend(&bytes);
        match self.plan.backend {
            Backend::Echo | Backend::Greets(_) => self.from_backend.extend(&bytes),
            Backend::ResetsAfter(limit) if self.to_backend.len() >= limit => self.backend_down = true,
            _ => {}
        }
        buf.consume(count);
        if buf.is_empty() {
            self.step(Event::Sent { leg: Leg::Plain, buf });
        } else {
            self.asked.plain_send = Some(buf);
            self.step(Event::Moved { leg: Leg::Plain });
        }
    }

    fn befall(&mut self, mishap: Mishap) {
        match mishap {
            Mishap::ClientReset => self.client_reset = true,
            Mishap::ClientFin => self.client_finished = true,
            Mishap::BackendReset => self.backend_down = true,
            Mishap::FlippedBit => {
                if let Some(at) = self.to_server.len().checked_sub(1).map(|last| self.dice.below(last + 1)) {
                    self.to_server[at] ^= 1 << self.dice.below(8);
                }
            }
            Mishap::NoMoreOffload => {
                self.rules.offer = Offer { tx: Suites::NONE, rx: Suites::NONE, ..self.rules.offer };
            }
            Mishap::NoMoreKeys(errno) => self.kernel.refuse(errno),
            Mishap::Drain => self.step(Event::Drain { until: self.now + Duration::from_secs(1) }),
        }
    }

    /// Nobody moves: time passes until the deadline.
    fn expire(&mut self) {
        let deadline = self.conn.deadline();
        self.now = deadline.unwrap_or_else(|| panic!("seed {}: stuck without a deadline", self.plan.seed));
        self.step(Event::Expired);
    }

    fn fail(&mut self, leg: Leg, operation: Operation, errno: i32) {
        self.step(Event::Failed { leg, operation, errno });
    }

    fn step(&mut self, event: Event) {
        self.events.push_back(event);
        while let Some(event) = self.events.pop_front() {
            assert!(self.report.is_none(), "seed {}: an event after Close", self.plan.seed);
            self.conn.step(event, self.now, &self.rules, &mut self.out);
            while let Some(action) = self.out.take_first() {
                assert!(self.report.is_none(), "seed {}: {action:?} after Close", self.plan.seed);
                self.apply(action);
            }
            let lent = self.out.bufs.lent();
            assert!(lent <= MOST_BUFFERS, "seed {}: {lent} buffers for one connection", self.plan.seed);
        }
    }
}
