//! The authorities of a file, and what they vouch for.
//!
//! webpki takes an authority for a name and a key (RFC 5280 §6.1.1 d) and looks at nothing else of its
//! certificate. The rest is judged here, with OpenSSL's verdicts: at load, what can issue nothing; in every
//! handshake, a resumed one included, the dates and the path length of the authority that a path ends in, and
//! that each issuer on the way may sign certificates.
//!
//! An end entity that is listed in the file itself, byte for byte, needs no issuer: a self-signed certificate
//! is its own. It may be an authority too, as the certificates of `openssl req -x509` are.
//!
//! What revokes is a list of the authority's (`revocation`), or an authority that is taken out of the file, a
//! fingerprint that is taken out of the list, and a reload.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyUsage, RevocationOptions, VerifiedPath};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use super::evidence;
use super::findings::{Dates, Findings, Purpose};
use super::peer_error::{BAD_CERTIFICATE, PeerError, check_key};
use super::revocation::Revocation;
use super::signatures::handshake_signatures;

/// Most certificates that a peer may show where a path is sought, its own included: a path has at most six
/// between the peer's and an authority's (webpki), and some peers show the authority's as well.
const CHAIN_MAX: usize = 10;

/// Most certificates of one name among the issuers that a peer shows: an authority that has changed its key
/// has two. The paths that have to be tried are at most as many as this to the power of six.
const SAME_NAME_MAX: usize = 2;

/// Of the variants that rustls sends as bad_certificate the one that nothing else here makes.
pub(super) const CHAIN_TOO_LONG: Error =
    Error::InvalidCertificate(CertificateError::UnhandledCriticalExtension);

/// The certificates of a file of authorities, checked.
#[derive(Debug)]
pub(super) struct Authorities {
    /// All of the file.
    listed: Vec<CertificateDer<'static>>,
    /// The names of all, by which a peer chooses among its certificates (RFC 8446 §4.2.4).
    names: Vec<DistinguishedName>,
    /// Those that may issue certificates.
    anchors: Vec<TrustAnchor<'static>>,
    /// Of the anchor in the same place.
    bounds: Vec<Bounds>,
    purpose: Purpose,
    algorithms: WebPkiSupportedAlgorithms,
    revocation: Option<Revocation>,
}

/// What an authority's own certificate allows.
#[derive(Debug)]
struct Bounds {
    dates: Dates,
    /// Most issuers between it and a peer (RFC 5280 §4.2.1.9).
    path_length: Option<u32>,
}

impl Authorities {
    /// Checks the certificates of a file; what an operator should know of them goes to `findings`.
    ///
    /// # Errors
    /// There is one that can vouch for nothing: neither for others nor, self-signed, for itself.
    pub(super) fn load(
        file: &Path,
        listed: Vec<CertificateDer<'static>>,
        purpose: Purpose,
        algorithms: WebPkiSupportedAlgorithms,
        findings: &mut Findings,
    ) -> Result<Self, PeerError> {
        let (mut names, mut anchors, mut bounds) = (Vec::new(), Vec::new(), Vec::new());
        for (nth, der) in (1..).zip(&listed) {
            let refused =
                |problem: String| PeerError::authorities(file, format!("certificate {nth} {problem}"));
            let anchor = webpki::anchor_from_trusted_cert(der);
            let anchor = anchor.map_err(|error| refused(format!("is no authority ({error})")))?;
            let (_, certificate) =
                X509Certificate::from_der(der).map_err(|_| refused("is not X.509".to_owned()))?;
            let name = certificate.subject();
            let dates = findings.dated(file, nth, &certificate);
            names.push(DistinguishedName::in_sequence(&anchor.subject));
            if let Some(usage) = purpose.is_excluded_by(&certificate) {
                return Err(refused(format!("({name}) cannot be used for {purpose}: {usage}")));
            }
            match cannot_issue(&certificate) {
                None => {
                    bounds.push(Bounds { dates, path_length: path_length(&certificate) });
                    anchors.push(anchor.to_owned());
                }
                Some(why) if certificate.issuer().as_raw() == name.as_raw() => findings.remark(format!(
                    "{}: certificate {nth} ({name}) is no authority ({why}): it is accepted as a peer's \
                     own certificate, and not as an issuer",
                    file.display()
                )),
                Some(why) => {
                    return Err(refused(format!(
                        "({name}) is no authority ({why}): give the certificate of its issuer, or list it by \
                         its fingerprint"
                    )));
                }
            }
        }
        Ok(Self { listed, names, anchors, bounds, purpose, algorithms, revocation: None })
    }

