//! Policy: what is negotiated, who we are, how sessions resume. No sockets, no clock.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::{DnsName, ServerName};
use rustls::server::{NoServerSessionStorage, ProducesTickets};

use crate::config::{IdentityFiles, Originate, PeerRules, PostQuantum, UnknownName};

mod authorities;
mod certificate;
pub mod cipher;
pub mod evidence;
mod findings;
mod full;
mod hello;
mod identity;
mod identity_error;
mod info;
mod key_kind;
mod ocsp;
mod originate;
#[cfg(test)]
mod pair;
pub mod peek;
mod peer;
mod peer_error;
mod pending;
mod profile;
mod refusal;
mod revocation;
pub mod secrets;
pub mod session;
mod sessions;
mod signatures;
mod sources;
mod ticket_file;
pub mod ticket_keys;
mod tickets;

pub use findings::Dated;
pub use identity_error::IdentityError;
pub use info::{GROUPS, SUITES, TlsInfo};
pub use offramp_proto::record;
pub use peer::PeerRefusal;
pub use peer_error::PeerError;
pub use pending::PendingPeer;
pub use sources::{LoadKey, Sources};
pub use ticket_file::{FILE_BYTES_MAX as TICKET_FILE_BYTES_MAX, KeyFileError, read_secret};
pub use ticket_keys::KeyState;
pub use tickets::{NextKeys, Tickets};

use findings::Findings;
use findings::Purpose;
use identity::Identities;
use originate::Origination;
use peer::Peers;
use ticket_keys::UnixSeconds;
use tickets::ListenerTickets;

/// TLS 1.3 tickets sent after a full handshake: one is what a client uses next, and it is replaced when it is
/// used.
const TLS13_TICKETS: usize = 1;

/// What [`TlsPolicy`] are made from: what a listener says of TLS.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Which role it has.
    pub role: TlsRole<'a>,
    /// At least one in the server's role, at most one in the client's.
    pub identities: &'a [IdentityFiles],
    /// Others in the server's role, as they were found in directories: one that cannot be used is named in a
    /// warning, and the rest serves.
    pub found: &'a [IdentityFiles],
    /// What becomes of a client that asks for a name that no identity has.
    pub unknown_name: UnknownName,
    /// The application protocols (RFC 7301), in order of preference.
    pub alpn: &'a [String],
    /// Whether sessions are resumed by tickets.
    pub tickets: bool,
    /// Whether the post-quantum group is offered.
    pub post_quantum: PostQuantum,
    /// Which clients may connect.
    pub peers: &'a PeerRules,
}

/// The role in the handshake (RFC 8446 §2). It does not follow from who opened the TCP connection.
#[derive(Clone, Copy, Debug)]
pub enum TlsRole<'a> {
    /// Answers hellos.
    Server,
    /// Sends one, to a server that is like this.
    Client(&'a Originate),
}

/// Everything that a handshake needs to know; immutable, shared by all workers, swapped whole on reload.
#[derive(Debug)]
pub struct TlsPolicy {
    role: Role,
    findings: Findings,
}

#[derive(Debug)]
enum Role {
    Terminate { server: Arc<ServerConfig>, peers: Arc<Peers>, unknown_name: UnknownName },
    Originate(Arc<Origination>),
}

/// Why the policy could not be made; the text names the file, what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsPolicyError {
    /// The server cannot be asked for by this name.
    #[error("server_name = {0:?} is refused: allowed is {allowed}", allowed = Originate::ALLOWED_NAME)]
    ServerName(String),
    /// An identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// There is none.
    #[error("no certificate: add an [[identity]] with certificate and key, or --cert and --key{0}")]
    NoIdentity(String),
    /// Who may connect cannot be told.
    #[error(transparent)]
    Peers(#[from] PeerError),
    /// The library refuses the profile as configured.
    #[error("rustls refuses the profile: {0}")]
    Profile(String),
}

