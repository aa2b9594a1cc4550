//! Where handshakes take cryptography, randomness and time from. There is one answer in the engine; worlds
//! (`sim`) have another, so that a seed decides all of a world.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};

use super::profile;

/// The sources of a listener's handshakes.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    /// The cryptography of the profile, and with it randomness and private keys.
    pub(crate) provider: Arc<CryptoProvider>,
    /// By which certificates are judged and tickets of TLS 1.3 age.
    pub(crate) time: Arc<dyn TimeProvider>,
}

impl Sources {
    /// The system's randomness and clock.
    pub(crate) fn system() -> Self {
        Self { provider: profile::provider(), time: Arc::new(DefaultTimeProvider) }
    }
}
