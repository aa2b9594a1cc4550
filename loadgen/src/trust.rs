//! Which server certificates a client accepts.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use webpki::{EndEntityCert, RawPublicKeyEntity};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

/// A SHA-256 hash of a certificate (RFC 8122 §5).
pub type Fingerprint = [u8; 32];

/// Fewest bits of an RSA key by which the provider verifies.
const RSA_BITS_MIN: usize = 2048;

/// Whom to believe.
#[derive(Clone, Debug)]
pub enum Trust {
    /// A chain to one of these, or one of these itself, for the name that was asked for.
    Authorities(Vec<CertificateDer<'static>>),
    /// One of these certificates, whatever its chain, name and dates.
    Fingerprints(Vec<Fingerprint>),
    /// Anybody who holds the key of the certificate that it shows, which may be of any version. Whether it
    /// holds an RSA key of fewer than 2048 bits is not looked at.
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
                Accepted::Authorities(Authorities::new(certificates, provider)?)
            }
            Self::Fingerprints(fingerprints) => Accepted::Fingerprints(fingerprints.clone()),
            Self::Anybody => Accepted::Anybody,
        };
        Ok(Arc::new(Verifier { accepted, provider: Arc::clone(provider) }))
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

/// Chains to authorities, and of the authorities' certificates each as a server's own: that is what
/// `openssl req -x509` makes, and webpki takes none for a server's that may issue others.
#[derive(Debug)]
struct Authorities {
    chains: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Authorities {
    fn new(certificates: &[CertificateDer<'static>], provider: &Arc<CryptoProvider>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate.clone()).context("a certificate that cannot be trusted")?;
        }
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        Ok(Self { chains: builder.build()?, certificates: certificates.to_vec() })
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.chains.verify_server_cert(certificate, issuers, name, ocsp, now);
        let is_listed = || self.certificates.iter().any(|listed| listed.as_ref() == certificate.as_ref());
        match verified {
            // Its dates webpki has looked at before.
            Err(error) if needs_an_issuer(&error) && is_listed() => has_name(certificate, name),
            verified => verified,
        }
    }
}

/// Whether a certificate was refused for want of an issuer, or for being one.
fn needs_an_issuer(error: &Error) -> bool {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => true,
        Error::InvalidCertificate(CertificateError::Other(OtherError(error))) => {
            matches!(error.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
        }
        _ => false,
    }
}

fn has_name(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<ServerCertVerified, Error> {
    let server = EndEntityCert::try_from(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let named = server.verify_is_valid_for_subject_name(name);
    named.map(|()| ServerCertVerified::assertion()).map_err(|_| CertificateError::NotValidForName.into())
}

/// What a [`Trust`] accepts.
#[derive(Debug)]
enum Accepted {
    Authorities(Authorities),
    Fingerprints(Vec<Fingerprint>),
    Anybody,
}

/// Accepts a certificate by its chain, by its hash, or any; the handshake's signature is checked in any case.
#[derive(Debug)]
struct Verifier {
    accepted: Accepted,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.accepted {
            Accepted::Authorities(authorities) => authorities.verify(certificate, issuers, name, ocsp, now),
            Accepted::Fingerprints(accepted) => has_fingerprint(certificate, accepted),
            Accepted::Anybody => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = public_key(certificate)?;
        if self.takes_for_granted(certificate) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let entity = RawPublicKeyEntity::try_from(&key).map_err(|_| CertificateError::BadEncoding)?;
        let offered = self.provider.signature_verification_algorithms.mapping.iter();
        let algorithms = offered.filter(|(scheme, _)| *scheme == signature.scheme).flat_map(|(_, all)| *all);
        let signature = signature.signature();
        let mut verified =
            algorithms.map(|algorithm| entity.verify_signature(*algorithm, message, signature));
        if verified.any(|verified| verified.is_ok()) {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(CertificateError::BadSignature.into())
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = public_key(certificate)?;
        if self.takes_for_granted(certificate) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl Verifier {
    /// Whether anybody is accepted and the key is one that the provider verifies nothing by.
    fn takes_for_granted(&self, certificate: &CertificateDer<'_>) -> bool {
        let parsed = X509Certificate::from_der(certificate);
        let is_short = parsed.is_ok_and(|(_, certificate)| match certificate.public_key().parsed() {
            Ok(PublicKey::RSA(key)) => key.key_size() < RSA_BITS_MIN,
            _ => false,
        });
        matches!(self.accepted, Accepted::Anybody) && is_short
    }
}

fn has_fingerprint(
    certificate: &CertificateDer<'_>,
    accepted: &[Fingerprint],
) -> Result<ServerCertVerified, Error> {
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

/// By the bare key, so that a certificate of any version will do.
fn public_key(certificate: &CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'static>, Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    Ok(SubjectPublicKeyInfoDer::from(parsed.public_key().raw.to_vec()))
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
