//! Debian's cloud kernel on a machine that QEMU emulates, with a root of its own.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::init::{Places, script};
use crate::initramfs::Initramfs;
use crate::{Guest, Job, Outcome, boot, modules};

const QEMU: &str = "qemu-system-x86_64";

/// The guest's clock follows its instructions: each takes a nanosecond, and no time passes while it waits. So
/// a time that the guest measures is a number of instructions, a run takes the same course each time, and a
/// busy machine makes it slower but changes nothing in it. It also avoids a defect of QEMU 7.2, in which,
/// with the clock of this machine, one boot in ten ended in a kernel whose registers an interrupt had broken;
/// seldom it does so with this clock too, behind a cmpxchg16b, which the CPU therefore does not have.
///
/// Copying by one instruction (`rep movsb`) counts by the byte, so the CPU says that this is slow, and the
/// guest copies as it would on older hardware.
const CPU: [&str; 8] =
    ["-accel", "tcg", "-smp", "1", "-icount", "shift=0,sleep=off", "-cpu", "max,-erms,-fsrm,-cx16"];

/// Boots that may end in a crash of the kernel before its first process has run the command.
const BOOTS: usize = 3;

/// Whether there is an emulator; if not, how to get it.
pub(crate) fn available() -> Result<(), String> {
    let found = Command::new(QEMU).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found
        .map(drop)
        .map_err(|error| format!("{QEMU}: {error}: apt-get install --no-install-recommends qemu-system-x86"))
}

pub(crate) fn run(guest: &Guest, job: &Job, directory: &Path) -> Result<Outcome, String> {
    let initrd = directory.join("initrd");
    let root = root(guest, job)?;
    let file = File::create(&initrd).map_err(|error| format!("{}: {error}", initrd.display()))?;
    root.write(BufWriter::new(file)).map_err(|error| format!("the initramfs: {error}"))?;
    let mut outcome = boot_once(guest, job, directory, &initrd)?;
    for _ in 1..BOOTS {
        if !outcome.crashed_while_booting() {
            break;
        }
        eprintln!("the emulated kernel crashed while it booted, and is booted again:\n{}", outcome.console);
        outcome = boot_once(guest, job, directory, &initrd)?;
    }
    Ok(outcome)
}

fn boot_once(guest: &Guest, job: &Job, directory: &Path, initrd: &Path) -> Result<Outcome, String> {
    let log = directory.join("qemu");
    let said = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    let mut qemu = Command::new(QEMU);
    qemu.args(CPU).args(["-m", "3072", "-display", "none", "-monitor", "none"]);
    qemu.args(["-no-reboot", "-net", "none", "-kernel"]).arg(&guest.linux).arg("-initrd").arg(initrd);
    qemu.args(["-append", "console=ttyS0 quiet oops=panic panic=-1 mitigations=off"]);
    for name in ["console", "output", "tls_stat", "status"] {
        qemu.arg("-serial").arg(format!("file:{}", directory.join(name).display()));
    }
    qemu.stderr(said.try_clone().map_err(|error| error.to_string())?).stdout(said);
    let mut outcome = boot::run(qemu, directory, job.limit)?;
    outcome.console.push_str(&fs::read_to_string(log).unwrap_or_default());
    Ok(outcome)
}

/// The root: what the command needs, what a program may ask of any system, and the first process.
fn root(guest: &Guest, job: &Job) -> Result<Initramfs, String> {
    let mut root = Initramfs::default();
    for path in ["/proc", "/sys", "/dev", "/tmp", "/run", "/scratch", "/var/log"].map(Path::new) {
        root.directory(path);
    }
    for path in ["/etc/passwd", "/etc/group", "/bin/sh"].map(Path::new) {
        root.copy(path)?;
    }
    root.copy(&guest.busybox)?;
    root.directory(&job.directory);
    for path in job.files.iter().map(PathBuf::as_path).chain(job.command.first().map(Path::new)) {
        root.copy(path)?;
    }
    let mut modules = Vec::new();
    for packed in &guest.modules {
        let name = packed.file_stem().unwrap_or_default();
        let module = Path::new("/modules").join(name);
        root.text(&module, modules::unpacked(packed, &guest.busybox)?);
        modules.push(module);
    }
    let places = Places {
        busybox: &guest.busybox,
        modules: modules.iter().map(AsRef::as_ref).collect(),
        scratch: Path::new("/scratch"),
        mounts: &["devtmpfs devtmpfs /dev"],
        results: ["/dev/ttyS1", "/dev/ttyS2", "/dev/ttyS3"].map(Path::new),
        // With -no-reboot this ends the emulator.
        end: "reboot -f",
    };
    root.text(Path::new("/init"), script(job, &places));
    Ok(root)
}
