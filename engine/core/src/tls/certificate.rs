//! Certificates of ours, held against the profile before anybody is shown them: the whole chain, since a
//! client has to verify each of it (TS 33.310 clause 6.1.1).
//!
//! Of a certificate that names itself as its issuer the signature is not looked at: it proves nothing, and
//! who trusts a root has it already. Its version and its key are held to the same rules as the rest.

use std::path::Path;

use rustls::NamedGroup;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};
use x509_parser::public_key::PublicKey;
use x509_parser::signature_algorithm::RsaSsaPssParams;
use x509_parser::x509::AlgorithmIdentifier;

use super::findings::{Findings, Purpose};
use super::identity_error::IdentityError;
use super::{key_kind, profile};

/// Least bits of an RSA modulus (TS 33.310 clause 6.1.1).
const MIN_RSA_BITS: usize = 2048;

/// What a choice among identities needs to know of one.
pub(super) struct Checked {
    /// Of an ECDSA key.
    pub(super) curve: Option<NamedGroup>,
    /// The dNSName entries, in lower case.
    pub(super) names: Vec<String>,
    /// What a client may know us by: all names and addresses; the public key where there are none.
    pub(super) known_by: Vec<Vec<u8>>,
}

/// Holds a chain, our own certificate first, against the profile; `file` is only for the messages. What those
/// that `purpose` is about would not accept goes to `findings`.
pub(super) fn check(
    file: &Path,
    chain: &[CertificateDer<'_>],
    purpose: Purpose,
    findings: &mut Findings,
) -> Result<Checked, IdentityError> {
    let mut checked = Checked { curve: None, names: Vec::new(), known_by: Vec::new() };
    let mut issued: Option<X509Certificate<'_>> = None;
    for (nth, der) in (1..).zip(chain) {
        let malformed = |reason: &str| IdentityError::Malformed {
            file: file.to_owned(),
            reason: format!("certificate {nth} {reason}"),
        };
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| malformed("is not X.509"))?;
        let place = Place { file, nth };
        place.check_version(&certificate)?;
        let curve = place.check_public_key(&certificate)?;
        if certificate.signature_algorithm != certificate.tbs_certificate.signature {
            // RFC 5280 §4.1.1.2.
            return Err(malformed("names two signature algorithms"));
        }
        if nth == 1 || certificate.issuer().as_raw() != certificate.subject().as_raw() {
            place.check_signature(&certificate)?;
        }
        findings.dated(file, nth, &certificate);
        if issued.is_some_and(|issued| !is_issued_by(&issued, &certificate)) {
            findings.remark(format!(
                "{}: certificate {nth} ({}) has not issued the one in front of it: who verifies the chain \
                 may find no path",
                file.display(),
                certificate.subject()
            ));
        }
        if nth == 1 {
            checked.curve = curve;
            let names = certificate.subject_alternative_name();
            let names = names.map_err(|_| malformed("has a subjectAltName that cannot be read"))?;
            let names = names.map_or(&[][..], |names| &names.value.general_names);
            checked.names = names.iter().filter_map(dns_name).collect();
            checked.known_by = names.iter().filter_map(known_by).collect();
            if checked.known_by.is_empty() {
                checked.known_by.push([b"key ", certificate.public_key().raw].concat());
                if purpose == Purpose::Servers {
                    findings.remark(format!(
                        "{}: has no subjectAltName: clients look nowhere else for the name (RFC 9525 §2)",
                        file.display()
                    ));
                }
            }
            if let Some(why) = purpose.is_excluded_by(&certificate) {
                findings.remark(format!("{}: {why}: it will be refused", file.display()));
            }
        }
        issued = Some(certificate);
    }
    Ok(checked)
}

/// By name, and by signature.
fn is_issued_by(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    let key = SubjectPublicKeyInfoDer::from(issuer.public_key().raw);
    let Ok(entity) = webpki::RawPublicKeyEntity::try_from(&key) else { return false };
    let (signed, signature) = (certificate.tbs_certificate.as_ref(), &certificate.signature_value.data);
    let algorithms = profile::provider().signature_verification_algorithms.all;
    certificate.issuer().as_raw() == issuer.subject().as_raw()
        && algorithms.iter().any(|algorithm| entity.verify_signature(*algorithm, signed, signature).is_ok())
}

