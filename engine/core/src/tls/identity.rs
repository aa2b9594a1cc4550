//! Certificate chains and their keys: read, held against the profile, chosen by SNI and by what the client
//! can verify.

use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{CipherSuite, NamedGroup, SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::certificate::{self, Checked};
use super::findings::{Findings, Period, Purpose};
use super::full::GuardedKey;
use super::identity_error::IdentityError;
use super::info;
use super::key_kind;
use super::ocsp;
use super::sources::{LoadKey, Sources};
use crate::config::{IDENTITIES_MAX, IdentityFiles, UnknownName};
use offramp_files::pem::{self, PemError, PrivateKey};
use offramp_files::{self as files, Content};

/// Most bytes of a chain: it must fit, with the rest of the flight, into one buffer.
const MAX_CHAIN_BYTES: usize = 32 * 1024;
/// Most bytes of an OCSP response: those with a chain of their own have a few thousand.
const MAX_OCSP_BYTES: usize = 16 * 1024;

/// One certificate chain with its key and the names that it is for.
struct Identity {
    certified: Arc<CertifiedKey>,
    /// Its key, for questions that begin nothing.
    signing: Arc<dyn SigningKey>,
    /// The same with an OCSP response, while that is current.
    stapled: Option<(Arc<CertifiedKey>, Period)>,
    /// Of an ECDSA key.
    curve: Option<NamedGroup>,
    /// Lower case, as in the certificate's dNSName entries; may start with `*.`.
    names: Vec<String>,
    /// What a client may know it by.
    known_by: Vec<Vec<u8>>,
}

/// All identities of a listener, in the order of the configuration.
pub(super) struct Identities {
    all: Vec<Identity>,
    unknown_name: UnknownName,
}

impl Identities {
    /// Reads and checks them all; they are shown to those that do not belong to `purpose`, and what signs
    /// with their keys is the sources'. What an operator should know of them goes to `findings`.
    pub(super) fn load_from(
        sources: &Sources,
        files: &[IdentityFiles],
        unknown_name: UnknownName,
        purpose: Purpose,
        findings: &mut Findings,
    ) -> Result<Self, IdentityError> {
        let load = |files| Identity::load(files, sources.signing_key, purpose, findings);
        Ok(Self { all: files.iter().map(load).collect::<Result<_, _>>()?, unknown_name })
    }

    /// With others, as far as they can be used and there are not too many.
    pub(super) fn with_found(
        mut self,
        sources: &Sources,
        found: &[IdentityFiles],
        purpose: Purpose,
        findings: &mut Findings,
    ) -> Self {
        for (nth, files) in found.iter().enumerate() {
            if self.all.len() == IDENTITIES_MAX {
                findings.remark(format!(
                    "not used: {} and what follows, {} in all: a listener uses {IDENTITIES_MAX} identities; \
                     try: another listener for the others",
                    files.certificate.display(),
                    found.len() - nth
                ));
                break;
            }
            match Identity::load(files, sources.signing_key, purpose, findings) {
                Ok(identity) => self.all.push(identity),
                Err(error) => findings.remark(format!("not used: {error}")),
            }
        }
        self
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The first.
    pub(super) fn first(self) -> CertifiedKey {
        let first = self.all.into_iter().next().expect("who loads identities has at least one");
        // What we sign as a client is no handshake of a client's.
        CertifiedKey { key: first.signing, ..CertifiedKey::clone(&first.certified) }
    }

    /// What clients may know this listener by: the names and addresses of all its certificates, whatever
    /// their order; for a certificate without any its public key.
    pub(super) fn known_by(&self) -> BTreeSet<Vec<u8>> {
        self.all.iter().flat_map(|identity| identity.known_by.iter().cloned()).collect()
    }

    /// Both an RSA and an ECDSA identity serve (TS 33.210 clause 6.2.2) (B3b).
    ///
    /// The first that has the name, can sign what the client can verify, and suits a suite that the client
    /// offers, and one that has the name itself before one that has a wildcard for it; if none has the name,
    /// the first that can serve the client at all; if none can, the first, so that the client learns that
    /// suites or signature algorithms have nothing in common (handshake_failure). None at all
    /// for a name that nobody has, where that is to be refused.
    fn choose(&self, hello: &Hello<'_>) -> Option<&Identity> {
        let name = hello.name.map(|name| name.trim_end_matches('.'));
        let exact = |identity: &&Identity| name.is_some_and(|name| identity.has_name(name));
        let wild = |identity: &&Identity| name.is_some_and(|name| identity.has_wildcard(name));
        let able = |identity: &&Identity| identity.can_serve(hello);
        let all = || self.all.iter();
        let is_known = || all().any(|one| exact(&one) || wild(&one));
        if self.unknown_name == UnknownName::Refuse && name.is_some() && !is_known() {
            return None;
        }
        let named = all().filter(exact).find(able).or_else(|| all().filter(wild).find(able));
        named.or_else(|| all().find(able)).or_else(|| all().next())
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter().map(|identity| &identity.names)).finish()
    }
}

/// Of the extensions of RFC 6066 server_name is looked at here and status_request answered with the response
/// of the identity, if it has one; the others rustls passes over, and they are no obstacle (A1).
impl ResolvesServerCert for Identities {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        info::note_server_name(hello.server_name());
        let hello = Hello {
            name: hello.server_name(),
            schemes: hello.signature_schemes(),
            suites: hello.cipher_suites(),
            groups: hello.named_groups(),
        };
        self.choose(&hello).map(|identity| identity.shown_to(&hello, UnixTime::now))
    }
}

