//! The 3GPP TLS profile (TS 33.210 clause 6.2, since Rel-15; TS 33.310 Annex E before it) as data: versions,
//! cipher suites, groups, signature algorithms. What is not listed is not negotiated. The letters and
//! numbers in brackets here and elsewhere in `tls` are the rows of the statement in
//! [`conformance`](super::conformance).
//!
//! One profile, whatever the access network (A2): none of this is configurable. rustls itself has no
//! compression but null (B12a) and no renegotiation (A6c); what else it leaves open is closed in
//! [`Terms::load`](super::Terms::load).

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

use super::secrets::{Aead, Version};

/// TLS 1.3 and 1.2 (B2), and nothing else: SSL, TLS 1.0 and 1.1 shall not be used (TS 33.210 clause 6.2.1)
/// (B1).
pub(super) static VERSIONS: &[&SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

/// RFC 8446 §9.1 for TLS 1.3 (TS 33.210 clause 6.2.2) (B3a); for TLS 1.2 the AEAD suites with ephemeral
/// elliptic-curve key exchange (clause 6.2.3) (B8): no RC4, NULL, CBC, static RSA (B12b), no DHE (B9). Among
/// those that both sides have, the client's order decides: a phone without AES instructions puts ChaCha20
/// first.
static CIPHER_SUITES: &[SupportedCipherSuite] = &[
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// secp256r1 shall, secp384r1 should, x25519 may be supported (B4, B11a); nothing under 255 bits (B11b), no
/// FFDHE (B6). Named here, because the library's own default would put a post-quantum hybrid first, which
/// the profile does not list.
static GROUPS: &[&dyn SupportedKxGroup] = &[kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];

/// The cryptography of the profile.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: CIPHER_SUITES.to_vec(),
        kx_groups: GROUPS.to_vec(),
        ..default_provider()
    })
}

/// Version and AEAD of a negotiated suite; `None` for one that the profile does not list.
pub(super) fn version_and_aead(suite: SupportedCipherSuite) -> Option<(Version, Aead)> {
    use rustls::CipherSuite as S;
    Some(match suite.suite() {
        S::TLS13_AES_128_GCM_SHA256 => (Version::Tls13, Aead::Aes128Gcm),
        S::TLS13_AES_256_GCM_SHA384 => (Version::Tls13, Aead::Aes256Gcm),
        S::TLS13_CHACHA20_POLY1305_SHA256 => (Version::Tls13, Aead::ChaCha20Poly1305),
        S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 | S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => {
            (Version::Tls12, Aead::Aes128Gcm)
        }
        S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 | S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => {
            (Version::Tls12, Aead::Aes256Gcm)
        }
        S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 | S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => {
            (Version::Tls12, Aead::ChaCha20Poly1305)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_of_the_profile_is_known_by_version_and_aead() {
        for suite in CIPHER_SUITES {
            assert!(version_and_aead(*suite).is_some(), "{suite:?}");
        }
        assert_eq!(CIPHER_SUITES.len(), 9);
    }
}
