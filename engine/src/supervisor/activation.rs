//! Socket activation (sd_listen_fds(3)): the service manager has opened the listening sockets and passes them
//! as the descriptors from 3 on.

use std::os::fd::{AsFd, RawFd};

use super::StartError;
use super::inherited::{Given, Giver, Inherited};
use crate::config::limits::LISTENERS;
use crate::sys::{errno, passed};

/// The first one.
const FIRST: RawFd = 3;
/// Most that may be passed: one for each listener, and those of `admin` and `admin_socket`.
const SOCKETS_MAX: usize = *LISTENERS.end() + 2;

/// What the environment says was passed to this very process (`LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`).
/// To be called before other processes are started: the descriptors are closed on exec from then on.
pub(super) fn from_environment() -> Result<Inherited, StartError> {
    let variable = |name| std::env::var(name).ok();
    let pid = variable("LISTEN_PID").and_then(|pid| pid.parse().ok());
    let Some(count) = variable("LISTEN_FDS").filter(|_| pid == Some(std::process::id())) else {
        return Ok(Inherited::default());
    };
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let count = count.parse().ok().filter(|count| *count <= SOCKETS_MAX).ok_or_else(|| {
        StartError::Passed(format!(
            "LISTEN_FDS={count} is refused: allowed is 0 to {SOCKETS_MAX}; try: one ListenStream= per \
             listener"
        ))
    })?;
    take(count, &names)
}

fn take(count: usize, names: &str) -> Result<Inherited, StartError> {
    let mut sockets: Vec<Given> = Vec::with_capacity(count);
    for (descriptor, nth) in (FIRST..).zip(0..count) {
        let name = names.split(':').nth(nth).filter(|name| !name.is_empty()).unwrap_or("unknown");
        let wrong = |what: &str, remedy: &str| {
            StartError::Passed(format!("descriptor {descriptor} (\"{name}\") is {what}; try: {remedy}"))
        };
        let socket = passed::take(descriptor)
            .map_err(|error| wrong(&format!("not open ({})", errno::name(&error)), "unset LISTEN_FDS"))?;
        let found = passed::listening(socket.as_fd())
            .map_err(|what| wrong(what, "ListenStream= and Accept=no in the .socket unit"))?;
        let address = found.address;
        if found.takes_ipv4_too {
            let what = format!("bound to {address} and takes IPv4 too, under addresses of IPv6");
            let port = address.port().unwrap_or_default();
            let remedy =
                format!("BindIPv6Only=ipv6-only, and ListenStream=0.0.0.0:{port} beside it for IPv4");
            return Err(wrong(&what, &remedy));
        }
        if sockets.iter().any(|other| other.bound == address) {
            return Err(wrong(&format!("bound to {address}, as one before it is"), "each address once"));
        }
        sockets.push(Given {
            purpose: None,
            asked: address.clone(),
            bound: address,
            sockets: vec![socket],
            // The manager has one per address.
            is_shared: true,
            owns_file: false,
        });
    }
    let giver = if sockets.is_empty() { Giver::Nobody } else { Giver::Manager };
    Ok(Inherited { giver, sockets })
}
