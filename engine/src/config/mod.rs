//! The configuration, checked: what the rest of the engine may rely on.
//!
//! `file` is the TOML as written, `check` turns what was given in it and on the command line into a
//! [`Config`], `limits` is every bound. A `Config` exists only after every value was checked.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

mod addresses;
mod check;
mod clients;
mod collisions;
mod confine;
pub mod directory;
pub mod file;
mod health;
pub mod limits;
mod offload;
mod option;
mod origins;

mod pinning;
mod pool;
mod route;
mod truncation;
mod trust;
mod unix;

pub use addresses::AcceptProxy;
pub use check::{Raw, RawListener, RawPool};
pub use confine::{Confine, RunAs};
pub use option::{ConfigOption, Description, Given, Kind, Origin, Scope};

pub use offramp_core::config::{
    ClientAuth, Fingerprint, FingerprintHash, IdentityFiles, Mode, Originate, PeerName, PeerRules,
    PostQuantum, TrustAnchor, UnknownName,
};

pub use health::{HealthCheck, HealthSend};
pub use offload::{KeyUpdatePolicy, OffloadDirections, OffloadPolicy, OffloadRules};
pub use origins::Origins;
pub use pinning::Pinning;
pub use pool::{Backend, Pool, ProxyTlvs, SendProxy, Target};
pub use route::{RawRoute, Route, Routes};
pub use truncation::Truncation;
pub use unix::SocketAccess;

use crate::limit::LimitRules;
use limits::Timeouts;
use offramp_core::conn::policy::Legs;
use offramp_core::tls::{IdentityError, Settings, Tickets, TlsPolicyError, TlsRole};
use offramp_ring::socket::Address;

/// One address on which TLS connections are accepted, and all that holds for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where connections are accepted; port 0 lets the kernel choose.
    pub listen: Address,
    /// Who may connect, where that is a Unix socket with a file.
    pub socket_access: SocketAccess,
    /// Where connections go.
    pub routes: Routes,
    /// Which leg is the one with TLS.
    pub mode: Mode,
    /// At least one; chosen by SNI and signature scheme, the first is the default. In the client's role at
    /// most one, for a server that asks for a certificate.
    pub identities: Vec<IdentityFiles>,
    /// Directories of more identities, which are read again when they change.
    pub identity_directories: Vec<PathBuf>,
    /// With TLS on both legs: what a server is shown that asks for a certificate.
    pub backend_identity: Option<IdentityFiles>,
    /// What becomes of a client that asks for a name that no identity has.
    pub unknown_name: UnknownName,
    /// How the plain leg ends where a peer's FIN comes without close_notify.
    pub truncation: Truncation,
    /// When the kernel shall carry the records.
    pub offload: OffloadRules,
    /// The application protocols offered or taken (RFC 7301), in order of preference; none negotiates none.
    pub alpn: Vec<String>,
    /// Whether session tickets (RFC 5077, RFC 8446 §4.6.1) are issued and accepted.
    pub tickets: bool,
    /// Whether the post-quantum group is offered.
    pub post_quantum: PostQuantum,
    /// Whether TCP asks a silent peer of either leg if it is still there.
    pub keepalive: bool,
    /// How long what was sent on either leg may wait to be acknowledged, or to be taken by a peer that reads
    /// nothing (TCP_USER_TIMEOUT).
    pub tcp_user_timeout: Duration,
    /// The balancers, which say in a PROXY header who the client is; others are refused.
    pub accept_proxy: AcceptProxy,
    /// Who may connect.
    pub peers: PeerRules,
}

impl Listener {
    /// One that terminates TLS, with the defaults of a configuration file.
    #[must_use]
    pub fn new(listen: impl Into<Address>, routes: Routes, identities: Vec<IdentityFiles>) -> Self {
        Self {
            listen: listen.into(),
            socket_access: SocketAccess::default(),
            routes,
            mode: Mode::Terminate,
            identities,
            identity_directories: Vec::new(),
            unknown_name: UnknownName::default(),
            truncation: Truncation::default(),
            offload: OffloadRules::default(),
            alpn: Vec::new(),
            tickets: true,
            post_quantum: PostQuantum::default(),
            backend_identity: None,
            keepalive: true,
            tcp_user_timeout: limits::TCP_USER_TIMEOUT_DEFAULT,
            accept_proxy: AcceptProxy::Off,
            peers: PeerRules::default(),
        }
    }

