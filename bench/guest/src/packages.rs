//! Debian's packages, unpacked below target/ without installing anything; fetched once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::Origin;
use crate::modules;

/// A kernel: where its packages are unpacked, and the suite of Debian that has them.
pub(crate) struct Source {
    directory: &'static str,
    /// `None` for the suite of this machine.
    suite: Option<&'static str>,
}

/// User-Mode Linux 6.1, of Debian 12.
pub(crate) const USER_MODE_6_1: Source = Source { directory: "user-mode-linux", suite: None };

/// User-Mode Linux 6.12, of Debian 13.
pub(crate) const USER_MODE_6_12: Source = Source { directory: "user-mode-linux-6.12", suite: Some("trixie") };

/// User-Mode Linux of Debian unstable: 7.2 when this was written, and newer with time. It can replace keys.
pub(crate) const USER_MODE_NEWEST: Source =
    Source { directory: "user-mode-linux-newest", suite: Some("sid") };

/// The kernel for servers that Debian 12 can be given: 6.12.
pub(crate) const CLOUD_6_12: Source = Source { directory: CLOUD, suite: Some("bookworm-backports") };

/// The newest kernel for servers: 7.3 when this was written.
pub(crate) const CLOUD_NEWEST: Source =
    Source { directory: "linux-image-cloud-amd64-newest", suite: Some("trixie-backports") };

/// The package that depends on the newest kernel of its kind.
const CLOUD: &str = "linux-image-cloud-amd64";

/// busybox, linked statically.
pub(crate) fn busybox(lab: &Path) -> Result<PathBuf, String> {
    obtain(
        lab,
        "busybox",
        |root| find(root, "bin/busybox"),
        |into| fetch(into, None, |_| Ok(vec!["busybox-static".to_owned()])),
    )
}

/// What a guest is booted from.
pub(crate) struct Parts {
    pub(crate) linux: PathBuf,
    /// In the order in which they are loaded, as they come: perhaps packed.
    pub(crate) modules: Vec<PathBuf>,
    /// Of the C library that User-Mode Linux wants, where that is not this machine's.
    pub(crate) loader: Option<PathBuf>,
}

/// User-Mode Linux.
pub(crate) fn user_mode(lab: &Path, busybox: &Path, source: &Source) -> Result<Parts, String> {
    let locate = |root: &Path| {
        let loader = source.suite.map(|_| find(root, LOADER)).transpose()?;
        let modules = modules::in_order(&files(root), busybox)?;
        Ok(Parts { linux: find(root, "bin/linux.uml")?, modules, loader })
    };
    let wanted = ["user-mode-linux", "libc6"].map(str::to_owned);
    let wanted = &wanted[..if source.suite.is_some() { 2 } else { 1 }];
    obtain(lab, source.directory, locate, |into| fetch(into, source.suite, |_| Ok(wanted.to_vec())))
}

/// The loader of programs, in the package of the C library.
const LOADER: &str = "x86_64-linux-gnu/ld-linux-x86-64.so.2";

/// A cloud kernel.
pub(crate) fn cloud(lab: &Path, busybox: &Path, source: &Source) -> Result<Parts, String> {
    let locate = |root: &Path| {
        let modules = modules::in_order(&files(root), busybox)?;
        Ok(Parts { linux: image(root)?, modules, loader: None })
    };
    obtain(lab, source.directory, locate, |into| {
        fetch(into, source.suite, |options| {
            let show = |package: &str| run(Command::new("apt-cache").args(options).args(["show", package]));
            let shown = show(CLOUD)?;
            let image = dependency(&shown, "linux-image-");
            let image = image.ok_or_else(|| format!("{CLOUD} depends on no kernel: {shown}"))?;
            // Newer Debians have the kernel and its modules in packages of their own.
            let shown = show(&image)?;
            let parts = ["linux-binary-", "linux-modules-"].map(|kind| dependency(&shown, kind));
            Ok(parts.into_iter().flatten().chain([image]).collect())
        })
    })
}

/// What `locate` finds in the packages that were unpacked before, or are now.
fn obtain<T>(
    lab: &Path,
    name: &str,
    locate: impl Fn(&Path) -> Result<T, String>,
    fetch: impl Fn(&Path) -> Result<(), String>,
) -> Result<T, String> {
    let kept = lab.join(name);
    if let Ok(found) = locate(&kept) {
        return Ok(found);
    }
    let incoming = tempfile::Builder::new().prefix("incoming-").tempdir_in(lab);
    let incoming = incoming.map_err(|error| format!("{}: {error}", lab.display()))?;
    fetch(incoming.path())?;
    let unpacked = incoming.path().join("unpacked");
    for entry in fs::read_dir(incoming.path()).map_err(|error| error.to_string())?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg").arg("-x").arg(entry.path()).arg(&unpacked))?;
        }
    }
    locate(&unpacked)?;
    // Put in place whole: a run that is interrupted leaves nothing half done behind.
    let _ = fs::remove_dir_all(&kept);
    fs::rename(&unpacked, &kept).map_err(|error| format!("{}: {error}", kept.display()))?;
    locate(&kept)
}

