//! What is set on the TCP of a connection, and what TCP reports of it (`TCP_INFO`, tcp(7);
//! `struct tcp_info` in `include/uapi/linux/tcp.h`).

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Places in `struct tcp_info`, which only ever grows at its end; the last of them are there since 4.19.
const UNACKED_AT: usize = 24;
const NOTSENT_BYTES_AT: usize = 144;
const BYTES_SENT_AT: usize = 200;
const BYTES_RETRANS_AT: usize = 208;
const INFO_BYTES: usize = 216;

/// Silence after which TCP asks whether the peer is still there. Load balancers and firewalls of clouds
/// forget a silent connection after 240 to 350 s; a phone's radio is woken by every probe.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(180);
/// From one probe to the next while there is no answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Probes without an answer after which the connection fails (ETIMEDOUT): 240 s after the last byte.
const KEEPALIVE_PROBES: u32 = 4;

/// TCP finds out when the peer has vanished without a word, and keeps what lies between from forgetting the
/// connection (SO_KEEPALIVE, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT; tcp(7)); or not, if it is not `on`.
/// What a listener accepts inherits it.
///
/// # Errors
/// ENOPROTOOPT, EOPNOTSUPP: it is no TCP socket.
pub fn keep_alive(socket: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    if !on {
        return SockRef::from(&socket).set_keepalive(false);
    }
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(&socket).set_tcp_keepalive(&keepalive)
}

/// What was sent waits this long to be acknowledged, or for a peer whose window is closed, until the
/// connection fails with ETIMEDOUT (TCP_USER_TIMEOUT, tcp(7)); with SO_KEEPALIVE a silent peer has the same
/// time. What a listener accepts inherits it.
///
/// # Errors
/// ENOPROTOOPT, EOPNOTSUPP: it is no TCP socket.
pub fn give_up_after(socket: BorrowedFd<'_>, time: Duration) -> io::Result<()> {
    SockRef::from(&socket).set_tcp_user_timeout(Some(time))
}

/// The sending side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sending {
    /// Bytes that were given to TCP since the connection began.
    pub given: u64,
    /// All of them were sent and acknowledged.
    pub is_done: bool,
}

/// Asks for it.
///
/// # Errors
/// EOPNOTSUPP: it is no TCP socket. EINVAL: a kernel that tells less.
pub fn sending(socket: BorrowedFd<'_>) -> io::Result<Sending> {
    let mut info = [0_u8; INFO_BYTES];
    let mut len = INFO_BYTES as libc::socklen_t;
    let room = info.as_mut_ptr().cast::<c_void>();
    // SAFETY: the descriptor is open for as long as it is borrowed; `room` is writable for `len` bytes and
    // `len` is writable for the whole call; getsockopt writes at most `len` bytes and keeps neither pointer.
    let status = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, room, &raw mut len)
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    if usize::try_from(len) != Ok(INFO_BYTES) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let long = |at: usize| info[at..].first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
    let word = |at: usize| info[at..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    let sent = long(BYTES_SENT_AT).saturating_sub(long(BYTES_RETRANS_AT));
    let waiting = word(NOTSENT_BYTES_AT);
    let is_done = waiting == 0 && word(UNACKED_AT) == 0;
    Ok(Sending { given: sent + u64::from(waiting), is_done })
}

/// Bytes that were received and not read (`SIOCINQ`, tcp(7)). A socket that is closed over some resets the
/// connection. Kernel TLS takes what it has read of a record out of this count.
///
/// # Errors
/// EINVAL: it listens.
pub fn unread_bytes(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as it is borrowed; FIONREAD, which is SIOCINQ, writes one
    // `int` to `count`, which outlives the call, and keeps no pointer to it.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;
    use crate::socket::listener;

    #[test]
    fn what_was_given_is_told_whether_it_was_read_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        assert_eq!(sending(ours.as_fd()).unwrap().given, 0);
        ours.set_nonblocking(true).unwrap();
        let mut given = 0;
        while let Ok(count) = ours.write(&[7; 100_000]) {
            given += count as u64;
        }
        assert_eq!(sending(ours.as_fd()).unwrap(), Sending { given, is_done: false });
        assert_eq!(sending(theirs.as_fd()).unwrap().given, 0, "nor on the accepted side");
        let unread = unread_bytes(theirs.as_fd()).unwrap();
        assert!(unread > 0 && unread as u64 <= given, "{unread} of {given}");
        let mut block = vec![0; given as usize];
        theirs.read_exact(&mut block).unwrap();
        assert_eq!(sending(ours.as_fd()).unwrap().given, given);
        assert_eq!(unread_bytes(theirs.as_fd()).unwrap(), 0);
        let (unix, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(sending(unix.as_fd()).is_err());
    }

    #[test]
    fn accepted_sockets_inherit_nodelay_and_keepalive() {
        let listener: TcpListener = listener(([127, 0, 0, 1], 0).into(), true, 16).unwrap().into();
        keep_alive(listener.as_fd(), true).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap().0;
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
        let times = (accepted.tcp_keepalive_time().unwrap(), accepted.tcp_keepalive_interval().unwrap());
        assert_eq!(times, (KEEPALIVE_IDLE, KEEPALIVE_INTERVAL));
        assert_eq!(accepted.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
        let unix = std::os::unix::net::UnixStream::pair().unwrap().0;
        assert!(keep_alive(unix.as_fd(), true).is_err());
        keep_alive(listener.as_fd(), false).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!SockRef::from(&listener.accept().unwrap().0).keepalive().unwrap(), "from then on");
    }
}
