//! `flood`: what an established connection notices of a handshake flood, and how many handshakes there are.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use offramp_attack::hello::Key;
use offramp_bench::flood::{Outcome, UnderFlood};
use offramp_bench::terminator::{CLIENT_CPU, by_name};
use offramp_bench::workload::Bench;
use offramp_loadgen::backend::Backend;
use offramp_loadgen::identity::Identity;
use offramp_ring::{affinity, socket};

/// Flood a terminator with handshakes and watch one established connection beside them.
///
/// A fresh terminator on CPU 0 for each line; flood (at a lower priority), victim and backend on CPU 1. The
/// victim sends 64 bytes every 20 ms; times count from when a message is due. On a machine with other work:
/// `nice -n -20 flood …`.
#[derive(Debug, Parser)]
struct Arguments {
    /// The terminators, as `compare` calls them.
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "offramp")]
    terminator: Vec<String>,
    /// The offramp binary [default: beside this one].
    #[arg(long, value_name = "PATH")]
    offramp: Option<PathBuf>,
    /// The terminator's key.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ecdsa,rsa")]
    key: Vec<KeyName>,
    /// The flood asks for TLS 1.3 and not for 1.2.
    #[arg(long)]
    tls13: bool,
    /// Clients at once; 0 is no flood.
    #[arg(long, value_delimiter = ',', default_value = "0,100,500,4000")]
    clients: Vec<usize>,
    /// Length of a sample.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KeyName {
    Ecdsa,
    Rsa,
}

fn main() -> ExitCode {
    match flood(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flood: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn flood(arguments: &Arguments) -> Result<()> {
    let limit = socket::raise_nofile_limit().context("the limit on open descriptors")?;
    let most = arguments.clients.iter().max().copied().unwrap_or_default();
    ensure!(limit > most as u64 + 64, "{limit} descriptors may be open: ulimit -Hn");
    affinity::pin(CLIENT_CPU).with_context(|| format!("pinning to CPU {CLIENT_CPU}"))?;
    let backend = Backend::start(1)?;
    println!("{HEADING}");
    for &key in &arguments.key {
        let (identity, key) = match key {
            KeyName::Ecdsa => (Identity::generate()?, Key::Ecdsa),
            KeyName::Rsa => (Identity::generate_rsa()?, Key::Rsa),
        };
        for &clients in &arguments.clients {
            for name in &arguments.terminator {
                let terminator =
                    by_name(name).with_context(|| format!("no terminator is called {name:?}"))?;
                let program = match &arguments.offramp {
                    Some(path) if name.starts_with("offramp") => path.clone(),
                    _ => terminator.program(),
                };
                let running = terminator.start(&program, backend.address(), &identity)?;
                let trusted = &identity.certificate;
                let bench = Bench { terminator: &running, backend: &backend, trusted, clients: 1 };
                let length = Duration::from_secs(arguments.seconds);
                let it = UnderFlood { key, clients }.sample(&bench, arguments.tls13, length)?;
                println!("{}", line(name, key, clients, &it));
            }
        }
    }
    Ok(())
}

const HEADING: &str = "terminator  key    clients  victim: p50 ms     p99 ms     max ms  messages  \
                       handshakes/s  refused  CPU";

fn line(name: &str, key: Key, clients: usize, it: &Outcome) -> String {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (p50, p99) = (ms(it.noticed.percentile(50)), ms(it.noticed.percentile(99)));
    let (max, count, key) = (ms(it.noticed.max()), it.noticed.count(), format!("{key:?}"));
    let (rate, refused, busy) = (it.handshakes_per_second, it.refused, it.busy);
    format!(
        "{name:<10}  {key:<5}  {clients:>7}  {p50:>14.2}  {p99:>9.2}  {max:>9.2}  {count:>8}  \
         {rate:>12.0}  {refused:>7}  {busy:.2}"
    )
}
