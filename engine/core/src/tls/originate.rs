//! The client's role: who the server must be, who we are to it, and how sessions with it resume.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::SupportedProtocolVersion;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, Tls12Resumption};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::authorities::Authorities;
use super::findings::{Findings, Purpose};
use super::identity::Identities;
use super::peer::{AnyCertificate, PeerRefusal, PeerVerdict, authorities, is_told};
use super::peer_error::check_key;
use super::sessions::ClientSessions;
use super::signatures::handshake_signatures;
use super::{Sources, Tickets, TlsPolicyError, key_log, profile};
use crate::config::{Fingerprint, IdentityFiles, Originate, TrustAnchor, UnknownName};

/// All that a handshake in the client's role needs to know.
pub(super) struct Origination {
    pub(super) config: Arc<ClientConfig>,
    /// The name that servers are asked for.
    name: ServerName<'static>,
    /// A name that the client has asked for takes its place.
    pub(super) forwards_name: bool,
    trust: Trust,
    /// `None` where none are to be resumed.
    sessions: Option<Arc<ClientSessions>>,
    /// The hash of all that it was made of.
    made_of: [u8; 32],
}

#[derive(Clone)]
enum Trust {
    Authorities(Arc<Authorities>),
    Fingerprints(Vec<Fingerprint>),
    Pending,
    /// Of a server that others judge: any certificate holds.
    Anybody,
}

impl Origination {
    /// Reads what the rules name; the first identity, if there is one, is shown to servers that ask. What an
    /// operator should know of it goes to `findings`.
    pub(super) fn load(
        sources: &Sources,
        rules: &Originate,
        identities: &[IdentityFiles],
        tickets: Option<&Arc<Tickets>>,
        alpn: Vec<Vec<u8>>,
        findings: &mut Findings,
    ) -> Result<Self, TlsPolicyError> {
        Self::load_for(sources, profile::VERSIONS, rules, identities, tickets, alpn, findings)
    }

    pub(super) fn load_for(
        sources: &Sources,
        versions: &[&'static SupportedProtocolVersion],
        rules: &Originate,
        identities: &[IdentityFiles],
        tickets: Option<&Arc<Tickets>>,
        alpn: Vec<Vec<u8>>,
        findings: &mut Findings,
    ) -> Result<Self, TlsPolicyError> {
        let mut made_of = MadeOf::default();
        let flags = [tickets.is_some(), rules.forward_server_name].map(u8::from);
        made_of.add(&[rules.server_name.as_bytes(), &flags]);
        made_of.add(&alpn);
        let Sources { provider, time, .. } = sources.clone();
        let groups: Vec<_> = provider.kx_groups.iter().map(|it| u16::from(it.name()).to_be_bytes()).collect();
        made_of.add(&groups);
        let name = ServerName::try_from(rules.server_name.clone())
            .map_err(|_| TlsPolicyError::ServerName(rules.server_name.clone()))?;
        made_of.add(&[[rules.trust.kind(), u8::from(!identities.is_empty())]]);
        let trust = match &rules.trust {
            TrustAnchor::Authorities(file) => {
                let authorities = authorities(file)?;
                made_of.add(&authorities);
                let algorithms = provider.signature_verification_algorithms;
                let authorities =
                    Authorities::load(file, authorities, Purpose::Servers, algorithms, findings)?;
                Trust::Authorities(Arc::new(authorities))
            }
            TrustAnchor::Fingerprints(told) => {
                let texts: Vec<String> = told.iter().map(ToString::to_string).collect();
                made_of.add(&texts);
                Trust::Fingerprints(told.clone())
            }
            TrustAnchor::Pending => Trust::Pending,
            TrustAnchor::Nobody => {
                return Err(TlsPolicyError::Profile(
                    "nothing says which certificate of the server to accept".to_owned(),
                ));
            }
        };
        let verifier: Arc<dyn ServerCertVerifier> = match &trust {
            Trust::Authorities(authorities) => Arc::clone(authorities) as _,
            Trust::Fingerprints(_) | Trust::Pending | Trust::Anybody => {
                let algorithms = provider.signature_verification_algorithms;
                Arc::new(AnyCertificate { algorithms })
            }
        };
        let builder = ClientConfig::builder_with_details(provider, time)
            .with_protocol_versions(versions)
            .map_err(|error| TlsPolicyError::Profile(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = if identities.is_empty() {
            builder.with_no_client_auth()
        } else {
            let purpose = Purpose::Clients;
            let loaded = Identities::load_from(sources, identities, UnknownName::First, purpose, findings)?;
            let identity = loaded.first();
            // The key is the first certificate's.
            made_of.add(&identity.cert);
            let mut config = builder.with_no_client_auth();
            config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(identity));
            config
        };
        config.alpn_protocols = alpn;
        config.enable_secret_extraction = true;
        config.key_log = key_log::current();
        // TLS 1.2 only with extended_master_secret (TS 33.210 clause 6.2.3) (B10a); rustls signals secure
        // renegotiation in every hello (RFC 5746 §3.4) (A6d).
        config.require_ems = true;
        let sessions = tickets.map(|tickets| Arc::new(ClientSessions::new(Arc::clone(tickets))));
        config.resumption = sessions.as_ref().map_or_else(Resumption::disabled, |sessions| {
            let store = Arc::clone(sessions);
            Resumption::store(store).tls12_resumption(Tls12Resumption::SessionIdOrTickets)
        });
        let (config, forwards_name) = (Arc::new(config), rules.forward_server_name);
        Ok(Self { config, name, forwards_name, trust, sessions, made_of: made_of.digest() })
    }

    /// The same rules without resumption: every handshake is a full one, and no session is kept.
    pub(super) fn without_sessions(&self) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::disabled();
        let (config, name, trust) = (Arc::new(config), self.name.clone(), self.trust.clone());
        Self { config, name, forwards_name: false, trust, sessions: None, made_of: self.made_of }
    }

    /// For a server that somebody else judges: with all that the library offers, beyond the profile. Without
    /// a name none is sent.
    pub(super) fn unjudged(sources: &Sources, name: Option<&str>) -> Result<Self, TlsPolicyError> {
        // An address is not sent (RFC 6066 §3).
        let name = name.unwrap_or("0.0.0.0").to_owned();
        let server = ServerName::try_from(name.clone()).map_err(|_| TlsPolicyError::ServerName(name))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let schemes = provider.signature_verification_algorithms.supported_schemes();
        let mut config = ClientConfig::builder_with_details(provider, Arc::clone(&sources.time))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsPolicyError::Profile(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unjudged(schemes)))
            .with_no_client_auth();
        config.enable_secret_extraction = true;
        config.key_log = key_log::current();
        config.resumption = Resumption::disabled();
        let (config, trust) = (Arc::new(config), Trust::Anybody);
        Ok(Self { config, name: server, forwards_name: false, trust, sessions: None, made_of: [0; 32] })
    }

