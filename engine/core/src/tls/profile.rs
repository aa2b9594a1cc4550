//! The 3GPP TLS profile (TS 33.210 clause 6.2, since Rel-15; TS 33.310 Annex E before it) as data: versions,
//! cipher suites, groups, signature algorithms. What is not listed is not negotiated. The letters and
//! numbers in brackets here and elsewhere in `tls` are the rows of the conformance
//! statement, `conformance.toml`.
//!
//! One profile, whatever the access network (A2): none of this is configurable, but that a post-quantum group
//! may stand beside those of the profile (`post_quantum`). rustls itself has no
//! compression but null (B12a), no renegotiation (A6c) and no PSK but resumption (A9); what else it leaves
//! open is closed in [`TlsPolicy::load`](super::TlsPolicy::load). DTLS, which is to have
//! the same list (A8), is not there yet.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, WebPkiSupportedAlgorithms};
use rustls::{SignatureScheme, SupportedCipherSuite, SupportedProtocolVersion};
use webpki::aws_lc_rs as verify;

use super::secrets::{Aead, Version};
use crate::config::PostQuantum;

/// TLS 1.3 and 1.2 (B2), and nothing else: SSL, TLS 1.0 and 1.1 shall not be used (TS 33.210 clause 6.2.1)
/// (B1).
pub(super) static VERSIONS: &[&SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

/// RFC 8446 §9.1 for TLS 1.3 (TS 33.210 clause 6.2.2) (B3a); for TLS 1.2 the AEAD suites with ephemeral
/// elliptic-curve key exchange (clause 6.2.3) (B8a, B8b): no RC4, NULL, CBC, static RSA (B12b), no DHE (B9).
/// Among those that both sides have, the client's order decides: a phone without AES instructions puts
/// ChaCha20 first.
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

/// What a peer may sign with, as supported_signature_algorithms of our CertificateRequest and ClientHello say
/// it (RFC 8446 §4.2.3) (B3b, B4): ECDSA on P-256 and P-384, RSA with SHA-256 or better. SHA-512 stands with
/// RSA because it is no weaker and the first choice of common libraries. No SHA-1 (B11c), no other curve
/// (B11b), no Ed25519 and no ML-DSA, which the profile does not list.
///
/// `all` is what certificates of a chain may be signed with, `mapping` the offer; in TLS 1.3 the first
/// algorithm of a scheme alone counts, in TLS 1.2 a scheme leaves the curve open.
static SIGNATURES: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[
        verify::ECDSA_P256_SHA256,
        verify::ECDSA_P256_SHA384,
        verify::ECDSA_P256_SHA512,
        verify::ECDSA_P384_SHA256,
        verify::ECDSA_P384_SHA384,
        verify::ECDSA_P384_SHA512,
        verify::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
        verify::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
        verify::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
        verify::RSA_PKCS1_2048_8192_SHA256,
        verify::RSA_PKCS1_2048_8192_SHA384,
        verify::RSA_PKCS1_2048_8192_SHA512,
        verify::RSA_PKCS1_2048_8192_SHA256_ABSENT_PARAMS,
        verify::RSA_PKCS1_2048_8192_SHA384_ABSENT_PARAMS,
        verify::RSA_PKCS1_2048_8192_SHA512_ABSENT_PARAMS,
    ],
    mapping: &[
        (SignatureScheme::ECDSA_NISTP256_SHA256, &[verify::ECDSA_P256_SHA256, verify::ECDSA_P384_SHA256]),
        (SignatureScheme::ECDSA_NISTP384_SHA384, &[verify::ECDSA_P384_SHA384, verify::ECDSA_P256_SHA384]),
        (SignatureScheme::RSA_PSS_SHA256, &[verify::RSA_PSS_2048_8192_SHA256_LEGACY_KEY]),
        (SignatureScheme::RSA_PSS_SHA384, &[verify::RSA_PSS_2048_8192_SHA384_LEGACY_KEY]),
        (SignatureScheme::RSA_PSS_SHA512, &[verify::RSA_PSS_2048_8192_SHA512_LEGACY_KEY]),
        (SignatureScheme::RSA_PKCS1_SHA256, &[verify::RSA_PKCS1_2048_8192_SHA256]),
        (SignatureScheme::RSA_PKCS1_SHA384, &[verify::RSA_PKCS1_2048_8192_SHA384]),
        (SignatureScheme::RSA_PKCS1_SHA512, &[verify::RSA_PKCS1_2048_8192_SHA512]),
    ],
};

/// The same cryptography with the post-quantum group, where the operator wants it beside the profile.
pub(super) fn with_post_quantum(provider: Arc<CryptoProvider>, wanted: PostQuantum) -> Arc<CryptoProvider> {
    let hybrid: &dyn SupportedKxGroup = kx_group::X25519MLKEM768;
    let groups = provider.kx_groups.iter().copied();
    let kx_groups = match wanted {
        PostQuantum::Off => return provider,
        PostQuantum::Allow => groups.chain([hybrid]).collect(),
        PostQuantum::Prefer => [hybrid].into_iter().chain(groups).collect(),
    };
    Arc::new(CryptoProvider { kx_groups, ..CryptoProvider::clone(&provider) })
}

/// The cryptography of the profile; of the library's default, randomness and the reading of keys are left.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: CIPHER_SUITES.to_vec(),
        kx_groups: GROUPS.to_vec(),
        signature_verification_algorithms: SIGNATURES,
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
    fn every_profile_suite_has_a_version_and_an_aead() {
        for suite in CIPHER_SUITES {
            assert!(version_and_aead(*suite).is_some(), "{suite:?}");
        }
        assert_eq!(CIPHER_SUITES.len(), 9);
    }

    #[test]
    fn offered_signature_schemes_are_those_of_the_profile() {
        use SignatureScheme as S;
        let offered = provider().signature_verification_algorithms.supported_schemes();
        assert_eq!(
            offered,
            [
                S::ECDSA_NISTP256_SHA256,
                S::ECDSA_NISTP384_SHA384,
                S::RSA_PSS_SHA256,
                S::RSA_PSS_SHA384,
                S::RSA_PSS_SHA512,
                S::RSA_PKCS1_SHA256,
                S::RSA_PKCS1_SHA384,
                S::RSA_PKCS1_SHA512,
            ]
        );
        for (scheme, algorithms) in SIGNATURES.mapping {
            for algorithm in *algorithms {
                let is_known = |one: &&dyn rustls::pki_types::SignatureVerificationAlgorithm| {
                    one.signature_alg_id() == algorithm.signature_alg_id()
                        && one.public_key_alg_id() == algorithm.public_key_alg_id()
                };
                assert!(SIGNATURES.all.iter().any(is_known), "{scheme:?}");
            }
        }
    }
}
