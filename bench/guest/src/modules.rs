//! Which modules a kernel is given for its TLS, and in which order.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What TLS asks the crypto API for by the name of an algorithm, which no dependency tells; and TLS itself.
/// Kernels differ: those that one does not have are part of it, or have become part of others.
const WANTED: [&str; 12] = [
    "ghash-generic",
    "ghash-clmulni-intel",
    "ctr",
    "gcm",
    "aesni-intel",
    "chacha",
    "chacha_generic",
    "chacha-x86_64",
    "poly1305_generic",
    "poly1305-x86_64",
    "chacha20poly1305",
    TLS,
];
const TLS: &str = "tls";

/// Those of `files`, each behind those that it depends on.
pub(crate) fn in_order(files: &[PathBuf], busybox: &Path) -> Result<Vec<PathBuf>, String> {
    let mut order = Vec::new();
    for name in WANTED {
        add(name, files, busybox, &mut order)?;
    }
    if order.iter().any(|module| is(module, TLS)) {
        Ok(order)
    } else {
        Err(format!("the module {TLS} is not in the packages"))
    }
}

fn add(name: &str, files: &[PathBuf], busybox: &Path, order: &mut Vec<PathBuf>) -> Result<(), String> {
    let Some(module) = files.iter().find(|file| is(file, name)) else { return Ok(()) };
    if order.contains(module) {
        return Ok(());
    }
    for dependency in depends(&unpacked(module, busybox)?) {
        add(&dependency, files, busybox, order)?;
    }
    order.push(module.clone());
    Ok(())
}

/// Whether this is the file of a module: `name.ko`, perhaps packed. Dependencies are told with underscores
/// where a file may have hyphens.
fn is(file: &Path, name: &str) -> bool {
    let file = file.file_name().unwrap_or_default().to_string_lossy().replace('-', "_");
    let stem = file.strip_suffix(".xz").unwrap_or(&file).strip_suffix(".ko");
    stem.is_some_and(|stem| stem == name.replace('-', "_"))
}

/// The names behind `depends=` among what a module says of itself (its section `.modinfo`).
fn depends(module: &[u8]) -> Vec<String> {
    const MARK: &[u8] = b"\0depends=";
    let Some(at) = module.windows(MARK.len()).position(|bytes| bytes == MARK) else { return Vec::new() };
    let names = module[at + MARK.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(names);
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// A module as the kernel takes it.
pub(crate) fn unpacked(module: &Path, busybox: &Path) -> Result<Vec<u8>, String> {
    if module.extension().is_some_and(|extension| extension == "ko") {
        return fs::read(module).map_err(|error| format!("{}: {error}", module.display()));
    }
    let output = Command::new(busybox).args(["xz", "-dc"]).arg(module).output();
    let output = output.map_err(|error| format!("{}: {error}", busybox.display()))?;
    if !output.status.success() || output.stdout.is_empty() {
        return Err(format!("{} cannot be unpacked: {}", module.display(), output.status));
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_follow_their_dependencies_without_repeats() {
        let root = tempfile::tempdir().unwrap();
        let made = |name: &str, depends: &str| {
            let path = root.path().join(name);
            fs::write(&path, format!("\x7fELF\0license=GPL\0depends={depends}\0name=x\0")).unwrap();
            path
        };
        let files = [
            made("tls.ko", "aead"),
            made("gcm.ko", "aead,lib_hash"),
            made("aead.ko", ""),
            made("lib-hash.ko", "absent"),
            made("other.ko", ""),
        ];
        let names = |order: Vec<PathBuf>| -> Vec<String> {
            order.iter().map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect()
        };
        let busybox = Path::new("not asked");
        assert_eq!(
            in_order(&files, busybox).map(names),
            Ok(["aead", "lib-hash", "gcm", "tls"].map(str::to_owned).to_vec())
        );
        assert!(in_order(&files[1..], busybox).is_err_and(|why| why.contains("module tls")));
    }

    #[test]
    fn packed_files_are_modules_too() {
        for (file, name, same) in [
            ("a/tls.ko.xz", "tls", true),
            ("a/tls.ko", "tls", true),
            ("a/aesni-intel.ko.xz", "aesni_intel", true),
            ("a/tls.txt", "tls", false),
            ("a/mytls.ko", "tls", false),
        ] {
            assert_eq!(is(Path::new(file), name), same, "{file} {name}");
        }
    }
}
