//! Sockets and their options, event descriptors, and the limit on descriptors.

use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

pub use super::address::Address;
pub use socket2::SockAddr;
use socket2::{Domain, SockRef, Socket, Type};

/// A listening TCP socket: SO_REUSEADDR, TCP_NODELAY (which accepted sockets inherit), close-on-exec, and
/// SO_REUSEPORT if `reuse_port`. One of IPv6 takes IPv6 alone (IPV6_V6ONLY), whatever `net.ipv6.bindv6only`
/// says, so that `[::]` and `0.0.0.0` may have the same port. The kernel caps `backlog` (connections not yet
/// accepted) at `net.core.somaxconn`.
///
/// # Errors
/// EADDRINUSE, EADDRNOTAVAIL, EACCES (a port below `net.ipv4.ip_unprivileged_port_start`), EMFILE.
pub fn listener(address: SocketAddr, reuse_port: bool, backlog: i32) -> io::Result<OwnedFd> {
    let socket = bind(address, reuse_port)?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// As [`listener`] with SO_REUSEPORT, and does not listen yet: the kernel gives it no connection.
///
/// # Errors
/// As for [`listener`].
pub fn bind_shared(address: SocketAddr) -> io::Result<OwnedFd> {
    bind(address, true).map(OwnedFd::from)
}

fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = to_bind(address)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn to_bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Of the listeners of one port, this one shall get the connections whose first packet `cpu` handles
/// (SO_INCOMING_CPU, socket(7)); where no listener is for that CPU, and on kernels between 4.6 and 2022
/// (mended by commit b261eda84ec1), the hash of addresses and ports decides.
///
/// # Errors
/// EBADF, ENOTSOCK; none of a socket.
pub fn prefer_incoming_cpu(listener: BorrowedFd<'_>, cpu: Option<usize>) -> io::Result<()> {
    // As an int it is -1, which the kernel begins with.
    SockRef::from(&listener).set_cpu_affinity(cpu.unwrap_or(usize::MAX))
}

/// Whether nobody listens at `address`: binds it, without listening and without SO_REUSEPORT, which would let
/// us share the port with somebody else's listeners. Port 0 is always free.
///
/// # Errors
/// EADDRINUSE: somebody does. Otherwise as for [`listener`].
pub fn is_free(address: SocketAddr) -> io::Result<()> {
    to_bind(address)?.bind(&address.into())
}

/// A socket to connect to `address`: close-on-exec, and TCP_NODELAY for TCP.
///
/// # Errors
/// EMFILE, ENFILE, ENOBUFS; EAFNOSUPPORT where the kernel has no IPv6.
pub fn outgoing(address: &Address) -> io::Result<OwnedFd> {
    let domain = match address {
        Address::Tcp(address) => Domain::for_address(*address),
        Address::Unix(_) => Domain::UNIX,
    };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    if matches!(address, Address::Tcp(_)) {
        socket.set_tcp_nodelay(true)?;
    }
    Ok(socket.into())
}

/// As [`outgoing`], bound to the local address `source`. The port is chosen when it connects
/// (IP_BIND_ADDRESS_NO_PORT, Linux 4.2), so that the same one may serve for several peers.
///
/// # Errors
/// EADDRNOTAVAIL: the address is none of this host's; EINVAL: it is of another family than `address`.
pub fn outgoing_from(address: &Address, source: IpAddr) -> io::Result<OwnedFd> {
    let socket = Socket::from(outgoing(address)?);
    let on: libc::c_int = 1;
    let (value, len) = ((&raw const on).cast(), size_of::<libc::c_int>() as libc::socklen_t);
    let (level, option) = (libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT);
    // SAFETY: the descriptor is open; `value` points at `len` readable bytes for the whole call.
    let status = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, len) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    socket.bind(&SocketAddr::new(source, 0).into())?;
    Ok(socket.into())
}

/// Makes the close of a TCP socket a reset: what was not delivered must not look like an orderly end.
///
/// # Errors
/// ENOTSOCK and the like: what was passed is no socket.
pub fn abort_on_close(socket: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO))
}