/// Whether the key of a peer's certificate is one that the profile allows (C3, C4).
pub(super) fn has_key_of_the_profile(der: &CertificateDer<'_>) -> bool {
    // A peer has no file, and is told no more than an alert.
    let place = Place { file: Path::new(""), nth: 1 };
    X509Certificate::from_der(der).is_ok_and(|(_, it)| place.check_public_key(&it).is_ok())
}

fn dns_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    }
}

/// Told apart by what they are.
fn known_by(name: &GeneralName<'_>) -> Option<Vec<u8>> {
    match name {
        GeneralName::DNSName(name) => Some([b"name ", name.to_ascii_lowercase().as_bytes()].concat()),
        GeneralName::IPAddress(address) => Some([b"address ", *address].concat()),
        _ => None,
    }
}

/// Of a certificate in the chain of a file; 1 is our own.
#[derive(Clone, Copy)]
struct Place<'a> {
    file: &'a Path,
    nth: usize,
}

impl Place<'_> {
    fn forbidden(self, what: String, allowed: &'static str, clause: &'static str) -> IdentityError {
        let what = if self.nth == 1 { what } else { format!("certificate {}: {what}", self.nth) };
        IdentityError::Forbidden { file: self.file.to_owned(), what, allowed, clause }
    }

    /// X.509 version 3 (TS 33.310 clause 6.1.1) (C1). OpenSSL makes version 1 of a request without
    /// extensions.
    fn check_version(self, certificate: &X509Certificate<'_>) -> Result<(), IdentityError> {
        let version = certificate.version();
        if version == X509Version::V3 {
            return Ok(());
        }
        let what = format!("X.509 certificate of version {}", version.0.saturating_add(1));
        Err(self.forbidden(what, "X.509 version 3", "TS 33.310 clause 6.1.1"))
    }

    /// RSA of 2048 bits or more, or ECDSA on P-256 or P-384 (TS 33.310 clause 6.1.1; TS 33.210 clause 6.2)
    /// (C3, C4).
    fn check_public_key(
        self,
        certificate: &X509Certificate<'_>,
    ) -> Result<Option<NamedGroup>, IdentityError> {
        const SECP256R1: &str = "1.2.840.10045.3.1.7";
        const SECP384R1: &str = "1.3.132.0.34";
        let key = certificate.public_key();
        let what = match key.parsed() {
            Ok(PublicKey::RSA(rsa)) if rsa.key_size() >= MIN_RSA_BITS => return Ok(None),
            Ok(PublicKey::RSA(rsa)) => format!("RSA key of {} bits", rsa.key_size()),
            Ok(PublicKey::EC(_)) => {
                let parameters = key.algorithm.parameters.as_ref();
                let curve = parameters.and_then(|p| p.as_oid().ok()).map(|oid| oid.to_id_string());
                match curve.as_deref() {
                    Some(SECP256R1) => return Ok(Some(NamedGroup::secp256r1)),
                    Some(SECP384R1) => return Ok(Some(NamedGroup::secp384r1)),
                    _ => key_kind::name(&key.algorithm),
                }
            }
            _ => key_kind::name(&key.algorithm),
        };
        Err(self.forbidden(what, key_kind::ALLOWED, "TS 33.310 clause 6.1.1, TS 33.210 clause 6.2"))
    }

    /// RSA or ECDSA with SHA-256 or better; MD5 and SHA-1 never (TS 33.310 clause 6.1.1) (C2, B11c).
    fn check_signature(self, certificate: &X509Certificate<'_>) -> Result<(), IdentityError> {
        forbidden_signature(&certificate.signature_algorithm).map_or(Ok(()), |name| {
            let what = format!("certificate signed by {name}");
            let allowed = "signatures by RSA or ECDSA with SHA-256, SHA-384 or SHA-512";
            Err(self.forbidden(what, allowed, "TS 33.310 clause 6.1.1"))
        })
    }
}

