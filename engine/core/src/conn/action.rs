//! What a connection wants done, as the core tells the shell.

use std::net::SocketAddr;
use std::time::Instant;

use super::alerts::Alerts;
use super::busy::Busy;
use super::event::Leg;
use super::fault::Fault;
use crate::buf::{Buf, Bufs};
use crate::tls::TlsInfo;
pub use crate::tls::evidence::Evidence;
use crate::tls::peek::Asked;
use crate::tls::secrets::{Direction, TrafficKeys};

/// Most actions that one event can cause.
pub const MAX_ACTIONS: usize = 24;

/// What is to be done. On each leg at most one receive and one send are under way at a time.
#[derive(Debug)]
pub enum Action {
    /// A balancer has said who the client is, and where it connected. Answered by `Admitted` or `TurnedAway`.
    Proxied(Box<ProxiedAddresses>),
    /// What the client of a connection asks for whose TLS is passed through. Not answered.
    Asked(Box<Asked>),
    /// A handshake is complete and its peer accepted. Not answered.
    Established {
        /// Where.
        leg: Leg,
        /// What it came to.
        info: Box<TlsInfo>,
    },
    /// Open the far leg to the next endpoint of the route that was not tried; an attempt that is under way is
    /// given up for it. Answered by `Connected` or `Failed`, or at once by `NoEndpoint` if there is none, and
    /// then an attempt that is under way goes on.
    Connect,
    /// Receive the next bytes of a handshake, no more than a small buffer holds. Answered by `Received` or
    /// `Failed`.
    ReceiveHandshake {
        /// Where.
        leg: Leg,
    },
    /// Receive at most `max` bytes into any buffer. Answered by `Received` or `Failed`.
    Receive {
        /// Where.
        leg: Leg,
        /// Bytes.
        max: usize,
    },
    /// Receive at most `max` bytes behind the window of `buf`. Answered by `Received` or `Failed`.
    ReceiveInto {
        /// Where.
        leg: Leg,
        /// Whose window grows.
        buf: Buf,
        /// Bytes.
        max: usize,
    },
    /// Receive one record of any type from a leg whose receive direction the kernel carries. Answered by
    /// `Record` or `Failed`.
    ReceiveRecord {
        /// Where.
        leg: Leg,
        /// Where its payload goes.
        buf: Buf,
    },
    /// Send the whole window. Answered by `Sent` or `Failed`.
    Send {
        /// Where.
        leg: Leg,
        /// What.
        buf: Buf,
    },
    /// Send the whole window as one record on a leg whose transmit direction the kernel carries.
    /// Answered by `Sent` or `Failed`.
    SendRecord {
        /// Where.
        leg: Leg,
        /// RFC 8446 §5.1.
        record_type: u8,
        /// Its payload.
        buf: Buf,
    },
    /// Give the kernel the keys of one direction. Answered by `Keyed` or `Refused`.
    InstallKeys {
        /// Where.
        leg: Leg,
        /// Which.
        direction: Direction,
        /// The keys, at the sequence number of the next record.
        keys: TrafficKeys,
    },
    /// Ask the kernel how many records of a direction that it carries were sealed or opened under its
    /// present key. Answered by `Sequence`.
    ReadSequence {
        /// Where.
        leg: Leg,
        /// Which.
        direction: Direction,
    },
    /// Wait until all that the kernel has sealed is with TCP: it says that it has sent what still waits for
    /// room, and FIN or a close would overtake that. Answered by `Flushed`.
    Flush {
        /// Where.
        leg: Leg,
    },
    /// Wait until the other end's TCP has acknowledged all that was sent: a reset would throw the rest away.
    /// Answered by `Settled`.
    Settle {
        /// Where.
        leg: Leg,
    },
    /// Count what lies in the socket and was not received. Answered by `Unread`.
    CountUnread {
        /// Where.
        leg: Leg,
    },
    /// Send FIN behind what was sent. Not answered.
    ShutdownWrite {
        /// Where.
        leg: Leg,
    },
    /// Close a leg, now. Not answered; what was under way on it is not answered either.
    Release {
        /// Which.
        leg: Leg,
        /// With RST rather than FIN.
        reset: bool,
    },
    /// Something to be counted.
    Note(Milestone),
    /// It is over: close what is open, free the slot. The last action.
    Close(Report),
}

/// What a PROXY header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxiedAddresses {
    /// Who connected.
    pub client: SocketAddr,
    /// To which address.
    pub local: SocketAddr,
}

