//! A peer of a complete handshake whose fingerprints are not known yet.

use std::fmt;

use rustls::pki_types::CertificateDer;

use super::originate::Server;
use super::peer::{PeerRefusal, is_told};
use crate::config::Fingerprint;

/// What is to be held against the fingerprints once they are known.
pub struct PendingPeer {
    certificate: CertificateDer<'static>,
    /// In the client's role: the server, with the sessions that are kept.
    server: Option<Server>,
}

impl PendingPeer {
    pub(super) fn new(certificate: CertificateDer<'static>, server: Option<Server>) -> Self {
        Self { certificate, server }
    }

    /// Judges it. Sessions with a server that does not hold are forgotten: one of them would bring the same
    /// certificate again.
    ///
    /// # Errors
    /// Its certificate has none of these.
    pub fn judge(&self, known: &[Fingerprint]) -> Result<(), PeerRefusal> {
        if is_told(known, &self.certificate) {
            return Ok(());
        }
        if let Some(server) = &self.server {
            server.forget_sessions();
        }
        Err(PeerRefusal::Refused)
    }
}

impl fmt::Debug for PendingPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingPeer").finish_non_exhaustive()
    }
}