/// In the place of a key on a curve that the client does not take, to which rustls does not look: it signs
/// nothing, which ends a full handshake in handshake_failure and is no obstacle to one that resumes.
#[derive(Debug)]
struct Unable;

impl SigningKey for Unable {
    fn choose_scheme(&self, _offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        None
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

/// What the choice depends on.
struct Hello<'a> {
    name: Option<&'a str>,
    schemes: &'a [SignatureScheme],
    suites: &'a [CipherSuite],
    groups: Option<&'a [NamedGroup]>,
}

impl Hello<'_> {
    /// A TLS 1.2 client's supported_groups bind the curve of an ECDSA certificate too (RFC 8422 §5.1.1); in
    /// TLS 1.3 the signature scheme does (B10b). Which it is shows in the suites: those of TLS 1.3 are of no
    /// use to anybody else, and a client that has them and offers TLS 1.2 alone is taken at its suites.
    fn takes_curve(&self, curve: NamedGroup) -> bool {
        let tls13 = |suite: &CipherSuite| suites_key(*suite) == Some(None);
        self.groups.is_none_or(|groups| groups.contains(&curve)) || self.suites.iter().any(tls13)
    }
}

impl Identity {
    fn load(
        files: &IdentityFiles,
        signing_key: LoadKey,
        purpose: Purpose,
        findings: &mut Findings,
    ) -> Result<Self, IdentityError> {
        let chain = read_chain(&files.certificate)?;
        let key = read_key(&files.key)?;
        let Checked { curve, names, known_by } =
            certificate::check(&files.certificate, &chain, purpose, findings)?;
        let signing = signing_key(&key.der()).map_err(|_| IdentityError::Unusable {
            file: files.key.clone(),
            problem: key_kind::unusable(&key.der()),
        })?;
        let mut certified = CertifiedKey::new(chain, Arc::clone(&signing));
        certified.keys_match().map_err(|_| IdentityError::NotAPair {
            key: files.key.clone(),
            certificate: files.certificate.clone(),
        })?;
        certified.key = Arc::new(GuardedKey(Arc::clone(&signing)));
        let staple = |file: &PathBuf| {
            let stapled = ocsp::staple(file, read_ocsp(file)?, &certified, findings);
            stapled.ok_or_else(|| no_ocsp_response(file))
        };
        let stapled = files.ocsp.as_ref().map(staple).transpose()?.flatten();
        Ok(Self { certified: Arc::new(certified), signing, stapled, curve, names, known_by })
    }

    fn has_name(&self, name: &str) -> bool {
        self.names.iter().any(|pattern| name.eq_ignore_ascii_case(pattern))
    }

