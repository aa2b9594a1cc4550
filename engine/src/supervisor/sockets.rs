//! The sockets that listen: one of each listener for each worker, and the admin's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::StartError;
use super::inherited::Given;
use super::unix_socket::{self, Bound};
use crate::config::limits::LISTEN_BACKLOG;
use crate::config::{Config, Listener};
use crate::sys::errno;
use crate::sys::socket::{self, Address};
use crate::worker::{self, Service};

/// Takes the sockets that were given for the listener, as they are until [`take_over`]; or binds some, with
/// its options: each socket of TCP prefers what arrives on its CPU of `incoming_cpus`, where there are any.
pub(super) fn listening(
    listener: &Listener,
    given: Option<Given>,
    workers: usize,
    incoming_cpus: &[usize],
) -> Result<Bound, StartError> {
    let address = match (given, &listener.listen) {
        (Some(given), _) => return given.bind(workers, listener.socket_access),
        (None, Address::Unix(_)) => return unix_socket::listening(listener, workers),
        (None, Address::Tcp(address)) => *address,
    };
    let bound = bind(address, workers)?;
    for (nth, socket) in bound.sockets.iter().enumerate() {
        worker::set_inherited(socket.as_fd(), listener.keepalive, listener.tcp_user_timeout);
        if let Some(cpu) = incoming_cpu(incoming_cpus, nth) {
            prefer_incoming(socket.as_fd(), Some(cpu));
        }
    }
    Ok(bound)
}

/// Sets the options of a socket that was given, or bound beside such: from now on no other process accepts on
/// it, or one that was started for that.
pub(super) fn take_over(service: &Service, incoming_cpu: Option<usize>) {
    let Service { listener, is_shared, route, .. } = service;
    if route.listen.is_unix() {
        return;
    }
    worker::set_inherited(listener.as_fd(), route.keepalive, route.tcp_user_timeout);
    if !is_shared {
        // Without a CPU too: it may have had one.
        prefer_incoming(listener.as_fd(), incoming_cpu);
    }
}

/// That of a worker; none if they do not have one each.
pub(super) fn incoming_cpu(cpus: &[usize], worker: usize) -> Option<usize> {
    cpus.get(worker % cpus.len().max(1)).copied()
}

fn bind(address: SocketAddr, workers: usize) -> Result<Bound, StartError> {
    let sockets = bind_workers(address, workers)?;
    let listen = bound(&sockets[0], address)?.into();
    Ok(Bound { listen, sockets, file: None, is_shared: false })
}

/// The worker gets what arrives on its CPU. Where the option is refused, the kernel distributes by hash.
fn prefer_incoming(listener: BorrowedFd<'_>, cpu: Option<usize>) {
    if let Err(error) = socket::prefer_incoming_cpu(listener, cpu) {
        tracing::warn!(cpu, error = errno::name(&error), "pin_workers: not by the incoming CPU");
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
    fn workers_share_the_chosen_port_exclusively() {
        let listeners = bind_workers((Ipv4Addr::LOCALHOST, 0).into(), 3).unwrap();
        let address = bound(&listeners[0], (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        for listener in &listeners {
            assert_eq!(bound(listener, address).unwrap(), address);
        }
        let error = bind_workers(address, 1).unwrap_err().to_string();
        assert!(error.contains("is in use") && error.contains("ss -ltnp"), "{error}");
    }

    #[test]
    fn foreign_address_is_refused_with_a_remedy() {
        let error = bind_workers("192.0.2.1:0".parse().unwrap(), 1).unwrap_err().to_string();
        assert!(
            error.contains("192.0.2.1:0 is no address of this host") && error.contains("ip addr"),
            "{error}"
        );
    }
}