/// Takes the error off a socket that waits there for the next operation, and would fail it.
pub fn clear_error(socket: BorrowedFd<'_>) {
    // What it says was told by the operation that failed.
    let _ = SockRef::from(&socket).take_error();
}

/// Ends our direction: the peer reads end of file after what was sent.
///
/// # Errors
/// ENOTCONN: the connection is gone already.
pub fn shutdown_write(socket: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&socket).shutdown(Shutdown::Write)
}

/// Whether a TCP socket that was connected to `port` is connected to itself: both its ends are one address.
/// TCP has that (simultaneous open, RFC 9293 §3.5) where nobody listens on a port of this host and the kernel
/// chooses that very port as the local one: it must lie in `net.ipv4.ip_local_port_range`.
///
/// A Unix socket never is. One system call, and a second one if the local port is `port`.
#[must_use]
pub fn is_self_connected(socket: BorrowedFd<'_>, port: u16) -> bool {
    let socket = SockRef::from(&socket);
    let end = |address: io::Result<SockAddr>| address.ok().and_then(|address| address.as_socket());
    let same = |local: SocketAddr, peer: SocketAddr| (local.ip(), local.port()) == (peer.ip(), peer.port());
    end(socket.local_addr())
        .filter(|local| local.port() == port)
        .is_some_and(|local| end(socket.peer_addr()).is_some_and(|peer| same(local, peer)))
}

/// The address that a TCP socket is bound to.
///
/// # Errors
/// EAFNOSUPPORT: it is no TCP socket.
pub fn local_addr(socket: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let address = SockRef::from(&socket).local_addr()?;
    address.as_socket().ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
}

/// The address of a TCP socket's peer, also after the peer has reset the connection, when getpeername(2) does
/// not tell it any more (SO_PEERNAME, `include/uapi/asm-generic/socket.h`).
///
/// # Errors
/// ENOTCONN: it never had a peer. EAFNOSUPPORT: it is no TCP socket.
pub fn peer_addr(socket: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let v4 = peer_name(socket, size_of::<libc::sockaddr_in>() as libc::socklen_t)?;
    let v6 = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    // The kernel refuses more room than the address takes, and cuts off what has no room.
    let address = if v4.is_ipv6() { peer_name(socket, v6)? } else { v4 };
    address.as_socket().ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
}

