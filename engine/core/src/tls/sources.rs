//! Where handshakes take cryptography, randomness and time from. There is one answer in the engine; worlds
//! (`sim`) have another, so that a seed decides all of a world.

use std::sync::Arc;

use rustls::Error;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::SigningKey;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls_pki_types::PrivateKeyDer;

use super::profile;

/// Makes the object that signs with a private key.
pub type LoadKey = fn(&PrivateKeyDer<'_>) -> Result<Arc<dyn SigningKey>, Error>;

/// The sources of a listener's handshakes.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Makes the keys that sign. It is given a key that its owner wipes, and keeps no copy.
    pub signing_key: LoadKey,
    /// The cryptography of the profile, and with it randomness.
    pub provider: Arc<CryptoProvider>,
    /// By which certificates are judged and tickets of TLS 1.3 age.
    pub time: Arc<dyn TimeProvider>,
}

impl Sources {
    /// The system's randomness and clock.
    #[must_use]
    pub fn system() -> Self {
        let provider = profile::provider();
        Self { signing_key: any_supported_type, provider, time: Arc::new(DefaultTimeProvider) }
    }
}