/// What is worth counting on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Milestone {
    /// It is settled who carries the records of a direction.
    RecordPath {
        /// Where.
        leg: Leg,
        /// Which.
        direction: Direction,
        /// By whom they are sealed or opened.
        path: RecordPath,
    },
    /// Records of the peer's that are not application data.
    Received {
        /// Of which kind.
        kind: ControlKind,
        /// How many, at least one.
        count: u32,
    },
    /// We changed our keys (RFC 8446 §4.6.3).
    KeyUpdateSent,
}

/// A kind of record other than application data, as far as the relay tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlKind {
    /// The alert close_notify.
    CloseNotify,
    /// Any other alert.
    Alert,
    /// KeyUpdate (RFC 8446 §4.6.3).
    KeyUpdate,
    /// A ClientHello or HelloRequest of TLS 1.2: an attempt to renegotiate.
    Renegotiation,
    /// NewSessionTicket (RFC 8446 §4.6.1), in the client's role.
    Tickets,
    /// What does not belong here.
    Unexpected,
}

impl ControlKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::CloseNotify,
        Self::Alert,
        Self::KeyUpdate,
        Self::Renegotiation,
        Self::Tickets,
        Self::Unexpected,
    ];
}

/// Who carries the records of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordPath {
    /// The kernel.
    Kernel,
    /// Userspace, as it was to be.
    Userspace,
    /// Userspace, because the kernel refused the keys.
    Fallback {
        /// errno(3).
        errno: i32,
    },
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What went wrong, if anything did.
    pub fault: Option<Fault>,
    /// The leg that the fault is of; none if it is of neither.
    pub culprit: Option<Leg>,
    /// The description of the fatal alert that the peer sent, if that is what it was.
    pub heard: Option<u8>,
    /// What was offending, as far as it is known.
    pub evidence: Option<Box<Evidence>>,
}

/// The actions of one event, in order, and the free list that buffers come from and go back to.
#[derive(Debug)]
pub struct Outbox {
    actions: Vec<Action>,
    /// The receives and sends among the actions, until the connection has noted them.
    pub(super) begun: Busy,
    /// The free list.
    pub bufs: Bufs,
    /// Bytes of plaintext that came from the near leg, and from the far leg, since the shell last took them.
    pub received: [u64; 2],
    /// Alerts since the shell last took them.
    pub alerts: Alerts,
    /// The time of the event.
    pub(super) now: Instant,
    /// Whether the kernel may be given further directions.
    pub(super) may_offload: bool,
    /// Whether a full handshake may be begun as a server.
    pub(super) may_begin_full: bool,
    /// How many were, since the shell last took them.
    pub full_begun: u32,
}

impl Outbox {
    /// An empty one that keeps at most `keep` free buffers. The first event brings its own time.
    #[must_use]
    pub fn new(keep: usize, now: Instant) -> Self {
        Self {
            actions: Vec::with_capacity(MAX_ACTIONS),
            begun: Busy::default(),
            bufs: Bufs::new(keep),
            received: [0; 2],
            alerts: Alerts::default(),
            now,
            may_offload: true,
            may_begin_full: true,
            full_begun: 0,
        }
    }

    /// Takes the actions out, in order.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Action> {
        self.actions.drain(..)
    }

    /// Takes the first action out, if there is one.
    pub fn take_first(&mut self) -> Option<Action> {
        (!self.actions.is_empty()).then(|| self.actions.remove(0))
    }

    /// Plaintext came from a leg.
    pub(super) fn count(&mut self, leg: Leg, bytes: usize) {
        self.received[leg as usize] += bytes as u64;
    }

    /// Inlined: the kind of an action is known where it is made.
    #[inline]
    pub(super) fn push(&mut self, action: Action) {
        match &action {
            Action::Receive { leg, .. }
            | Action::ReceiveInto { leg, .. }
            | Action::ReceiveHandshake { leg }
            | Action::ReceiveRecord { leg, .. } => self.begun.receive(*leg),
            Action::Send { leg, .. } | Action::SendRecord { leg, .. } => self.begun.send(*leg),
            _ => {}
        }
        // By the capacity, so that the compiler sees that the vector never grows.
        let has_room = self.actions.len() < self.actions.capacity();
        assert!(has_room, "one event causes no more actions than the outbox holds");
        self.actions.push(action);
    }
}
