//! The pairs of certificate and key that lie in a directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::IdentityFiles;
use super::limits::IDENTITIES;

/// The pairs of a directory, in the order of their names, at most 1024; none if it cannot be read, as while
/// it is being replaced.
///
/// A pair is `NAME.crt` or `NAME.pem` with `NAME.key` beside it, and `NAME.ocsp` if there is one;
/// `NAME.pem` alone if the key is in it too; or a directory with `fullchain.pem` and `privkey.pem`, or with
/// `tls.crt` and
/// `tls.key`.
#[must_use]
pub fn pairs(directory: &Path) -> Vec<IdentityFiles> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let paths: BTreeMap<_, PathBuf> =
        entries.flatten().map(|entry| (entry.file_name(), entry.path())).collect();
    let mut found: Vec<IdentityFiles> = Vec::new();
    for path in paths.values().filter(|path| !is_hidden(path)) {
        let pair = if path.is_dir() { in_subdirectory(path) } else { beside(path) };
        found.extend(pair.filter(|pair| found.iter().all(|earlier| earlier.key != pair.key)));
    }
    found.truncate(*IDENTITIES.end());
    found
}

/// Kubernetes keeps earlier versions in hidden directories, and editors their copies.
fn is_hidden(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn in_subdirectory(directory: &Path) -> Option<IdentityFiles> {
    let pair = |(certificate, key): (&str, &str)| {
        let (certificate, key) = (directory.join(certificate), directory.join(key));
        certificate.is_file().then_some(IdentityFiles { certificate, key, ocsp: None })
    };
    [("fullchain.pem", "privkey.pem"), ("tls.crt", "tls.key")].into_iter().find_map(pair)
}

fn beside(file: &Path) -> Option<IdentityFiles> {
    let extension = file.extension()?;
    let (is_chain, is_both) = (extension == "crt", extension == "pem");
    if !(is_chain || is_both) {
        return None;
    }
    let key = file.with_extension("key");
    let key = if is_both && !key.exists() { file.to_owned() } else { key };
    let ocsp = Some(file.with_extension("ocsp")).filter(|ocsp| ocsp.exists());
    Some(IdentityFiles { certificate: file.to_owned(), key, ocsp })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_has_pairs_in_every_usual_form() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in [
            "b/fullchain.pem",
            "b/privkey.pem",
            "c/tls.crt",
            "c/tls.key",
            "a.crt",
            "a.key",
            "a.ocsp",
            "d.pem",
            "e.pem",
            "e.key",
            "f.txt",
            ".hidden.pem",
            "g/README",
            ".old/tls.crt",
            "lone.key",
        ] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("one")).expect("a directory");
            std::fs::write(path, "").expect("a file");
        }
        let name = |path: &Path| path.strip_prefix(dir.path()).expect("below").display().to_string();
        let found: Vec<_> = pairs(dir.path())
            .iter()
            .map(|pair| format!("{} {}", name(&pair.certificate), name(&pair.key)))
            .collect();
        assert_eq!(
            found,
            [
                "a.crt a.key",
                "b/fullchain.pem b/privkey.pem",
                "c/tls.crt c/tls.key",
                "d.pem d.pem",
                "e.pem e.key"
            ]
        );
        assert!(pairs(dir.path())[0].ocsp.is_some());
        assert!(pairs(&dir.path().join("nowhere")).is_empty());
    }
}
