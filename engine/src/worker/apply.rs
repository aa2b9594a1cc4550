//! An action of a connection, as the operation that carries it out.

use std::os::fd::AsFd;
use std::time::Instant;

use super::connection_log;
use super::faults::Circumstances;
use super::owner::{Ring, SlotId};
use super::slots::{Slot, Slots};
use super::timers::Timers;
use crate::conn::action::{Action, ControlKind, Milestone, ProxiedAddresses, RecordPath, Report};
use crate::conn::event::{Event, Leg, Operation};
use crate::conn::fault::Fault;
use crate::limit::{Limits, SourceRefusal};
use crate::metrics::Counter;
use crate::sys::errno;
use crate::sys::ktls::{self, Material};
use crate::sys::socket;
use crate::sys::tcp;
use crate::tls::TlsInfo;
use crate::tls::secrets::{Direction, TrafficKeys, Version};

/// What carrying out actions needs beside the slot.
pub(super) struct Executor<'a> {
    pub(super) slots: &'a mut Slots,
    pub(super) ring: &'a mut Ring,
    pub(super) timers: &'a mut Timers,
    pub(super) limits: &'a Limits,
    /// The worker's index.
    pub(super) worker: usize,
    pub(super) now: Instant,
}

/// What comes of an action at once.
pub(super) enum Applied {
    /// Nothing: an event will follow, or none is due.
    Started,
    /// This event.
    Event(Event),
    /// The connection is over.
    Closed(Report),
}