    /// Whether clients' TLS comes over a Unix socket: kernel TLS is a part of TCP, so that userspace carries
    /// its records.
    #[must_use]
    pub fn has_tls_over_unix(&self) -> bool {
        self.listen.is_unix() && self.mode.is_server()
    }

    /// Every identity of either leg, those included that lie in directories now.
    #[must_use]
    pub fn all_identities(&self) -> Vec<IdentityFiles> {
        let named = self.identities.iter().chain(&self.backend_identity).cloned();
        named.chain(self.found().unwrap_or_default()).collect()
    }

    /// All files that are read when it is loaded: those that it names, and those that lie in a directory
    /// which it names.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        [self.named_files(), self.found_files()].concat()
    }

    /// Those that it names: it cannot be loaded without one of them.
    #[must_use]
    pub fn named_files(&self) -> Vec<PathBuf> {
        let identities = self.identities.iter().chain(&self.backend_identity).flat_map(IdentityFiles::paths);
        let anchors = [self.mode.server().map(|server| &server.trust), Some(&self.peers.trust_anchor)];
        let authorities = anchors.into_iter().flatten().filter_map(|trust_anchor| match trust_anchor {
            TrustAnchor::Authorities(file) => Some(file),
            _ => None,
        });
        identities.chain(authorities).chain(&self.peers.revocation).cloned().collect()
    }

    /// Those that lie in its directories now: a pair that cannot be used is left out.
    #[must_use]
    pub fn found_files(&self) -> Vec<PathBuf> {
        self.found().unwrap_or_default().iter().flat_map(IdentityFiles::paths).cloned().collect()
    }

    /// What lies in directories now.
    fn found(&self) -> Result<Vec<IdentityFiles>, TlsPolicyError> {
        let mut found = Vec::new();
        for directory in &self.identity_directories {
            found.extend(directory::pairs(directory).map_err(|error| IdentityError::Unreadable {
                file: directory.clone(),
                reason: error.to_string(),
            })?);
        }
        Ok(found)
    }

    /// What TLS needs to know of the accepted leg, if it has TLS.
    fn near<'a>(&'a self, found: &'a [IdentityFiles]) -> Option<Settings<'a>> {
        let settings = || self.settings(TlsRole::Server, &self.identities);
        self.mode.is_server().then(|| Settings { found, ..settings() })
    }

    /// What TLS needs to know of the connected leg, if it has TLS. With TLS on both, clients are shown the
    /// identities, and servers the one for backends, if there is one.
    fn far(&self) -> Option<Settings<'_>> {
        let own = self.backend_identity.as_slice();
        let identities = if self.mode.is_server() { own } else { &*self.identities };
        self.mode.server().map(|server| self.settings(TlsRole::Client(server), identities))
    }

    fn settings<'a>(&'a self, role: TlsRole<'a>, identities: &'a [IdentityFiles]) -> Settings<'a> {
        let Self { unknown_name, alpn, tickets, peers, .. } = self;
        let (unknown_name, tickets, post_quantum) = (*unknown_name, *tickets, self.post_quantum);
        Settings { role, identities, found: &[], unknown_name, alpn, tickets, post_quantum, peers }
    }

    /// Reads and checks all files that it names ([`Legs::load`]).
    ///
    /// # Errors
    /// [`TlsPolicyError`].
    pub fn load(
        &self,
        tickets: Option<&Arc<Tickets>>,
        earlier: Option<&Legs>,
    ) -> Result<Legs, TlsPolicyError> {
        Legs::load(self.near(&self.found()?), self.far(), tickets, earlier)
    }
}