    /// Whether it has a wildcard for the name, which stands for exactly one label (RFC 6125 §6.4.3).
    fn has_wildcard(&self, name: &str) -> bool {
        let Some((label, rest)) = name.split_once('.') else { return false };
        let mut parents = self.names.iter().filter_map(|pattern| pattern.strip_prefix("*."));
        !label.is_empty() && parents.any(|parent| rest.eq_ignore_ascii_case(parent))
    }

    /// Itself, unless its curve is not the client's: that is refused, and nothing of it shown. With its OCSP
    /// response while that is current.
    fn shown_to(&self, hello: &Hello<'_>, now: impl FnOnce() -> UnixTime) -> Arc<CertifiedKey> {
        if !self.curve.is_none_or(|curve| hello.takes_curve(curve)) {
            return Arc::new(CertifiedKey::new(Vec::new(), Arc::new(Unable)));
        }
        match &self.stapled {
            Some((stapled, period)) if period.has(now()) => Arc::clone(stapled),
            _ => Arc::clone(&self.certified),
        }
    }

    /// By suites, groups and signature_algorithms (B10b). What signature_algorithms_cert says of the chain
    /// rustls does not tell (B5b): the chain goes out as it is configured, which RFC 8446 §4.4.2.2 allows
    /// where there is no other.
    fn can_serve(&self, hello: &Hello<'_>) -> bool {
        let algorithm = self.signing.algorithm();
        let suits =
            |suite: &CipherSuite| suites_key(*suite).is_some_and(|key| key.is_none_or(|k| k == algorithm));
        hello.suites.iter().any(suits)
            && self.signing.choose_scheme(hello.schemes).is_some()
            && self.curve.is_none_or(|curve| hello.takes_curve(curve))
    }
}

/// In TLS 1.2 the suite names the kind of key; a TLS 1.3 suite goes with any. `None` for one not of ours.
fn suites_key(suite: CipherSuite) -> Option<Option<SignatureAlgorithm>> {
    use CipherSuite as S;
    match suite {
        S::TLS13_AES_128_GCM_SHA256 | S::TLS13_AES_256_GCM_SHA384 | S::TLS13_CHACHA20_POLY1305_SHA256 => {
            Some(None)
        }
        S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => Some(Some(SignatureAlgorithm::ECDSA)),
        S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        | S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
        | S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => Some(Some(SignatureAlgorithm::RSA)),
        _ => None,
    }
}

fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let text = read(file)?;
    let certificates = pem::certificates(text.bytes()).map_err(|e| unusable(file, "certificate", e))?;
    let bytes: usize = certificates.iter().map(|certificate| certificate.len()).sum();
    if bytes > MAX_CHAIN_BYTES {
        let reason =
            format!("the chain has {bytes} bytes, more than {MAX_CHAIN_BYTES}: leave out what clients have");
        return Err(IdentityError::Malformed { file: file.to_owned(), reason });
    }
    Ok(certificates)
}

fn no_ocsp_response(file: &Path) -> IdentityError {
    let reason = format!(
        "not an OCSP response in DER of at most {MAX_OCSP_BYTES} bytes; try: openssl ocsp -respout FILE"
    );
    IdentityError::Malformed { file: file.to_owned(), reason }
}

/// OCSP stapling (TS 33.210 clauses 6.2.2, 6.2.3).
fn read_ocsp(file: &Path) -> Result<Vec<u8>, IdentityError> {
    let content = read(file)?;
    let response = content.bytes();
    let parsed = x509_parser::der_parser::parse_der(response);
    let is_whole = matches!(parsed, Ok(([], value)) if value.header.is_constructed());
    if is_whole && response.len() <= MAX_OCSP_BYTES {
        return Ok(response.to_vec());
    }
    Err(no_ocsp_response(file))
}

fn read_key(file: &Path) -> Result<PrivateKey, IdentityError> {
    let text = read(file)?;
    pem::private_key(text.bytes()).map_err(|e| unusable(file, "private key", e))
}

fn read(file: &Path) -> Result<Content, IdentityError> {
    files::read(file, files::BYTES_MAX)
        .map_err(|problem| IdentityError::Unreadable { file: file.to_owned(), reason: problem.to_string() })
}

