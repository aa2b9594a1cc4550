//! The TLS that a client speaks: versions, suites, groups, names, certificates, tickets.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use offramp_files::{self as files, pem};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, SupportedCipherSuite};
use zeroize::Zeroizing;

use crate::plan::Version;
use crate::session::equal_terms;
use crate::tickets::{Collect, Forgetful, Origin, TicketStore};
use crate::trust::Trust;

/// A client's certificate chain and its key.
#[derive(Debug)]
pub struct ClientIdentity(Arc<CertifiedKey>);

/// What a run speaks; where there are several of something, connections take them in turn.
#[derive(Debug)]
pub struct ClientProfile {
    /// One or both.
    pub versions: Vec<Version>,
    /// In order of preference.
    pub suites: Vec<SupportedCipherSuite>,
    /// In order of preference; the first is the one whose share a ClientHello carries.
    pub groups: Vec<&'static dyn SupportedKxGroup>,
    /// Names to ask for; one that is an address is not sent, but a certificate must have it.
    pub names: Vec<ServerName<'static>>,
    /// Which server certificates are accepted.
    pub trust: Trust,
    /// Client certificates; none if there is none.
    pub clients: Vec<ClientIdentity>,
}

impl ClientProfile {
    /// One version, AES-128-GCM, X25519, this certificate trusted, and this name asked for: on equal terms
    /// for every terminator.
    ///
    /// # Errors
    /// The name is none.
    pub fn equal(version: Version, name: &str, trusted: &CertificateDer<'static>) -> Result<Self> {
        let provider = equal_terms();
        Ok(Self {
            versions: vec![version],
            suites: provider.cipher_suites,
            groups: provider.kx_groups,
            names: vec![ServerName::try_from(name.to_owned())?],
            trust: Trust::Authorities(vec![trusted.clone()]),
            clients: Vec::new(),
        })
    }
}

impl ClientIdentity {
    /// From two files in PEM.
    ///
    /// # Errors
    /// A file cannot be read, or holds no certificate or key.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self> {
        let chain = read_certificates(certificate)?;
        let named = |problem: &dyn std::fmt::Display| anyhow::anyhow!("{}: {problem}", key.display());
        let text = files::read(key, files::BYTES_MAX).map_err(|problem| named(&problem))?;
        let parsed = pem::private_key(text.bytes()).map_err(|error| named(&error))?;
        let signing = any_supported_type(&parsed.der()).map_err(|error| named(&error))?;
        let certified = CertifiedKey::new(chain, signing);
        let other = "is not the key of the first certificate in its --client-cert";
        certified.keys_match().map_err(|_| named(&other))?;
        Ok(Self(Arc::new(certified)))
    }

    /// A fresh self-signed one, ECDSA P-256, as media peers have them.
    ///
    /// # Errors
    /// None that happens.
    pub fn generate(name: &str) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([name.to_owned()])?;
        let der = Zeroizing::new(made.signing_key.serialize_der());
        let signing = any_supported_type(&PrivatePkcs8KeyDer::from(der.as_slice()).into())?;
        Ok(Self(Arc::new(CertifiedKey::new(vec![made.cert.der().clone()], signing))))
    }
}

/// The certificates in a PEM file.
///
/// # Errors
/// It cannot be read, or has none.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let named = |problem: &dyn std::fmt::Display| anyhow::anyhow!("{}: {problem}", path.display());
    let text = files::read(path, files::BYTES_MAX).map_err(|problem| named(&problem))?;
    pem::certificates(text.bytes()).map_err(|error| named(&error))
}

/// A suite by its IANA name, or as rustls writes it.
///
/// # Errors
/// There is none of that name; says which there are.
pub fn suite(name: &str) -> Result<SupportedCipherSuite> {
    let written = |suite: &SupportedCipherSuite| {
        let iana = suite.suite().as_str().unwrap_or("?").to_owned();
        (iana.replace("TLS13_", "TLS_"), iana)
    };
    let known = aws_lc_rs::ALL_CIPHER_SUITES;
    let wanted = name.trim().to_ascii_uppercase().replace('-', "_");
    if let Some(found) = known.iter().find(|suite| {
        let (iana, rustls) = written(suite);
        iana == wanted || rustls == wanted
    }) {
        return Ok(*found);
    }
    let all: Vec<_> = known.iter().map(|suite| written(suite).0).collect();
    bail!("unknown suite {name}: one of {}", all.join(", "))
}