/// A whole configuration, every value checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// At least one.
    pub listeners: Vec<Listener>,
    /// Worker threads, at least one.
    pub workers: usize,
    /// Where each runs.
    pub pin_workers: Pinning,
    /// Whom a process becomes that was started as root.
    pub run_as: Option<RunAs>,
    /// Whether the process gives up what it does not need; the library does so only with its own rings.
    pub confine: Confine,
    /// Where the control plane serves what anybody may read; nowhere if absent.
    pub admin: Option<SocketAddr>,
    /// The Unix socket where it serves everything; none if absent.
    pub admin_socket: Option<PathBuf>,
    /// Where the secrets of every connection are written, for debugging; nowhere if absent. No file has a key
    /// for it: only the command line can give it.
    pub key_log: Option<PathBuf>,
    /// The deadlines of a connection.
    pub timeouts: Timeouts,
    /// Connections open at once in the whole process; past it accepting pauses.
    pub max_connections: usize,
    /// What clients may use.
    pub limits: LimitRules,
    /// The ticket keys that several hosts share; this process's own if absent.
    pub ticket_keys: Option<PathBuf>,
    /// From the first full handshake until a session is resumed no more.
    pub session_lifetime: Duration,
    /// Where values were given, for errors that come up when they are used.
    pub origins: Origins,
}

/// A configuration, and the text that it was read from.
#[derive(Clone)]
pub struct Loaded {
    /// Checked.
    pub config: Config,
    /// The file's, or what was sent in its place; none if there is no file.
    pub text: Option<String>,
}

impl fmt::Debug for Loaded {
    /// Without the text: a password may be in it (`health_send`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Config {
    /// One worker, and otherwise the defaults of a configuration file.
    #[must_use]
    pub fn new(listeners: Vec<Listener>) -> Self {
        Self {
            listeners,
            workers: 1,
            pin_workers: Pinning::default(),
            run_as: None,
            confine: Confine::default(),
            admin: None,
            admin_socket: None,
            key_log: None,
            timeouts: Timeouts::default(),
            max_connections: limits::MAX_CONNECTIONS_DEFAULT,
            limits: LimitRules::default(),
            ticket_keys: None,
            session_lifetime: limits::SESSION_LIFETIME_DEFAULT,
            origins: Origins::default(),
        }
    }

    /// Where admin is served: by TCP, and at the Unix socket.
    #[must_use]
    pub fn admin_addresses(&self) -> Vec<Address> {
        let socket = self.admin_socket.clone().map(Address::Unix);
        self.admin.map(Address::Tcp).into_iter().chain(socket).collect()
    }
}

