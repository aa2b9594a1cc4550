//! An engine in this process.

use std::net::{Ipv4Addr, SocketAddr};

use offramp::config::{Config, IdentityFiles, Listener, Routes};
use offramp::supervisor::Engine;
use offramp::sys::socket::Address;
use offramp_loadgen::identity::Identity;

use crate::ring;

/// Starts one, with or without tickets; none if the host has no io_uring.
pub(crate) fn start(backend: SocketAddr, identity: &Identity, tickets: bool) -> Option<Engine> {
    if !ring::is_there() {
        return None;
    }
    let files =
        IdentityFiles { certificate: identity.certificate_file(), key: identity.key_file(), ocsp: None };
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let routes = Routes::to(Address::Tcp(backend));
    let listener = Listener { tickets, ..Listener::new(listen, routes, vec![files]) };
    let config = Config { max_connections: 64, ..Config::new(vec![listener]) };
    Some(Engine::start(config).expect("the engine starts"))
}
