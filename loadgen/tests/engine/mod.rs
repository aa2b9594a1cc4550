//! An engine in this process.

use std::net::{Ipv4Addr, SocketAddr};

use offramp::config::limits::{SESSION_LIFETIME_DEFAULT, Timeouts};
use offramp::config::{
    Config, IdentityFiles, Listener, Mode, OffloadRules, PeerRules, Pinning, Truncation, UnknownName,
};
use offramp::supervisor::Engine;
use offramp::sys::socket::Address;
use offramp_loadgen::identity::Identity;

use crate::ring;

/// Starts one, with or without tickets; none if the host has no io_uring.
pub(crate) fn start(backend: SocketAddr, identity: &Identity, tickets: bool) -> Option<Engine> {
    if !ring::is_there() {
        return None;
    }
    let listener = Listener {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        backend: Address::Tcp(backend),
        identities: vec![IdentityFiles {
            certificate: identity.certificate_file(),
            key: identity.key_file(),
            ocsp: None,
        }],
        mode: Mode::Terminate,
        unknown_name: UnknownName::First,
        truncation: Truncation::Reset,
        keepalive: true,
        offload: OffloadRules::default(),
        alpn: Vec::new(),
        peers: PeerRules::default(),
        tickets,
    };
    let config = Config {
        listeners: vec![listener],
        workers: 1,
        pin_workers: Pinning::Off,
        admin: None,
        timeouts: Timeouts::default(),
        max_connections: 64,
        ticket_keys: None,
        session_lifetime: SESSION_LIFETIME_DEFAULT,
    };
    Some(Engine::start(config).expect("the engine starts"))
}