    /// Whether nothing has changed of what the two were made of.
    pub(super) fn is_made_of_the_same(&self, other: &Self) -> bool {
        self.made_of == other.made_of
    }
}

/// The server of one handshake.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) origination: Arc<Origination>,
    /// The name that it is asked for, if that is not the configured one.
    forwarded: Option<ServerName<'static>>,
}

impl Server {
    /// The server that is asked for `name` where names are forwarded, else for the configured name.
    pub(super) fn new(origination: &Arc<Origination>, name: Option<&str>) -> Self {
        let name = name.filter(|_| origination.forwards_name);
        let forwarded = name.and_then(|name| ServerName::try_from(name.to_owned()).ok());
        Self { origination: Arc::clone(origination), forwarded }
    }

    /// The name that it is asked for, and that its certificate must have.
    pub(super) fn name(&self) -> &ServerName<'static> {
        self.forwarded.as_ref().unwrap_or(&self.origination.name)
    }

    /// Forgets all sessions with it, since one was refused: the next handshake is a full one.
    pub(super) fn forget_sessions(&self) {
        if let Some(sessions) = &self.origination.sessions {
            sessions.forget(self.name());
        }
    }

    /// Judges the server of a complete handshake: in a resumed one rustls has asked nobody. By then it has
    /// kept the session of TLS 1.2 for the next; of a server that does not hold none is kept.
    pub(super) fn judge(
        &self,
        chain: Option<&[CertificateDer<'_>]>,
        resumed: bool,
        now: UnixTime,
    ) -> Result<PeerVerdict, PeerRefusal> {
        let verdict = self.verdict(chain, resumed, now);
        if verdict.is_err() {
            self.forget_sessions();
        }
        verdict
    }

    fn verdict(
        &self,
        chain: Option<&[CertificateDer<'_>]>,
        resumed: bool,
        now: UnixTime,
    ) -> Result<PeerVerdict, PeerRefusal> {
        let (own, issuers) = chain.and_then(<[_]>::split_first).ok_or(PeerRefusal::Missing)?;
        let holds = match &self.origination.trust {
            Trust::Fingerprints(told) => is_told(told, own),
            Trust::Authorities(authorities) => {
                !resumed || authorities.verify(own, issuers, Some(self.name()), now).is_ok()
            }
            Trust::Pending => return Ok(PeerVerdict::Pending(own.clone().into_owned())),
            Trust::Anybody => true,
        };
        if holds { Ok(PeerVerdict::Holds) } else { Err(PeerRefusal::Refused) }
    }
}

impl fmt::Debug for Origination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origination").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a policy is made of, part by part.
#[derive(Default)]
struct MadeOf(Vec<u8>);

impl MadeOf {
    fn add<T: AsRef<[u8]>>(&mut self, parts: &[T]) {
        self.0.extend_from_slice(&(parts.len() as u64).to_be_bytes());
        for part in parts {
            self.0.extend_from_slice(&(part.as_ref().len() as u64).to_be_bytes());
            self.0.extend_from_slice(part.as_ref());
        }
    }

    fn digest(&self) -> [u8; 32] {
        let mut made_of = [0; 32];
        made_of.copy_from_slice(digest(&SHA256, &self.0).as_ref());
        made_of
    }
}

impl ServerCertVerifier for AnyCertificate {
    /// Which certificate it is, is judged after the handshake.
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _issuers: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        check_key(certificate).map(|()| ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

/// Takes any certificate and any proof of its key.
#[derive(Debug)]
struct Unjudged(Vec<SignatureScheme>);

impl ServerCertVerifier for Unjudged {
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
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
