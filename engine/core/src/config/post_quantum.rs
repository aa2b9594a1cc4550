//! Whether a key exchange is offered that a quantum computer does not break.

/// Whether X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem, group 0x11ec) is negotiated in TLS 1.3, which the 3GPP
/// profile does not list. Its hello is 1.2 kB longer, and so is the answer.
///
/// A server takes the group that comes first in the client's list; so the two that negotiate it differ in the
/// client's role alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PostQuantum {
    /// It is not: the profile as it stands.
    #[default]
    Off,
    /// In the client's role behind the groups of the profile.
    Allow,
    /// In the client's role before them.
    Prefer,
}

impl PostQuantum {
    /// How a configuration writes it.
    pub const ALLOWED: &'static str = "off, allow or prefer";

    /// Reads it as a configuration writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "off" => Some(Self::Off),
            "allow" => Some(Self::Allow),
            "prefer" => Some(Self::Prefer),
            _ => None,
        }
    }
}
