//! `compare`: what offramp and other TLS terminators need of their own CPU for the same work.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use offramp_attack::hello::Key;
use offramp_bench::chart;
use offramp_bench::flood::UnderFlood;
use offramp_bench::latency::{LOAD_SHARE, Latency, Span};
use offramp_bench::report::{self, Report, RowReport, Versioned};
use offramp_bench::terminator::{
    CLIENT_CPU, OPTIONS, PLAIN, RECORD_PATHS, REENCRYPT, STREAM_MODULE, TERMINATOR_CPU, TERMINATORS,
    Terminator, WORKERS, by_name, tls_server,
};
use offramp_bench::workload::{Amount, BACKEND_THREADS, Bench, CLIENTS, Row, Work};
use offramp_loadgen::backend::Backend;
use offramp_loadgen::identity::Identity;
use offramp_loadgen::machine::{self, Machine};
use offramp_ring::{affinity, socket};

/// Descriptors that we, and what we start, may have open: two for each connection that is held.
const DESCRIPTORS: u64 = 8192;
const METHOD: &str = "CPU: the terminator's own, user and system, all of its processes, from schedstat. \
                      Memory: growth of its resident memory, without what the kernel holds for sockets. \
                      Latency: p99 of an open loop, counted from when a connection or message is due. \
                      Under a flood: a victim that echoes 64 bytes every 20 ms; TLS 1.2 handshakes that end \
                      when the server's flight has come. \
                      Peers on OpenSSL give two TLS 1.3 tickets after a full handshake, which is their \
                      default; offramp gives one.";
/// Which terminators the kernel carries the records of, where it can.
const ON_KERNEL_RECORDS: [&str; 2] = ["offramp kernel", "nginx kernel"];
/// Load average above which something else shares the CPUs.
const LOAD_MAX: f64 = 0.5;

/// Measure what TLS terminators need of their own CPU for the same work.
///
/// One worker each, alone on CPU 0; clients and backend on CPU 1. ECDSA P-256, X25519, AES-128-GCM, tickets,
/// no session cache. Rounds are interleaved and each sample has a fresh process, so that drift hits all
/// alike.
#[derive(Debug, Parser)]
struct Arguments {
    /// Who takes part, and in what.
    #[arg(long, value_enum, default_value_t = Set::Peers)]
    set: Set,
    /// Samples per terminator and row.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Fewer units per sample: rough figures.
    #[arg(long)]
    quick: bool,
    /// Clients at work at once for each worker: 1, 2, 4, 8 or 16. Idle connections, bulk and latencies have
    /// their own numbers.
    #[arg(long, default_value_t = CLIENTS, value_parser = power_of_two)]
    clients: u32,
    /// Only these terminators, in this order; the same twice shows how far equal things differ.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Only rows whose name contains this text.
    #[arg(long, value_name = "TEXT")]
    rows: Option<String>,
    /// The offramp binary [default: beside this one].
    #[arg(long, value_name = "PATH")]
    offramp: Option<PathBuf>,
    /// Another build of offramp, as a column of its own: what a change has changed.
    #[arg(long, value_name = "PATH")]
    before: Option<PathBuf>,
    /// The nginx binary.
    #[arg(long, value_name = "PATH", default_value = "nginx")]
    nginx: PathBuf,
    /// Write every sample to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table to this file.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Draw the table into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Who takes part, and in what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Set {
    /// Every terminator that is installed, in every row.
    Peers,
    /// Two workers, with twice the clients, and one, on both CPUs, in the rows of connections and of bulk.
    Workers,
    /// TLS on both legs, to a TLS server on the clients' CPU: connections, bulk and round trips.
    Reencrypt,
    /// What options of the engine cost beside none of them, in the rows of connections.
    Options,
    /// Plain TCP on the engine's ring, and through others: what a connection and a round trip cost before any
    /// TLS.
    Plain,
}

impl Set {
    fn terminators(self) -> &'static [Terminator] {
        match self {
            Self::Peers => &TERMINATORS,
            Self::Workers => &WORKERS,
            Self::Reencrypt => &REENCRYPT,
            Self::Options => &OPTIONS,
            Self::Plain => &PLAIN,
        }
    }

    fn has(self, row: Row) -> bool {
        match self {
            Self::Peers => !row.is_plain(),
            Self::Workers => matches!(row.work, Work::Connection { .. } | Work::ToClient | Work::FromClient),
            Self::Reencrypt => !row.is_plain() && !matches!(row.work, Work::HalfHello),
            Self::Options => matches!(row.work, Work::Connection { .. }),
            Self::Plain => row.is_plain(),
        }
    }
}

