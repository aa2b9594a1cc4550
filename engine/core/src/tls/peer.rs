//! Who may connect: a certificate that an authority vouches for, or one whose fingerprint was told.
//!
//! With fingerprints (RFC 8122, TS 23.334 clause 5.11) the certificate holds a key and nothing
//! else: self-signed is normal, X.509 v1 occurs, and neither its dates nor its extended key usage are looked
//! at (C5); that the peer has the key is proved by its signature in the handshake. With authorities a path
//! to one of them is looked for, dates and extended key usage (clientAuth) included.
//!
//! rustls verifies a certificate in a full handshake alone. Whether a peer holds is therefore judged after
//! every handshake, from the certificate that the session carries, whatever the handshake was.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::authorities::Authorities;
use super::findings::{Findings, Purpose};
use super::peer_error::{PeerError, check_key};
use super::signatures::handshake_signatures;
use super::tickets::TicketScope;
use crate::config::{ClientAuth, Fingerprint, FingerprintHash, PeerName, PeerRules, TrustAnchor};
use offramp_files as files;
use offramp_files::pem::{self, PemError};

/// Why a peer does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRefusal {
    /// It showed no certificate and must.
    Missing,
    /// Its certificate is not one of those that hold.
    Refused,
}

/// What is known of the peer of a complete handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PeerVerdict {
    /// It may connect.
    Holds,
    /// Its certificate is to be held against fingerprints that are not known yet.
    Pending(CertificateDer<'static>),
}

/// The rules of a listener, ready for use.
pub(super) struct Peers {
    auth: ClientAuth,
    trust_anchor: Vouching,
    /// Of which a certificate must have one.
    names: Vec<PeerName>,
    class: TicketScope,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

enum Vouching {
    Nobody,
    Authorities(Arc<Authorities>),
    Fingerprints(Vec<Fingerprint>),
    Pending,
}

impl Peers {
    /// Reads what the rules name; what an operator should know of it goes to `findings`.
    ///
    /// # Errors
    /// [`PeerError`].
    pub(super) fn load(
        rules: &PeerRules,
        provider: &Arc<CryptoProvider>,
        findings: &mut Findings,
    ) -> Result<Self, PeerError> {
        let algorithms = provider.signature_verification_algorithms;
        let mut made_of = vec![rules.auth as u8];
        let trust_anchor = match (&rules.trust_anchor, rules.auth) {
            (_, ClientAuth::None) | (TrustAnchor::Nobody, _) => Vouching::Nobody,
            (TrustAnchor::Authorities(file), _) => {
                let authorities = authorities(file)?;
                authorities.iter().for_each(|authority| made_of.extend_from_slice(authority));
                let authorities =
                    Authorities::load(file, authorities, Purpose::Clients, algorithms, findings)?;
                let authorities = match &rules.revocation {
                    None => authorities,
                    Some(file) => authorities.with_revoked(file, findings)?,
                };
                Vouching::Authorities(Arc::new(authorities))
            }
            (TrustAnchor::Fingerprints(told), _) => {
                // Which ones is judged after every handshake: a session outlives a change of the list.
                made_of.push(1);
                Vouching::Fingerprints(told.clone())
            }
            (TrustAnchor::Pending, _) => {
                made_of.push(1);
                Vouching::Pending
            }
        };
        let verifier = match &trust_anchor {
            Vouching::Nobody => None,
            Vouching::Authorities(authorities) => {
                Some(Arc::clone(authorities) as Arc<dyn ClientCertVerifier>)
            }
            Vouching::Fingerprints(_) | Vouching::Pending => {
                Some(Arc::new(AnyCertificate { algorithms }) as _)
            }
        };
        let mut class = [0; 16];
        class.copy_from_slice(&digest(&SHA256, &made_of).as_ref()[..16]);
        let names = rules.names.clone();
        Ok(Self { auth: rules.auth, trust_anchor, names, class: TicketScope(class), verifier })
    }

    /// Under what sessions of this listener are made.
    pub(super) fn class(&self) -> TicketScope {
        self.class
    }

    /// What rustls is to ask in a full handshake; `None` if nothing.
    pub(super) fn verifier(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        self.verifier.clone()
    }

