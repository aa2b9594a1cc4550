//! `clients`: what a handshake costs the load generator, ours beside `openssl s_time`.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use offramp_bench::generator::{Generator, Handshakes, Load};
use offramp_bench::report::{self, Report, RowReport, Versioned};
use offramp_bench::terminator::by_name;
use offramp_loadgen::backend::Backend;
use offramp_loadgen::identity::Identity;
use offramp_loadgen::machine::{self, Machine};

/// Where the generators run, one at a time.
const CLIENT_CPU: usize = 1;
const GENERATORS: [Generator; 2] = [Generator::Loadgen, Generator::STime];
const METHOD: &str = "The generator's own CPU, user and system, with its start, by its handshakes. \
                      ECDSA P-256, X25519, AES-128-GCM. loadgen verifies the certificate and every \
                      handshake's kind, sends close_notify and waits for the server's; s_time closes the \
                      socket.";

/// Measure what a handshake costs the client that makes it.
///
/// The terminator is on CPU 0 and one generator at a time on CPU 1, in turn.
#[derive(Debug, Parser)]
struct Arguments {
    /// Samples per generator and row.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Length of a sample.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// The terminator that answers, as `compare` calls it.
    #[arg(long, value_name = "NAME", default_value = "offramp")]
    terminator: String,
    /// The openssl binary.
    #[arg(long, value_name = "PATH", default_value = "openssl")]
    openssl: PathBuf,
    /// Write every sample to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table to this file.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

fn main() -> ExitCode {
    match clients(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("clients: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn clients(arguments: &Arguments) -> Result<()> {
    for path in [&arguments.json, &arguments.markdown].into_iter().flatten() {
        ensure!(!path.exists(), "{} exists: a result is never overwritten", path.display());
    }
    let terminator = by_name(&arguments.terminator)
        .with_context(|| format!("no terminator is called {:?}", arguments.terminator))?;
    let loadgen = env::current_exe()?.with_file_name("loadgen");
    ensure!(loadgen.exists(), "{} does not exist: run `cargo build --release` first", loadgen.display());
    let machine = Machine::this();
    ensure!(machine.cores > 1, "one CPU for the terminator and one for the client: two are needed");
    let programs = [loadgen, arguments.openssl.clone()];
    let version = |program: &PathBuf, argument| machine::says(program, &[argument]);
    let mut report = Report {
        date: machine::date(),
        command: report::command("clients", env::args().skip(1)),
        commit: machine::commit(),
        method: METHOD.to_owned(),
        profile: if cfg!(debug_assertions) { "debug" } else { "release" },
        versions: vec![
            Versioned { name: "loadgen".to_owned(), version: version(&programs[0], "--version") },
            Versioned { name: "openssl".to_owned(), version: version(&programs[1], "version") },
            Versioned {
                name: terminator.name.to_owned(),
                version: machine::says(&terminator.program(), terminator.version_arguments),
            },
            Versioned { name: "compiler".to_owned(), version: machine::rustc() },
        ],
        machine,
        rounds: usize::from(arguments.rounds),
        rows: Vec::new(),
    };
    let (backend, identity) = (Backend::start(1)?, Identity::generate()?);
    let running = terminator.start(&terminator.program(), backend.address(), &identity)?;
    for wanted in Handshakes::ALL {
        let (target, seconds) = (running.address, arguments.seconds);
        let load = Load { target, identity: &identity, wanted, seconds, cpu: CLIENT_CPU };
        let mut samples = GENERATORS.map(|generator| (generator.name().to_owned(), Vec::new()));
        let mut fewest = u32::MAX;
        for round in 1..=report.rounds {
            for ((generator, program), (name, samples)) in GENERATORS.iter().zip(&programs).zip(&mut samples)
            {
                let (figure, done) = generator.sample(program, &load)?;
                eprintln!("{}, round {round}, {name}: {figure:.1} µs", wanted.label());
                samples.push(figure);
                fewest = fewest.min(done);
            }
        }
        report.rows.push(RowReport::new(wanted.label(), "µs of CPU", fewest, samples.into()));
    }
    println!("{}", report.table());
    if let Some(path) = &arguments.json {
        report::write(path, &(report.json()? + "\n"))?;
    }
    if let Some(path) = &arguments.markdown {
        report::write(path, &report.markdown())?;
    }
    Ok(())
}
