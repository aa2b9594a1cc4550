//! The command line as it is written.

pub mod values;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::demo;
use crate::plan::{Pin, Request, Target, Version};
use crate::schedule::{Rate, Spacing};
use crate::trust::{Fingerprint, parse_fingerprint};

/// The exit codes, for `--help`.
const EXIT_CODES: &str = "\
Exit codes:
  0  the run did what was asked
  1  the run could not be made, or the demo found a problem
  2  the command line is wrong
  3  connections failed, or nothing was done
  4  handshakes were not of the kind or version that was asked for
  5  a byte of application data was lost or changed
  6  no rate meets the limit of --find-max
  7  a signal ended the run early; what it found until then was reported, and nothing else went wrong
  8  standard output was closed or is full; files were written, and nothing else went wrong";

/// Put TLS load on a terminator and verify every sample.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, after_help = EXIT_CODES)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start an engine in this process and show what it does: handshakes full and resumed, and bulk data.
    Demo {
        /// Print the result as JSON and nothing else on standard output.
        #[arg(long)]
        json: bool,
        /// Seconds of load.
        #[arg(long, value_name = "N", default_value_t = demo::SECONDS_DEFAULT, value_parser =
            clap::value_parser!(u64).range(demo::SECONDS))]
        seconds: u64,
    },
    /// Handshakes: full, resumed or a mix, in a closed loop or at planned times.
    #[command(after_help = EXIT_CODES)]
    Handshake(Box<Handshake>),
    /// Bulk data up, down or both ways, every byte checked.
    #[command(after_help = EXIT_CODES)]
    Transfer(Box<Transfer>),
    /// Requests and answers on long connections, or an MSRP-like mix, every byte checked.
    #[command(after_help = EXIT_CODES)]
    Message(Box<Message>),
    /// Full against abbreviated handshakes over a long line: predicted beside measured.
    #[command(after_help = EXIT_CODES)]
    Latency(Latency),
    /// Serve what transfer, message and echo need behind a terminator, over plain TCP.
    Backend(Backend),
    /// Compare two reports that --json wrote.
    Report {
        /// The first report.
        a: PathBuf,
        /// The second report.
        b: PathBuf,
    },
}

/// `loadgen handshake`.
#[derive(Debug, Args)]
pub struct Handshake {
    #[command(flatten)]
    #[expect(missing_docs, reason = "its own documentation must not become help text")]
    pub common: Common,
    /// The share of handshakes that shall be resumed, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = values::share)]
    pub resume: f64,
    /// What to say after the handshake: none; echo (one byte, for `loadgen backend`); http or http:/path,
    /// whose answer must have a status of 2xx or 3xx.
    #[arg(long, default_value = "none", value_parser = values::request)]
    pub request: Request,
    /// Start connections at this rate per second, whether or not earlier ones are done; A..B rises from A
    /// to B. Latencies then count from the planned start. Without it, --connections follow one another.
    #[arg(long, value_name = "RATE", value_parser = values::rate)]
    pub rate: Option<Rate>,
    /// How planned starts are spread.
    #[arg(long, value_enum, default_value_t = Spacing::Poisson)]
    pub spacing: Spacing,
    /// Search for the highest rate whose 99th percentile stays within --p99, without failures.
    #[arg(long, requires = "p99", conflicts_with = "then_target")]
    pub find_max: bool,
    /// The limit of --find-max.
    #[arg(long, value_name = "TIME", value_parser = values::duration, requires = "find_max")]
    pub p99: Option<Duration>,
    /// When --target is done, do the same with this one and the tickets of those before: another host that
    /// shares ticket keys must take them. (rustls cannot write its tickets to a file.) May be repeated.
    #[arg(long, value_name = "HOST:PORT", value_parser = values::target)]
    pub then_target: Vec<Target>,
    /// Do not fail if handshakes that were to be resumed were full.
    #[arg(long)]
    pub allow_full: bool,
    /// End after N handshakes instead of after --duration.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..),
        conflicts_with_all = ["rate", "find_max"])]
    pub samples: Option<u64>,
}

/// Which way bulk data goes.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Direction {
    /// From the client.
    Up,
    /// To the client.
    Down,
    /// To an echo and back; any echo will do.
    Both,
}

/// `loadgen transfer`.
#[derive(Debug, Args)]
pub struct Transfer {
    #[command(flatten)]
    #[expect(missing_docs, reason = "its own documentation must not become help text")]
    pub common: Common,
    /// Which way; up and down want `loadgen backend` behind the target.
    #[arg(long, value_enum, default_value_t = Direction::Down)]
    pub direction: Direction,
}

/// The mean gap between the messages of an MSRP-like conversation unless told otherwise; an assumption, for
/// no public figures exist.
pub const MSRP_GAP: Duration = Duration::from_secs(5);

/// `loadgen message`.
#[derive(Debug, Args)]
pub struct Message {
    #[command(flatten)]
    #[expect(missing_docs, reason = "its own documentation must not become help text")]
    pub common: Common,
    /// MSRP-like: messages of mixed sizes in SENDs of at most 2 KiB, each to be answered with 200 by any MSRP
    /// server behind the target, with random idle gaps: exponentially distributed, --every (5s) on average.
    #[arg(long, conflicts_with_all = ["request_size", "answer_size"])]
    pub msrp: bool,
    /// Bytes of a request.
    #[arg(long, value_name = "BYTES", default_value = "1k", value_parser = values::bytes)]
    pub request_size: u32,
    /// Bytes of an answer.
    #[arg(long, value_name = "BYTES", default_value = "1k", value_parser = values::bytes)]
    pub answer_size: u32,
    /// The interval at which a message is due on each connection; its latency counts from then. Without it,
    /// the next message follows the answer to the last one. With --msrp, the interval on average.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub every: Option<Duration>,
}

