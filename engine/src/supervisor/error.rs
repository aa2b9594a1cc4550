//! Why the engine did not start, or did not go on; each with the likely cause and the command to try.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::Origins;
use crate::config::limits::BUFFER_MEMORY_PER_WORKER;
use crate::confine::ConfineError;
use crate::sys::errno;
use crate::sys::socket::Address;
use crate::tls::KeyFileError;
use crate::tls::TlsPolicyError;
use crate::tls::ticket_keys::NoRandomness;
use crate::worker;

/// Why the engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The identities cannot be used.
    #[error(transparent)]
    TlsPolicy(#[from] TlsPolicyError),
    /// The file of ticket keys cannot be used.
    #[error("ticket_keys: {0}")]
    TicketKeys(#[from] KeyFileError),
    /// Ticket keys cannot be made.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// The process cannot be confined as it was asked for, or cannot reach what is named since then.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// An address cannot be listened on.
    #[error("{key}: {address} {problem}")]
    Listen {
        /// The configuration's key.
        key: &'static str,
        /// As configured.
        address: Address,
        /// What is wrong with it and what to try.
        problem: String,
    },
    /// What the service manager has passed is no socket that Offramp can use.
    #[error("socket activation: {0}")]
    Passed(String),
    /// It has passed other sockets than those of the listeners.
    #[error(
        "socket activation: {passed} sockets were passed; passed without a listener: {extra}; listeners \
         without a socket: {missing}; try: the addresses of [[listener]] as ListenStream= in the .socket \
         unit, no more and no fewer"
    )]
    Activation {
        /// How many.
        passed: usize,
        /// Addresses of sockets.
        extra: String,
        /// Addresses of listeners.
        missing: String,
    },
    /// What another process hands over cannot be used.
    #[error("{0}")]
    Handover(String),
    /// A reload while another process is about to take over.
    #[error("an upgrade is under way, and the new process reads the file; try: again if the upgrade fails")]
    Upgrading,
    /// The policy asks for what the kernel cannot do.
    #[error(
        "offload = always, but the kernel cannot carry {direction} records: {reason}; try: `offramp probe` \
         for details, or --offload auto to start without"
    )]
    NoOffload {
        /// `tx` or `rx`.
        direction: &'static str,
        /// What the kernel said, and the command to try.
        reason: String,
    },
    /// The policy asks for what kernel TLS cannot do.
    #[error(
        "offload = always, but the kernel cannot carry the records of clients on {address}: kernel TLS is a \
         part of TCP; try: offload = \"auto\" for this listener"
    )]
    NoOffloadOverUnix {
        /// The Unix socket.
        address: Address,
    },
    /// There are not even enough descriptors for one connection a worker.
    #[error(
        "RLIMIT_NOFILE is {limit} but {needed} descriptors are needed; try: LimitNOFILE={needed} in the \
         systemd unit, ulimit -Hn {needed} as root, fewer --workers or a smaller --max-connections"
    )]
    Descriptors {
        /// As far as it could be raised.
        limit: u64,
        /// What was asked for needs this many.
        needed: u64,
    },
    /// A worker without a connection would accept none of those that the kernel gives it.
    #[error(
        "max_connections = {asked} is refused: allowed is {workers} or more, one per worker; {workers} \
         workers run until an upgrade or a restart"
    )]
    TooFewConnections {
        /// As configured.
        asked: usize,
        /// As many as run.
        workers: usize,
    },
    /// Less memory for buffers than each worker needs.
    #[error(
        "limits.buffer_memory of {asked_mib}MiB is refused: allowed is {least_mib}MiB or more, {} MiB per \
         worker; {workers} workers run until an upgrade or a restart",
        BUFFER_MEMORY_PER_WORKER >> 20
    )]
    LittleBufferMemory {
        /// As configured.
        asked_mib: usize,
        /// For as many workers as run.
        least_mib: usize,
        /// As many as run.
        workers: usize,
    },
    /// The system gave no thread, descriptor or the like.
    #[error("the system gives no {what}: {cause}; try: ulimit -a, and the limits of the container or unit")]
    Resource {
        /// What was asked for.
        what: &'static str,
        /// The error's name.
        cause: String,
    },
    /// The file of the key log cannot be used.
    #[error(
        "--key-log: {} cannot be written: {why}; try: a new file in a directory to which this user may write",
        .path.display()
    )]
    KeyLog {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// Another one, with where in the configuration the value stands that it is about.
    #[error("{place}: {error}")]
    At {
        /// `FILE:LINE`, or the flag; with the key behind it if the error does not name that.
        place: String,
        /// What is wrong.
        error: Box<Self>,
    },
    /// A worker could not start.
    #[error("worker {index} cannot start: {cause}")]
    Worker {
        /// 0-based.
        index: usize,
        /// What it said.
        cause: worker::StartError,
    },
    /// A worker ended before it accepted connections.
    #[error(transparent)]
    Lost(#[from] ThreadLost),
    /// A worker said nothing for too long.
    #[error("the workers did not start within {seconds} s: is the machine overloaded? try: fewer --workers")]
    Late {
        /// How long was waited.
        seconds: u64,
    },
}

impl StartError {
    pub(super) fn resource(what: &'static str, error: &io::Error) -> Self {
        Self::Resource { what, cause: errno::name(error) }
    }

    /// With where in the configuration the value stands that it is about, as far as that is known.
    #[must_use]
    pub fn at(self, origins: &Origins) -> Self {
        let is_any = |_: &str| true;
        let place = match &self {
            Self::TlsPolicy(error) => error.file().and_then(|file| origins.of_path(file)),
            Self::Confine(ConfineError::Outside { path } | ConfineError::Unreadable { path, .. }) => {
                origins.of_path(path)
            }
            Self::Confine(ConfineError::User { .. }) => origins.of_key("user", is_any),
            Self::Confine(ConfineError::Missing { .. }) => origins.of_key("confine", is_any),
            Self::TicketKeys(_) => origins.of_key("ticket_keys", is_any),
            Self::Listen { key, address, .. } => origins.of_key(key, |value| {
                let is_it = |one: &str| one.parse().map(Address::Tcp).is_ok_and(|one| one == *address);
                let is_file = address.file().is_some_and(|file| file == std::path::Path::new(value));
                let mut all = value.split(',').map(str::trim);
                is_file || all.any(|one| is_it(one) || one == address.to_string())
            }),
            Self::LittleBufferMemory { .. } => origins.of_key("limits.buffer_memory", is_any),
            Self::NoOffload { .. } => origins.of_key("offload", |value| value == "always"),
            Self::TooFewConnections { .. } | Self::Descriptors { .. } => {
                origins.of_key("max_connections", is_any)
            }
            _ => return self,
        };
        match place.or_else(|| origins.file().map(|file| file.to_string())) {
            Some(place) => Self::At { place, error: Box::new(self) },
            None => self,
        }
    }

    pub(super) fn listen(key: &'static str, address: SocketAddr, error: &io::Error) -> Self {
        let port = address.port();
        let problem = match error.raw_os_error() {
            Some(libc::EADDRINUSE) => {
                format!(
                    "is in use: port {port} has a listener, of another process or of this one; try: ss -ltnp \
                     'sport = :{port}'"
                )
            }
            Some(libc::EACCES) => format!(
                "is forbidden: port {port} needs a privilege; try: AmbientCapabilities=CAP_NET_BIND_SERVICE \
                 in the systemd unit, or sysctl -w net.ipv4.ip_unprivileged_port_start={port}"
            ),
            Some(libc::EADDRNOTAVAIL) => "is no address of this host; try: ip addr".to_owned(),
            Some(libc::EAFNOSUPPORT) => {
                "is of a family that the kernel does not have; try: sysctl net.ipv6.conf.all.disable_ipv6"
                    .to_owned()
            }
            _ => format!("cannot be listened on: {}", errno::name(error)),
        };
        Self::Listen { key, address: address.into(), problem }
    }
}

/// A thread has ended, or stands still, without which the engine does not go on: what it did is not done any
/// more, and the others were ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{thread} {how}")]
pub struct ThreadLost {
    /// `worker 0`, or what else it is for.
    pub thread: String,
    /// It panicked, with this message; or how else it ended.
    pub how: String,
}

impl ThreadLost {
    pub(super) fn new(thread: impl Into<String>, how: impl Into<String>) -> Self {
        Self { thread: thread.into(), how: how.into() }
    }

    pub(super) fn worker(index: usize, how: impl Into<String>) -> Self {
        Self::new(format!("worker {index}"), how)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_an_address_tells_what_to_try() {
        let hints = [
            (libc::EADDRINUSE, "ss -ltnp 'sport = :443'"),
            (libc::EACCES, "CAP_NET_BIND_SERVICE"),
            (libc::EADDRNOTAVAIL, "ip addr"),
            (libc::EAFNOSUPPORT, "disable_ipv6"),
            (libc::EMFILE, "EMFILE"),
        ];
        for (number, hint) in hints {
            let error = io::Error::from_raw_os_error(number);
            let text = StartError::listen("listen", "127.0.0.1:443".parse().unwrap(), &error).to_string();
            assert!(text.starts_with("listen: 127.0.0.1:443 ") && text.contains(hint), "{text}");
        }
    }
}