/// Downloads packages: with this machine's lists, or with lists of our own where it has none (or keeps them
/// from us) or another `suite` is wanted. Which packages may depend on what the lists say.
fn fetch(
    into: &Path,
    suite: Option<&str>,
    wanted: impl Fn(&[String]) -> Result<Vec<String>, String>,
) -> Result<(), String> {
    let apt = |options: &[String], words: &[String]| {
        run(Command::new("apt-get").args(options).args(["-q", "-y"]).args(words).current_dir(into)).map(drop)
    };
    let download =
        |options: &[String]| apt(options, &[vec!["download".to_owned()], wanted(options)?].concat());
    if suite.is_none() && download(&[]).is_ok() {
        return Ok(());
    }
    let mut options = Vec::new();
    for (key, directory) in
        [("Dir::State::lists", "lists"), ("Dir::Cache", "cache"), ("Dir::Cache::archives", "archives")]
    {
        let directory = into.join(directory);
        fs::create_dir_all(directory.join("partial")).map_err(|error| error.to_string())?;
        options.extend(["-o".to_owned(), format!("{key}={}", directory.display())]);
    }
    if let Some(suite) = suite {
        let list = into.join("own.sources");
        // This machine's own lists need not name the suite.
        let sources = Origin::of_this_machine()?.suite(suite);
        fs::write(&list, sources).map_err(|error| error.to_string())?;
        options.extend(["-o".to_owned(), format!("Dir::Etc::sourcelist={}", list.display())]);
        options.extend(["-o".to_owned(), "Dir::Etc::sourceparts=-".to_owned()]);
    }
    apt(&options, &["update".to_owned()])?;
    download(&options)
}

/// The package whose name begins so, of those that a package depends on.
fn dependency(shown: &str, name: &str) -> Option<String> {
    let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let mut names = depends.split([',', ' ']);
    names.find(|word| word.starts_with(name)).map(str::to_owned)
}

fn image(root: &Path) -> Result<PathBuf, String> {
    let is_image =
        |file: &Path| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"));
    let found = files(root).into_iter().find(|file| is_image(file));
    found.ok_or_else(|| format!("no kernel image under {}", root.display()))
}

/// By the end of the path: a package also has directories and hooks of its program's name.
fn find(root: &Path, name: &str) -> Result<PathBuf, String> {
    let found = files(root).into_iter().find(|file| file.ends_with(name));
    found.ok_or_else(|| format!("{name} is not in the packages under {}", root.display()))
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}: {}", output.status, said.trim().lines().last().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_with_a_missing_file_counts_as_incomplete() {
        let root = tempfile::tempdir().unwrap();
        assert!(image(root.path()).is_err());
        assert!(find(root.path(), "bin/linux.uml").is_err_and(|why| why.contains("bin/linux.uml")));
        let deep = root.path().join("usr/bin");
        fs::create_dir_all(&deep).unwrap();
        for name in ["vmlinuz-6.12", "linux.uml"] {
            fs::write(deep.join(name), b"").unwrap();
        }
        assert!(image(root.path()).is_ok() && find(root.path(), "bin/linux.uml").is_ok());
    }

    #[test]
    fn an_interrupted_fetch_leaves_nothing_behind() {
        let lab = tempfile::tempdir().unwrap();
        let nothing = obtain(lab.path(), "x", |root| find(root, "y"), |_| Ok(()));
        assert!(nothing.is_err_and(|why| why.contains("y is not in the packages")));
        assert_eq!(fs::read_dir(lab.path()).unwrap().count(), 0);
    }

    #[test]
    fn kernel_package_behind_a_metapackage_is_found() {
        let shown = "Package: linux-image-cloud-amd64\nDepends: linux-image-6.12.9+deb12-cloud-amd64 (= 1)\n";
        assert_eq!(
            dependency(shown, "linux-image-").as_deref(),
            Some("linux-image-6.12.9+deb12-cloud-amd64")
        );
        assert_eq!(dependency("Package: x\nDepends: libc6\n", "linux-image-"), None);
    }
}
