//! Why an identity cannot be used.

use std::path::{Path, PathBuf};

/// Why an identity cannot be used. The text names the file, what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {reason}; check the path and who may read it", .file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The file has not what was looked for, or not in a form that is read.
    #[error("{}: {problem}", .file.display())]
    Unusable {
        /// Which.
        file: PathBuf,
        /// What is the matter with it, and what to do.
        problem: String,
    },
    /// The file is not what it claims to be.
    #[error("{}: {reason}; export it again as PEM", .file.display())]
    Malformed {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key belongs to another certificate.
    #[error("{}: is not the key of the first certificate in {}; pair each certificate with its own key, and \
             put the server's own certificate first", .key.display(), .certificate.display())]
    NotAPair {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The profile forbids it.
    #[error("{}: {what}: the 3GPP profile allows {allowed} ({clause})", .file.display())]
    Forbidden {
        /// Which.
        file: PathBuf,
        /// What was found.
        what: String,
        /// What would do.
        allowed: &'static str,
        /// Where it says so.
        clause: &'static str,
    },
}

impl IdentityError {
    /// The file that is to be mended.
    #[must_use]
    pub fn file(&self) -> &Path {
        match self {
            Self::Unreadable { file, .. }
            | Self::Unusable { file, .. }
            | Self::Malformed { file, .. }
            | Self::Forbidden { file, .. }
            | Self::NotAPair { key: file, .. } => file,
        }
    }
}
