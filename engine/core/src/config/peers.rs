//! Who may connect, as a configuration says it.

use std::path::PathBuf;

use offramp_proto::fingerprint::Fingerprint;

use super::PeerName;

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not.
    #[default]
    None,
    /// They are; one without goes on, one with a certificate that does not hold does not.
    Request,
    /// They are, and one without does not go on.
    Require,
}

impl ClientAuth {
    /// How a configuration writes it.
    pub const ALLOWED: &'static str = "none, request or require";

    /// Reads it as a configuration writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "none" => Some(Self::None),
            "request" => Some(Self::Request),
            "require" => Some(Self::Require),
            _ => None,
        }
    }
}

/// Who vouches for the peer's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TrustAnchor {
    /// Nobody is asked.
    #[default]
    Nobody,
    /// The certificates of this PEM file: a path to one of them is looked for.
    Authorities(PathBuf),
    /// Whoever told us these: a certificate with one of them holds, whoever issued it.
    Fingerprints(Vec<Fingerprint>),
    /// Fingerprints that are not known yet, as in an SDP answer that the handshake overtakes: a connection
    /// whose peer shows a certificate is held behind its handshake until `Event::Pinned` says them. No
    /// configuration has it, and no command of a worker sends that event yet.
    Pending,
}

impl TrustAnchor {
    /// A number of its own for each kind.
    pub(crate) fn kind(&self) -> u8 {
        match self {
            Self::Nobody => 0,
            Self::Authorities(_) => 1,
            Self::Fingerprints(_) => 2,
            Self::Pending => 3,
        }
    }
}

/// Who may connect to a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerRules {
    /// Whether clients are asked for a certificate.
    pub auth: ClientAuth,
    /// Who vouches for it.
    pub trust_anchor: TrustAnchor,
    /// With authorities: the certificates that they have revoked, in this file.
    pub revocation: Option<PathBuf>,
    /// With authorities: the names of which a certificate must have one; with none any will do.
    pub names: Vec<PeerName>,
}

/// What becomes of a client that asks for a name (RFC 6066 §3) that no identity has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownName {
    /// It gets the first identity that can serve it, to judge for itself.
    #[default]
    First,
    /// It is refused with unrecognized_name.
    Refuse,
}

impl UnknownName {
    /// How a configuration writes it.
    pub const ALLOWED: &'static str = "first or refuse";

    /// Reads it as a configuration writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "first" => Some(Self::First),
            "refuse" => Some(Self::Refuse),
            _ => None,
        }
    }
}

/// What a listener does with the connections that it accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// TLS comes in, plain bytes go out.
    #[default]
    Terminate,
    /// Plain bytes come in, TLS goes out.
    Originate(Originate),
    /// TLS comes in and TLS goes out: two sessions.
    Reencrypt(Originate),
    /// TLS comes in and goes out untouched: its first hello is read for the route.
    Passthrough,
    /// Plain bytes come in and go out.
    Plain,
}

impl Mode {
    /// How a configuration writes it.
    pub const ALLOWED: &'static str = "terminate, originate, reencrypt, passthrough or plain";

    /// How a configuration writes this one.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Terminate => "terminate",
            Self::Originate(_) => "originate",
            Self::Reencrypt(_) => "reencrypt",
            Self::Passthrough => "passthrough",
            Self::Plain => "plain",
        }
    }

    /// Whether there is no TLS of ours.
    #[must_use]
    pub fn has_no_tls(&self) -> bool {
        matches!(self, Self::Passthrough | Self::Plain)
    }

    /// Whether TLS comes in that is ours.
    #[must_use]
    pub fn is_server(&self) -> bool {
        matches!(self, Self::Terminate | Self::Reencrypt(_))
    }

    /// Where TLS goes out to.
    #[must_use]
    pub fn server(&self) -> Option<&Originate> {
        match self {
            Self::Originate(server) | Self::Reencrypt(server) => Some(server),
            Self::Terminate | Self::Passthrough | Self::Plain => None,
        }
    }
}

/// Who the server is that TLS goes out to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Originate {
    /// The name that it is asked for (RFC 6066 §3), and that its certificate must have where authorities
    /// vouch for it; [`is_server_name`](crate::tls::is_server_name) says whether it can be one.
    pub server_name: String,
    /// The name that the client of the near leg has asked for takes the place of `server_name`.
    pub forward_server_name: bool,
    /// Who vouches for its certificate; not [`TrustAnchor::Nobody`].
    pub trust: TrustAnchor,
}

impl Originate {
    /// What a name may be, as messages say it.
    pub const ALLOWED_NAME: &str =
        "a DNS name or an IP address, and only with mode = \"originate\" or \"reencrypt\"";
}