/// `loadgen latency`.
#[derive(Debug, Args)]
pub struct Latency {
    /// The terminator; without it, an engine is started in this process.
    #[arg(long, value_name = "HOST:PORT", value_parser = values::target, requires = "trust")]
    pub target: Option<Target>,
    /// The delay of the line, one way.
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = values::duration)]
    pub one_way: Duration,
    /// Handshakes of each kind.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub samples: u64,
    /// What to say after the handshake, as for `loadgen handshake`; the target must answer it.
    #[arg(long, default_value = "echo", value_parser = values::request)]
    pub request: Request,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its own documentation must not become help text")]
    pub trust: TrustArguments,
    /// A server name to ask for.
    #[arg(long, value_name = "NAME")]
    pub sni: Option<String>,
    /// Print the table as JSON and nothing else on standard output.
    #[arg(long)]
    pub json: bool,
}

/// `loadgen backend`.
#[derive(Debug, Args)]
pub struct Backend {
    /// The address to listen on; with port 0 a free port, which is printed.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Threads, at most one per core.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
}

/// Which server certificates are accepted.
#[derive(Clone, Debug, Args)]
#[group(id = "trust", multiple = true)]
pub struct TrustArguments {
    /// Accept chains to the certificates in this PEM file, and these certificates themselves.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Accept the certificate with this SHA-256 fingerprint, whatever its chain. May be repeated.
    #[arg(long, value_name = "HEX", value_parser = parse_fingerprint, conflicts_with = "ca")]
    pub fingerprint: Vec<Fingerprint>,
    /// Accept any certificate, of any version and with any key.
    #[arg(long, conflicts_with_all = ["ca", "fingerprint"])]
    pub insecure: bool,
}

/// What all kinds of load share.
#[derive(Debug, Args)]
pub struct Common {
    /// The terminator. An IPv6 address stands in brackets, or alone: then the port is 443.
    #[arg(long, value_name = "HOST:PORT", value_parser = values::target)]
    pub target: Target,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its own documentation must not become help text")]
    pub trust: TrustArguments,
    /// Versions of TLS, in turn: 1.2, 1.3 or 1.2,1.3.
    #[arg(long, value_name = "VERSIONS", default_value = "1.3", value_delimiter = ',',
        value_parser = values::version)]
    pub tls: Vec<Version>,
    /// Cipher suites by their IANA names, in order of preference.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub suites: Vec<String>,
    /// Groups, in order of preference; a ClientHello carries the first one's share. A TLS 1.2 server needs
    /// the curve of its certificate among them (RFC 8422 section 5.1.1).
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub groups: Vec<String>,
    /// Server names to ask for, in turn; the target's name if there is none.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub sni: Vec<String>,
    /// A client certificate (PEM); may be repeated, paired with --client-key in order; in turn.
    #[arg(long, value_name = "FILE")]
    pub client_cert: Vec<PathBuf>,
    /// The key of a client certificate (PEM).
    #[arg(long, value_name = "FILE")]
    pub client_key: Vec<PathBuf>,
    /// Make N self-signed client certificates, as media peers have them, and use them in turn.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub client_certs: usize,
    /// Connections open at once, of all threads together; with --rate, the most that are open at once.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub connections: Option<u64>,
    /// Client threads; by default one per core.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub threads: Option<u64>,
    /// Where the threads run: auto keeps each on a CPU of its own, if there are as many as threads; off
    /// leaves them to the kernel, as when several load generators share a host.
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Pin::Auto, hide_possible_values = true)]
    pub pin: Pin,
    /// How long to count, after the warm-up.
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = values::duration)]
    pub duration: Duration,
    /// Load before anything counts; counting begins when all connections are active. A run in which no
    /// further one becomes active for twice --timeout is broken off.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = values::duration)]
    pub warm_up: Duration,
    /// How long each part of a connection may take.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = values::duration)]
    pub timeout: Duration,
    /// End connections with a reset: no local port stays in TIME_WAIT. Without a --request, what a server
    /// says after the handshake (that it refuses the client's certificate, in TLS 1.3) is not waited for.
    #[arg(long)]
    pub rst: bool,
    /// Local addresses to connect from, in turn: each has its own ports.
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',')]
    pub source: Vec<IpAddr>,
    /// Break off after N failures in a row on one thread.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub give_up: u64,
    /// The share of connections that may fail, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = values::share)]
    pub allow_failures: f64,
    /// The seed of everything that is random.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its own documentation must not become help text")]
    pub output: Output,
}

/// Where results go, beside the table.
#[derive(Clone, Debug, Args)]
pub struct Output {
    /// Write the report as JSON to a file, or, without one, to standard output in place of the table.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<PathBuf>,
    /// Write a line per second, with absolute time, to a file.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write one self-contained page with plots to a file.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print no line per second on standard error.
    #[arg(short, long)]
    pub quiet: bool,
}