/// A group by its name (RFC 8446 §4.2.7), `p256` and the like included.
///
/// # Errors
/// There is none of that name; says which there are.
pub fn group(name: &str) -> Result<&'static dyn SupportedKxGroup> {
    let wanted = name.trim().to_ascii_lowercase().replace(['-', '_'], "");
    let wanted = match wanted.as_str() {
        "p256" | "prime256v1" => "secp256r1",
        "p384" => "secp384r1",
        "p521" => "secp521r1",
        other => other,
    };
    let written = |group: &&dyn SupportedKxGroup| format!("{:?}", group.name()).to_ascii_lowercase();
    let known = aws_lc_rs::ALL_KX_GROUPS;
    if let Some(found) = known.iter().find(|group| written(group) == wanted) {
        return Ok(*found);
    }
    let all: Vec<_> = known.iter().map(written).collect();
    bail!("unknown group {name}: one of {}", all.join(", "))
}

/// All suites of the default provider.
#[must_use]
pub fn default_suites() -> Vec<SupportedCipherSuite> {
    aws_lc_rs::DEFAULT_CIPHER_SUITES.to_vec()
}

/// X25519 first, so that full against resumed does not compare ML-KEM.
#[must_use]
pub fn default_groups() -> Vec<&'static dyn SupportedKxGroup> {
    vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1, aws_lc_rs::kx_group::SECP384R1]
}

/// The profile as one thread uses it, with its own tickets, which outlive a change of the target.
#[derive(Debug)]
pub struct Profiles {
    profiles: Vec<Profile>,
    names: Vec<ServerName<'static>>,
    versions: usize,
    /// Connections so far.
    count: usize,
    dice: fastrand::Rng,
}

/// One version with one client certificate. Resumption binds a ticket to both.
#[derive(Debug)]
struct Profile {
    version: Version,
    tickets: Arc<TicketStore>,
    /// Offers no ticket.
    full: Arc<ClientConfig>,
    /// Offers a ticket if there is one.
    resuming: Arc<ClientConfig>,
}

/// What the next connection speaks.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Offers a ticket if there is one.
    resuming: Arc<ClientConfig>,
    /// Offers none, and keeps what comes if any connection resumes.
    full: Arc<ClientConfig>,
    /// Whom to ask for.
    pub name: ServerName<'static>,
    /// The only version that it offers.
    pub version: Version,
    /// Whether its handshake shall be resumed.
    pub resume: bool,
    /// Where its tickets are kept.
    pub tickets: Arc<TicketStore>,
}

impl Profiles {
    /// For one thread. Keeps no ticket if `resume` (the share of connections that shall be resumed) is 0.
    ///
    /// # Errors
    /// The profile contradicts itself, such as a version without a suite.
    pub fn new(profile: &ClientProfile, resume: f64, seed: u64) -> Result<Self> {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.clone_from(&profile.suites);
        provider.kx_groups.clone_from(&profile.groups);
        let provider = Arc::new(provider);
        let mut profiles = Vec::new();
        let clients: Vec<_> =
            if profile.clients.is_empty() { vec![None] } else { profile.clients.iter().map(Some).collect() };
        for client in clients {
            for version in &profile.versions {
                profiles.push(Profile::new(profile, &provider, *version, client, resume)?);
            }
        }
        let versions = profile.versions.len();
        let dice = fastrand::Rng::with_seed(seed);
        Ok(Self { profiles, names: profile.names.clone(), versions, count: 0, dice })
    }

    /// The next in turn: versions change fastest, then names, then client certificates.
    pub fn next(&mut self, resume: f64) -> Choice {
        let turn = self.count;
        self.count += 1;
        let name = turn / self.versions % self.names.len();
        let client = turn / self.versions / self.names.len();
        let at = (client * self.versions + turn % self.versions) % self.profiles.len();
        // By chance, so that it falls on each version, name and certificate alike.
        let resume = resume >= 1.0 || (resume > 0.0 && self.dice.f64() < resume);
        let profile = &self.profiles[at];
        Choice {
            resuming: Arc::clone(&profile.resuming),
            full: Arc::clone(&profile.full),
            name: self.names[name].clone(),
            version: profile.version,
            resume,
            tickets: Arc::clone(&profile.tickets),
        }
    }