    /// Judges the peer of a complete handshake by what its session carries.
    pub(super) fn judge(
        &self,
        chain: Option<&[CertificateDer<'_>]>,
        resumed: bool,
        now: UnixTime,
    ) -> Result<PeerVerdict, PeerRefusal> {
        let Some((own, issuers)) = chain.and_then(<[_]>::split_first) else {
            let must = self.auth == ClientAuth::Require;
            return if must { Err(PeerRefusal::Missing) } else { Ok(PeerVerdict::Holds) };
        };
        let holds = match &self.trust_anchor {
            Vouching::Nobody => true,
            Vouching::Fingerprints(told) => is_told(told, own),
            // In a full handshake rustls has just asked.
            Vouching::Authorities(authorities) => {
                !resumed || authorities.verify(own, issuers, None, now).is_ok()
            }
            Vouching::Pending => return Ok(PeerVerdict::Pending(own.clone().into_owned())),
        };
        let holds = holds && (self.names.is_empty() || has_name(own, &self.names));
        if holds { Ok(PeerVerdict::Holds) } else { Err(PeerRefusal::Refused) }
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("auth", &self.auth).finish_non_exhaustive()
    }
}

/// Whether the certificate has one of these names.
fn has_name(certificate: &CertificateDer<'_>, names: &[PeerName]) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    let Ok(Some(alternatives)) = parsed.subject_alternative_name() else { return false };
    alternatives.value.general_names.iter().any(|name| match name {
        GeneralName::DNSName(dns) => names.iter().any(|wanted| wanted.is_dns(dns)),
        GeneralName::URI(uri) => names.iter().any(|wanted| wanted.is_uri(uri)),
        _ => false,
    })
}

/// Whether the certificate has one of these fingerprints.
pub(super) fn is_told(told: &[Fingerprint], certificate: &CertificateDer<'_>) -> bool {
    told.iter().any(|fingerprint| is_of(fingerprint, certificate))
}

/// Whether the fingerprint is the one of this certificate.
fn is_of(fingerprint: &Fingerprint, certificate: &CertificateDer<'_>) -> bool {
    let algorithm = match fingerprint.hash {
        FingerprintHash::Sha256 => &SHA256,
        FingerprintHash::Sha384 => &SHA384,
        FingerprintHash::Sha512 => &SHA512,
    };
    verify_slices_are_equal(digest(algorithm, certificate).as_ref(), &fingerprint.digest).is_ok()
}

pub(super) fn authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, PeerError> {
    let text = files::read(file, files::BYTES_MAX)
        .map_err(|problem| PeerError::authorities(file, format!("cannot be read: {problem}")))?;
    pem::certificates(text.bytes()).map_err(|error| match error {
        PemError::Missing { is_binary: false, .. } => PeerError::authorities(file, "has no certificate"),
        error => PeerError::authorities(file, format!("cannot be read as PEM ({error})")),
    })
}

/// Takes any certificate whose key has signed the handshake: which one it is, is judged afterwards.
#[derive(Debug)]
pub(super) struct AnyCertificate {
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl AnyCertificate {
    /// In TLS 1.2: the scheme names a hash and a kind of key, and the curve of the key may be any that is
    /// offered (RFC 5246 §7.4.8, RFC 8422 §5.10).
    ///
    /// By the bare public key, here and in TLS 1.3, so that a certificate of any version will do (C5).
    pub(super) fn verify_tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let bad = |error| Error::InvalidCertificate(error);
        let key = public_key(certificate)?;
        let entity =
            webpki::RawPublicKeyEntity::try_from(&key).map_err(|_| bad(CertificateError::BadEncoding))?;
        let offered = self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
        let (_, algorithms) = offered.ok_or(PeerIncompatible::NoSignatureSchemesInCommon)?;
        let verified = algorithms
            .iter()
            .any(|algorithm| entity.verify_signature(*algorithm, message, signed.signature()).is_ok());
        if verified {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(bad(CertificateError::BadSignature))
        }
    }

