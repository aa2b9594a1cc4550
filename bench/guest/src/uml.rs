//! User-Mode Linux: the files of this machine as its root, a tmpfs for what is written.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::init::{Places, script};
use crate::{Guest, Job, Outcome, boot, foreign_libc};

pub(crate) fn run(guest: &Guest, job: &Job, directory: &Path) -> Result<Outcome, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
    let scratch = directory.join("scratch");
    fs::create_dir(&scratch).map_err(failed)?;
    let results = ["output", "tls_stat", "status"].map(|name| directory.join(name));
    // Nothing is mounted over a directory of this machine that the command might live in.
    let places = Places {
        busybox: &guest.busybox,
        modules: guest.modules.iter().map(AsRef::as_ref).collect(),
        scratch: &scratch,
        mounts: &[],
        results: results.each_ref().map(AsRef::as_ref),
        end: "halt -f",
    };
    let init = directory.join("init");
    fs::write(&init, script(job, &places)).map_err(failed)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    let console = fs::File::create(directory.join("console")).map_err(failed)?;
    let mut linux = match &guest.loader {
        Some(loader) => foreign_libc::command(&guest.linux, loader, directory)?,
        None => Command::new(&guest.linux),
    };
    linux.args(["mem=2048M", "rootfstype=hostfs", "rootflags=/", "rw"]);
    linux.args(["con=null", "con0=fd:0,fd:1", "ssl=null", "quiet", "panic=1"]);
    linux.arg(format!("init={}", init.display())).arg(format!("uml_dir={}/", directory.display()));
    linux.stderr(console.try_clone().map_err(failed)?).stdout(console);
    boot::run(linux, directory, job.limit)
}
