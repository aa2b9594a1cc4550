//! What happens to a connection, as the shell tells the core.

use std::time::Instant;

use crate::buf::Buf;
use crate::tls::secrets::Direction;

/// One of the two sides of a connection. Which of them was accepted is no business of the stages that move
/// bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// Carries TLS records.
    Tls,
    /// Carries plain bytes.
    Plain,
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
    /// The accepted leg is open.
    Opened,
    /// The connecting leg is open.
    Connected,
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
    /// One record of the TLS leg, opened by the kernel, in answer to `Action::ReceiveRecord`.
    Record {
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
    Flushed,
    /// All that was to be sent was sent.
    Sent {
        /// Where.
        leg: Leg,
        /// The buffer back, empty.
        buf: Buf,
    },
    /// The kernel has the keys of this direction and carries its records from here on.
    Keyed {
        /// Which.
        direction: Direction,
    },
    /// The kernel did not take the keys of this direction; nothing has changed.
    Refused {
        /// Which.
        direction: Direction,
        /// errno(3).
        errno: i32,
    },
    /// How many records of this direction the kernel has sealed or opened under its present key; `None` if it
    /// cannot tell.
    Sequence {
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
    /// The deadline that the connection asked for is over.
    Expired,
    /// The engine is being stopped; what is still open at this time will be ended.
    Drain {
        /// The end of the drain.
        until: Instant,
    },
}
