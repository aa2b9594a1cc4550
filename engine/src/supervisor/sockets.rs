//! The sockets that listen: one of each listener for each worker, and the admin's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use super::StartError;
use super::inherited::Given;
use super::unix_socket::{self, Bound};
use crate::config::limits::LISTEN_BACKLOG;
use crate::config::{Config, Listener};
use crate::sys::errno;
use crate::sys::socket::{self, Address};
use crate::worker;

/// Takes the sockets that were given for the listener, or binds some, with its options; each socket of TCP
/// prefers what arrives on its CPU of `incoming_cpus`, where there are any.
pub(super) fn listening(
    listener: &Listener,
    given: Option<Given>,
    workers: usize,
    incoming_cpus: &[usize],
) -> Result<Bound, StartError> {
    let bound = match (given, &listener.listen) {
        (Some(given), _) => given.bind(workers)?,
        (None, Address::Unix(_)) => unix_socket::listening(listener, workers)?,
        (None, Address::Tcp(address)) => bind(*address, workers)?,
    };
    if !bound.listen.is_unix() {
        for socket in &bound.sockets {
            worker::set_inherited(socket.as_fd(), listener.keepalive, listener.tcp_user_timeout);
        }
        if !bound.is_shared {
            prefer_incoming(&bound.sockets, incoming_cpus);
        }
    }
    Ok(bound)
}

fn bind(address: SocketAddr, workers: usize) -> Result<Bound, StartError> {
    let sockets = bind_workers(address, workers)?;
    let listen = bound(&sockets[0], address)?.into();
    Ok(Bound { listen, sockets, file: None, is_shared: false })
}

/// Each worker gets what arrives on its CPU. Where the option is refused, the kernel distributes by hash.
fn prefer_incoming(listeners: &[OwnedFd], cpus: &[usize]) {
    for (listener, &cpu) in listeners.iter().zip(cpus.iter().cycle()) {
        if let Err(error) = socket::prefer_incoming_cpu(listener.as_fd(), cpu) {
            tracing::warn!(cpu, error = errno::name(&error), "pin_workers: not by the incoming CPU");
        }
    }
}

pub(super) fn bind_admin(address: SocketAddr) -> Result<OwnedFd, StartError> {
    if !address.ip().is_loopback() {
        tracing::warn!(
            "admin is on {address}, which is no loopback address: whoever reaches it reads the metrics and \
             the state"
        );
    }
    socket::listener(address, false, 64).map_err(|error| StartError::listen("admin", address, &error))
}

pub(super) fn bound(listener: &OwnedFd, asked: SocketAddr) -> Result<SocketAddr, StartError> {
    socket::local_addr(listener.as_fd()).map_err(|error| StartError::listen("listen", asked, &error))
}

/// One listener a worker, all on one port.
fn bind_workers(address: SocketAddr, workers: usize) -> Result<Vec<OwnedFd>, StartError> {
    let refused = |error: io::Error| StartError::listen("listen", address, &error);
    socket::is_free(address).map_err(refused)?;
    let first = socket::listener(address, true, LISTEN_BACKLOG).map_err(refused)?;
    // Port 0 became a port: the others take the same.
    let address = bound(&first, address)?;
    let mut listeners = vec![first];
    while listeners.len() < workers {
        let listener = socket::listener(address, true, LISTEN_BACKLOG);
        listeners.push(listener.map_err(|error| StartError::listen("listen", address, &error))?);
    }
    Ok(listeners)
}

/// Up to 2026-11 such a listener took IPv4 too, unless the host was configured otherwise.
pub(super) fn note_ipv6_alone(config: &Config) {
    let all = || config.listeners.iter().filter_map(|listener| listener.listen.tcp());
    let takes = |ip: IpAddr, port| all().any(|one| one == SocketAddr::new(ip, port));
    for address in all() {
        if address.ip() == Ipv6Addr::UNSPECIFIED && !takes(Ipv4Addr::UNSPECIFIED.into(), address.port()) {
            let other = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            tracing::info!(
                "{address} takes IPv6 alone; for IPv4 too add a [[listener]] with listen = \"{other}\""
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_the_port_that_was_chosen_and_nobody_else_gets_it() {
        let listeners = bind_workers((Ipv4Addr::LOCALHOST, 0).into(), 3).unwrap();
        let address = bound(&listeners[0], (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        for listener in &listeners {
            assert_eq!(bound(listener, address).unwrap(), address);
        }
        let error = bind_workers(address, 1).unwrap_err().to_string();
        assert!(error.contains("is in use") && error.contains("ss -ltnp"), "{error}");
    }

    #[test]
    fn an_address_of_another_host_is_refused_with_what_to_try() {
        let error = bind_workers("192.0.2.1:0".parse().unwrap(), 1).unwrap_err().to_string();
        assert!(
            error.contains("192.0.2.1:0 is no address of this host") && error.contains("ip addr"),
            "{error}"
        );
    }
}