impl TlsPolicyError {
    /// The file that is to be mended, if it is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Identity(error) => Some(error.file()),
            Self::Peers(error) => Some(error.file()),
            Self::ServerName(_) | Self::NoIdentity(_) | Self::Profile(_) => None,
        }
    }
}

impl TlsPolicy {
    /// Reads and checks what the settings name, in the role that they say. Without `tickets` a server has
    /// none.
    ///
    /// # Errors
    /// [`TlsPolicyError`].
    pub fn load(settings: Settings<'_>, tickets: Option<&Arc<Tickets>>) -> Result<Self, TlsPolicyError> {
        Self::load_from(&Sources::system(), settings, tickets)
    }

    /// The same from other sources.
    ///
    /// # Errors
    /// [`TlsPolicyError`].
    pub fn load_from(
        sources: &Sources,
        settings: Settings<'_>,
        tickets: Option<&Arc<Tickets>>,
    ) -> Result<Self, TlsPolicyError> {
        let provider = profile::with_post_quantum(Arc::clone(&sources.provider), settings.post_quantum);
        let sources = &Sources { provider, ..sources.clone() };
        match settings.role {
            TlsRole::Server => Self::terminate(sources, settings, tickets.filter(|_| settings.tickets)),
            TlsRole::Client(rules) => {
                let tickets = tickets.filter(|_| settings.tickets);
                let alpn = protocols(settings.alpn);
                let mut findings = Findings::default();
                let identities = settings.identities;
                let origination =
                    Origination::load(sources, rules, identities, tickets, alpn, &mut findings)?;
                Ok(Self { role: Role::Originate(Arc::new(origination)), findings })
            }
        }
    }

    fn terminate(
        sources: &Sources,
        settings: Settings<'_>,
        tickets: Option<&Arc<Tickets>>,
    ) -> Result<Self, TlsPolicyError> {
        let Settings { identities, found, peers, alpn, unknown_name, .. } = settings;
        let mut findings = Findings::default();
        let identities =
            Identities::load_from(sources, identities, unknown_name, Purpose::Servers, &mut findings)?
                .with_found(sources, found, Purpose::Servers, &mut findings);
        if identities.is_empty() {
            let why: String = findings.warnings(0).iter().map(|line| format!("; {line}")).collect();
            return Err(TlsPolicyError::NoIdentity(why));
        }
        let Sources { provider, time, .. } = sources.clone();
        let random = provider.secure_random;
        let peers = Arc::new(Peers::load(peers, &provider, &mut findings)?);
        let class = peers.class().known_by(&identities.known_by());
        let versions = ServerConfig::builder_with_details(provider, time)
            .with_protocol_versions(profile::VERSIONS)
            .map_err(|e| TlsPolicyError::Profile(e.to_string()))?;
        let mut server = match peers.verifier() {
            None => versions.with_no_client_auth(),
            Some(verifier) => versions.with_client_cert_verifier(verifier),
        }
        .with_cert_resolver(Arc::new(identities));
        // The handshake ends with the keys handed to a record path: kernel, or `cipher`.
        server.enable_secret_extraction = true;
        // Tickets alone (RFC 5077), no session on the server (TS 33.328 Annex M) (A3a).
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.alpn_protocols = protocols(alpn);
        // TLS 1.2 only with extended_master_secret (TS 33.210 clause 6.2.3) (B10a). That renegotiation is
        // secure rustls signals to every client that asks, by extension or by suite (RFC 5746 §3.6) (A6a).
        server.require_ems = true;
        // 0-RTT has no profile for media (B7).
        server.max_early_data_size = 0;
        server.send_tls13_tickets = 0;
        // Without, SessionTicket is left out and every handshake is full (A4a, A5).
        if let Some(tickets) = tickets {
            server.ticketer = Arc::new(ListenerTickets { tickets: Arc::clone(tickets), class, random });
            server.send_tls13_tickets = TLS13_TICKETS;
        }
        let role = Role::Terminate { server: Arc::new(server), peers, unknown_name };
        Ok(Self { role, findings })
    }