impl Executor<'_> {
    /// Carries out one action of the connection in a slot.
    pub(super) fn apply(&mut self, id: SlotId, action: Action) -> Applied {
        match action {
            Action::Proxied(addresses) => return self.proxied(id, *addresses),
            Action::Asked(asked) => {
                if let Some(about) = self.slots.get(id).and_then(|slot| slot.about.as_mut()) {
                    about.asked = Some(asked);
                }
            }
            Action::Established { leg, info } => self.established(id, leg, info),
            Action::Connect => return self.connect(id),
            Action::InstallKeys { leg, direction, keys } => return self.install(id, leg, direction, &keys),
            Action::Flush { leg } => return self.flush(id, leg),
            Action::Settle { leg } => return self.settle(id, leg),
            Action::CountUnread { leg } => {
                let socket = self.slots.get(id).and_then(|slot| slot.leg(leg).socket());
                let bytes = socket.map_or(0, |socket| tcp::unread_bytes(socket).unwrap_or(0));
                return Applied::Event(Event::Unread { leg, bytes });
            }
            Action::ReadSequence { leg, direction } => return self.read_sequence(id, leg, direction),
            Action::Release { leg, reset } => {
                self.remember_client(id, leg);
                self.release(id, leg, reset);
            }
            Action::Note(milestone) => self.note(id, milestone),
            Action::Close(report) => {
                Leg::BOTH.into_iter().for_each(|leg| self.release(id, leg, false));
                if let Some(mut slot) = self.slots.remove(id) {
                    let far = slot.conn.policy().security(Leg::Far).tls();
                    let is_named_by_client = far.is_some_and(|tls| tls.forwards_server_name());
                    slot.target.ended(&slot.route, &report, is_named_by_client, self.worker);
                    slot.route.connections.leave(self.worker);
                    slot.route.counters.closed(report.fault, slot.phase.lasted(self.now));
                    slot.source.into_iter().for_each(|source| self.limits.leave(source));
                }
                return Applied::Closed(report);
            }
            Action::ShutdownWrite { leg } => {
                if let Some(socket) = self.slots.get(id).and_then(|slot| slot.leg(leg).socket()) {
                    // ENOTCONN: the peer has reset the connection, which the next operation on it will tell.
                    let _ = socket::shutdown_write(socket);
                }
            }
            Action::Receive { leg, .. }
            | Action::ReceiveHandshake { leg }
            | Action::ReceiveInto { leg, .. }
            | Action::ReceiveRecord { leg, .. }
            | Action::Send { leg, .. }
            | Action::SendRecord { leg, .. } => {
                if let Some(slot) = self.slots.get(id) {
                    slot.leg(leg).start(action, id, Some(self.now), self.ring);
                }
            }
        }
        Applied::Started
    }

    /// Opens the far leg.
    fn connect(&mut self, id: SlotId) -> Applied {
        let Some(slot) = self.slots.get(id) else { return Applied::Started };
        let now = self.now;
        if let Some(timeline) = slot.timeline() {
            timeline.routed.get_or_insert(now);
        }
        let Slot { route, target, about, far, phase, .. } = slot;
        let Some(endpoint) = target.next(route, about.as_deref(), self.worker, self.now) else {
            return Applied::Event(Event::NoEndpoint);
        };
        phase.connecting(now);
        match far.connect(endpoint, route, id, self.ring) {
            Ok(()) => Applied::Started,
            Err(e) => {
                if errno::is_ours(&e) {
                    target.spare();
                } else {
                    target.failed(route);
                }
                let errno = e.raw_os_error().unwrap_or(libc::EIO);
                Applied::Event(Event::Failed { leg: Leg::Far, operation: Operation::Connect, errno })
            }
        }
    }

    /// A balancer has said who the client is: from here on that is the source.
    fn proxied(&mut self, id: SlotId, addresses: ProxiedAddresses) -> Applied {
        let Some(slot) = self.slots.get(id) else { return Applied::Started };
        if let Some(about) = &mut slot.about {
            about.proxied(addresses);
        }
        if self.limits.counts_sources() {
            match self.limits.enter(addresses.client.ip(), self.now) {
                Ok(source) => slot.source = Some(source),
                Err(refusal) => return Applied::Event(Event::TurnedAway(refused(refusal))),
            }
        }
        Applied::Event(Event::Admitted)
    }

    /// The line of a connection that is over.
    pub(super) fn log(&mut self, id: SlotId, report: &Report, unlogged: &mut u64) {
        let Some(slot) = self.slots.get(id) else { return };
        if slot.timeline().is_none() {
            return;
        }
        if self.limits.may_log(self.now) {
            connection_log::write(slot, report, self.now, self.worker, std::mem::take(unlogged));
        } else {
            *unlogged += 1;
        }
    }

    /// A handshake is complete; that of the far leg shows that the endpoint serves.
    fn established(&mut self, id: SlotId, leg: Leg, info: Box<TlsInfo>) {
        let Some(slot) = self.slots.get(id) else { return };
        slot.route.counters.handshake(leg, &info, slot.phase.secured(leg, self.now));
        if leg == Leg::Far {
            slot.target.succeeded(&slot.route);
        }
        if let Some(about) = &mut slot.about {
            about.established(leg, info);
        }
    }

    /// The upper-layer protocol is attached with the first keys; a second time it is there already (EEXIST).
    fn install(&mut self, id: SlotId, leg: Leg, direction: Direction, keys: &TrafficKeys) -> Applied {
        let Some(slot) = self.slots.get(id) else { return Applied::Started };
        let expect_no_pad = slot.conn.policy().expect_no_pad;
        let leg_socket = slot.leg(leg);
        let sealing = std::mem::take(&mut leg_socket.sealing);
        let Some(socket) = leg_socket.socket() else { return Applied::Started };
        let added = sealing.added_under_key(socket);
        let iv = zeroize::Zeroizing::new(keys.kernel_iv(direction));
        let material =
            Material { cipher: keys.cipher(), key: keys.key(), iv: &iv, sequence: keys.sequence() };
        let attached = match ktls::attach(socket) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other,
        };
        let event = match attached.and_then(|()| ktls::install(socket, direction, &material)) {
            Ok(()) => {
                leg_socket.hintless |= direction == Direction::Rx;
                leg_socket.drained &= !leg_socket.hintless;
                if expect_no_pad && direction == Direction::Rx && keys.version() == Version::Tls13 {
                    // A kernel that does not know it opens records as ever.
                    let _ = leg_socket.socket().map(ktls::expect_no_pad);
                }
                Event::Keyed { leg, direction }
            }
            Err(e) => Event::Refused { leg, direction, errno: e.raw_os_error().unwrap_or(libc::EIO) },
        };
        leg_socket.sealing = sealing;
        if matches!(event, Event::Keyed { direction: Direction::Tx, .. }) {
            leg_socket.sealing.begin(&material, added);
        }
        Applied::Event(event)
    }

    fn read_sequence(&mut self, id: SlotId, leg: Leg, direction: Direction) -> Applied {
        let Some(slot) = self.slots.get(id) else { return Applied::Started };
        let Some(socket) = slot.leg(leg).socket() else { return Applied::Started };
        let sequence = ktls::sequence(socket, direction).ok();
        Applied::Event(Event::Sequence { leg, direction, sequence })
    }

    fn release(&mut self, id: SlotId, leg: Leg, reset: bool) {
        let Some(slot) = self.slots.get(id) else { return };
        let leg_socket = slot.leg(leg);
        let Some(descriptor) = leg_socket.close(self.ring) else { return };
        if reset {
            // A Unix socket has no reset; its peer reads end of file.
            let _ = socket::abort_on_close(descriptor.as_fd());
        }
        self.ring.close(descriptor);
    }

    /// A leg that is released before the connection is over is one of a fault: in the client's role the
    /// accepted one, and then nobody could say any more who that was.
    fn remember_client(&mut self, id: SlotId, leg: Leg) {
        let Some(slot) = self.slots.get(id) else { return };
        if leg == Leg::Near && slot.client.is_none() {
            slot.client =
                slot.leg(leg).socket().and_then(|socket| socket::peer_addr(socket).ok()).map(Box::new);
        }
    }

    /// Who and what a connection was, of which `action` is the last.
    pub(super) fn circumstances(&mut self, id: SlotId, action: &Action) -> Circumstances {
        let Action::Close(report) = action else { return Circumstances::default() };
        let Some(slot) = self.slots.get(id) else { return Circumstances::of(report) };
        let known = slot.about.as_ref().and_then(|about| about.client);
        let remembered = known.or(slot.client.as_deref().copied());
        let accepted = slot.leg(Leg::Near).socket();
        let client = remembered.or_else(|| accepted.and_then(|socket| socket::peer_addr(socket).ok()));
        let backend = slot.target.endpoint(&slot.route).map(|endpoint| endpoint.address.clone());
        Circumstances {
            client,
            listener: Some(slot.route.listen.clone()),
            backend,
            ..Circumstances::of(report)
        }
    }

    fn note(&mut self, id: SlotId, milestone: Milestone) {
        let Some(slot) = self.slots.get(id) else { return };
        let (counter, count) = match milestone {
            Milestone::KeyUpdateSent => (Counter::KeyUpdatesSent, 1),
            Milestone::Received { kind, count } => (control_counter(kind), u64::from(count)),
            Milestone::RecordPath { leg, direction, path } => {
                if let Some(timeline) = slot.timeline() {
                    timeline.takes_path(leg, direction, path);
                }
                if let RecordPath::Fallback { errno } = path {
                    slot.route.counters.add(refusal_counter(direction, errno), 1);
                }
                (path_counter(direction, path), 1)
            }
        };
        slot.route.counters.add(counter, count);
    }
}

