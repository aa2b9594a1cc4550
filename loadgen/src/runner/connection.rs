//! One connection: where it is, since when, and what is in flight on it.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use offramp_ring::socket;
use rustls::HandshakeKind;

use crate::failure::Moment;
use crate::plan::Version;
use crate::profiles::Choice;
use crate::session::Session;
use crate::task::Task;
use crate::tickets::Offered;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Connecting,
    Handshaking,
    Talking,
    /// close_notify is on its way, or, if `said`, also FIN; the peer's end is waited for.
    Closing {
        said: bool,
    },
    /// What is in flight is waited for; then the next connection takes the place.
    Ended,
}

/// What a connection was to be.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    /// What it speaks.
    pub(super) choice: Choice,
    /// The ticket that it offered.
    pub(super) offered: Option<Offered>,
    /// Whether that came from an earlier target.
    pub(super) foreign: bool,
    /// It only fetches a ticket, and is no sample.
    pub(super) fetches: bool,
    /// It is a sample, with all its parts: it begins while it counts.
    pub(super) counts: bool,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: OwnedFd,
    pub(super) session: Session,
    pub(super) task: Task,
    pub(super) wish: Wish,
    pub(super) stage: Stage,
    pub(super) times: Times,
    /// A send, or the connect, is in flight.
    pub(super) sending: bool,
    pub(super) receiving: bool,
    /// The conversation rests until a timer.
    pub(super) sleeps: bool,
    /// Something came after the handshake was done.
    pub(super) confirmed: bool,
}

/// When what happened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) planned: Instant,
    pub(super) started: Instant,
    pub(super) connected: Option<Instant>,
    pub(super) ready: Option<Instant>,
    pub(super) first_byte: Option<Instant>,
    pub(super) closing: Option<Instant>,
    /// Since when the present part takes.
    pub(super) since: Instant,
}

impl Wish {
    /// What became of the ticket that was offered.
    pub(super) fn judge_ticket(&self, kind: HandshakeKind) {
        let Choice { tickets, name, .. } = &self.choice;
        if let Some(ticket) = self.offered.filter(|_| kind != HandshakeKind::Resumed) {
            tickets.refused(name, ticket);
        }
    }

    /// The connection failed, and its ticket may be lost: a TLS 1.3 ticket serves once, and one of TLS 1.2
    /// may be why.
    pub(super) fn lose_ticket(&self) {
        let Choice { tickets, name, .. } = &self.choice;
        if let Some(ticket) = self.offered {
            tickets.refused(name, ticket);
        }
        if self.fetches || self.offered.is_some() {
            tickets.fetch_lost(name);
        }
    }
}

impl Times {
    pub(super) fn new(planned: Instant, started: Instant) -> Self {
        Self {
            planned,
            started,
            connected: None,
            ready: None,
            first_byte: None,
            closing: None,
            since: started,
        }
    }
}

impl Connection {
    /// What it is at.
    pub(super) fn moment(&self) -> Moment {
        match self.stage {
            Stage::Connecting => Moment::Connect,
            Stage::Handshaking => Moment::Handshake,
            Stage::Talking if self.times.first_byte.is_none() => Moment::FirstByte,
            Stage::Talking => Moment::Data,
            Stage::Closing { .. } | Stage::Ended => Moment::Close,
        }
    }

    /// Whether the connect to `port` that has succeeded reached its own socket. Then its close is a reset,
    /// which leaves no TIME_WAIT on a port that the target wants.
    pub(super) fn reached_itself(&self, port: Option<u16>) -> bool {
        let socket = self.socket.as_fd();
        let itself = port.is_some_and(|port| socket::is_self_connected(socket, port));
        // It is a socket, which is all that could fail here.
        itself && socket::abort_on_close(socket).is_ok()
    }

    /// Whether the server is known to have accepted the client: in TLS 1.2 it speaks last, in TLS 1.3 it
    /// judges the client's certificate when the client is done already.
    pub(super) fn is_accepted(&self) -> bool {
        self.confirmed || self.wish.choice.version == Version::Tls12
    }

    /// Whether the present part takes longer than it may.
    pub(super) fn is_overdue(&self, now: Instant, patience: Duration) -> bool {
        !self.sleeps && self.stage != Stage::Ended && now >= self.times.since + patience
    }
}
