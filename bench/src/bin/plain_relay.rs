//! `plain_relay`: plain TCP through the engine's ring, for `compare --set plain`.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;

/// Relay plain TCP on the engine's ring: what a connection costs before any TLS.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to.
    backend: SocketAddr,
}

fn main() -> ExitCode {
    match offramp_bench::plain::relay(Arguments::parse().backend) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plain_relay: {error}; see `offramp probe` for what this host can do");
            ExitCode::FAILURE
        }
    }
}
