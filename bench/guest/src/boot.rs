//! One boot: the guest's process from its start to its end, and what it left behind.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Outcome;

/// How often a start is tried again that finds the file busy.
const BUSY_TRIES: usize = 20;

/// Starts the guest, waits for it, and reads the files `console`, `output`, `tls_stat` and `status` that it
/// leaves in `directory`.
pub(crate) fn run(mut linux: Command, directory: &Path, limit: Duration) -> Result<Outcome, String> {
    linux.stdin(Stdio::null());
    // A group of its own, so that its end takes every process of the guest with it.
    linux.process_group(0);
    let mut started = linux.spawn();
    // Whoever forked while the kernel was copied has it open for writing until it executes something.
    for _ in 0..BUSY_TRIES {
        if started.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ExecutableFileBusy) {
            std::thread::sleep(Duration::from_millis(50));
            started = linux.spawn();
        }
    }
    let guest = started.map_err(|error| format!("{linux:?}: {error}"))?;
    let ended = wait(guest, limit);
    // A serial line ends its lines with two characters.
    let read = |name: &str| {
        let bytes = fs::read(directory.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace("\r\n", "\n")
    };
    Ok(Outcome {
        status: read("status").trim().parse().ok(),
        output: read("output"),
        tls_stat: read("tls_stat"),
        console: format!("{}\n({ended})", read("console")),
    })
}

/// How the guest ended, in words.
fn wait(mut guest: Child, limit: Duration) -> String {
    let begun = Instant::now();
    while begun.elapsed() < limit {
        match guest.try_wait() {
            Ok(Some(status)) => return format!("the guest ended after {:?}: {status}", begun.elapsed()),
            Ok(None) => std::thread::sleep(Duration::from_millis(50)),
            Err(error) => return format!("the guest cannot be waited for: {error}"),
        }
    }
    let group = format!("-{}", guest.id());
    let _ = Command::new("kill").args(["-s", "KILL", "--", &group]).status();
    let _ = guest.wait();
    format!("the guest was ended after {limit:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_output_is_read_and_a_hung_guest_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let script = "printf 'a\\r\\nb\\n' >output; echo 7 >status; echo booted";
        let mut quick = Command::new("sh");
        quick.args(["-c", script]).current_dir(directory.path());
        quick.stdout(fs::File::create(directory.path().join("console")).unwrap());
        let outcome = run(quick, directory.path(), Duration::from_secs(60)).unwrap();
        assert_eq!((outcome.status, outcome.output.as_str()), (Some(7), "a\nb\n"));
        assert!(outcome.console.contains("booted") && outcome.console.contains("the guest ended after"));

        let directory = tempfile::tempdir().unwrap();
        let mut hung = Command::new("sh");
        hung.args(["-c", "sleep 600 & wait"]);
        let outcome = run(hung, directory.path(), Duration::from_millis(100)).unwrap();
        assert_eq!(outcome.status, None);
        assert!(outcome.console.contains("was ended after"), "{}", outcome.console);
    }
}