fn peer_name(socket: BorrowedFd<'_>, room: libc::socklen_t) -> io::Result<SockAddr> {
    const SO_PEERNAME: libc::c_int = 28;
    let ask = |address: *mut socket2::SockAddrStorage, len: *mut libc::socklen_t| {
        // SAFETY: `len` is writable; it is the caller's, and nobody else reads it meanwhile.
        unsafe { *len = room };
        let (fd, level) = (socket.as_raw_fd(), libc::SOL_SOCKET);
        // SAFETY: the descriptor is open for as long as it is borrowed; `address` is writable for `room`
        // bytes, which are no more than a sockaddr_storage has; getsockopt writes at most `*len` bytes there
        // and keeps neither pointer.
        let status = unsafe { libc::getsockopt(fd, level, SO_PEERNAME, address.cast(), len) };
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: where `ask` succeeds, the kernel has written an address of `*len` bytes; what lies behind them
    // is zero, which is valid for every field.
    unsafe { SockAddr::try_init(ask) }.map(|((), address)| address)
}

/// An event descriptor (`eventfd(2)`): close-on-exec, blocking, count 0.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM.
pub fn event() -> io::Result<OwnedFd> {
    // SAFETY: eventfd takes no pointer.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    own(fd)
}

/// Adds one to an event descriptor: a read of it completes.
///
/// # Errors
/// Those of `write(2)`; none for a descriptor that [`event`] made and that is read now and then.
pub fn signal(event: BorrowedFd<'_>) -> io::Result<()> {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: the descriptor is open for as long as it is borrowed; `one` is readable for its eight bytes.
    let written = unsafe { libc::write(event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    if written == 8 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A timer descriptor (`timerfd_create(2)`, monotonic, close-on-exec, blocking): a read of it completes once
/// every `period`, which is at least one nanosecond.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM; EINVAL for a period of nothing or of more seconds than the kernel counts.
pub fn ticker(period: Duration) -> io::Result<OwnedFd> {
    // SAFETY: timerfd_create takes no pointer.
    let fd = own(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) })?;
    let seconds = libc::time_t::try_from(period.as_secs())
        .ok()
        .filter(|_| !period.is_zero())
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let interval = libc::timespec { tv_sec: seconds, tv_nsec: period.subsec_nanos().into() };
    let timer = libc::itimerspec { it_interval: interval, it_value: interval };
    // SAFETY: the descriptor is open; `timer` is readable for the whole call; a null old value is not
    // written.
    let status = unsafe { libc::timerfd_settime(fd.as_raw_fd(), 0, &raw const timer, std::ptr::null_mut()) };
    if status == 0 { Ok(fd) } else { Err(io::Error::last_os_error()) }
}

/// Raises this process's soft limit on open descriptors (RLIMIT_NOFILE) to the hard one and says what it is
/// now.
///
/// # Errors
/// Those of `prlimit(2)`: none that an unprivileged process meets when it raises up to its own hard limit.
pub fn raise_nofile_limit() -> io::Result<u64> {
    let mut limit = resource_limit(libc::RLIMIT_NOFILE)?;
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is readable for the whole call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}

/// Open descriptors of this process, as `/proc/self/fd` lists them.
///
/// # Errors
/// ENOENT: /proc is not mounted. EMFILE: no descriptor is left to look with.
pub fn open_descriptors() -> io::Result<u64> {
    let listed = std::fs::read_dir("/proc/self/fd")?.count();
    // The one that the list was read by is in it.
    Ok(u64::try_from(listed).unwrap_or(u64::MAX).saturating_sub(1))
}

/// The soft and the hard limit on a resource; `u64::MAX` is none.
pub(super) fn resource_limit(resource: libc::__rlimit_resource_t) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable for the whole call.
    let status = unsafe { libc::getrlimit(resource, &raw mut limit) };
    if status == 0 { Ok(limit) } else { Err(io::Error::last_os_error()) }
}

fn own(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpStream};
    use std::os::fd::AsFd;
    use std::path::PathBuf;

    use super::*;

    const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn two_listeners_share_a_port_only_if_both_ask_to() {
        let first = listener(ANY_PORT, true, 16).unwrap();
        let address = local_addr(first.as_fd()).unwrap();
        assert!(listener(address, true, 16).is_ok());
        let refused = listener(address, false, 16).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn address_is_in_use_even_if_its_listener_shares_it() {
        let shares = listener(ANY_PORT, true, 16).unwrap();
        let address = local_addr(shares.as_fd()).unwrap();
        assert_eq!(is_free(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(shares);
        is_free(address).unwrap();
    }

    #[test]
    fn both_wildcards_may_listen_on_one_port() {
        let both = |port| ["0.0.0.0", "[::]"].map(|ip| format!("{ip}:{port}").parse().unwrap());
        let [four, six]: [SocketAddr; 2] = both(0);
        for (first, second) in [(four, six), (six, four)] {
            let kept = listener(first, true, 16).unwrap();
            let port = local_addr(kept.as_fd()).unwrap().port();
            let second = SocketAddr::new(second.ip(), port);
            is_free(second).unwrap();
            listener(second, true, 16).unwrap();
        }
    }

    #[test]
    fn a_source_is_what_the_peer_sees_and_must_be_ours() {
        let listener = std::net::TcpListener::bind(ANY_PORT).unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));
        let socket = Socket::from(outgoing_from(&address, source).unwrap());
        socket.connect(&address.to_sockaddr().unwrap()).unwrap();
        assert_eq!(listener.accept().unwrap().1.ip(), source);
        let stranger = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let refused = outgoing_from(&address, stranger).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EADDRNOTAVAIL));
    }

    #[test]
    fn the_peer_is_known_also_after_it_has_reset() {
        for bound in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(bound) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (ours, peer) = (client.local_addr().unwrap(), listener.accept().unwrap().0);
            assert_eq!(peer_addr(peer.as_fd()).unwrap(), ours);
            abort_on_close(client.as_fd()).unwrap();
            drop(client);
            assert_eq!((&peer).read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            assert!(peer.peer_addr().is_err());
            assert_eq!(peer_addr(peer.as_fd()).unwrap(), ours);
        }
        let (unix, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(peer_addr(unix.as_fd()).is_err());
    }

    #[test]
    fn self_connect_is_seen_and_nothing_else_is() {
        for any_port in ["127.0.0.1:0", "[::1]:0"].map(|address| address.parse::<SocketAddr>().unwrap()) {
            let socket = Socket::new(Domain::for_address(any_port), Type::STREAM, None).unwrap();
            socket.bind(&any_port.into()).unwrap();
            let itself = socket.local_addr().unwrap();
            socket.connect(&itself).unwrap();
            assert!(is_self_connected(socket.as_fd(), itself.as_socket().unwrap().port()), "{itself:?}");
        }
        let listener = std::net::TcpListener::bind(ANY_PORT).unwrap();
        let address = listener.local_addr().unwrap();
        // The other end has the port as its local one, and another peer.
        let (client, server) = (TcpStream::connect(address).unwrap(), listener.accept().unwrap().0);
        assert!(!is_self_connected(client.as_fd(), address.port()));
        assert!(!is_self_connected(server.as_fd(), address.port()));
        assert!(!is_self_connected(std::os::unix::net::UnixStream::pair().unwrap().0.as_fd(), 0));
    }

    #[test]
    fn an_abort_is_a_reset_at_the_peer() {
        let listener = std::net::TcpListener::bind(ANY_PORT).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap().0;
        abort_on_close(accepted.as_fd()).unwrap();
        drop(accepted);
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_shutdown_is_an_orderly_end_at_the_peer() {
        let listener = std::net::TcpListener::bind(ANY_PORT).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap().0;
        shutdown_write(accepted.as_fd()).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn an_event_is_read_as_often_as_it_was_signalled() {
        let event = event().unwrap();
        signal(event.as_fd()).unwrap();
        signal(event.as_fd()).unwrap();
        let mut count = [0; 8];
        File::from(event).read_exact(&mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 2);
    }

    #[test]
    fn a_ticker_ticks_and_refuses_a_period_of_nothing() {
        let mut ticks = [0; 8];
        File::from(ticker(Duration::from_millis(1)).unwrap()).read_exact(&mut ticks).unwrap();
        assert!(u64::from_ne_bytes(ticks) >= 1);
        assert!(ticker(Duration::ZERO).is_err());
    }

    #[test]
    fn the_descriptor_limit_ends_at_the_hard_one() {
        let raised = raise_nofile_limit().unwrap();
        assert_eq!(raised, resource_limit(libc::RLIMIT_NOFILE).unwrap().rlim_max);
    }

    #[test]
    fn a_socket_is_made_for_each_kind_of_address() {
        let unix = Address::Unix(PathBuf::from("/nowhere"));
        assert!(outgoing(&unix).is_ok() && unix.to_sockaddr().is_ok());
        let tcp = outgoing(&Address::Tcp(ANY_PORT)).unwrap();
        assert!(SockRef::from(&tcp).tcp_nodelay().unwrap());
        assert!(Address::Unix(PathBuf::from("x".repeat(200))).to_sockaddr().is_err());
    }

    #[test]
    fn an_abstract_name_reaches_who_listens_on_it() {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

        let name = format!("offramp-test-{}", std::process::id());
        let listener = UnixListener::bind_addr(&UnixAddr::from_abstract_name(&name).unwrap()).unwrap();
        let address = Address::Unix(PathBuf::from(format!("@{name}")));
        let socket = Socket::from(outgoing(&address).unwrap());
        socket.connect(&address.to_sockaddr().unwrap()).unwrap();
        listener.accept().unwrap();
    }
}
