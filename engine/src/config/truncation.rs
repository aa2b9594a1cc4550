//! What the plain leg gets of a stream that may have been cut.

/// How the plain leg ends where the peer sends FIN without close_notify (RFC 8446 §6.1). All that came before
/// is delivered either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Truncation {
    /// With a reset: nobody may take what came for the whole.
    #[default]
    Reset,
    /// With FIN, as after close_notify: for protocols that mark their own end, and peers that never say it.
    Fin,
}

impl Truncation {
    /// How a configuration writes it.
    pub const ALLOWED: &'static str = "reset or fin";

    /// Reads it as a configuration writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "reset" => Some(Self::Reset),
            "fin" => Some(Self::Fin),
            _ => None,
        }
    }
}
