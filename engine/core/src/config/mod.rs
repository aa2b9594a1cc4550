//! What an operator decides of a connection and of its TLS, as values that were checked. How they are written
//! in a file or on a command line is the shell's matter.

use std::path::PathBuf;

mod peer_name;
mod peers;
mod post_quantum;
mod timeouts;

pub use offramp_proto::fingerprint::{Fingerprint, FingerprintHash};
pub use peer_name::PeerName;
pub use peers::{ClientAuth, Mode, Originate, PeerRules, TrustAnchor, UnknownName};
pub use post_quantum::PostQuantum;
pub use timeouts::Timeouts;

/// Most identities of a listener.
pub const IDENTITIES_MAX: usize = 1024;

/// A certificate chain and its private key, both PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// The private key of the first certificate: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
    /// An OCSP response for the first certificate, DER, to be stapled.
    pub ocsp: Option<PathBuf>,
}

impl IdentityFiles {
    /// Its files.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.certificate, &self.key].into_iter().chain(&self.ocsp)
    }
}
