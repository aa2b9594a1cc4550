//! What comes of an operation.

use std::os::fd::{FromRawFd, OwnedFd};

use offramp_proto::buf::Buf;

/// An operation is complete, or, for an accept with `more`, has one more result.
#[derive(Debug)]
pub struct Completion<T> {
    /// As given with the operation.
    pub user_data: T,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of an operation.
#[derive(Debug)]
pub enum Outcome {
    /// An accept has brought a connection or has failed; without `more` it must be started again.
    Accepted {
        /// The connection, or errno(3); EBADF: what the kernel has reported cannot be a descriptor.
        socket: Result<OwnedFd, i32>,
        /// Whether the same operation goes on.
        more: bool,
    },
    /// Bytes arrived behind the buffer's window; none at the end of file. `drained`: the socket held no more.
    Received {
        /// The buffer, its window grown by what arrived.
        buf: Buf,
        /// How many bytes arrived.
        count: usize,
        /// Whether the kernel says that nothing was left to read (a hint).
        drained: bool,
    },
    /// One record, or part of it, of this type arrived behind the buffer's window, or the end of file.
    Record {
        /// RFC 8446 §5.1; none at the end of file.
        record_type: Option<u8>,
        /// The record's payload.
        buf: Buf,
    },
    /// The front of the window was sent and consumed; what is left in it was not sent.
    Sent {
        /// The rest.
        buf: Buf,
        /// Bytes sent.
        count: usize,
    },
    /// The socket is connected.
    Connected,
    /// The eventfd was signalled.
    Signalled,
    /// Anything but an accept has failed; a send gives its buffer back.
    Failed {
        /// errno(3).
        errno: i32,
        /// The buffer that the operation had been given.
        buf: Option<Buf>,
    },
}

/// Of an accept.
pub(super) fn accepted(result: i32, more: bool) -> Outcome {
    let socket = match result {
        ..0 => Err(-result),
        // These are always open: what was reported is not what was accepted.
        0..=libc::STDERR_FILENO => Err(libc::EBADF),
        // SAFETY: the result of an accept is a new descriptor that nobody else owns; it is none of the
        // standard ones.
        descriptor => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
    };
    Outcome::Accepted { socket, more }
}