    /// With the certificates that they have revoked, in this file.
    ///
    /// # Errors
    /// [`PeerError::Revocation`].
    pub(super) fn with_revoked(mut self, file: &Path, findings: &mut Findings) -> Result<Self, PeerError> {
        let subjects = self.listed.iter().filter_map(|der| X509Certificate::from_der(der).ok());
        let subjects: Vec<_> =
            subjects.map(|(_, certificate)| certificate.subject().as_raw().to_vec()).collect();
        self.revocation = Some(Revocation::load(file, &subjects, findings)?);
        Ok(self)
    }

    /// Whether they vouch for a peer with this certificate, which has shown these issuers, at this time; for
    /// a server also whether it has the name.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn verify(
        &self,
        own: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        name: Option<&ServerName<'_>>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let entity = EndEntityCert::try_from(own).map_err(refusal)?;
        if self.listed.iter().any(|listed| listed.as_ref() == own.as_ref()) {
            // Whatever else it shows: no path is sought.
            self.verify_listed(own, now)?;
        } else if issuers.len() >= CHAIN_MAX || has_too_many_of_a_name(issuers) {
            return Err(CHAIN_TOO_LONG);
        } else {
            let judge = |path: &VerifiedPath<'_>| self.judge(path, now);
            let (algorithms, usage) = (self.algorithms.all, self.purpose.usage());
            let verify = |revocation: Option<RevocationOptions<'_>>| {
                let anchors = &self.anchors;
                entity
                    .verify_for_usage(algorithms, anchors, issuers, now, usage, revocation, Some(&judge))
                    .map(|_| ())
            };
            match &self.revocation {
                None => verify(None),
                Some(lists) => lists.with_options(verify),
            }
            .map_err(refusal)?;
        }
        if let Some(name) = name {
            entity.verify_is_valid_for_subject_name(name).map_err(refusal)?;
        }
        check_key(own)
    }

    /// Of one that needs no issuer: the rest that holds for an end entity.
    fn verify_listed(&self, own: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
        let (_, certificate) = X509Certificate::from_der(own).map_err(|_| BAD_CERTIFICATE)?;
        Dates::of(&certificate).check(now).map_err(refusal)?;
        match self.purpose.is_excluded_by(&certificate) {
            None => Ok(()),
            Some(_) => Err(CertificateError::InvalidPurpose.into()),
        }
    }

    /// A path whose signatures, dates and constraints hold as far as webpki looks.
    fn judge(&self, path: &VerifiedPath<'_>, now: UnixTime) -> Result<(), webpki::Error> {
        let mut between = 0;
        for issuer in path.intermediate_certificates() {
            let der = issuer.der();
            let (_, certificate) = X509Certificate::from_der(&der).map_err(|_| webpki::Error::BadDer)?;
            if cannot_issue(&certificate).is_some() {
                return Err(webpki::Error::EndEntityUsedAsCa);
            }
            // One that has issued itself, to change its key, does not count (RFC 5280 §6.1.4 l).
            between += u32::from(issuer.issuer() != issuer.subject());
        }
        // An authority that was renewed is listed twice by the same name and key: one that holds is enough.
        let ends_in = |(anchor, _): &(&TrustAnchor<'_>, &Bounds)| *anchor == path.anchor();
        let same = self.anchors.iter().zip(&self.bounds).filter(ends_in);
        let verdicts = same.map(|(_, bounds)| bounds.check(between, now));
        verdicts.reduce(Result::or).unwrap_or(Err(webpki::Error::UnknownIssuer))
    }

    fn verify_tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }
}

impl ClientCertVerifier for Authorities {
    /// Who must show a certificate and does not is judged after the handshake, with the alert of RFC 8122.
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.names
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(certificate, issuers, None, now).map(|()| ClientCertVerified::assertion())
    }

    handshake_signatures!();
}