/// Amounts of work are multiples of these.
fn power_of_two(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(count @ (1 | 2 | 4 | 8 | 16)) => Ok(count),
        _ => Err("not one of 1, 2, 4, 8 and 16".to_owned()),
    }
}

/// A terminator that takes part.
struct Entrant {
    /// Its column's heading.
    label: String,
    terminator: &'static Terminator,
    program: PathBuf,
}

fn main() -> ExitCode {
    match compare(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(arguments: Arguments) -> Result<()> {
    let results = [&arguments.json, &arguments.markdown, &arguments.svg];
    for path in results.into_iter().flatten() {
        ensure!(!path.exists(), "{} exists: a result is never overwritten", path.display());
    }
    let entrants = entrants(&arguments)?;
    let wanted = arguments.rows.as_deref().unwrap_or_default();
    let is_wanted = |label: &str| label.contains(wanted);
    let rows: Vec<_> =
        Row::all().into_iter().filter(|&row| arguments.set.has(row) && is_wanted(&row.label())).collect();
    let of_peers = |label: &str| arguments.set == Set::Peers && is_wanted(label);
    let latencies: Vec<_> = Latency::all().into_iter().filter(|it| of_peers(&it.label())).collect();
    let floods: Vec<_> = UnderFlood::all().into_iter().filter(|it| of_peers(&it.label())).collect();
    let count = rows.len() + latencies.len() + floods.len();
    ensure!(count > 0, "no row has {wanted:?} in its name");

    // Before we are pinned: this one counts the CPUs that we may use.
    let machine = Machine::this();
    ensure!(machine.cores > 1, "one CPU for the terminator and one for the rest: two are needed");
    if machine.load > LOAD_MAX {
        eprintln!("This machine is busy (load average {}): the figures are not to be trusted.", machine.load);
    }
    confine()?;

    let mut report = Report {
        date: machine::date(),
        command: report::command("compare", env::args().skip(1)),
        commit: machine::commit(),
        method: METHOD.to_owned(),
        profile: if cfg!(debug_assertions) { "debug" } else { "release" },
        machine,
        versions: versions(&entrants),
        rounds: usize::from(arguments.rounds),
        rows: Vec::new(),
    };
    let (backend, identity) = (Backend::start(BACKEND_THREADS)?, Identity::generate()?);
    let rsa = Identity::generate_rsa()?;
    let server = match arguments.set {
        Set::Reencrypt => {
            Some(tls_server(&offramp(arguments.offramp.as_deref())?, backend.address(), &identity)?)
        }
        _ => None,
    };
    let field = Field {
        entrants: &entrants,
        backend: &backend,
        behind: server.as_ref().map_or(backend.address(), |server| server.address),
        identity: &identity,
        rsa: &rsa,
        rounds: report.rounds,
        clients: arguments.clients,
    };
    let amount = if arguments.quick { Amount::QUICK } else { Amount::FULL };
    for row in rows {
        let samples = field.rounds(&row.label(), row.unit(), &identity, |bench| bench.sample(row, amount))?;
        report.rows.push(RowReport::new(row.label(), row.unit(), row.count(amount), samples));
    }
    for latency in latencies {
        report.rows.push(field.latency(latency, if arguments.quick { Span::QUICK } else { Span::FULL })?);
    }
    for flood in floods {
        report.rows.push(field.flood(flood, if arguments.quick { Span::QUICK } else { Span::FULL })?);
    }
    publish(&arguments, &report)
}

/// Prints the table and writes the files that were asked for.
fn publish(arguments: &Arguments, report: &Report) -> Result<()> {
    println!("{}", report.table());
    if let Some(path) = &arguments.json {
        report::write(path, &(report.json()? + "\n"))?;
    }
    if let Some(path) = &arguments.markdown {
        report::write(path, &report.markdown())?;
    }
    if let Some(path) = &arguments.svg {
        report::write(path, &chart::svg(report)?)?;
    }
    Ok(())
}

/// Who takes part, and what they all have in common.
struct Field<'a> {
    entrants: &'a [Entrant],
    backend: &'a Backend,
    /// Where the entrants connect to: the backend, or a TLS server in front of it.
    behind: SocketAddr,
    identity: &'a Identity,
    /// The other kind of key, where a row asks for it.
    rsa: &'a Identity,
    rounds: usize,
    /// For each worker.
    clients: u32,
}

impl Field<'_> {
    /// Every entrant's samples for one row: A B A B, each from a fresh process.
    fn rounds(
        &self,
        label: &str,
        unit: &str,
        identity: &Identity,
        sample: impl Fn(&Bench<'_>) -> Result<f64>,
    ) -> Result<Vec<(String, Vec<f64>)>> {
        let mut samples: Vec<_> =
            self.entrants.iter().map(|entrant| (entrant.label.clone(), Vec::new())).collect();
        for round in 1..=self.rounds {
            for (entrant, (name, samples)) in self.entrants.iter().zip(&mut samples) {
                let figure = self.with(entrant, identity, &sample)?;
                eprintln!("{label}, round {round} of {}, {name}: {figure:.1} {unit}", self.rounds);
                samples.push(figure);
            }
        }
        Ok(samples)
    }

    /// A row of latencies, all at the same rate: one that the slowest can sustain.
    fn latency(&self, latency: Latency, span: Span) -> Result<RowReport> {
        let mut rate: Option<f64> = None;
        for entrant in self.entrants {
            if let Some(highest) =
                self.with(entrant, self.identity, |bench| latency.highest_rate(bench, span))?
            {
                eprintln!("{}, {}: at most {highest:.0} a second", latency.label(), entrant.label);
                rate = Some(rate.map_or(highest, |slowest| slowest.min(highest)));
            }
        }
        let rate = rate.map(|slowest| slowest * LOAD_SHARE);
        let label = match rate {
            Some(rate) => format!("{}, {rate:.0} a second", latency.label()),
            None => latency.label(),
        };
        let samples = self.rounds(&label, "µs", self.identity, |bench| latency.sample(bench, rate, span))?;
        Ok(RowReport::new(label, "µs of time", span.sample_s, samples))
    }

    /// A row of what a victim notices under a handshake flood; how many handshakes there were goes to stderr.
    fn flood(&self, flood: UnderFlood, span: Span) -> Result<RowReport> {
        let label = flood.label();
        let identity = if flood.key == Key::Rsa { self.rsa } else { self.identity };
        let length = Duration::from_secs(span.sample_s.into());
        let samples = self.rounds(&label, "µs", identity, |bench| {
            let outcome = flood.sample(bench, false, length)?;
            eprintln!(
                "{:.0} handshakes a second, {} refused",
                outcome.handshakes_per_second, outcome.refused
            );
            Ok(outcome.noticed.percentile(99).as_secs_f64() * 1e6)
        })?;
        Ok(RowReport::new(label, "µs of time", span.sample_s, samples))
    }

    fn with<T>(
        &self,
        entrant: &Entrant,
        identity: &Identity,
        sample: impl Fn(&Bench<'_>) -> Result<T>,
    ) -> Result<T> {
        let terminator = entrant.terminator.start(&entrant.program, self.behind, identity)?;
        let trusted = &identity.certificate;
        let clients = self.clients * u32::from(entrant.terminator.workers);
        let bench = Bench { terminator: &terminator, backend: self.backend, trusted, clients };
        sample(&bench).with_context(|| entrant.label.clone())
    }
}

fn entrants(arguments: &Arguments) -> Result<Vec<Entrant>> {
    let kernel = RECORD_PATHS.iter().filter(|it| ON_KERNEL_RECORDS.contains(&it.name));
    let kernel = kernel.filter(|_| arguments.set == Set::Peers && has_kernel_tls());
    let all = arguments.set.terminators().iter().chain(kernel);
    let all = all.filter(|terminator| is_there(terminator, arguments));
    let all = all.map(|terminator| terminator.name.to_owned()).collect();
    let names = if arguments.only.is_empty() { &all } else { &arguments.only };
    let mut seen = HashMap::new();
    let mut entrants = Vec::new();
    for name in names {
        let terminator = by_name(name).with_context(|| format!("no terminator is called {name:?}"))?;
        let program = program(terminator, arguments)?;
        let times = seen.entry(terminator.name).and_modify(|times| *times += 1).or_insert(1);
        let label = if *times == 1 { name.clone() } else { format!("{name} ({times})") };
        entrants.push(Entrant { label, terminator, program });
    }
    if let Some(before) = &arguments.before {
        let terminator = by_name("offramp").context("offramp is one of the terminators")?;
        let program = offramp(Some(before))?;
        entrants.push(Entrant { label: "before".to_owned(), terminator, program });
    }
    Ok(entrants)
}

/// Says so of one that is not; whoever is asked for by name and is not there is an error when it starts.
fn is_there(terminator: &Terminator, arguments: &Arguments) -> bool {
    let Ok(program) = program(terminator, arguments) else { return true };
    let found = Command::new(&program).args(terminator.version_arguments).output();
    if let Err(error) = &found {
        let (name, program) = (terminator.name, program.display());
        let package = name.split(' ').next().unwrap_or(name);
        eprintln!("{name} is left out: {program}: {error}; Debian has it: apt-get install {package}");
    }
    let has_stream = !terminator.name.starts_with("nginx") || Path::new(STREAM_MODULE).exists();
    if found.is_ok() && !has_stream {
        eprintln!("nginx may lack its stream module; Debian has it: apt-get install libnginx-mod-stream");
    }
    found.is_ok()
}

/// Whether this host's kernel has TLS, as far as it says without being asked to load the module.
fn has_kernel_tls() -> bool {
    let protocols = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp").unwrap_or_default();
    let has = protocols.split_whitespace().any(|name| name == "tls");
    if !has {
        eprintln!("Kernel records are left out: this kernel has no TLS, or `modprobe tls` was not run.");
    }
    has
}

fn program(terminator: &Terminator, arguments: &Arguments) -> Result<PathBuf> {
    match terminator.name.split(' ').next() {
        Some("offramp") => offramp(arguments.offramp.as_deref()),
        Some("nginx") => Ok(arguments.nginx.clone()),
        _ => Ok(terminator.program()),
    }
}

fn offramp(given: Option<&Path>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => env::current_exe()?.with_file_name("offramp"),
    };
    ensure!(path.exists(), "{} does not exist: run `cargo build --release` first", path.display());
    Ok(path)
}

fn versions(entrants: &[Entrant]) -> Vec<Versioned> {
    let mut versions: Vec<Versioned> = Vec::new();
    for Entrant { terminator, program, .. } in entrants {
        if versions.iter().all(|known| known.name != terminator.name) {
            let version = machine::says(program, terminator.version_arguments);
            versions.push(Versioned { name: terminator.name.to_owned(), version });
        }
    }
    versions.push(Versioned { name: "compiler".to_owned(), version: machine::rustc() });
    versions
}

/// Pins this thread, and so all that it starts, to the clients' CPU, and lets us have enough descriptors.
fn confine() -> Result<()> {
    let limit = socket::raise_nofile_limit().context("the limit on open descriptors")?;
    ensure!(limit >= DESCRIPTORS, "{limit} descriptors may be open and {DESCRIPTORS} are needed: ulimit -Hn");
    let allowed = affinity::allowed()?;
    for cpu in [TERMINATOR_CPU, CLIENT_CPU] {
        ensure!(allowed.contains(&cpu), "CPU {cpu} is needed, and this process may use only {allowed:?}");
    }
    affinity::pin(CLIENT_CPU).with_context(|| format!("pinning to CPU {CLIENT_CPU}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_get_two_labels_unknown_names_are_refused() {
        let arguments = Arguments::parse_from(["compare", "--only", "nginx,nginx"]);
        let labels: Vec<_> = entrants(&arguments).unwrap().into_iter().map(|entrant| entrant.label).collect();
        assert_eq!(labels, ["nginx", "nginx (2)"]);
        let arguments = Arguments::parse_from(["compare", "--only", "apache"]);
        assert!(entrants(&arguments).is_err());
    }

    #[test]
    fn a_missing_offramp_says_what_to_do() {
        let error = offramp(Some(Path::new("/nonexistent/offramp"))).unwrap_err();
        assert!(error.to_string().contains("cargo build --release"));
    }

    #[test]
    fn arguments_out_of_range_are_refused() {
        assert!(Arguments::try_parse_from(["compare", "--clients", "3"]).is_err());
        assert!(Arguments::try_parse_from(["compare", "--rounds", "0"]).is_err());
        assert!(Arguments::try_parse_from(["compare", "--rounds", "101"]).is_err());
    }
}
