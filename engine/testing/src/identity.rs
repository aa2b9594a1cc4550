//! Certificates and keys, made fresh for each run of the tests.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use rustls::pki_types::CertificateDer;

/// The name that every certificate except the `Named` ones is valid for.
pub const NAME: &str = "offramp.test";

/// A self-signed certificate and its key, as PEM. The subject's common name tells which it is.
#[derive(Debug)]
pub struct Identity {
    pub common_name: &'static str,
    pub certificate: String,
    pub key: String,
    pub der: CertificateDer<'static>,
}

impl Identity {
    /// ECDSA P-256, for `NAME` and 127.0.0.1.
    pub fn ecdsa() -> &'static Self {
        static MADE: OnceLock<Identity> = OnceLock::new();
        MADE.get_or_init(|| make("ecdsa", &[NAME, "127.0.0.1"], KeyPair::generate()))
    }

    /// RSA-2048, for `NAME` and 127.0.0.1.
    pub fn rsa() -> &'static Self {
        static MADE: OnceLock<Identity> = OnceLock::new();
        let key = || KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048);
        MADE.get_or_init(|| make("rsa", &[NAME, "127.0.0.1"], key()))
    }

    /// ECDSA for one.test alone.
    pub fn one() -> &'static Self {
        static MADE: OnceLock<Identity> = OnceLock::new();
        MADE.get_or_init(|| make("one", &["one.test"], KeyPair::generate()))
    }

    /// ECDSA for two.test alone.
    pub fn two() -> &'static Self {
        static MADE: OnceLock<Identity> = OnceLock::new();
        MADE.get_or_init(|| make("two", &["two.test"], KeyPair::generate()))
    }

    pub fn all() -> [&'static Self; 4] {
        [Self::ecdsa(), Self::rsa(), Self::one(), Self::two()]
    }

    /// What its files are called: certificate, key.
    pub fn files(&self, directory: &Path) -> (PathBuf, PathBuf) {
        let file = |kind| directory.join(format!("{}.{kind}", self.common_name));
        (file("crt"), file("key"))
    }

    /// Writes both files and gives their paths: certificate, key.
    pub fn write(&self, directory: &Path) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.files(directory);
        std::fs::write(&certificate, &self.certificate).expect("the certificate can be written");
        std::fs::write(&key, &self.key).expect("the key can be written");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&key, private).expect("the key's file is ours");
        (certificate, key)
    }
}

fn make(common_name: &'static str, names: &[&str], key: Result<KeyPair, rcgen::Error>) -> Identity {
    let key = key.expect("a key can be made");
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("the names are names");
    params.distinguished_name.push(DnType::CommonName, common_name);
    let certificate = params.self_signed(&key).expect("the certificate can be signed");
    Identity {
        common_name,
        certificate: certificate.pem(),
        key: key.serialize_pem(),
        der: certificate.der().clone(),
    }
}