fn path_counter(direction: Direction, path: RecordPath) -> Counter {
    match (direction, path) {
        (Direction::Tx, RecordPath::Kernel) => Counter::OffloadedTx,
        (Direction::Rx, RecordPath::Kernel) => Counter::OffloadedRx,
        (Direction::Tx, RecordPath::Userspace) => Counter::UserspaceTx,
        (Direction::Rx, RecordPath::Userspace) => Counter::UserspaceRx,
        (Direction::Tx, RecordPath::Fallback { .. }) => Counter::FellBackTx,
        (Direction::Rx, RecordPath::Fallback { .. }) => Counter::FellBackRx,
    }
}

/// The fault of a connection that its source may not open.
pub(super) fn refused(refusal: SourceRefusal) -> Fault {
    match refusal {
        SourceRefusal::Connections => Fault::SourceConnections,
        SourceRefusal::Rate => Fault::SourceRate,
    }
}

fn refusal_counter(direction: Direction, errno: i32) -> Counter {
    use Counter as C;
    let (tx, rx) = match errno {
        libc::ENOTCONN => (C::RefusedTxEnotconn, C::RefusedRxEnotconn),
        libc::ENOMEM => (C::RefusedTxEnomem, C::RefusedRxEnomem),
        libc::EBUSY => (C::RefusedTxEbusy, C::RefusedRxEbusy),
        libc::ENOENT => (C::RefusedTxEnoent, C::RefusedRxEnoent),
        _ => (C::RefusedTxOther, C::RefusedRxOther),
    };
    match direction {
        Direction::Tx => tx,
        Direction::Rx => rx,
    }
}

fn control_counter(kind: ControlKind) -> Counter {
    match kind {
        ControlKind::CloseNotify => Counter::ControlCloseNotify,
        ControlKind::Alert => Counter::ControlAlert,
        ControlKind::KeyUpdate => Counter::ControlKeyUpdate,
        ControlKind::Renegotiation => Counter::ControlRenegotiation,
        ControlKind::Tickets => Counter::ControlTickets,
        ControlKind::Unexpected => Counter::ControlUnexpected,
    }
}