fn unusable(file: &Path, what: &'static str, error: PemError) -> IdentityError {
    let file = file.to_owned();
    match error {
        PemError::Malformed { .. } => {
            IdentityError::Malformed { file, reason: format!("not a well-formed PEM {what} ({error})") }
        }
        _ => IdentityError::Unusable { file, problem: error.to_string() },
    }
}

/// A warning where others than the owner of a key's file and its group have access to it.
pub(super) fn exposed(files: &IdentityFiles) -> Option<String> {
    let file = files.key.display();
    let mode = std::fs::metadata(&files.key).ok()?.mode() & 0o7777;
    (mode & 0o007 != 0).then(|| {
        format!(
            "{file}: its mode is {mode:04o}, and every user of this host has access to the private key; try: \
             chmod o-rwx {file}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    fn loaded(files: &[IdentityFiles], unknown_name: UnknownName) -> Result<Identities, IdentityError> {
        let (sources, mut findings) = (Sources::system(), Findings::default());
        Identities::load_from(&sources, files, unknown_name, Purpose::Servers, &mut findings)
    }

    fn write(dir: &Path, name: &str, names: &[&str], key: &KeyPair) -> IdentityFiles {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let certificate = CertificateParams::new(names).expect("names").self_signed(key).expect("signs");
        let files = IdentityFiles {
            certificate: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
            ocsp: None,
        };
        std::fs::write(&files.certificate, certificate.pem()).expect("writes");
        std::fs::write(&files.key, key.serialize_pem()).expect("writes");
        files
    }

    const ECDSA_SUITES: &[CipherSuite] = &[CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
    const P256: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];
    const P384: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP384_SHA384];

    #[test]
    fn identity_is_chosen_by_name_then_by_client_support() {
        let dir = tempfile::tempdir().expect("a directory");
        let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key");
        let files = [
            write(dir.path(), "a", &["a.example"], &p256),
            write(dir.path(), "b", &["b.example", "*.w.example"], &p384),
        ];
        let identities = loaded(&files, UnknownName::First).expect("both are allowed");
        let chosen = |name, schemes, suites| {
            identities
                .choose(&Hello { name, schemes, suites, groups: None })
                .map(|identity| identity.names[0].clone())
        };
        let both = &[P256[0], P384[0]];
        assert_eq!(chosen(Some("B.EXAMPLE"), both, ECDSA_SUITES).as_deref(), Some("b.example"));
        assert_eq!(chosen(Some("x.w.example"), both, ECDSA_SUITES).as_deref(), Some("b.example"));
        assert_eq!(chosen(Some("x.y.w.example"), both, ECDSA_SUITES).as_deref(), Some("a.example"));
        assert_eq!(chosen(Some("unknown.example"), both, ECDSA_SUITES).as_deref(), Some("a.example"));
        assert_eq!(chosen(None, P384, ECDSA_SUITES).as_deref(), Some("b.example"));
        assert_eq!(chosen(Some("a.example"), P384, ECDSA_SUITES).as_deref(), Some("b.example"));
        let rsa_only = &[CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256];
        assert_eq!(
            chosen(Some("b.example"), both, rsa_only).as_deref(),
            Some("a.example"),
            "none can: the first"
        );
    }

    #[test]
    fn an_exact_name_comes_before_a_wildcard_in_any_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let (one, other) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let wild = write(dir.path(), "wild", &["*.w.example", "w.example"], &one);
        let exact = write(dir.path(), "exact", &["x.w.example"], &other);
        for files in [[wild.clone(), exact.clone()], [exact, wild]] {
            for unknown_name in [UnknownName::First, UnknownName::Refuse] {
                let identities = loaded(&files, unknown_name).expect("both are allowed");
                let chosen = |name| {
                    let hello = Hello { name: Some(name), schemes: P256, suites: ECDSA_SUITES, groups: None };
                    identities.choose(&hello).map(|identity| identity.names[0].clone())
                };
                assert_eq!(chosen("X.w.example.").as_deref(), Some("x.w.example"));
                assert_eq!(chosen("y.w.example").as_deref(), Some("*.w.example"));
                let unknown = chosen("z.y.w.example").is_some();
                assert_eq!(unknown, unknown_name == UnknownName::First);
            }
        }
    }

    #[test]
    fn groups_limit_certificate_curves_only_in_tls_1_2() {
        let dir = tempfile::tempdir().expect("a directory");
        let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key");
        let files = [write(dir.path(), "a", &["a"], &p256), write(dir.path(), "b", &["b"], &p384)];
        let identities = loaded(&files, UnknownName::First).expect("both are allowed");
        let chosen = |groups, suites| {
            let hello = Hello { name: None, schemes: &[P256[0], P384[0]], suites, groups };
            let chosen = identities.choose(&hello).expect("no name is asked for");
            let can_sign = chosen.shown_to(&hello, UnixTime::now).key.choose_scheme(hello.schemes).is_some();
            (chosen.names[0].clone(), can_sign)
        };
        let is = |name: &str, can_sign| (name.to_owned(), can_sign);
        let tls13 = &[CipherSuite::TLS13_AES_128_GCM_SHA256, ECDSA_SUITES[0]];
        let only_p384 = &[NamedGroup::X25519, NamedGroup::secp384r1][..];
        assert_eq!(chosen(Some(only_p384), ECDSA_SUITES), is("b", true));
        assert_eq!(chosen(Some(only_p384), tls13), is("a", true));
        assert_eq!(chosen(None, ECDSA_SUITES), is("a", true));
        let neither = &[NamedGroup::X25519][..];
        assert_eq!(chosen(Some(neither), ECDSA_SUITES), is("a", false), "the first, which signs nothing");
        assert_eq!(chosen(Some(neither), tls13), is("a", true));
    }

    #[test]
    fn each_bad_pair_has_its_own_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let (one, other) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let (good, second) =
            (write(dir.path(), "good", &["a"], &one), write(dir.path(), "second", &["b"], &other));
        let load = |certificate: &Path, key: &Path| {
            let files =
                IdentityFiles { certificate: certificate.to_owned(), key: key.to_owned(), ocsp: None };
            loaded(&[files], UnknownName::First).map(|_| ()).map_err(|e| e.to_string())
        };
        assert_eq!(load(&good.certificate, &good.key), Ok(()));
        let text = load(&good.certificate, &good.certificate).expect_err("no key in it");
        assert!(text.contains("good.pem: has no private key"), "{text}");
        let text = load(&good.key, &good.key).expect_err("no certificate in it");
        assert!(text.contains("good.key: has no certificate"), "{text}");
        let text = load(&good.certificate, &second.key).expect_err("another's key");
        assert!(text.contains("second.key: is not the key of"), "{text}");
        let text = load(Path::new("/nonexistent/c.pem"), &good.key).expect_err("no file");
        assert!(text.contains("/nonexistent/c.pem: cannot be read"), "{text}");
        std::fs::write(
            dir.path().join("junk.pem"),
            "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
        )
        .expect("writes");
        let text = load(&dir.path().join("junk.pem"), &good.key).expect_err("junk");
        assert!(text.contains("junk.pem: not a well-formed PEM certificate"), "{text}");
    }

    #[test]
    fn identities_past_the_limit_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = write(dir.path(), "a", &["a"], &KeyPair::generate().expect("a key"));
        let (sources, mut findings) = (Sources::system(), Findings::default());
        let found = vec![files.clone(); IDENTITIES_MAX + 1];
        let identities = loaded(&[files], UnknownName::First).expect("it is allowed");
        let identities = identities.with_found(&sources, &found, Purpose::Servers, &mut findings);
        assert_eq!(identities.all.len(), IDENTITIES_MAX);
        let warnings = findings.warnings(0).concat();
        assert!(warnings.contains("a.pem and what follows, 2 in all: a listener uses 1024"), "{warnings}");
    }

    #[test]
    fn a_key_outside_the_profile_is_refused_by_clause() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = write(dir.path(), "ed", &["a"], &KeyPair::generate_for(&PKCS_ED25519).expect("a key"));
        let loaded = loaded(&[files], UnknownName::First);
        let text = loaded.map(|_| ()).expect_err("not in the profile").to_string();
        assert!(text.contains("ed.pem") && text.contains("TS 33.310 clause 6.1.1"), "{text}");
    }
}