/// Why there is no configuration. Its text names where the value was given, the key, the value and what is
/// allowed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {cause}; try: ls -l {}", .path.display(), .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The file is not TOML, has a key that does not exist, or a value of the wrong type.
    #[error("{}:{line}: {message}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// 1-based; 1 where the parser gives none.
        line: usize,
        /// What the parser expected and found.
        message: String,
    },
    /// A value out of bounds, or not of the form that its key has.
    #[error("{origin}: {key} = {value:?} is refused: allowed is {allowed}")]
    Refused {
        /// Where it was given.
        origin: Origin,
        /// Which one.
        key: ConfigOption,
        /// As given.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// A value that has no default was not given to a listener of the file.
    #[error("{}:{line}: this [[listener]] has no {key}: write `{key} = …` below it", .path.display())]
    MissingInListener {
        /// The file.
        path: PathBuf,
        /// Where the listener begins, 1-based.
        line: usize,
        /// Which one.
        key: ConfigOption,
    },
    /// No endpoints were given to a pool.
    #[error("{}:{line}: this [[pool]] has no backend: write `backend = …` below it", .path.display())]
    MissingInPool {
        /// The file.
        path: PathBuf,
        /// Where the pool begins, 1-based.
        line: usize,
    },
    /// The name of a pool cannot be used.
    #[error("{origin}: [[pool]] name = {name:?} is refused: allowed is {allowed}")]
    PoolName {
        /// Where it is given.
        origin: Origin,
        /// As given.
        name: String,
        /// What is allowed.
        allowed: String,
    },
    /// A pool is named that is not there.
    #[error(
        "{origin}: {key}: there is no pool {name:?}: add a [[pool]] with this name, or name one of these: \
         {known}"
    )]
    NoSuchPool {
        /// Where it is named.
        origin: Origin,
        /// By which key.
        key: &'static str,
        /// As given.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// A value of a route cannot be used.
    #[error("{origin}: [[listener.route]] {key} = {value:?} is refused: allowed is {allowed}")]
    Route {
        /// Where it is given; where the route begins, if it is not.
        origin: Origin,
        /// Which one.
        key: &'static str,
        /// As given.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// Too many routes.
    #[error(
        "[[listener.route]]: {count} routes of the listener {listen} are refused: allowed are up to {}",
        limits::ROUTES.end()
    )]
    Routes {
        /// How many there are.
        count: usize,
        /// Of which listener.
        listen: Address,
    },
    /// Too many pools.
    #[error("[[pool]]: {count} pools are refused: allowed are up to {}", limits::POOLS.end())]
    Pools {
        /// How many there are.
        count: usize,
    },
    /// Too many listeners.
    #[error(
        "listen: this makes more than {most} listeners, one per address: allowed are up to {most}",
        most = limits::LISTENERS.end()
    )]
    Listeners,
    /// A value that has no default was not given.
    #[error("{key} is missing: give {} on the command line or `{key} = …` in the file", .key.flag())]
    Missing {
        /// Which one.
        key: ConfigOption,
    },
    /// In the client's role there is nobody to say who the server must be.
    #[error(
        "{origin}: mode = \"{mode}\": nothing says which certificate of the server to accept; give server_ca \
         (--server-ca) or fingerprints (--fingerprints), one of the two"
    )]
    NoServerTrust {
        /// As given.
        mode: &'static str,
        /// Where the mode was given.
        origin: Origin,
    },
    /// Certificates and keys do not pair up.
    #[error(
        "{certificates} certificate(s) (--cert) but {keys} key(s) (--key): each --cert needs its own --key; \
         they are paired in the order given"
    )]
    Unpaired {
        /// How many certificates.
        certificates: usize,
        /// How many keys.
        keys: usize,
    },
    /// There is no identity where one is needed.
    #[error(
        "there is no identity: mode = \"{mode}\" needs a certificate and its key; give --cert PEM --key PEM, \
         or [[identity]] in the file"
    )]
    NoIdentity {
        /// The mode.
        mode: &'static str,
    },
    /// An identity for backends is given where none is shown.
    #[error("mode = \"{mode}\" shows backends no backend_identity: remove it, or use mode = \"reencrypt\"")]
    BackendIdentity {
        /// The mode.
        mode: &'static str,
    },
    /// Another error, with where it was found.
    #[error("{place}: {error}")]
    At {
        /// The file, with the line if it is known; or the flag.
        place: String,
        /// What is wrong.
        error: Box<Self>,
    },
    /// There are too many identities.
    #[error(
        "mode = \"{mode}\" uses at most {most} identities, and {count} are given (--cert, [[identity]]) or \
         inherited from the top of the file: remove the others"
    )]
    Identities {
        /// How many there are.
        count: usize,
        /// The mode.
        mode: &'static str,
        /// How many it takes.
        most: usize,
    },
}

impl ConfigError {
    /// The same as [`Self::at`], where the place is in a file.
    fn at_line(self, origin: Option<&Origin>) -> Self {
        match origin {
            Some(origin @ Origin::File { .. }) => self.at(origin),
            _ => self,
        }
    }

    /// With the place where it was found, unless it names one.
    #[must_use]
    fn at(self, place: impl fmt::Display) -> Self {
        match self {
            Self::Missing { .. }
            | Self::Listeners
            | Self::Pools { .. }
            | Self::Routes { .. }
            | Self::NoIdentity { .. }
            | Self::BackendIdentity { .. }
            | Self::Identities { .. } => Self::At { place: place.to_string(), error: Box::new(self) },
            other => other,
        }
    }
}
