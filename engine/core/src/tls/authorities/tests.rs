//! What authorities vouch for, with OpenSSL's verdict beside ours.

use std::process::Command;
use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use super::*;
use crate::tls::profile;

const NOW: u64 = 1_790_000_000;

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW))
}

/// A certificate with its key.
struct Made {
    params: CertificateParams,
    key: KeyPair,
    certificate: Certificate,
}

fn params(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["phone.example".to_owned()]).expect("a name");
    params.distinguished_name.push(DnType::CommonName, name);
    change(&mut params);
    params
}

fn own(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Made {
    let (params, key) = (params(name, change), KeyPair::generate().expect("a key"));
    let certificate = params.self_signed(&key).expect("signs");
    Made { params, key, certificate }
}

fn issued(by: &Made, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Made {
    let (params, key) = (params(name, change), KeyPair::generate().expect("a key"));
    let issuer = Issuer::from_params(&by.params, &by.key);
    let certificate = params.signed_by(&key, &issuer).expect("signs");
    Made { params, key, certificate }
}

fn ca(params: &mut CertificateParams) {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
}

fn ca_of_length(most: u8) -> impl FnOnce(&mut CertificateParams) {
    move |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(most))
}

fn ca_without_key_cert_sign(params: &mut CertificateParams) {
    ca(params);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
}

fn no_ca(params: &mut CertificateParams) {
    params.is_ca = IsCa::ExplicitNoCa;
}

fn over(params: &mut CertificateParams) {
    ca(params);
    params.not_after = date_time_ymd(2020, 1, 1);
}

fn to_come(params: &mut CertificateParams) {
    ca(params);
    params.not_before = date_time_ymd(2090, 1, 1);
}

fn for_servers(params: &mut CertificateParams) {
    ca(params);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
}

fn leaf(_: &mut CertificateParams) {}

fn load(listed: &[&Made], purpose: Purpose) -> (Result<Authorities, String>, Findings) {
    let mut findings = Findings::default();
    let listed = listed.iter().map(|made| made.certificate.der().clone()).collect();
    let algorithms = profile::provider().signature_verification_algorithms;
    let loaded = Authorities::load(Path::new("ca.pem"), listed, purpose, algorithms, &mut findings);
    (loaded.map_err(|error| error.to_string()), findings)
}

fn verify(authorities: &Authorities, chain: &[&Made]) -> Result<(), Error> {
    let chain: Vec<_> = chain.iter().map(|made| made.certificate.der().clone()).collect();
    authorities.verify(&chain[0], &chain[1..], None, now())
}

/// What OpenSSL says of a client with this chain, where it is installed.
fn openssl(listed: &[&Made], chain: &[&Made]) -> Option<bool> {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, all: &[&Made]| {
        let pem: String = all.iter().map(|made| made.certificate.pem()).collect();
        std::fs::write(directory.path().join(name), pem).expect("writes");
    };
    write("ca.pem", listed);
    write("issuers.pem", &chain[1..]);
    write("own.pem", &chain[..1]);
    let mut command = Command::new("openssl");
    command.args(["verify", "-CAfile", "ca.pem", "-purpose", "sslclient", "-attime", &NOW.to_string()]);
    if chain.len() > 1 {
        command.args(["-untrusted", "issuers.pem"]);
    }
    let output = command.arg("own.pem").current_dir(directory.path()).output();
    match output {
        Ok(output) => Some(output.status.success()),
        Err(_) => {
            eprintln!("SKIP: no openssl on this host");
            None
        }
    }
}

/// The chain, the certificates of the file, and whether they vouch for it.
type Case<'a> = (&'a str, &'a [&'a Made], &'a [&'a Made], bool);

fn agree(cases: &[Case<'_>]) {
    for (what, listed, chain, holds) in cases {
        let authorities = load(listed, Purpose::Clients).0.expect(what);
        let verdict = verify(&authorities, chain);
        assert_eq!(verdict.is_ok(), *holds, "{what}: {verdict:?}");
        assert!(openssl(listed, chain).is_none_or(|openssl| openssl == *holds), "OpenSSL: {what}");
    }
}

#[test]
fn authorities_are_judged_as_openssl_judges_them() {
    let (good, ended, early) = (own("good", ca), own("ended", over), own("early", to_come));
    let (plain, unsigned) = (own("plain", no_ca), own("unsigned", ca_without_key_cert_sign));
    let by = |issuer: &Made| issued(issuer, "leaf", leaf);
    let [of_good, of_ended, of_early] = [by(&good), by(&ended), by(&early)];
    let [of_plain, of_unsigned] = [by(&plain), by(&unsigned)];
    agree(&[
        ("a good one", &[&good], &[&of_good], true),
        ("of another", &[&good], &[&of_ended], false),
        ("expired", &[&ended], &[&of_ended], false),
        ("not yet valid", &[&early], &[&of_early], false),
        ("CA:FALSE", &[&plain], &[&of_plain], false),
        ("without keyCertSign", &[&unsigned], &[&of_unsigned], false),
        ("beside a good one", &[&plain, &good], &[&of_good], true),
        ("itself, CA:TRUE", &[&good], &[&good], true),
        ("itself, CA:FALSE", &[&plain], &[&plain], true),
        ("itself, without keyCertSign", &[&unsigned], &[&unsigned], true),
        ("itself, expired", &[&ended], &[&ended], false),
    ]);
    let ended_too = load(&[&ended], Purpose::Clients).0.expect("it can be listed");
    let error = verify(&ended_too, &[&of_ended]).expect_err("expired");
    assert!(matches!(error, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })), "{error}");
    let mut renewed = ended.params.clone();
    renewed.not_after = date_time_ymd(2090, 1, 1);
    let certificate = renewed.self_signed(&ended.key).expect("signs");
    let renewed = Made { params: renewed, key: KeyPair::generate().expect("a key"), certificate };
    agree(&[("renewed with its name and key", &[&ended, &renewed], &[&of_ended], true)]);
}