/// What is allowed is listed, so that what nobody thought of is not: the name of another algorithm.
fn forbidden_signature(algorithm: &AlgorithmIdentifier<'_>) -> Option<String> {
    const ALLOWED: [&str; 6] = [
        "1.2.840.113549.1.1.11",
        "1.2.840.113549.1.1.12",
        "1.2.840.113549.1.1.13",
        "1.2.840.10045.4.3.2",
        "1.2.840.10045.4.3.3",
        "1.2.840.10045.4.3.4",
    ];
    const RSASSA_PSS: &str = "1.2.840.113549.1.1.10";
    const KNOWN: [(&str, &str); 10] = [
        ("1.2.840.113549.1.1.2", "MD2 with RSA"),
        ("1.2.840.113549.1.1.4", "MD5 with RSA"),
        ("1.2.840.113549.1.1.5", "SHA-1 with RSA"),
        ("1.3.14.3.2.29", "SHA-1 with RSA"),
        ("1.2.840.113549.1.1.14", "SHA-224 with RSA"),
        ("1.2.840.10045.4.1", "ECDSA with SHA-1"),
        ("1.2.840.10045.4.3.1", "ECDSA with SHA-224"),
        ("1.2.840.10040.4.3", "DSA with SHA-1"),
        ("2.16.840.1.101.3.4.3.2", "DSA with SHA-256"),
        ("1.3.101.112", "Ed25519"),
    ];
    let oid = algorithm.algorithm.to_id_string();
    if oid == RSASSA_PSS {
        return forbidden_pss(algorithm);
    }
    let known = || KNOWN.iter().find(|(known, _)| *known == oid).map(|(_, name)| (*name).to_owned());
    let is_allowed = ALLOWED.contains(&oid.as_str());
    (!is_allowed).then(|| known().unwrap_or_else(|| format!("algorithm {oid}")))
}

