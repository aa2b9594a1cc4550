//! The name of the stage in which a connection is, for whoever looks at it.

use super::{Course, Stage};

impl Course {
    /// As `ARCHITECTURE.md` names the stages; those of the far leg have that in front, where both legs have
    /// them.
    pub(in crate::conn) fn stage_name(&self) -> &'static str {
        match (&self.stage, self.near.is_some()) {
            (Stage::Begin | Stage::Accept(_), _) => "accept",
            (Stage::Proxied(_), _) => "proxied",
            (Stage::Peek(_), _) => "peek",
            (Stage::Handshake(_), false) => "handshake",
            (Stage::Handshake(_), true) => "far_handshake",
            (Stage::Hold(_), false) => "hold",
            (Stage::Hold(_), true) => "far_hold",
            (Stage::Offload(_), false) => "offload",
            (Stage::Offload(_), true) => "far_offload",
            (Stage::Connect(_), _) => "connect",
            (Stage::Relay(_), _) => "relay",
            (Stage::Shutdown(_) | Stage::Closed, _) => "shutdown",
        }
    }
}