    /// What seals and opens this listener's session tickets (RFC 5077); `None` in the client's role.
    #[must_use]
    pub fn ticketer(&self) -> Option<Arc<dyn ProducesTickets>> {
        match &self.role {
            Role::Terminate { server, .. } => Some(Arc::clone(&server.ticketer)),
            Role::Originate(_) => None,
        }
    }

    /// The same for a listener that had `earlier` ones. In the client's role those stay where nothing has
    /// changed of what they were made of, and with them the sessions that may be resumed.
    ///
    /// # Errors
    /// [`TlsPolicyError`].
    pub fn reload(
        settings: Settings<'_>,
        tickets: Option<&Arc<Tickets>>,
        earlier: Option<Arc<Self>>,
    ) -> Result<Arc<Self>, TlsPolicyError> {
        let read = Self::load(settings, tickets)?;
        Ok(earlier.filter(|earlier| earlier.is_the_same(&read)).unwrap_or_else(|| Arc::new(read)))
    }

    /// A line for each private key of these identities to whose file everybody on the host has access: it can
    /// be used, and should not be so.
    #[must_use]
    pub fn exposed_keys<'a>(identities: impl IntoIterator<Item = &'a IdentityFiles>) -> BTreeSet<String> {
        identities.into_iter().filter_map(identity::exposed).collect()
    }

    fn is_the_same(&self, other: &Self) -> bool {
        match (&self.role, &other.role) {
            (Role::Originate(one), Role::Originate(other)) => one.is_made_of_the_same(other),
            _ => false,
        }
    }

    /// The certificates that the listener works with, its own and those of authorities.
    #[must_use]
    pub fn certificates(&self) -> &[Dated] {
        self.findings.certificates()
    }

    /// What is wrong with them at this time although they can be used, each in one line that names the file;
    /// at most 21 lines.
    #[must_use]
    pub fn warnings(&self, now: UnixSeconds) -> Vec<String> {
        self.findings.warnings(now)
    }

    /// The same in the client's role for a health check: every handshake is a full one, and leaves no
    /// session. `None` in the server's role.
    #[must_use]
    pub fn without_sessions(&self) -> Option<Self> {
        let Role::Originate(origination) = &self.role else { return None };
        let role = Role::Originate(Arc::new(origination.without_sessions()));
        Some(Self { role, findings: Findings::default() })
    }

    /// For a health check of a server whose certificate is its clients' business: any certificate holds. The
    /// server is asked for this name, if there is one.
    ///
    /// # Errors
    /// [`TlsPolicyError::ServerName`].
    pub fn unjudged(server_name: Option<&str>) -> Result<Self, TlsPolicyError> {
        let origination = Origination::unjudged(&Sources::system(), server_name)?;
        Ok(Self { role: Role::Originate(Arc::new(origination)), findings: Findings::default() })
    }

    /// Whether it is the client's role.
    #[must_use]
    pub fn is_client(&self) -> bool {
        matches!(self.role, Role::Originate(_))
    }

    /// Whether servers are asked for the name that the client of the other leg has asked for.
    #[must_use]
    pub fn forwards_server_name(&self) -> bool {
        matches!(&self.role, Role::Originate(origination) if origination.forwards_name)
    }
}

/// What is wrong with the certificates of all these listeners at this time, each line once: see
/// [`TlsPolicy::warnings`].
pub fn warnings<'a>(policies: impl IntoIterator<Item = &'a TlsPolicy>, now: UnixSeconds) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for warning in policies.into_iter().flat_map(|policy| policy.warnings(now)) {
        if !all.contains(&warning) {
            all.push(warning);
        }
    }
    all
}

/// Whether a server can be asked for by this name: a DNS name or an IP address.
#[must_use]
pub fn is_server_name(name: &str) -> bool {
    ServerName::try_from(name).is_ok()
}

/// Whether a client can ask for this name (RFC 6066 §3).
#[must_use]
pub fn is_dns_name(name: &str) -> bool {
    DnsName::try_from(name).is_ok()
}

/// As RFC 7301 §3.1 writes them, without their lengths.
fn protocols(names: &[String]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}