    /// In TLS 1.3: the scheme fixes the curve as well, and RSASSA-PKCS1-v1_5 is for certificates alone (RFC
    /// 8446 §4.2.3, §4.4.3).
    pub(super) fn verify_tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature_with_raw_key(message, &public_key(certificate)?, signed, &self.algorithms)
    }
}

fn public_key<'a>(certificate: &'a CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'a>, Error> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    Ok(SubjectPublicKeyInfoDer::from(parsed.tbs_certificate.subject_pki.raw))
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _issuers: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        check_key(certificate).map(|()| ClientCertVerified::assertion())
    }

    handshake_signatures!();
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::tls::profile;
    use rcgen::{CertificateParams, KeyPair, SigningKey};
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::internal::msgs::codec::{Codec, Reader};

    fn made() -> rcgen::Certificate {
        let key = KeyPair::generate().expect("a key");
        CertificateParams::default().self_signed(&key).expect("signs")
    }

    fn certificate() -> CertificateDer<'static> {
        made().der().clone()
    }

    fn told(certificate: &CertificateDer<'_>) -> Fingerprint {
        let digest = digest(&SHA384, certificate).as_ref().to_vec();
        Fingerprint { hash: FingerprintHash::Sha384, digest }
    }

    fn peers(auth: ClientAuth, trust_anchor: TrustAnchor) -> Peers {
        let rules = PeerRules { auth, trust_anchor, ..PeerRules::default() };
        Peers::load(&rules, &profile::provider(), &mut Findings::default()).expect("nothing to read")
    }

    /// As CertificateVerify carries it (RFC 8446 §4.4.3).
    fn signed(scheme: SignatureScheme, signature: &[u8]) -> DigitallySignedStruct {
        let length = u16::try_from(signature.len()).expect("short").to_be_bytes();
        let bytes = [&u16::from(scheme).to_be_bytes()[..], &length, signature].concat();
        DigitallySignedStruct::read(&mut Reader::init(&bytes)).expect("well formed")
    }

    #[test]
    fn scheme_fixes_curve_and_padding_only_in_tls_1_3() {
        // With every curve that there is, so that the rule is seen and not the list.
        let any = AnyCertificate { algorithms: default_provider().signature_verification_algorithms };
        let message = b"as far as here";
        let holds = |algorithm, scheme| {
            let key = KeyPair::generate_for(algorithm).expect("a key");
            let certificate = CertificateParams::default().self_signed(&key).expect("signs");
            let signed = signed(scheme, &key.sign(message).expect("signs"));
            let in_tls12 = any.verify_tls12(message, certificate.der(), &signed).is_ok();
            let in_tls13 = any.verify_tls13(message, certificate.der(), &signed).is_ok();
            assert!(any.verify_tls12(b"else", certificate.der(), &signed).is_err());
            assert!(any.verify_tls13(b"else", certificate.der(), &signed).is_err());
            (in_tls12, in_tls13)
        };
        use SignatureScheme as S;
        assert_eq!(holds(&rcgen::PKCS_ECDSA_P256_SHA256, S::ECDSA_NISTP256_SHA256), (true, true));
        assert_eq!(holds(&rcgen::PKCS_ECDSA_P521_SHA256, S::ECDSA_NISTP256_SHA256), (true, false));
        assert_eq!(holds(&rcgen::PKCS_ECDSA_P521_SHA384, S::ECDSA_NISTP384_SHA384), (true, false));
        assert_eq!(holds(&rcgen::PKCS_RSA_SHA256, S::RSA_PKCS1_SHA256), (true, false));
    }

    #[test]
    fn clients_are_asked_for_the_schemes_of_the_profile() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("ca.pem");
        std::fs::write(&file, made().pem()).expect("writes");
        let listed = profile::provider().signature_verification_algorithms.supported_schemes();
        for trust_anchor in
            [TrustAnchor::Authorities(file), TrustAnchor::Fingerprints(vec![told(&certificate())])]
        {
            let verifier = peers(ClientAuth::Require, trust_anchor).verifier().expect("one is asked");
            assert_eq!(verifier.supported_verify_schemes(), listed);
        }
    }

    #[test]
    fn a_fingerprint_that_was_told_holds_and_no_other() {
        let (ours, other) = (certificate(), certificate());
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1));
        let rules = TrustAnchor::Fingerprints(vec![told(&certificate()), told(&ours)]);
        for (auth, missing) in
            [(ClientAuth::Require, Err(PeerRefusal::Missing)), (ClientAuth::Request, Ok(PeerVerdict::Holds))]
        {
            let peers = peers(auth, rules.clone());
            for resumed in [false, true] {
                assert_eq!(peers.judge(Some(from_ref(&ours)), resumed, now), Ok(PeerVerdict::Holds));
                assert_eq!(peers.judge(Some(from_ref(&other)), resumed, now), Err(PeerRefusal::Refused));
                assert_eq!(peers.judge(None, resumed, now), missing);
                assert_eq!(peers.judge(Some(&[]), resumed, now), missing);
            }
        }
        let nobody = peers(ClientAuth::None, rules);
        assert!(nobody.verifier().is_none() && nobody.judge(None, true, now).is_ok());
    }

    #[test]
    fn class_depends_on_auth_and_anchor_not_on_the_list() {
        let dir = tempfile::tempdir().expect("a directory");
        let authority = |name: &str| {
            let file = dir.path().join(name);
            std::fs::write(&file, made().pem()).expect("writes");
            TrustAnchor::Authorities(file)
        };
        let listed = |count: usize| TrustAnchor::Fingerprints(vec![told(&certificate()); count]);
        let class = |auth, trust_anchor| peers(auth, trust_anchor).class();
        let all = [
            class(ClientAuth::None, TrustAnchor::Nobody),
            class(ClientAuth::Request, listed(1)),
            class(ClientAuth::Require, listed(1)),
            class(ClientAuth::Require, authority("a.pem")),
            class(ClientAuth::Require, authority("b.pem")),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one), "class {index}");
        }
        assert_eq!(class(ClientAuth::Require, listed(1)), class(ClientAuth::Require, listed(3)));
    }

    #[test]
    fn error_names_a_file_without_authorities() {
        let dir = tempfile::tempdir().expect("a directory");
        let load = |content: &str| {
            let file = dir.path().join("ca.pem");
            std::fs::write(&file, content).expect("writes");
            let trust_anchor = TrustAnchor::Authorities(file);
            let rules = PeerRules { auth: ClientAuth::Require, trust_anchor, ..PeerRules::default() };
            let peers = Peers::load(&rules, &profile::provider(), &mut Findings::default());
            peers.map(|_| ()).map_err(|error| error.to_string())
        };
        let pem = made().pem();
        assert_eq!(load(&pem), Ok(()));
        assert_eq!(load(&format!("rubbish\n{pem}\nmore\n{pem}")), Ok(()), "rubbish between is passed over");
        assert!(load("").is_err_and(|error| error.contains("ca.pem: has no certificate")));
        let broken = pem.replace("MII", "!!!");
        assert!(load(&broken).is_err_and(|error| error.contains("ca.pem: cannot be read as PEM")));
        let no_x509 = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(load(no_x509).is_err_and(|error| error.contains("certificate 1 is no authority")));
    }

    #[test]
    fn names_narrow_whom_authorities_vouch_for() {
        let with = |names: &[&str], san: &str| {
            let names: Vec<PeerName> =
                names.iter().map(|name| PeerName::parse(name).expect("a name")).collect();
            let mut params = CertificateParams::new(Vec::new()).expect("no name");
            let text = san.try_into().expect("ASCII");
            params.subject_alt_names.push(if san.contains("://") {
                rcgen::SanType::URI(text)
            } else {
                rcgen::SanType::DnsName(text)
            });
            let key = KeyPair::generate().expect("a key");
            has_name(params.self_signed(&key).expect("signs").der(), &names)
        };
        assert!(with(&["phone.example"], "phone.example") && with(&["a.example", "*.example"], "b.example"));
        assert!(!with(&["*.example"], "a.b.example") && !with(&["spiffe://example/*"], "example"));
        assert!(with(&["spiffe://example/*"], "spiffe://example/phone"));
        assert!(!has_name(&vec![0x30, 0].into(), &[PeerName::Dns("a".to_owned())]), "no certificate");
    }
}
