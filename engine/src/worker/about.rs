//! What is known of a connection beside its state: for the routes, the PROXY header, the limits and the log.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use crate::conn::action::{ProxiedAddresses, RecordPath};
use crate::conn::event::Leg;
use crate::sys::socket;
use crate::tls::TlsInfo;
use crate::tls::peek::Asked;
use crate::tls::secrets::Direction;

/// Who a connection is of, and what its handshakes came to. Kept only where somebody wants to know, and only
/// for as long.
#[derive(Debug, Default)]
pub(super) struct About {
    /// Who connected; none on a Unix socket.
    pub(super) client: Option<SocketAddr>,
    /// To which address of ours, or of the balancer in front.
    pub(super) local: Option<SocketAddr>,
    /// The handshake of the near leg, if it has TLS.
    pub(super) near: Option<Box<TlsInfo>>,
    /// That of the far leg.
    pub(super) far: Option<Box<TlsInfo>>,
    /// What the client of a connection asks for whose TLS is passed through.
    pub(super) asked: Option<Box<Asked>>,
    /// Names the connection in this process and others.
    pub(super) id: ConnectionId,
    /// Its course, for the log and for admin.
    pub(super) timeline: Option<Box<Timeline>>,
}

/// What the log and admin have of the course of a connection.
#[derive(Debug)]
pub(super) struct Timeline {
    pub(super) accepted: Instant,
    /// The near leg was ready, and the first endpoint asked for.
    pub(super) routed: Option<Instant>,
    /// An endpoint was connected to.
    pub(super) connected: Option<Instant>,
    /// Bytes of plaintext that came from each leg.
    pub(super) bytes: [u64; 2],
    /// By leg, of the records from us and from the peer.
    pub(super) paths: [[Option<RecordPath>; 2]; 2],
}

impl Timeline {
    pub(super) fn begin(accepted: Instant) -> Self {
        Self { accepted, routed: None, connected: None, bytes: [0; 2], paths: [[None; 2]; 2] }
    }

    pub(super) fn takes_path(&mut self, leg: Leg, direction: Direction, path: RecordPath) {
        self.paths[leg as usize][usize::from(direction == Direction::Rx)] = Some(path);
    }
}

/// Names a connection: no other connection of any Offramp has the same, but by a chance of 2^-64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ConnectionId {
    /// Drawn at the start of the worker.
    pub(super) worker: u64,
    /// Counted by it.
    pub(super) serial: u64,
}

impl fmt::Display for ConnectionId {
    /// 32 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

    /// A balancer has said who the client is.
    pub(super) fn proxied(&mut self, addresses: ProxiedAddresses) {
        self.client = Some(canonical(addresses.client));
        self.local = Some(canonical(addresses.local));
    }

    /// A handshake is complete.
    pub(super) fn established(&mut self, leg: Leg, info: Box<TlsInfo>) {
        match leg {
            Leg::Near => self.near = Some(info),
            // Nobody asks for its certificate, which may have 64 KiB.
            Leg::Far => self.far = Some(Box::new(TlsInfo { certificate: None, ..*info })),
        }
    }

    /// The route was found, and the PROXY header written: nobody asks for what has many bytes any more, the
    /// certificate with up to 64 KiB and the protocols that were offered with up to 16 KiB.
    pub(super) fn forget_large(&mut self) {
        self.near.iter_mut().for_each(|info| info.certificate = None);
        self.asked.iter_mut().for_each(|asked| asked.alpn = Vec::new());
    }

    /// The name that the client asks for.
    pub(super) fn server_name(&self) -> Option<&str> {
        let negotiated = self.near.as_ref().and_then(|info| info.server_name.as_deref());
        negotiated.or_else(|| self.asked.as_ref().and_then(|asked| asked.server_name.as_deref()))
    }

    /// Whether this application protocol was negotiated, or is offered where the TLS is passed through.
    pub(super) fn has_alpn(&self, protocol: &[u8]) -> bool {
        let negotiated = self.near.as_ref().and_then(|info| info.alpn.as_deref());
        let offered = |asked: &Asked| asked.alpn.iter().any(|offered| **offered == *protocol);
        negotiated == Some(protocol) || self.asked.as_deref().is_some_and(offered)
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
    fn about_keeps_the_name_and_not_the_protocols() {
        let asked = Asked { server_name: Some("a.example".into()), alpn: vec![b"h2"[..].into()] };
        let mut about = About { asked: Some(Box::new(asked)), ..About::default() };
        assert!(about.has_alpn(b"h2"));
        about.forget_large();
        assert!(!about.has_alpn(b"h2") && about.server_name() == Some("a.example"));
    }

    #[test]
    fn connection_id_is_32_digits() {
        let id = ConnectionId { worker: 1, serial: u64::MAX };
        assert_eq!(id.to_string(), "0000000000000001ffffffffffffffff");
    }
}
