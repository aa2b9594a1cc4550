//! A certificate and its key for one run: ECDSA P-256 or RSA-2048, self-signed, in files that are gone
//! afterwards.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;

/// The name in the certificate.
pub const SERVER_NAME: &str = "terminator.test";

/// What a terminator presents and a client trusts.
#[derive(Debug)]
pub struct Identity {
    directory: TempDir,
    /// What a client has to trust.
    pub certificate: CertificateDer<'static>,
}

impl Identity {
    /// Makes one of ECDSA P-256; its files, which only their owner may read, are gone when it is dropped.
    ///
    /// # Errors
    /// The files could not be written.
    pub fn generate() -> Result<Self> {
        Self::with_key(&KeyPair::generate()?)
    }

    /// The same of RSA with 2,048 bits.
    ///
    /// # Errors
    /// The files could not be written.
    pub fn generate_rsa() -> Result<Self> {
        Self::with_key(&KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?)
    }

    fn with_key(key: &KeyPair) -> Result<Self> {
        let made = CertificateParams::new([SERVER_NAME.to_owned()])?.self_signed(key)?;
        let certificate = made.der().clone().into_owned();
        let identity = Self { directory: tempfile::tempdir()?, certificate };
        write_private(&identity.certificate_file(), &made.pem())?;
        write_private(&identity.key_file(), &key.serialize_pem())?;
        Ok(identity)
    }

    /// The certificate as PEM.
    #[must_use]
    pub fn certificate_file(&self) -> PathBuf {
        self.directory.path().join("certificate.pem")
    }

    /// The key as PEM, PKCS #8.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        self.directory.path().join("key.pem")
    }
}

fn write_private(path: &Path, content: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(content.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_files_are_private_and_gone_afterwards() {
        let identity = Identity::generate().unwrap();
        let (certificate, key) = (identity.certificate_file(), identity.key_file());
        for file in [&certificate, &key] {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        drop(identity);
        assert!(!certificate.exists() && !key.exists());
    }
}
