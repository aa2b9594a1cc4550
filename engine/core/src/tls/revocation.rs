//! Certificates that their authorities have revoked: lists (RFC 5280 §5) in a file beside that of the
//! authorities.
//!
//! As OpenSSL has it where all of a path is checked: each certificate of the path needs a current list of its
//! issuer, and one without is refused. A list that is out of date vouches for nobody.

use std::path::Path;

use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use webpki::{
    CertRevocationList, ExpirationPolicy, OwnedCertRevocationList, RevocationCheckDepth, RevocationOptions,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::evidence::quoted;
use super::findings::Findings;
use super::peer_error::PeerError;
use offramp_files as files;

/// The lists of a file.
#[derive(Debug)]
pub(super) struct Revocation(Vec<CertRevocationList<'static>>);

impl Revocation {
    /// Reads the lists of a file; what an operator should know of them goes to `findings`. `issuers` are the
    /// subjects of the authorities.
    ///
    /// # Errors
    /// It has no list, or one that cannot be used.
    pub(super) fn load(file: &Path, issuers: &[Vec<u8>], findings: &mut Findings) -> Result<Self, PeerError> {
        let refused = |problem: String| PeerError::Revocation { file: file.to_owned(), problem };
        let text = files::read(file, files::BYTES_MAX)
            .map_err(|problem| refused(format!("cannot be read: {problem}")))?;
        let mut lists = Vec::new();
        for (nth, der) in (1..).zip(CertificateRevocationListDer::pem_slice_iter(text.bytes())) {
            let der = der.map_err(|error| refused(format!("cannot be read as PEM ({error:?})")))?;
            let list = OwnedCertRevocationList::from_der(&der)
                .map_err(|error| refused(format!("list {nth} cannot be used ({error})")))?;
            let (_, parsed) = CertificateRevocationList::from_der(&der)
                .map_err(|_| refused(format!("list {nth} is not X.509")))?;
            if let Some(until) = parsed.next_update() {
                findings.revocation(file, nth, until);
            }
            if !issuers.iter().any(|subject| subject == parsed.issuer().as_raw()) {
                // Whoever changes a list on its way to this host chooses the name.
                let issuer = quoted(parsed.issuer().to_string().as_bytes());
                findings.remark(format!(
                    "{}: list {nth} is of {issuer}, which is none of the authorities: it revokes \
                     certificates of an issuer below them, or nothing",
                    file.display()
                ));
            }
            lists.push(CertRevocationList::from(list));
        }
        if lists.is_empty() {
            return Err(refused("has no list".to_owned()));
        }
        Ok(Self(lists))
    }

    /// Calls with what webpki is to look at.
    pub(super) fn with_options<T>(&self, call: impl FnOnce(Option<RevocationOptions<'_>>) -> T) -> T {
        let lists: Vec<&CertRevocationList<'_>> = self.0.iter().collect();
        // There is at least one.
        let builder = RevocationOptionsBuilder::new(&lists).ok();
        call(builder.map(|builder| {
            builder
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        }))
    }
}
