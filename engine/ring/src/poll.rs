//! Waits for several sockets at once (poll(2)), on a thread that has no ring.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// What a socket is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Bytes, or the end.
    Receive,
    /// Room for bytes, or the outcome of a connect.
    Send,
}

/// Waits until one of `sockets` has what is wanted of it, or an error, but no longer than `timeout`. Which
/// ones have, in their order. A signal ends the wait early, with none.
///
/// # Errors
/// EINVAL: more sockets than RLIMIT_NOFILE allows; ENOMEM.
pub fn poll(sockets: &[(BorrowedFd<'_>, Wanted)], timeout: Duration) -> io::Result<Vec<bool>> {
    let entry = |(fd, wanted): &(BorrowedFd<'_>, Wanted)| {
        let events = match wanted {
            Wanted::Receive => libc::POLLIN,
            Wanted::Send => libc::POLLOUT,
        };
        libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }
    };
    let mut entries: Vec<_> = sockets.iter().map(entry).collect();
    // Rounded up, so that a short wait is none of zero.
    let milliseconds = timeout.as_nanos().div_ceil(1_000_000);
    let milliseconds = libc::c_int::try_from(milliseconds).unwrap_or(libc::c_int::MAX);
    let count = entries.len() as libc::nfds_t;
    // SAFETY: `entries` is writable for `count` entries for the whole call; each descriptor is open for as
    // long as it is borrowed.
    let status = unsafe { libc::poll(entries.as_mut_ptr(), count, milliseconds) };
    if status < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted {
            Ok(vec![false; sockets.len()])
        } else {
            Err(error)
        };
    }
    Ok(entries.iter().map(|entry| entry.revents != 0).collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn poll_finds_the_socket_that_has_bytes() {
        let ((mut ours, theirs), (_silent, other)) =
            (UnixStream::pair().expect("two"), UnixStream::pair().expect("two"));
        let wanted = [(theirs.as_fd(), Wanted::Receive), (other.as_fd(), Wanted::Receive)];
        assert_eq!(poll(&wanted, Duration::ZERO).expect("polled"), [false, false]);
        ours.write_all(b"x").expect("there is room");
        assert_eq!(poll(&wanted, Duration::from_secs(60)).expect("polled"), [true, false]);
        assert_eq!(poll(&[(ours.as_fd(), Wanted::Send)], Duration::from_secs(60)).expect("polled"), [true]);
        drop(ours);
        assert_eq!(poll(&wanted[..1], Duration::from_secs(60)).expect("polled"), [true], "the end");
    }
}