    /// How many kinds of connections take turns: none of their tickets serves another kind.
    #[must_use]
    pub fn kinds(&self) -> usize {
        self.profiles.len() * self.names.len()
    }

    /// From now on, tickets come from this target.
    pub fn set_origin(&self, origin: Origin) {
        for profile in &self.profiles {
            profile.tickets.set_origin(origin);
        }
    }
}

impl Choice {
    /// What it speaks with; one that `fetches` shall bring a ticket and offers none.
    #[must_use]
    pub fn config(&self, fetches: bool) -> &Arc<ClientConfig> {
        if self.resume && !fetches { &self.resuming } else { &self.full }
    }
}

impl Profile {
    fn new(
        profile: &ClientProfile,
        provider: &Arc<CryptoProvider>,
        version: Version,
        client: Option<&ClientIdentity>,
        resume: f64,
    ) -> Result<Self> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(&[version.protocol()])
            .with_context(|| format!("no suite for {}", version.label()))?
            .dangerous()
            .with_custom_certificate_verifier(profile.trust.verifier(provider)?);
        let mut full = match client {
            None => builder.with_no_client_auth(),
            Some(ClientIdentity(certified)) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(certified))))
            }
        };
        let tickets = Arc::new(TicketStore::default());
        let mut resuming = full.clone();
        resuming.resumption = Resumption::store(Arc::clone(&tickets) as Arc<_>);
        full.resumption = if resume > 0.0 {
            Resumption::store(Arc::new(Collect(Arc::clone(&tickets))))
        } else {
            Resumption::store(Arc::new(Forgetful))
        };
        Ok(Self { version, tickets, full: Arc::new(full), resuming: Arc::new(resuming) })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn profile(clients: usize) -> ClientProfile {
        ClientProfile {
            versions: Version::BOTH.to_vec(),
            suites: default_suites(),
            groups: default_groups(),
            names: vec![ServerName::try_from("a.test").unwrap(), ServerName::try_from("b.test").unwrap()],
            trust: Trust::Anybody,
            clients: (0..clients).map(|_| ClientIdentity::generate("client.test").unwrap()).collect(),
        }
    }

    #[test]
    fn versions_names_and_certificates_rotate_evenly() {
        let mut profiles = Profiles::new(&profile(3), 0.5, 1).unwrap();
        let mut seen: HashMap<_, usize> = HashMap::new();
        for _ in 0..120 {
            let choice = profiles.next(0.5);
            let key = (choice.version.label(), format!("{:?}", choice.name), Arc::as_ptr(&choice.tickets));
            *seen.entry(key).or_default() += 1;
        }
        assert_eq!(seen.len(), 2 * 2 * 3);
        assert!(seen.values().all(|count| *count == 10), "{seen:?}");
    }

    #[test]
    fn resumption_share_applies_to_both_versions() {
        let mut profiles = Profiles::new(&profile(0), 0.8, 1).unwrap();
        let mut resumed: HashMap<_, usize> = HashMap::new();
        for _ in 0..10_000 {
            let choice = profiles.next(0.8);
            *resumed.entry(choice.version.label()).or_default() += usize::from(choice.resume);
        }
        assert!(resumed.values().all(|count| (3900..4100).contains(count)), "{resumed:?}");
        assert!((0..1000).all(|_| profiles.next(1.0).resume && !profiles.next(0.0).resume));
    }

    #[test]
    fn suites_and_groups_use_the_standard_names() {
        for name in ["TLS_AES_128_GCM_SHA256", "tls13-aes-128-gcm-sha256"] {
            assert_eq!(suite(name).unwrap().suite(), rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        }
        assert!(suite("RC4").unwrap_err().to_string().contains("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"));
        for name in ["P-256", "secp256r1", "p256"] {
            assert_eq!(group(name).unwrap().name(), rustls::NamedGroup::secp256r1);
        }
        assert!(group("ffdhe").unwrap_err().to_string().contains("x25519mlkem768"));
    }

    #[test]
    fn a_version_without_a_suite_is_named() {
        let mut profile = profile(0);
        profile.suites = vec![suite("TLS_AES_128_GCM_SHA256").unwrap()];
        let error = Profiles::new(&profile, 0.0, 1).unwrap_err();
        assert!(format!("{error:#}").contains("no suite for TLS 1.2"), "{error:#}");
    }
}
