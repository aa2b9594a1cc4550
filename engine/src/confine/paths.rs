//! What of the file system the process needs once it runs: what its configuration names, what the C library
//! resolves names with, and what the kernel says of the process.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::{ConfineError, account};
use crate::config::{Config, Listener, Target};
use crate::sys::socket::Address;

/// What the kernel and the C library are asked through files, whatever the configuration: descriptors,
/// sockets and limits of the process, cores and their quota, the statistics of kernel TLS.
const SYSTEM: [&str; 4] =
    ["/proc/self", "/sys/fs/cgroup", "/sys/devices/system/cpu", "/proc/sys/vm/overcommit_memory"];

/// The modules of the name service, which are loaded when the first name is looked up.
const LIBRARIES: [&str; 4] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"];

/// How names of hosts and users are looked up. Tools replace these files, and a rule for a file does not hold
/// for the one that takes its place.
const NAME_SERVICE: [&str; 9] = [
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/passwd",
    "/etc/group",
    "/etc/ld.so.cache",
];

/// What stays within reach, for good.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// Files, and directories with all below them, that can be read; without links.
    pub(super) read: Vec<PathBuf>,
    /// Directories in which sockets can be made and removed; without links.
    pub(super) sockets: Vec<PathBuf>,
    /// Whether abstract Unix sockets of other processes stay within reach.
    pub(super) abstract_sockets: bool,
}

impl Paths {
    /// Of what this configuration needs.
    pub(super) fn of(config: &Config) -> Self {
        let named = named_files(config).chain(found(config)).flat_map(|file| directories(&file));
        let fixed = SYSTEM.into_iter().chain(LIBRARIES).map(PathBuf::from);
        let all = named.chain(identity_directories(config).cloned()).chain(fixed).chain(name_service(config));
        // A rule holds for what is there now, whatever has its name later.
        let mut read: Vec<PathBuf> = all.filter_map(|path| fs::canonicalize(path).ok()).collect();
        read.sort();
        read.dedup();
        let sockets = sockets(config).flat_map(|file| parent(file).ok()).collect();
        Self { read, sockets, abstract_sockets: needs_abstract(config) }
    }

    /// Whether a file is there and cannot be read, since it is not below what was named at the start.
    pub(super) fn is_outside(&self, file: &Path) -> bool {
        fs::canonicalize(file).is_ok_and(|found| !is_below(&found, &self.read))
    }

    /// Whether the sockets that this configuration names are within reach.
    pub(super) fn check_sockets(&self, config: &Config) -> Result<(), ConfineError> {
        for path in sockets(config) {
            if parent(path).is_ok_and(|found| !is_below(&found, &self.sockets)) {
                return Err(ConfineError::Outside { path: path.to_owned() });
            }
        }
        match abstract_backend(config) {
            Some(address) if !self.abstract_sockets => {
                Err(ConfineError::Abstract { address: address.to_string() })
            }
            _ => Ok(()),
        }
    }
}

/// All files and directories that are named, and needed at a reload.
pub(super) fn named(config: &Config) -> impl Iterator<Item = PathBuf> {
    named_files(config).chain(identity_directories(config).cloned())
}

fn named_files(config: &Config) -> impl Iterator<Item = PathBuf> {
    let file = config.origins.path().filter(|path| path.is_file()).map(Path::to_owned);
    let files = config.listeners.iter().flat_map(Listener::named_files);
    files.chain(config.ticket_keys.clone()).chain(file)
}

/// The files that lie in directories of identities, and can be done without.
pub(super) fn found(config: &Config) -> impl Iterator<Item = PathBuf> {
    config.listeners.iter().flat_map(Listener::found_files)
}

/// Whether the file is there and the process may not read it.
pub(super) fn is_forbidden(file: &Path) -> bool {
    // A pipe that nobody writes to must not hold us up.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(file);
    opened.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

/// Whether mode and owner let the process read the file, and those of the directories above: Landlock has no
/// say in that.
pub(super) fn is_permitted(file: &Path) -> bool {
    rustix::fs::access(file, Access::READ_OK).is_ok()
}

/// The directory in which a file is named, and the one in which it is: Kubernetes swaps links in between.
fn directories(file: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let canonical = fs::canonicalize(file).ok();
    let real = canonical.and_then(|file| file.parent().map(Path::to_owned));
    parent(file).into_iter().chain(real)
}

fn identity_directories(config: &Config) -> impl Iterator<Item = &PathBuf> {
    config.listeners.iter().flat_map(|listener| &listener.identity_directories)
}

/// The files of Unix sockets that are listened on.
fn sockets(config: &Config) -> impl Iterator<Item = &Path> {
    let listeners = config.listeners.iter().filter_map(|listener| listener.listen.file());
    listeners.chain(config.admin_socket.as_deref())
}

fn parent(file: &Path) -> std::io::Result<PathBuf> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    fs::canonicalize(parent.unwrap_or(Path::new(".")))
}