#[test]
fn path_lengths_and_issuers_are_judged_like_openssl() {
    let (none, one) = (own("none", ca_of_length(0)), own("one", ca_of_length(1)));
    let (between, below) = (issued(&one, "between", ca), issued(&none, "below", ca));
    let (deep, bounded) = (issued(&between, "deep", ca), issued(&one, "bounded", ca_of_length(0)));
    let over_bound = issued(&bounded, "over", ca);
    let unsigned = issued(&one, "unsigned", ca_without_key_cert_sign);
    // By its name alone OpenSSL takes it for self-signed.
    let naming_the_key =
        |params: &mut CertificateParams| params.use_authority_key_identifier_extension = true;
    let rolled = issued(&none, "none", |params| {
        ca(params);
        naming_the_key(params);
    });
    let below_rolled = issued(&rolled, "leaf", naming_the_key);
    let by = |issuer: &Made| issued(issuer, "leaf", leaf);
    agree(&[
        ("0 of 0", &[&none], &[&by(&none)], true),
        ("1 of 0", &[&none], &[&by(&below), &below], false),
        ("1 of 1", &[&one], &[&by(&between), &between], true),
        ("2 of 1", &[&one], &[&by(&deep), &deep, &between], false),
        ("1 of 0 between", &[&one], &[&by(&over_bound), &over_bound, &bounded], false),
        ("issued by itself, which does not count", &[&none], &[&below_rolled, &rolled], true),
        ("between, without keyCertSign", &[&one], &[&by(&unsigned), &unsigned], false),
    ]);
}

#[test]
fn authorities_that_cannot_issue_are_refused_at_load() {
    let good = own("good", ca);
    let (plain, unsigned) = (
        issued(&good, "plain", no_ca),
        issued(&good, "unsigned", |params| {
            ca_without_key_cert_sign(params);
        }),
    );
    for (made, why) in [(&plain, "CA:FALSE"), (&unsigned, "without keyCertSign")] {
        let error = load(&[&good, made], Purpose::Clients).0.expect_err(why);
        assert!(error.starts_with("ca.pem: certificate 2 (") && error.contains(why), "{error}");
    }
    let servers = own("servers", for_servers);
    assert!(load(&[&servers], Purpose::Servers).0.is_ok());
    let error = load(&[&servers], Purpose::Clients).0.expect_err("for servers");
    assert!(error.contains("cannot be used for clients: its extended key usage is without clientAuth"));
    assert_ne!(openssl(&[&servers], &[&issued(&servers, "leaf", leaf)]), Some(true));
    let itself = own("itself", no_ca);
    let (loaded, findings) = load(&[&itself, &own("ended", over)], Purpose::Clients);
    assert_eq!(loaded.expect("it vouches for itself").names.len(), 2);
    let warnings = findings.warnings(NOW);
    assert!(
        warnings[0].contains("certificate 1")
            && warnings[0].contains("own certificate, and not as an issuer")
    );
    assert!(warnings[1].starts_with("ca.pem: certificate 2 has expired"), "{warnings:?}");
}

