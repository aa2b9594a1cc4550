//! The keys of a configuration, and a value as it was given.

use std::fmt;
use std::path::PathBuf;

use super::ConfigError;

/// Everything that has one value; identities, of which there are several, stand apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Where connections are accepted.
    Listen,
    /// Where the plain leg goes.
    Backend,
    /// What the listener does: terminate or originate.
    Mode,
    /// The name of the server that TLS goes out to.
    ServerName,
    /// Who vouches for it.
    ServerCa,
    /// Worker threads.
    Workers,
    /// Whether each stays on a CPU of its own.
    PinWorkers,
    /// When the kernel shall carry the records.
    Offload,
    /// Which directions the kernel may carry.
    OffloadDirections,
    /// What of TLS 1.3 on a kernel that cannot replace keys.
    KeyUpdate,
    /// Whether peers are expected not to pad their records.
    ExpectNoPad,
    /// Most records under one key.
    RecordLimit,
    /// Session tickets.
    Tickets,
    /// Whether TCP asks silent peers.
    Keepalive,
    /// The file of ticket keys.
    TicketKeys,
    /// How long a session may live.
    SessionLifetime,
    /// Whether clients are asked for a certificate.
    ClientAuth,
    /// Who vouches for it: authorities.
    ClientCa,
    /// Who vouches for it: fingerprints.
    Fingerprints,
    /// Application protocols.
    Alpn,
    /// What becomes of a client that asks for a name that nobody has.
    UnknownName,
    /// How the plain leg ends where the peer's FIN comes without close_notify.
    Truncation,
    /// Where the control plane serves.
    Admin,
    /// Connections open at once.
    MaxConnections,
    /// Deadline of the handshake.
    Handshake,
    /// Deadline of the plain leg's connect.
    Connect,
    /// Longest silence.
    Idle,
    /// Longest wait for the peer's close.
    Linger,
    /// Longest drain.
    Drain,
}

impl Key {
    /// Every key.
    pub const ALL: [Self; 29] = [
        Self::Listen,
        Self::Backend,
        Self::Mode,
        Self::ServerName,
        Self::ServerCa,
        Self::Workers,
        Self::PinWorkers,
        Self::Offload,
        Self::OffloadDirections,
        Self::KeyUpdate,
        Self::ExpectNoPad,
        Self::RecordLimit,
        Self::Tickets,
        Self::Keepalive,
        Self::TicketKeys,
        Self::SessionLifetime,
        Self::ClientAuth,
        Self::ClientCa,
        Self::Fingerprints,
        Self::Alpn,
        Self::UnknownName,
        Self::Truncation,
        Self::Admin,
        Self::MaxConnections,
        Self::Handshake,
        Self::Connect,
        Self::Idle,
        Self::Linger,
        Self::Drain,
    ];

    /// The flag of the command line that gives it.
    #[must_use]
    pub fn flag(self) -> &'static str {
        self.names().1
    }

    /// In the file, and on the command line.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Listen => ("listen", "--listen"),
            Self::Backend => ("backend", "--backend"),
            Self::Mode => ("mode", "--mode"),
            Self::ServerName => ("server_name", "--server-name"),
            Self::ServerCa => ("server_ca", "--server-ca"),
            Self::Workers => ("workers", "--workers"),
            Self::PinWorkers => ("pin_workers", "--pin-workers"),
            Self::Offload => ("offload", "--offload"),
            Self::OffloadDirections => ("offload_directions", "--offload-directions"),
            Self::KeyUpdate => ("keyupdate", "--keyupdate"),
            Self::ExpectNoPad => ("expect_no_pad", "--expect-no-pad"),
            Self::RecordLimit => ("record_limit", "--record-limit"),
            Self::Tickets => ("tickets", "--tickets"),
            Self::Keepalive => ("keepalive", "--keepalive"),
            Self::TicketKeys => ("ticket_keys", "--ticket-keys"),
            Self::SessionLifetime => ("session_lifetime", "--session-lifetime"),
            Self::ClientAuth => ("client_auth", "--client-auth"),
            Self::ClientCa => ("client_ca", "--client-ca"),
            Self::UnknownName => ("unknown_name", "--unknown-name"),
            Self::Truncation => ("truncation", "--truncation"),
            Self::Alpn => ("alpn", "--alpn"),
            Self::Fingerprints => ("fingerprints", "--fingerprints"),
            Self::Admin => ("admin", "--admin"),
            Self::MaxConnections => ("max_connections", "--max-connections"),
            Self::Handshake => ("timeouts.handshake", "--handshake-timeout"),
            Self::Connect => ("timeouts.connect", "--connect-timeout"),
            Self::Idle => ("timeouts.idle", "--idle-timeout"),
            Self::Linger => ("timeouts.linger", "--linger-timeout"),
            Self::Drain => ("timeouts.drain", "--drain-timeout"),
        }
    }
}

impl fmt::Display for Key {
    /// As the file writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.names().0)
    }
}

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In a file.
    File {
        /// Which one.
        path: PathBuf,
        /// 1-based.
        line: usize,
    },
    /// On the command line, with this flag.
    Flag(&'static str),
    /// Nowhere: it is what the default comes to here.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Flag(flag) => f.write_str(flag),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value as written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// As written.
    pub value: String,
    /// Where.
    pub origin: Origin,
}

impl Given {
    /// The error that names it, for whoever knows what is allowed.
    #[must_use]
    pub fn refused(self, key: Key, allowed: impl fmt::Display) -> ConfigError {
        ConfigError::Refused { origin: self.origin, key, value: self.value, allowed: allowed.to_string() }
    }
}