impl ServerCertVerifier for Authorities {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(certificate, issuers, Some(name), now).map(|()| ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

impl Bounds {
    fn check(&self, between: u32, now: UnixTime) -> Result<(), webpki::Error> {
        self.dates.check(now)?;
        match self.path_length {
            Some(most) if between > most => Err(webpki::Error::PathLenConstraintViolated),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Purpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Clients => "clients",
            Self::Servers => "servers",
        })
    }
}

impl Purpose {
    fn usage(self) -> impl ExtendedKeyUsageValidator {
        match self {
            Self::Clients => KeyUsage::client_auth(),
            Self::Servers => KeyUsage::server_auth(),
        }
    }

    /// The extended key usage of a certificate (RFC 5280 §4.2.1.12), if it has one and this is not in it. Of
    /// an authority it bounds what its certificates may be used for.
    pub(super) fn is_excluded_by(self, certificate: &X509Certificate<'_>) -> Option<&'static str> {
        let usage = match certificate.extended_key_usage() {
            Ok(usage) => usage?.value,
            Err(_) => return Some("its extended key usage cannot be read"),
        };
        match self {
            Self::Clients if !usage.client_auth => Some("its extended key usage is without clientAuth"),
            Self::Servers if !usage.server_auth => Some("its extended key usage is without serverAuth"),
            _ => None,
        }
    }
}

/// Why a certificate cannot have issued another (RFC 5280 §6.1.4 k and n); `None` if it can. One of version 1
/// has no extensions to say so, and may where somebody trusts it to.
fn cannot_issue(certificate: &X509Certificate<'_>) -> Option<&'static str> {
    if certificate.version() != X509Version::V3 {
        return None;
    }
    if !matches!(certificate.basic_constraints(), Ok(Some(basic)) if basic.value.ca) {
        return Some("CA:FALSE");
    }
    match certificate.key_usage() {
        Ok(None) => None,
        Ok(Some(usage)) if usage.value.key_cert_sign() => None,
        _ => Some("its key usage is without keyCertSign"),
    }
}

fn path_length(certificate: &X509Certificate<'_>) -> Option<u32> {
    certificate.basic_constraints().ok()??.value.path_len_constraint
}

fn has_too_many_of_a_name(issuers: &[CertificateDer<'_>]) -> bool {
    let parsed: Vec<_> = issuers.iter().filter_map(|der| EndEntityCert::try_from(der).ok()).collect();
    let same =
        |one: &EndEntityCert<'_>| parsed.iter().filter(|other| other.subject() == one.subject()).count();
    parsed.iter().any(|one| same(one) > SAME_NAME_MAX)
}

/// In rustls's words, from which the alert follows.
///
/// A certificate with a signature that does not verify is bad_certificate (RFC 5246 §7.2.2), and so is one by
/// MD5 or SHA-1 (RFC 8446 §4.4.2.4) (B11c, C2). rustls would say decrypt_error, which is about signatures of
/// the handshake.
fn refusal(error: webpki::Error) -> Error {
    use webpki::Error as W;
    Error::InvalidCertificate(match error {
        W::BadDer
        | W::BadDerTime
        | W::TrailingData(_)
        | W::InvalidSignatureForPublicKey
        | W::UnsupportedSignatureAlgorithmContext(_)
        | W::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            return evidence::note(&error, BAD_CERTIFICATE);
        }
        W::CertNotValidYet { time, not_before } => CertificateError::NotValidYetContext { time, not_before },
        W::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        W::InvalidCertValidity => CertificateError::Expired,
        W::UnknownIssuer => CertificateError::UnknownIssuer,
        W::CertRevoked => CertificateError::Revoked,
        W::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        W::CrlExpired { .. } => CertificateError::ExpiredRevocationList,
        W::CertNotValidForName(context) => CertificateError::NotValidForNameContext {
            expected: context.expected,
            presented: context.presented,
        },
        W::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        error => CertificateError::Other(OtherError(Arc::new(error))),
    })
}

#[cfg(test)]
mod tests;