#[test]
fn a_listed_end_entity_is_held_to_name_and_purpose() {
    let both = own("both", ca);
    let authorities = load(&[&both], Purpose::Servers).0.expect("good");
    let named = |name: &str| {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        authorities.verify(both.certificate.der(), &[], Some(&name), now())
    };
    assert_eq!(named("phone.example"), Ok(()));
    assert!(named("other.example").is_err());
    let issuer = own("issuer", ca);
    let clients = issued(&issuer, "clients", |params| {
        ca(params);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let authorities = load(&[&clients], Purpose::Clients).0.expect("good");
    assert_eq!(verify(&authorities, &[&clients]), Ok(()));
    assert!(load(&[&clients], Purpose::Servers).0.is_err());
}

#[test]
fn too_long_chain_is_refused_before_path_building() {
    let root = own("root", ca);
    let authorities = load(&[&root], Purpose::Clients).0.expect("good");
    let own_certificate = issued(&root, "leaf", leaf);
    let others: Vec<Made> = (0..10).map(|nth| own(&format!("{nth}"), ca)).collect();
    let chain = |count: usize| [&own_certificate].into_iter().chain(&others[..count]).collect::<Vec<_>>();
    assert_eq!(verify(&authorities, &chain(CHAIN_MAX - 1)), Ok(()));
    assert_eq!(verify(&authorities, &chain(CHAIN_MAX)), Err(CHAIN_TOO_LONG));
    let listed = load(&[&own_certificate, &root], Purpose::Clients).0;
    assert!(listed.is_err(), "it is no authority, and not its own");
    let listed: Vec<_> = [&root].into_iter().chain(&others).collect();
    assert_eq!(verify(&authorities, &listed), Ok(()), "itself, with which no path is sought");
    let same: Vec<Made> = (0..3).map(|_| own("same", ca)).collect();
    let named = |count: usize| [&own_certificate].into_iter().chain(&same[..count]).collect::<Vec<_>>();
    assert_eq!(verify(&authorities, &named(SAME_NAME_MAX)), Ok(()));
    assert_eq!(verify(&authorities, &named(SAME_NAME_MAX + 1)), Err(CHAIN_TOO_LONG));
}

/// What `by` has revoked, in a list that is current until a number of seconds from now.
fn list(by: &Made, revoked: &[&Made], seconds: i64) -> String {
    let at = |seconds: i64| {
        let day = date_time_ymd(1970, 1, 1);
        day + Duration::from_secs((NOW as i64 + seconds) as u64)
    };
    let serial = |made: &Made| {
        let (_, parsed) = X509Certificate::from_der(made.certificate.der()).expect("X.509");
        rcgen::SerialNumber::from_slice(parsed.raw_serial())
    };
    let revoked_certs = revoked.iter().map(|made| rcgen::RevokedCertParams {
        serial_number: serial(made),
        revocation_time: at(-100),
        reason_code: None,
        invalidity_date: None,
    });
    let params = rcgen::CertificateRevocationListParams {
        this_update: at(-1000),
        next_update: at(seconds),
        crl_number: rcgen::SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: revoked_certs.collect(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    params.signed_by(&Issuer::from_params(&by.params, &by.key)).expect("signs").pem().expect("PEM")
}

#[test]
fn revoked_certificates_are_refused_and_lists_expire() {
    let signs_lists = |params: &mut CertificateParams| {
        ca(params);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    };
    let (root, other) = (own("root", signs_lists), own("other", signs_lists));
    let client = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    };
    let (good, bad) = (issued(&root, "good", client), issued(&root, "bad", client));
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("crl.pem");
    let verify = |list: &str, made: &Made, findings: &mut Findings| {
        std::fs::write(&file, list).expect("a file");
        let algorithms = profile::provider().signature_verification_algorithms;
        let listed = vec![root.certificate.der().clone()];
        let loaded = Authorities::load(Path::new("ca.pem"), listed, Purpose::Clients, algorithms, findings);
        let loaded =
            loaded.expect("authorities").with_revoked(&file, findings).map_err(|it| it.to_string())?;
        loaded.verify(made.certificate.der(), &[], None, now()).map_err(|error| error.to_string())
    };
    let mut findings = Findings::default();
    let current = list(&root, &[&bad], 1000);
    assert_eq!(verify(&current, &good, &mut findings), Ok(()));
    assert!(verify(&current, &bad, &mut findings).expect_err("revoked").contains("Revoked"));
    assert!(findings.warnings(NOW).is_empty(), "{:?}", findings.warnings(NOW));
    let expired = list(&root, &[], -10);
    let refused = verify(&expired, &good, &mut findings).expect_err("nobody vouches any more");
    assert!(refused.contains("Expired"), "{refused}");
    let warnings = findings.warnings(NOW).join(";");
    assert!(warnings.contains("crl.pem: list 1 is out of date (nextUpdate was"), "{warnings}");
    let foreign = list(&other, &[&good], 1000);
    let refused = verify(&foreign, &good, &mut findings).expect_err("its issuer has no list");
    assert!(refused.contains("UnknownRevocationStatus"), "{refused}");
    let warnings = findings.warnings(NOW).join(";");
    assert!(
        warnings.contains("list 1 is of CN=other") && warnings.contains("none of the authorities"),
        "{warnings}"
    );
    let lines = own("two\nlines", signs_lists);
    verify(&list(&lines, &[], 1000), &good, &mut findings).expect_err("its issuer has no list");
    let warnings = findings.warnings(NOW);
    assert!(warnings.iter().any(|line| line.contains("CN=two\\nlines")), "{warnings:?}");
    assert!(!warnings.concat().contains('\n'), "{warnings:?}");
    for (text, expected) in [
        ("", "has no list"),
        ("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "list 1 cannot be used"),
    ] {
        let refused = verify(text, &good, &mut findings).expect_err("no list");
        assert!(refused.contains(expected), "{refused}");
    }
}
