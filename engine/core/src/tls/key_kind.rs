//! The names of kinds of keys, for the errors of those that cannot be used.

use rustls_pki_types::PrivateKeyDer;
use x509_parser::asn1_rs::{Any, Oid, Tag};
use x509_parser::prelude::FromDer;
use x509_parser::x509::AlgorithmIdentifier;

/// What the profile allows (TS 33.310 clause 6.1.1; TS 33.210 clause 6.2), with the way to make one.
pub(super) const ALLOWED: &str = "RSA of 2048 bits or more, or ECDSA on P-256 or P-384, each named and not \
                                  given by parameters; to make a key: openssl genpkey -algorithm EC -pkeyopt \
                                  ec_paramgen_curve:P-256 -out NEW";

const EC: &str = "1.2.840.10045.2.1";

const ALGORITHMS: [(&str, &str); 6] = [
    ("1.2.840.10040.4.1", "DSA"),
    ("1.2.840.113549.1.1.1", "RSA"),
    ("1.2.840.113549.1.1.10", "RSASSA-PSS"),
    ("1.3.101.112", "Ed25519"),
    ("1.3.101.113", "Ed448"),
    ("1.3.101.110", "X25519"),
];

const CURVES: [(&str, &str); 6] = [
    ("1.2.840.10045.3.1.7", "P-256"),
    ("1.3.132.0.34", "P-384"),
    ("1.3.132.0.35", "P-521"),
    ("1.3.132.0.33", "P-224"),
    ("1.3.132.0.10", "secp256k1"),
    ("1.3.36.3.3.2.8.1.1.7", "brainpoolP256r1"),
];

/// What the identifier of a key says, as "key of algorithm 1.3.101.112 (Ed25519)".
pub(super) fn name(algorithm: &AlgorithmIdentifier<'_>) -> String {
    if algorithm.algorithm.to_id_string() == EC {
        return on_curve(algorithm.parameters.as_ref());
    }
    format!("key of algorithm {}", known(&algorithm.algorithm, &ALGORITHMS))
}

/// Why a well-formed PEM private key is of no use, and what to do.
pub(super) fn unusable(key: &PrivateKeyDer<'_>) -> String {
    let found = match key {
        PrivateKeyDer::Pkcs8(key) => algorithm_of(key.secret_pkcs8_der()).as_ref().map(name),
        PrivateKeyDer::Sec1(key) => Some(on_curve(curve_of(key.secret_sec1_der()).as_ref())),
        _ => Some("RSA key".to_owned()),
    };
    let found = found.unwrap_or_else(|| "something else than a key".to_owned());
    format!(
        "not a private key that can be used: {found}, damaged or of a kind that is not allowed; {ALLOWED}"
    )
}

fn on_curve(parameters: Option<&Any<'_>>) -> String {
    match parameters.map(|parameters| (parameters.tag(), parameters.as_oid())) {
        Some((Tag::Oid, Ok(curve))) => format!("elliptic-curve key on curve {}", known(&curve, &CURVES)),
        Some((Tag::Sequence, _)) => {
            "elliptic-curve key with explicit parameters (to name the curve: openssl pkey -ec_param_enc \
             named_curve -in FILE -out NEW, and have the certificate issued again)"
                .to_owned()
        }
        _ => "elliptic-curve key on curve without a name".to_owned(),
    }
}

fn known(oid: &Oid<'_>, names: &[(&str, &str)]) -> String {
    let oid = oid.to_id_string();
    let name = names.iter().find(|(known, _)| *known == oid);
    name.map_or_else(|| oid.clone(), |(_, name)| format!("{oid} ({name})"))
}

/// Of PKCS #8 (RFC 5208 §5): a version, the algorithm, the key. Nothing is copied.
fn algorithm_of(pkcs8: &[u8]) -> Option<AlgorithmIdentifier<'_>> {
    let (_, key) = Any::from_der(pkcs8).ok()?;
    let (rest, _version) = Any::from_der(key.data).ok()?;
    AlgorithmIdentifier::from_der(rest).ok().map(|(_, algorithm)| algorithm)
}

/// Of RFC 5915 §3: a version, the key, the curve behind the tag 0.
fn curve_of(sec1: &[u8]) -> Option<Any<'_>> {
    let (_, key) = Any::from_der(sec1).ok()?;
    let (rest, _version) = Any::from_der(key.data).ok()?;
    let (rest, _key) = Any::from_der(rest).ok()?;
    let (_, tagged) = Any::from_der(rest).ok().filter(|(_, any)| any.tag() == Tag(0))?;
    Any::from_der(tagged.data).ok().map(|(_, curve)| curve)
}
