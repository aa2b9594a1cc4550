//! Which server certificates a client accepts.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};

/// A SHA-256 hash of a certificate (RFC 8122 §5).
pub type Fingerprint = [u8; 32];

/// Whom to believe.
#[derive(Clone, Debug)]
pub enum Trust {
    /// A chain to one of these, for the name that was asked for.
    Authorities(Vec<CertificateDer<'static>>),
    /// One of these certificates, whatever its chain, name and dates.
    Fingerprints(Vec<Fingerprint>),
    /// Anybody who holds the key of the certificate that it shows.
    Anybody,
}

impl Trust {
    /// The verifier for it.
    ///
    /// # Errors
    /// A certificate that cannot be an authority.
    pub fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>> {
        let accepted = match self {
            Self::Authorities(certificates) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates {
                    roots.add(certificate.clone()).context("a certificate that cannot be trusted")?;
                }
                let builder =
                    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
                return Ok(builder.build()?);
            }
            Self::Fingerprints(fingerprints) => Some(fingerprints.clone()),
            Self::Anybody => None,
        };
        Ok(Arc::new(Pinned { accepted, provider: Arc::clone(provider) }))
    }
}

/// Reads 32 bytes in hexadecimal, with or without colons and a leading `sha-256`.
///
/// # Errors
/// It is something else.
pub fn parse_fingerprint(text: &str) -> Result<Fingerprint> {
    let lower = text.trim().to_ascii_lowercase();
    let digits: String = lower.strip_prefix("sha-256").unwrap_or(&lower).replace([':', ' '], "");
    ensure!(
        digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()),
        "a fingerprint is 32 bytes in hexadecimal: openssl x509 -noout -fingerprint -sha256 -in FILE"
    );
    let mut fingerprint = [0; 32];
    for (byte, at) in fingerprint.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16)?;
    }
    Ok(fingerprint)
}

/// The hash that [`Trust::Fingerprints`] compares.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest.as_ref());
    fingerprint
}

/// Accepts certificates by their hash, or any; the handshake's signature is checked in any case.
#[derive(Debug)]
struct Pinned {
    accepted: Option<Vec<Fingerprint>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(accepted) = &self.accepted else { return Ok(ServerCertVerified::assertion()) };
        let found = fingerprint(certificate);
        if accepted.contains(&found) {
            return Ok(ServerCertVerified::assertion());
        }
        let mut text = String::new();
        for byte in found {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        let reason = io::Error::other(format!("its fingerprint is {text}"));
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(reason)))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_openssl_and_sdp_write_it() {
        let colons = vec!["AB"; 32].join(":");
        for text in [colons.clone(), format!("sha-256 {colons}"), "ab".repeat(32)] {
            assert_eq!(parse_fingerprint(&text).unwrap(), [0xab; 32], "{text}");
        }
        for text in ["", "ab", &"zz".repeat(32)] {
            assert!(parse_fingerprint(text).unwrap_err().to_string().contains("openssl x509"), "{text}");
        }
    }
}
