//! The pairs of certificate and key that lie in a directory.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::IdentityFiles;

/// The pairs of a directory, in the order of their names.
///
/// A pair is `NAME.crt` or `NAME.pem` with `NAME.key` beside it, and `NAME.ocsp` if there is one;
/// `NAME.pem` alone if the key is in it too; or a directory with `fullchain.pem` and `privkey.pem`, or with
/// `tls.crt` and `tls.key`.
///
/// # Errors
/// The directory cannot be read.
pub fn pairs(directory: &Path) -> io::Result<Vec<IdentityFiles>> {
    let entries = std::fs::read_dir(directory)?.map(|entry| entry.map(|it| (it.file_name(), it.path())));
    let paths: BTreeMap<_, PathBuf> = entries.collect::<Result<_, _>>()?;
    let paths = paths.into_values().filter(|path| !is_hidden(path));
    let all = paths.filter_map(|path| if path.is_dir() { in_subdirectory(&path) } else { beside(&path) });
    let mut keys = BTreeSet::new();
    Ok(all.filter(|pair| keys.insert(pair.key.clone())).collect())
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
            .expect("it is there")
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
        assert!(pairs(dir.path()).expect("it is there")[0].ocsp.is_some());
        assert!(pairs(&dir.path().join("nowhere")).is_err());
    }
}
