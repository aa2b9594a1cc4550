//! Why authorities cannot be used, and why a certificate is refused for its key.

use std::fmt;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, Error};

use super::certificate::has_key_of_the_profile;
use super::evidence;

/// Why the authorities of a listener cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The file has no certificate that can be an authority.
    #[error("{}: {problem}; this file must have the PEM certificates of authorities", .file.display())]
    Authorities {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The lists of revoked certificates cannot be used.
    #[error(
        "{}: {problem}; this file must have PEM lists of revoked certificates (X509 CRL)",
        .file.display()
    )]
    Revocation {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl PeerError {
    /// The file that is to be mended.
    #[must_use]
    pub fn file(&self) -> &Path {
        match self {
            Self::Authorities { file, .. } | Self::Revocation { file, .. } => file,
        }
    }

    pub(super) fn authorities(file: &Path, problem: impl fmt::Display) -> Self {
        Self::Authorities { file: file.to_owned(), problem: problem.to_string() }
    }
}

/// The alert for a certificate whose key the profile forbids, before the key is tried (C4).
pub(super) fn check_key(certificate: &CertificateDer<'_>) -> Result<(), Error> {
    let why = "the certificate's key is not one that the profile allows";
    if has_key_of_the_profile(certificate) { Ok(()) } else { Err(evidence::note(&why, BAD_CERTIFICATE)) }
}

/// Of the errors that rustls reports as bad_certificate, the least specific.
pub(super) const BAD_CERTIFICATE: Error = Error::InvalidCertificate(CertificateError::BadEncoding);
