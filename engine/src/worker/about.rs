//! What is known of a connection beside its state: for the routes, the PROXY header and the limits.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use crate::conn::event::Leg;
use crate::sys::socket;
use crate::tls::TlsInfo;

/// Who a connection is of, and what its handshakes came to. Kept only where somebody wants to know.
#[derive(Debug, Default)]
pub(super) struct About {
    /// Who connected; none on a Unix socket.
    pub(super) client: Option<SocketAddr>,
    /// To which address of ours.
    pub(super) local: Option<SocketAddr>,
    /// The handshake of the near leg, if it has TLS.
    pub(super) near: Option<Box<TlsInfo>>,
    /// That of the far leg.
    pub(super) far: Option<Box<TlsInfo>>,
    /// Names the connection in this process and others.
    pub(super) id: ConnectionId,
}

/// Names a connection: no other connection of any Offramp has the same, but by a chance of 2^-64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ConnectionId {
    /// Drawn at the start of the worker.
    pub(super) worker: u64,
    /// Counted by it.
    pub(super) serial: u64,
}

impl std::fmt::Display for ConnectionId {
    /// 32 hexadecimal digits.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}{:016x}", self.worker, self.serial)
    }
}

impl About {
    /// Of a connection that was accepted as `socket`.
    pub(super) fn of(socket: BorrowedFd<'_>, id: ConnectionId) -> Self {
        let client = socket::peer_addr(socket).ok().map(canonical);
        let local = socket::local_addr(socket).ok().map(canonical);
        Self { client, local, id, ..Self::default() }
    }

    /// A handshake is complete.
    pub(super) fn established(&mut self, leg: Leg, info: Box<TlsInfo>) {
        match leg {
            Leg::Near => self.near = Some(info),
            Leg::Far => self.far = Some(info),
        }
    }
}

/// An IPv4 address that was accepted by a socket of both families, as what it is.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_mapped_clients_are_ipv4() {
        let mapped: SocketAddr = "[::ffff:192.0.2.7]:5".parse().expect("an address");
        assert_eq!(canonical(mapped).to_string(), "192.0.2.7:5");
        let other: SocketAddr = "[2001:db8::1]:5".parse().expect("an address");
        assert_eq!(canonical(other), other);
    }

    #[test]
    fn connection_id_is_32_digits() {
        let id = ConnectionId { worker: 1, serial: u64::MAX };
        assert_eq!(id.to_string(), "0000000000000001ffffffffffffffff");
    }
}
