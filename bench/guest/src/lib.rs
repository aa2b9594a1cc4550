//! Guest kernels that have kernel TLS, for machines whose own kernel has none: fetched from Debian, booted
//! without privilege, given one command, and asked what their kernel counted.
//!
//! 1. [`packages`] fetches kernel, [`modules`] and busybox below `target/kernel-lab`;
//! 2. [`init`] writes the guest's first process, the same for both kinds;
//! 3. [`uml`] boots Linux as a process of this machine, with its files as the root, and with a C library of
//!    its [`own`] where it comes from a newer Debian; [`qemu`] boots Debian's 6.12 cloud kernel on an
//!    emulated machine, with an [`initramfs`] of the files that the command needs;
//! 4. [`boot`] waits, but not for ever.
#![expect(clippy::disallowed_methods, reason = "a guest that hangs is ended by the clock")]

mod apt;
mod boot;
mod foreign_libc;
mod init;
mod initramfs;
mod modules;
mod packages;
mod qemu;
mod uml;

use std::path::{Path, PathBuf};
use std::time::Duration;

use packages::Parts;

/// The kinds of guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// User-Mode Linux 6.1: boots in two seconds, user code at native speed, one CPU.
    UserMode6_1,
    /// The same of Debian 13, 6.12.
    UserMode6_12,
    /// The same of Debian unstable, 7.2 or newer: it can replace the keys of a direction.
    UserModeNewest,
    /// Debian's 6.12 cloud kernel on an emulated x86-64: the kernel that servers run, AES instructions and
    /// all, many times slower. Its clock counts instructions, a nanosecond each.
    Cloud,
    /// The same, the newest: 7.3 or later.
    CloudNewest,
}

/// What is run in a guest.
#[derive(Clone, Debug)]
pub struct Job {
    /// A program and its arguments.
    pub command: Vec<String>,
    /// Where it runs.
    pub directory: PathBuf,
    /// Variables for it, beside `PATH`, `LANG` and the one that `scratch` names.
    pub environment: Vec<(String, String)>,
    /// The variable that tells it of a directory on a tmpfs.
    pub scratch: &'static str,
    /// Programs, files and directories of this machine that it needs, beside its own: a guest with a root of
    /// its own gets them at the same paths, with the shared libraries that they are linked with.
    pub files: Vec<PathBuf>,
    /// A guest that is not done by then is ended.
    pub limit: Duration,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Exit status of the command; `None` if the guest did not get that far.
    pub status: Option<i32>,
    /// What the command said, both streams.
    pub output: String,
    /// `/proc/net/tls_stat` after the command.
    pub tls_stat: String,
    /// What the kernel said, and how the guest ended.
    pub console: String,
}

impl Outcome {
    /// Whether the kernel was gone before the command could begin: no result of the command's.
    fn crashed_while_booting(&self) -> bool {
        self.status.is_none() && self.output.is_empty() && self.console.contains("Kernel panic")
    }
}

/// Fetches what this kind of guest is made of, unless that was done before. The directory below which all is
/// kept is cargo's `target`.
///
/// # Errors
/// Why there can be no such guest here.
pub fn obtain(kernel: Kernel, target: &Path) -> Result<Guest, String> {
    let lab = target.join("kernel-lab");
    std::fs::create_dir_all(&lab).map_err(|error| format!("{}: {error}", lab.display()))?;
    let busybox = packages::busybox(&lab)?;
    let parts = match kernel {
        Kernel::UserMode6_1 => packages::user_mode(&lab, &busybox, &packages::USER_MODE_6_1),
        Kernel::UserMode6_12 => packages::user_mode(&lab, &busybox, &packages::USER_MODE_6_12),
        Kernel::UserModeNewest => packages::user_mode(&lab, &busybox, &packages::USER_MODE_NEWEST),
        Kernel::Cloud => emulated(&lab, &busybox, &packages::CLOUD_6_12),
        Kernel::CloudNewest => emulated(&lab, &busybox, &packages::CLOUD_NEWEST),
    };
    let Parts { linux, modules, loader } = parts?;
    Ok(Guest { kernel, linux, modules, loader, busybox, lab })
}

fn emulated(lab: &Path, busybox: &Path, source: &packages::Source) -> Result<Parts, String> {
    qemu::available()?;
    packages::cloud(lab, busybox, source)
}

/// A guest that can be booted, any number of times.
#[derive(Clone, Debug)]
pub struct Guest {
    kernel: Kernel,
    linux: PathBuf,
    /// Loaded in this order.
    modules: Vec<PathBuf>,
    /// Of the C library that User-Mode Linux wants, where it is not this machine's.
    loader: Option<PathBuf>,
    busybox: PathBuf,
    lab: PathBuf,
}

impl Guest {
    /// Boots, runs the command, and waits for the end.
    ///
    /// # Errors
    /// The guest could not be started at all.
    pub fn run(&self, job: &Job) -> Result<Outcome, String> {
        let directory = tempfile::Builder::new().prefix("run-").tempdir_in(&self.lab);
        let directory = directory.map_err(|error| format!("{}: {error}", self.lab.display()))?;
        match self.kernel {
            Kernel::Cloud | Kernel::CloudNewest => qemu::run(self, job, directory.path()),
            _ => uml::run(self, job, directory.path()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_crash_before_the_command_is_a_boot_crash() {
        let crashed = Outcome {
            status: None,
            output: String::new(),
            tls_stat: String::new(),
            console: "[0.7] Kernel panic - not syncing: Fatal exception".to_owned(),
        };
        assert!(crashed.crashed_while_booting());
        assert!(
            !Outcome { output: "running 3 tests\n".to_owned(), ..crashed.clone() }.crashed_while_booting()
        );
        assert!(!Outcome { status: Some(101), ..crashed.clone() }.crashed_while_booting());
        assert!(!Outcome { console: "reboot: Restarting".to_owned(), ..crashed }.crashed_while_booting());
    }
}