/// RSASSA-PSS says in its parameters by what it hashes, the message and the mask; what it does not say is
/// SHA-1 (RFC 4055 §3.1).
fn forbidden_pss(algorithm: &AlgorithmIdentifier<'_>) -> Option<String> {
    const HASHES: [&str; 3] = ["2.16.840.1.101.3.4.2.1", "2.16.840.1.101.3.4.2.2", "2.16.840.1.101.3.4.2.3"];
    const MGF1: &str = "1.2.840.113549.1.1.8";
    let parameters = algorithm.parameters.as_ref().and_then(|any| RsaSsaPssParams::try_from(any).ok());
    let mask = parameters.as_ref().and_then(|parameters| parameters.mask_gen_algorithm().ok());
    let (Some(parameters), Some(mask)) = (&parameters, mask) else {
        return Some("RSASSA-PSS with parameters that cannot be read".to_owned());
    };
    let hash = parameters.hash_algorithm_oid().to_id_string();
    if !HASHES.contains(&hash.as_str()) {
        let name = if hash == "1.3.14.3.2.26" { "SHA-1".to_owned() } else { format!("hash {hash}") };
        return Some(format!("RSASSA-PSS with {name}"));
    }
    let is_alike = mask.mgf.to_id_string() == MGF1 && mask.hash.to_id_string() == hash;
    (!is_alike).then(|| "RSASSA-PSS with another hash for its mask".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    fn forbids(der: &[u8]) -> Option<String> {
        forbidden_signature(&AlgorithmIdentifier::from_der(der).expect("well formed").1)
    }

    fn sequence(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        [&[tag, u8::try_from(body.len()).expect("short")][..], &body].concat()
    }

    const PSS: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 10];
    const MGF1: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 8];
    const SHA_1: &[u8] = &[6, 5, 0x2b, 14, 3, 2, 0x1a];

    fn sha_2(last: u8) -> Vec<u8> {
        vec![6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, last]
    }

    /// With the hash and the hash of the mask that are given.
    fn pss(hash: Option<&[u8]>, mask: Option<&[u8]>) -> Vec<u8> {
        let hash = hash.map(|oid| sequence(0xa0, &[&sequence(0x30, &[oid])])).unwrap_or_default();
        let mask = mask.map(|oid| sequence(0xa1, &[&sequence(0x30, &[MGF1, &sequence(0x30, &[oid])])]));
        let salt = sequence(0xa2, &[&[2, 1, 32]]);
        let parameters = sequence(0x30, &[&hash, &mask.unwrap_or_default(), &salt]);
        sequence(0x30, &[PSS, &parameters])
    }

    #[test]
    fn signatures_are_allowed_by_list_and_pss_by_hash() {
        let rsa =
            |last: u8| sequence(0x30, &[&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, last], &[5, 0]]);
        for last in [11, 12, 13] {
            assert_eq!(forbids(&rsa(last)), None, "{last}");
        }
        assert_eq!(forbids(&rsa(5)).as_deref(), Some("SHA-1 with RSA"));
        assert_eq!(forbids(&rsa(14)).as_deref(), Some("SHA-224 with RSA"));
        assert_eq!(forbids(&rsa(99)).as_deref(), Some("algorithm 1.2.840.113549.1.1.99"));
        let sha_1_of_oiw = sequence(0x30, &[&[6, 5, 0x2b, 14, 3, 2, 29]]);
        assert_eq!(forbids(&sha_1_of_oiw).as_deref(), Some("SHA-1 with RSA"));
        let dsa = sequence(0x30, &[&[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x38, 4, 3]]);
        assert_eq!(forbids(&dsa).as_deref(), Some("DSA with SHA-1"));
        for last in [1, 2, 3] {
            assert_eq!(forbids(&pss(Some(&sha_2(last)), Some(&sha_2(last)))), None, "{last}");
        }
        let sha_1 = Some("RSASSA-PSS with SHA-1");
        assert_eq!(forbids(&pss(None, None)).as_deref(), sha_1, "by default");
        assert_eq!(forbids(&pss(Some(SHA_1), Some(SHA_1))).as_deref(), sha_1);
        let mixed = Some("RSASSA-PSS with another hash for its mask");
        assert_eq!(forbids(&pss(Some(&sha_2(1)), None)).as_deref(), mixed);
        assert_eq!(forbids(&pss(Some(&sha_2(1)), Some(&sha_2(2)))).as_deref(), mixed);
        let bare = forbids(&sequence(0x30, &[PSS]));
        assert_eq!(bare.as_deref(), Some("RSASSA-PSS with parameters that cannot be read"));
    }

    fn authority(name: &str, algorithm: &'static rcgen::SignatureAlgorithm) -> (CertificateParams, KeyPair) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params, KeyPair::generate_for(algorithm).expect("a key"))
    }

    #[test]
    fn every_certificate_of_a_chain_must_fit_the_profile() {
        let check = |chain: &[CertificateDer<'_>]| {
            let checked = check(Path::new("it.pem"), chain, Purpose::Servers, &mut Findings::default());
            checked.map(|_| ()).map_err(|error| error.to_string())
        };
        let (root, root_key) = authority("root", &rcgen::PKCS_RSA_SHA256);
        let root_certificate = root.self_signed(&root_key).expect("signs").der().clone();
        let (middle, middle_key) = authority("middle", &rcgen::PKCS_ECDSA_P384_SHA384);
        let issuer = Issuer::new(root, root_key);
        let middle_certificate = middle.signed_by(&middle_key, &issuer).expect("signs").der().clone();
        let own_key = KeyPair::generate().expect("a key");
        let own = CertificateParams::new(vec!["a.example".to_owned()]).expect("a name");
        let own = own.signed_by(&own_key, &Issuer::new(middle, middle_key)).expect("signs").der().clone();
        let whole = [own.clone(), middle_certificate.clone(), root_certificate.clone()];
        assert_eq!(check(&whole), Ok(()));
        // In both places where it stands, for SHA-1 in place of SHA-256.
        let weakened = |der: &CertificateDer<'_>| {
            let (mut der, sha_256) = (der.to_vec(), [0x86, 0xf7, 13, 1, 1, 11]);
            while let Some(at) = der.windows(6).position(|bytes| bytes == sha_256) {
                der[at + 5] = 5;
            }
            CertificateDer::from(der)
        };
        let error = check(&[own.clone(), weakened(&middle_certificate)]).expect_err("SHA-1");
        assert!(error.contains("it.pem: certificate 2: certificate signed by SHA-1 with RSA"), "{error}");
        let root_weakened = [own.clone(), middle_certificate, weakened(&root_certificate)];
        assert_eq!(check(&root_weakened), Ok(()), "a root's signature of itself proves nothing");
        assert!(check(&root_weakened[2..]).is_err(), "but as our own certificate it is one");
        let (other, other_key) = authority("other", &rcgen::PKCS_ECDSA_P521_SHA512);
        let other = other.self_signed(&other_key).expect("signs").der().clone();
        let error = check(&[own.clone(), other]).expect_err("another curve");
        assert!(error.contains("certificate 2: elliptic-curve key on curve 1.3.132.0.35"), "{error}");
        let error = check(&[own, CertificateDer::from(vec![1])]).expect_err("rubbish");
        assert!(error.contains("certificate 2 is not X.509"), "{error}");
    }

    /// What an operator is warned of.
    fn remarks(chain: &[CertificateDer<'_>], purpose: Purpose) -> Vec<String> {
        let mut findings = Findings::default();
        check(Path::new("it.pem"), chain, purpose, &mut findings).expect("within the profile");
        findings.warnings(1_790_000_000)
    }

    #[test]
    fn a_chain_that_does_not_fit_together_is_warned_of() {
        let (root, root_key) = authority("root", &rcgen::PKCS_ECDSA_P256_SHA256);
        let root_certificate = root.self_signed(&root_key).expect("signs").der().clone();
        let other_key = KeyPair::generate().expect("a key");
        let namesake = root.self_signed(&other_key).expect("signs").der().clone();
        let (other, _) = authority("other", &rcgen::PKCS_ECDSA_P256_SHA256);
        let stranger = other.self_signed(&other_key).expect("signs").der().clone();
        let key = KeyPair::generate().expect("a key");
        let own = CertificateParams::new(vec!["a.example".to_owned()]).expect("a name");
        let own = own.signed_by(&key, &Issuer::new(root, root_key)).expect("signs").der().clone();
        let warned = |chain: &[CertificateDer<'_>]| remarks(chain, Purpose::Servers);
        assert_eq!(warned(&[own.clone(), root_certificate.clone()]), [""; 0]);
        for unrelated in [namesake, stranger] {
            let warnings = warned(&[own.clone(), unrelated]);
            assert!(warnings[0].contains("certificate 2 (") && warnings[0].contains("has not issued"));
            assert_eq!(warnings.len(), 1, "{warnings:?}");
        }
        let twice = warned(&[own.clone(), own]);
        assert!(twice[0].contains("has not issued"), "{twice:?}");
    }

    #[test]
    fn a_certificate_that_peers_would_refuse_is_warned_of() {
        let made = |change: fn(&mut CertificateParams), purpose| {
            let mut params = CertificateParams::new(vec!["a.example".to_owned()]).expect("a name");
            change(&mut params);
            let key = KeyPair::generate().expect("a key");
            remarks(&[params.self_signed(&key).expect("signs").der().clone()], purpose)
        };
        use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        for (change, purpose, warning) in [
            (
                (|params| params.subject_alt_names.clear()) as fn(&mut CertificateParams),
                Purpose::Servers,
                Some("it.pem: has no subjectAltName"),
            ),
            (|params| params.subject_alt_names.clear(), Purpose::Clients, None),
            (|params| params.extended_key_usages = vec![ServerAuth], Purpose::Servers, None),
            (
                |params| params.extended_key_usages = vec![ClientAuth],
                Purpose::Servers,
                Some("it.pem: its extended key usage is without serverAuth"),
            ),
            (
                |params| params.extended_key_usages = vec![ServerAuth],
                Purpose::Clients,
                Some("it.pem: its extended key usage is without clientAuth"),
            ),
            (
                |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1),
                Purpose::Servers,
                Some("it.pem: certificate 1 has expired: it was valid until Jan  1"),
            ),
            (
                |params| params.not_before = rcgen::date_time_ymd(2090, 1, 1),
                Purpose::Servers,
                Some("it.pem: certificate 1 is not valid before Jan  1"),
            ),
        ] {
            let warnings = made(change, purpose);
            assert_eq!(warnings.len(), usize::from(warning.is_some()), "{warning:?}: {warnings:?}");
            assert!(
                warnings.iter().zip(warning).all(|(said, start)| said.starts_with(start)),
                "{warnings:?}"
            );
        }
    }
}
