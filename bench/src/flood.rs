//! What a handshake flood does to a connection that is established already.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use offramp_attack::flood::{Flood, Priority};
use offramp_attack::hello::{Hello, Key};
use offramp_attack::victim::Noticed;
use offramp_loadgen::backend;
use offramp_loadgen::plan::Version;
use rustls::HandshakeKind;

use crate::client::Client;
use crate::process::CpuTime;
use crate::suite::Suite;
use crate::workload::Bench;

/// The flood has begun to hurt, or never will.
const WARM_UP: Duration = Duration::from_secs(1);

/// How long a sample waits for the first answer to a hello of the flood.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// One line of the table; its figure is the victim's 99th percentile in µs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnderFlood {
    /// The terminator's key: a signature by RSA-2048 takes about ten times as long.
    pub key: Key,
    /// Clients at once.
    pub clients: usize,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// By the victim.
    pub noticed: Noticed,
    /// Handshakes that the terminator answered each second.
    pub handshakes_per_second: f64,
    /// Connections of the flood that ended without an answer.
    pub refused: u64,
    /// The terminator's share of its CPU.
    pub busy: f64,
}

impl UnderFlood {
    /// All lines in the order of the table.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let with = |key| [100, 500, 4000].map(|clients| Self { key, clients });
        [Key::Ecdsa, Key::Rsa].into_iter().flat_map(with).collect()
    }

    /// As in the table.
    #[must_use]
    pub fn label(self) -> String {
        let key = match self.key {
            Key::Ecdsa => "ECDSA",
            Key::Rsa => "RSA-2048",
        };
        format!("victim under a handshake flood, {key}, {} at once, p99", self.clients)
    }

    /// Takes one sample of at least this length, which goes on until a hello was answered: a slow terminator
    /// may need longer than that for one. The flood asks for TLS 1.2, or for 1.3; the victim has 1.3. Without
    /// clients there is no flood.
    ///
    /// # Errors
    /// The victim lost its connection, or the terminator answered no hello in [`ANSWER_MAX`].
    pub fn sample(self, bench: &Bench<'_>, tls13: bool, length: Duration) -> Result<Outcome> {
        let suite = Suite::usual(Version::Tls13);
        let client = Client::new(bench.terminator, bench.trusted, suite, false)?;
        let mut victim = client.open(backend::ECHO, HandshakeKind::Full).context("the victim")?;
        let hello = Hello { tls13, key: self.key };
        let flood = Flood::start(bench.terminator.address, self.clients, hello, Priority::Lower)?;
        thread::park_timeout(WARM_UP);
        let (answered, cpu) = (flood.answered(), CpuTime::read(bench.terminator.pid())?);
        let is_answered = || self.clients == 0 || flood.answered() > answered;
        let noticed = Noticed::watch_until(&mut victim, length..ANSWER_MAX, is_answered);
        let noticed = noticed.context("the victim's message");
        let used = CpuTime::read(bench.terminator.pid())?.since(cpu);
        let (answered, refused) = (flood.answered() - answered, flood.refused());
        flood.stop()?;
        let noticed = noticed.with_context(|| bench.terminator.last_words())?;
        ensure!(self.clients == 0 || answered > 0, "no hello of the flood was answered, {refused} refused");
        let seconds = noticed.length().as_secs_f64();
        Ok(Outcome {
            handshakes_per_second: answered as f64 / seconds,
            refused,
            busy: used.as_secs_f64() / seconds,
            noticed,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn flood_labels_are_distinct() {
        let labels: HashSet<_> = UnderFlood::all().into_iter().map(UnderFlood::label).collect();
        assert_eq!(labels.len(), 6);
    }
}
