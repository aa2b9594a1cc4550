//! `soak`: mixed load for minutes or hours while what the engine depends on fails in turn, and a verdict.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use offramp_bench::soak::{self, Plan};

/// Soak Offramp: load at 70 % of what this machine does, while something fails or an operator does something.
///
/// There are reloads, rotations, upgrades, backends that are killed and stopped, clients that are cut, few
/// descriptors, little memory, and a full disk for the log. It ends with a verdict; exit code 1 if that is
/// not good.
#[derive(Debug, Parser)]
#[command(max_term_width = 110)]
struct Arguments {
    /// How long, in minutes.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_080))]
    minutes: u64,
    /// Decides the order of the faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The offramp binary [default: beside this one].
    #[arg(long, value_name = "PATH")]
    offramp: Option<PathBuf>,
    /// The loadgen binary [default: beside this one].
    #[arg(long, value_name = "PATH")]
    loadgen: Option<PathBuf>,
    /// Write the verdict as JSON to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// This process has a mount namespace of its own.
    #[arg(long, hide = true)]
    mounts: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !arguments.mounts && is_root() {
        // Only a failure returns. Then the log's disk is left out, which the verdict says.
        let error = in_a_mount_namespace();
        eprintln!("soak: unshare(1) could not be started: {error}");
    }
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    let here = std::env::current_exe().context("the path of this program")?;
    let beside = |given: &Option<PathBuf>, name| given.clone().unwrap_or_else(|| here.with_file_name(name));
    let plan = Plan {
        length: Duration::from_secs(60 * arguments.minutes),
        seed: arguments.seed,
        offramp: beside(&arguments.offramp, "offramp"),
        loadgen: beside(&arguments.loadgen, "loadgen"),
        may_mount: arguments.mounts,
    };
    let verdict = soak::run(&plan, |epoch| println!("{epoch}"))?;
    println!("{verdict}");
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&verdict)?;
        fs::write(file, format!("{text}\n")).with_context(|| file.display().to_string())?;
    }
    Ok(verdict.problems().is_empty())
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Becomes this program again, with mounts of its own.
fn in_a_mount_namespace() -> std::io::Error {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]).arg(program).arg("--mounts");
    command.args(std::env::args_os().skip(1)).exec()
}
