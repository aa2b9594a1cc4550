//! The client's role: who the server must be, who we are to it, and how sessions with it resume.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, Resumption, Tls12Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::identity::Identities;
use super::peer::{AnyCertificate, PeerError, PeerRefusal, authorities, is_told};
use super::{TermsError, profile};
use crate::config::{Fingerprint, IdentityFiles, Originate, UnknownName, Voucher};

/// Sessions kept for resumption, by server name; one listener has one server.
const SESSIONS: usize = 64;

/// All that a handshake in the client's role needs to know.
pub(super) struct Origination {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
    trust: Trust,
}

enum Trust {
    Authorities(Arc<WebPkiServerVerifier>),
    Fingerprints(Vec<Fingerprint>),
}

impl Origination {
    /// Reads what the rules name; the first identity, if there is one, is shown to servers that ask.
    pub(super) fn load(
        rules: &Originate,
        identities: &[IdentityFiles],
        resumes: bool,
        alpn: Vec<Vec<u8>>,
    ) -> Result<Self, TermsError> {
        let provider = profile::provider();
        let name = ServerName::try_from(rules.server_name.clone())
            .map_err(|_| TermsError::Profile(format!("server_name {:?} is no name", rules.server_name)))?;
        let trust = match &rules.trust {
            Voucher::Authorities(file) => Trust::Authorities(by_authority(file, &provider)?),
            Voucher::Fingerprints(told) => Trust::Fingerprints(told.clone()),
            Voucher::Nobody => return Err(TermsError::Profile("nobody vouches for the server".to_owned())),
        };
        let verifier: Arc<dyn ServerCertVerifier> = match &trust {
            Trust::Authorities(verifier) => Arc::clone(verifier) as _,
            Trust::Fingerprints(_) => {
                let algorithms = provider.signature_verification_algorithms;
                Arc::new(AnyCertificate { algorithms })
            }
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(profile::VERSIONS)
            .map_err(|error| TermsError::Profile(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = if identities.is_empty() {
            builder.with_no_client_auth()
        } else {
            let identity = Identities::load(identities, UnknownName::First)?.first();
            let mut config = builder.with_no_client_auth();
            config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(identity));
            config
        };
        config.alpn_protocols = alpn;
        config.enable_secret_extraction = true;
        config.require_ems = true;
        config.resumption = if resumes {
            let store = Arc::new(ClientSessionMemoryCache::new(SESSIONS));
            Resumption::store(store).tls12_resumption(Tls12Resumption::SessionIdOrTickets)
        } else {
            Resumption::disabled()
        };
        Ok(Self { config: Arc::new(config), name, trust })
    }

    /// Judges the server of a complete handshake: in a resumed one rustls has asked nobody.
    pub(super) fn judge(
        &self,
        chain: Option<&[CertificateDer<'_>]>,
        resumed: bool,
        now: UnixTime,
    ) -> Result<(), PeerRefusal> {
        let (own, issuers) = chain.and_then(<[_]>::split_first).ok_or(PeerRefusal::Missing)?;
        let holds = match &self.trust {
            Trust::Fingerprints(told) => is_told(told, own),
            Trust::Authorities(verifier) => {
                !resumed || verifier.verify_server_cert(own, issuers, &self.name, &[], now).is_ok()
            }
        };
        if holds { Ok(()) } else { Err(PeerRefusal::Refused) }
    }
}

impl fmt::Debug for Origination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origination").field("name", &self.name).finish_non_exhaustive()
    }
}

fn by_authority(file: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, PeerError> {
    let refused = |problem: String| PeerError::Authorities { file: file.to_owned(), problem };
    let mut roots = RootCertStore::empty();
    for (nth, root) in (1..).zip(authorities(file)?) {
        roots.add(root).map_err(|error| refused(format!("certificate {nth} is no authority ({error})")))?;
    }
    WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(provider))
        .build()
        .map_err(|error| refused(error.to_string()))
}

impl ServerCertVerifier for AnyCertificate {
    /// Which certificate it is, is judged after the handshake.
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _issuers: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