fn is_below(found: &Path, allowed: &[PathBuf]) -> bool {
    allowed.iter().any(|allowed| found.starts_with(allowed))
}

/// All of /etc where files in it must be found after they were replaced, or where the user of the process
/// keeps secrets from it; otherwise the files as they are.
fn name_service(config: &Config) -> Vec<PathBuf> {
    let will_be_root = account::is_root() && config.run_as.is_none();
    if will_be_root && !looks_up_names(config) {
        return NAME_SERVICE.iter().map(PathBuf::from).collect();
    }
    let real = NAME_SERVICE.iter().flat_map(|file| directories(Path::new(file)));
    std::iter::once(PathBuf::from("/etc")).chain(real).collect()
}

fn looks_up_names(config: &Config) -> bool {
    let is_name = |target: &Target| matches!(target, Target::Name { .. });
    let access = |user: Option<u32>, group: Option<u32>| user.is_some() || group.is_some();
    config.listeners.iter().any(|listener| access(listener.socket_access.user, listener.socket_access.group))
        || targets(config).any(|target| is_name(&target))
}

fn targets(config: &Config) -> impl Iterator<Item = Target> {
    let pools = config.listeners.iter().flat_map(|listener| listener.routes.pools());
    pools.flat_map(|pool| pool.backends.iter().map(|backend| backend.target.clone()))
}

fn abstract_backend(config: &Config) -> Option<Address> {
    targets(config).find_map(|target| match target {
        Target::Address(address) if address.is_unix() && address.file().is_none() => Some(address),
        _ => None,
    })
}

/// A service manager may be notified at an abstract name too (sd_notify(3)).
fn needs_abstract(config: &Config) -> bool {
    let notified = std::env::var_os("NOTIFY_SOCKET");
    abstract_backend(config).is_some()
        || notified.is_some_and(|name| name.as_encoded_bytes().starts_with(b"@"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigOption, Raw};

    fn config(directory: &Path, listen: &str, backend: &str) -> Config {
        let mut raw = Raw::default();
        raw.give_flag(ConfigOption::Listen, listen.to_owned());
        raw.give_flag(ConfigOption::Backend, backend.to_owned());
        raw.give_identities(&[directory.join("c.pem")], &[directory.join("k.pem")]).unwrap();
        raw.check().unwrap()
    }

    fn written(directory: &Path) -> &Path {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join("c.pem"), "").unwrap();
        fs::write(directory.join("k.pem"), "").unwrap();
        directory
    }

    #[test]
    fn paths_follow_links_and_refuse_what_is_elsewhere() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        written(&at("real/1"));
        written(&at("other"));
        fs::create_dir(at("named")).unwrap();
        for name in ["c.pem", "k.pem"] {
            std::os::unix::fs::symlink(at("real/1").join(name), at("named").join(name)).unwrap();
        }
        let paths = Paths::of(&config(&at("named"), "127.0.0.1:0", "127.0.0.1:1"));
        let is_outside = |directory: &str| paths.is_outside(&at(directory).join("c.pem"));
        let outside = ["named", "real/1", "missing", "other"].map(is_outside);
        assert_eq!(outside, [false, false, false, true], "what is missing has an error of its own");
    }

    #[test]
    fn sockets_outside_the_confined_paths_are_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = written(scratch.path());
        fs::create_dir(directory.join("run")).unwrap();
        let socket = format!("unix:{}", directory.join("run/s").display());
        let paths = Paths::of(&config(directory, &socket, "127.0.0.1:1"));
        let check = |listen: &str, backend: &str| paths.check_sockets(&config(directory, listen, backend));
        check(&socket.replace("/s", "/t"), "unix:/anywhere").unwrap();
        let error = check(&format!("unix:{}", directory.join("s").display()), "127.0.0.1:1").unwrap_err();
        assert!(matches!(error, ConfineError::Outside { .. }), "{error}");
        let error = check(&socket, "unix:@name").unwrap_err().to_string();
        assert!(error.starts_with("backend unix:@name: "), "{error}");
    }
}
