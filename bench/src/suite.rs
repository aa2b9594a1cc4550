//! A version of TLS and an AEAD: what a client offers and nothing beside it. X25519 and the certificate's
//! curve are the same for all.

use offramp_core::tls::secrets::Aead;
use offramp_loadgen::plan::Version;
use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs::cipher_suite;

/// One cipher suite, in TLS 1.2 with a key exchange by ECDHE and a signature by ECDSA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite {
    /// On which version of TLS.
    pub version: Version,
    /// By what its records are sealed.
    pub aead: Aead,
}

impl Suite {
    /// All of them.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let aeads = [Aead::Aes128Gcm, Aead::Aes256Gcm, Aead::ChaCha20Poly1305];
        Version::BOTH.into_iter().flat_map(|version| aeads.map(|aead| Self { version, aead })).collect()
    }

    /// The one that is used wherever the AEAD is not the question.
    #[must_use]
    pub fn usual(version: Version) -> Self {
        Self { version, aead: Aead::Aes128Gcm }
    }

    /// As people write it.
    #[must_use]
    pub fn label(self) -> String {
        let aead = match self.aead {
            Aead::Aes128Gcm => "AES-128-GCM",
            Aead::Aes256Gcm => "AES-256-GCM",
            Aead::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        };
        format!("{} {aead}", self.version.label())
    }

    /// As rustls knows it.
    #[must_use]
    pub fn rustls(self) -> SupportedCipherSuite {
        match (self.version, self.aead) {
            (Version::Tls12, Aead::Aes128Gcm) => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            (Version::Tls12, Aead::Aes256Gcm) => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            (Version::Tls12, Aead::ChaCha20Poly1305) => {
                cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            }
            (Version::Tls13, Aead::Aes128Gcm) => cipher_suite::TLS13_AES_128_GCM_SHA256,
            (Version::Tls13, Aead::Aes256Gcm) => cipher_suite::TLS13_AES_256_GCM_SHA384,
            (Version::Tls13, Aead::ChaCha20Poly1305) => cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        }
    }
}
