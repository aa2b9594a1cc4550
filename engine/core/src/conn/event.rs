//! What happens to a connection, as the shell tells the core.

use std::sync::Arc;
use std::time::Instant;

use super::fault::Fault;
use crate::buf::Buf;
use crate::config::Fingerprint;
use crate::tls::secrets::Direction;

/// One of the two legs of a connection. Whether it has TLS, and in which role, is the policy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leg {
    /// That of the peer which came: accepted.
    Near,
    /// That of the endpoint which the route names: connected.
    Far,
}

impl Leg {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Near, Self::Far];
}

/// What was asked of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// To connect.
    Connect,
    /// To receive.
    Receive,
    /// To send.
    Send,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The near leg is open.
    Opened,
    /// The far leg is open.
    Connected {
        /// What is sent on it before anything else, in the clear: a PROXY header.
        preamble: Option<Buf>,
    },
    /// The route has no endpoint that was not tried and may be.
    NoEndpoint,
    /// Bytes arrived behind the buffer's window.
    Received {
        /// Where.
        leg: Leg,
        /// The window, grown by what arrived.
        buf: Buf,
        /// How many bytes arrived; none is the end of file.
        count: usize,
        /// Whether the kernel says that more are there (a hint).
        more: bool,
    },
    /// One record of a leg with TLS, opened by the kernel, in answer to `Action::ReceiveRecord`.
    Record {
        /// Where.
        leg: Leg,
        /// RFC 8446 §5.1; none at the end of file.
        record_type: Option<u8>,
        /// Its payload.
        buf: Buf,
    },
    /// The front of what is to be sent was sent; the rest follows.
    Moved {
        /// Where.
        leg: Leg,
    },
    /// All that the kernel has sealed is with TCP.
    Flushed {
        /// Where.
        leg: Leg,
    },
    /// All that was sent is acknowledged.
    Settled {
        /// Where.
        leg: Leg,
    },
    /// What comes next from the peer is no record, as the kernel found while something was being sent, which
    /// goes on.
    Unreadable {
        /// Where.
        leg: Leg,
        /// errno(3), as a receive would have it.
        errno: i32,
    },
    /// So much lies in the socket and was not received.
    Unread {
        /// Where.
        leg: Leg,
        /// How many bytes.
        bytes: usize,
    },
    /// All that was to be sent was sent.
    Sent {
        /// Where.
        leg: Leg,
        /// The buffer back, empty.
        buf: Buf,
    },
    /// The kernel has the keys of this direction and carries its records from here on.
    Keyed {
        /// Where.
        leg: Leg,
        /// Which.
        direction: Direction,
    },
    /// The kernel did not take the keys of this direction; nothing has changed.
    Refused {
        /// Where.
        leg: Leg,
        /// Which.
        direction: Direction,
        /// errno(3).
        errno: i32,
    },
    /// How many records of this direction the kernel has sealed or opened under its present key; `None` if it
    /// cannot tell.
    Sequence {
        /// Where.
        leg: Leg,
        /// Which.
        direction: Direction,
        /// The sequence number of the next record.
        sequence: Option<u64>,
    },
    /// An operation failed.
    Failed {
        /// Where.
        leg: Leg,
        /// Which.
        operation: Operation,
        /// errno(3).
        errno: i32,
    },
    /// The fingerprints of the peer's certificate have become known, where the policy has
    /// [`TrustAnchor::Pending`](crate::config::TrustAnchor::Pending).
    Pinned {
        /// Whose.
        leg: Leg,
        /// The certificate must have one of them.
        fingerprints: Arc<[Fingerprint]>,
    },
    /// The client that a PROXY header names may connect.
    Admitted,
    /// The shell ends it for this reason: at once, where others want its memory (`BufferMemory`) or its slot
    /// (`HandshakeTimeout`).
    TurnedAway(Fault),
    /// The deadline that the connection asked for is over.
    Expired,
    /// The engine is being stopped; what is still open at this time will be ended.
    Drain {
        /// The end of the drain.
        until: Instant,
    },
}

impl Event {
    /// The leg that it is of; none if it is of the whole connection.
    #[must_use]
    pub fn leg(&self) -> Option<Leg> {
        match self {
            Self::Opened => Some(Leg::Near),
            Self::Connected { .. } | Self::NoEndpoint => Some(Leg::Far),
            Self::Received { leg, .. }
            | Self::Record { leg, .. }
            | Self::Moved { leg }
            | Self::Flushed { leg }
            | Self::Settled { leg }
            | Self::Unread { leg, .. }
            | Self::Unreadable { leg, .. }
            | Self::Sent { leg, .. }
            | Self::Keyed { leg, .. }
            | Self::Refused { leg, .. }
            | Self::Sequence { leg, .. }
            | Self::Pinned { leg, .. }
            | Self::Failed { leg, .. } => Some(*leg),
            Self::Admitted | Self::TurnedAway(_) | Self::Expired | Self::Drain { .. } => None,
        }
    }
}
