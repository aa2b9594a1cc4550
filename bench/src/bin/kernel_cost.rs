//! `kernel_cost`: what records cost the terminator when the kernel carries them and when it does not, in
//! instructions, on Linux 6.12 or the newest, in a guest whose clock counts them.

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Parser, ValueEnum};
use offramp_bench::guest_cost::{self, Sample};
use offramp_bench::report::{Report, Versioned};
use offramp_bench::terminator::STREAM_MODULE;
use offramp_guest::{Job, Kernel, Outcome};
use offramp_loadgen::machine::{self, Machine};

const METHOD: &str = "A figure is a number of instructions (icount): the terminator's own CPU time, user and \
                      system, all of its processes, from schedstat, on an emulated CPU of which each \
                      instruction takes 1 ns. It is not time: an AES-NI instruction counts as one, caches \
                      and pipelines count nothing, and the kernel copies 8 bytes by an instruction (rep \
                      movsq) where userspace moves 32 (AVX2). AVX-512 and VAES are not there. One CPU for \
                      terminator, client and backend. Each message waits for the answer to the one before.";
/// What the terminators and their start need beside themselves.
const PROGRAMS: [&str; 6] =
    ["/usr/sbin/nginx", "/usr/bin/setpriv", "/usr/bin/taskset", "/usr/bin/kill", "/etc/ssl", "/usr/lib/ssl"];

/// Count the instructions that records cost when the kernel carries them and when it does not.
#[derive(Debug, Parser)]
struct Arguments {
    /// Debian's kernel in the guest.
    #[arg(long, value_enum, default_value_t = Release::V6_12)]
    kernel: Release,
    /// Samples per terminator and row.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=20))]
    rounds: u16,
    /// Write every sample to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table to this file.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Take the samples here: what the guest runs.
    #[arg(long, hide = true)]
    inside: bool,
}

/// Kernels for servers.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Release {
    /// The one that Debian 12 can be given.
    #[value(name = "6.12")]
    V6_12,
    /// The newest that Debian has.
    Newest,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = if arguments.inside { inside(arguments.rounds.into()) } else { outside(&arguments) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kernel_cost: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A line of JSON for each sample; the first line is the kernel's name.
fn inside(rounds: usize) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{}", Machine::this().kernel)?;
    guest_cost::take(rounds, |sample| {
        writeln!(out.lock(), "{}", serde_json::to_string(sample)?)?;
        Ok(())
    })
}

fn outside(arguments: &Arguments) -> Result<()> {
    let machine = Machine::this();
    // What runs is what is there now: by its end somebody may have gone on working.
    let (date, commit, rounds) = (machine::date(), machine::commit(), usize::from(arguments.rounds));
    let outcome = in_guest(arguments.kernel, rounds)?;
    let said = || anyhow!("--- guest output\n{}\n--- guest console\n{}", outcome.output, outcome.console);
    ensure!(outcome.status == Some(0), "the guest ended with {:?}\n{:#}", outcome.status, said());
    let (kernel, lines) = outcome.output.split_once('\n').with_context(said)?;
    let samples: Vec<Sample> =
        lines.lines().map(serde_json::from_str).collect::<Result<_, _>>().with_context(said)?;
    let (rows, carried) = guest_cost::rows(&samples, rounds)?;
    let report = Report {
        date,
        command: command(env::args().skip(1)),
        commit,
        method: format!("{METHOD} {carried}"),
        profile: if cfg!(debug_assertions) { "debug" } else { "release" },
        machine: Machine { cpu: format!("emulated by QEMU on {}", machine.cpu), cores: 1, ..machine },
        versions: versions(kernel)?,
        rounds,
        rows,
    };
    println!("{}", report.table());
    for (path, content) in
        [(&arguments.json, report.json()? + "\n"), (&arguments.markdown, report.markdown())]
    {
        if let Some(path) = path {
            fs::write(path, content).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    Ok(())
}

/// This very program, inside the guest.
fn in_guest(release: Release, rounds: usize) -> Result<Outcome> {
    let this = env::current_exe()?;
    let target = this.ancestors().nth(2).context("this program is in target/")?;
    let kernel = match release {
        Release::V6_12 => Kernel::Cloud,
        Release::Newest => Kernel::CloudNewest,
    };
    let guest = offramp_guest::obtain(kernel, target).map_err(|why| anyhow!(why))?;
    let files: Vec<_> = PROGRAMS.iter().copied().chain([STREAM_MODULE]).map(PathBuf::from).collect();
    let missing: Vec<_> = files.iter().filter(|path| !path.exists()).collect();
    ensure!(missing.is_empty(), "missing {missing:?}: apt-get install nginx libnginx-mod-stream util-linux");
    let job = Job {
        command: vec![
            this.to_str().context("the path is UTF-8")?.to_owned(),
            "--inside".to_owned(),
            "--rounds".to_owned(),
            rounds.to_string(),
        ],
        directory: "/tmp".into(),
        environment: Vec::new(),
        scratch: "TMPDIR",
        files: files.into_iter().chain([offramp()?]).collect(),
        limit: Duration::from_secs(1200 + 1800 * rounds as u64),
    };
    guest.run(&job).map_err(|why| anyhow!(why))
}

fn offramp() -> Result<PathBuf> {
    let path = env::current_exe()?.with_file_name("offramp");
    ensure!(path.exists(), "{} does not exist: run `cargo build --release` first", path.display());
    Ok(path)
}

fn versions(kernel: &str) -> Result<Vec<Versioned>> {
    let version = |name: &str, version: String| Versioned { name: name.to_owned(), version };
    Ok(vec![
        version("guest", kernel.to_owned()),
        version("offramp", machine::says(&offramp()?, &["--version"])),
        version("nginx", machine::says(Path::new("nginx"), &["-v"])),
        version("openssl", machine::says(Path::new("openssl"), &["version"])),
        version("emulator", machine::says(Path::new("qemu-system-x86_64"), &["--version"])),
        version("compiler", machine::rustc()),
    ])
}

/// What to type to have the same again.
fn command(arguments: impl Iterator<Item = String>) -> String {
    let profile = if cfg!(debug_assertions) { "" } else { " --release" };
    let words = std::iter::once("--".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ");
    format!("cargo run{profile} -p offramp-bench --bin kernel_cost {words}")
}
