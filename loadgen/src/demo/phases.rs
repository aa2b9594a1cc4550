//! The kinds of load that the demonstration shows.

use std::time::Duration;

use crate::plan::{Ending, Load, Pin, Plan, Request, Until, Version, Work};

/// One kind of load for some time.
#[derive(Clone, Debug)]
pub struct Phase {
    /// On which version of TLS.
    pub version: Version,
    /// What the connections are for.
    pub work: Work,
    /// Whether handshakes shall be abbreviated.
    pub resumed: bool,
    /// Client threads, at least one.
    pub threads: usize,
    /// Connections at once on each thread, at least one.
    pub connections: usize,
    /// Load before anything counts.
    pub warm_up: Duration,
    /// Load that counts.
    pub measured: Duration,
}

impl Phase {
    /// As in the table.
    #[must_use]
    pub fn label(&self) -> String {
        let work = match (&self.work, self.resumed) {
            (Work::Handshake(_), false) => "full handshakes",
            (Work::Handshake(_), true) => "resumed handshakes",
            (work, _) => work.label(),
        };
        format!("{} {work}", self.version.label())
    }

    /// What the runner is asked for.
    #[must_use]
    pub fn plan(&self) -> Plan {
        Plan {
            work: self.work.clone(),
            load: Load::Closed { connections: self.connections * self.threads },
            resume: if self.resumed { 1.0 } else { 0.0 },
            ending: Ending::Reset,
            sources: Vec::new(),
            threads: self.threads,
            pin: Pin::Off,
            warm_up: self.warm_up,
            until: Until::Elapsed(self.measured),
            patience: PATIENCE,
            give_up_after: FAILURES_MAX,
            seed: 0,
        }
    }
}

/// How long each part of a connection may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Failures in a row on one thread after which a phase is given up.
const FAILURES_MAX: u64 = 20;
/// Connections at once on each thread where handshakes are counted.
const HANDSHAKES_AT_ONCE: usize = 4;

/// Handshakes full and resumed, then bulk both ways, on both versions; `total` in all, a fifth of it warm-up.
#[must_use]
pub(super) fn all(total: Duration, threads: usize) -> Vec<Phase> {
    let handshakes = Version::BOTH.into_iter().flat_map(|version| {
        [false, true].map(|resumed| (version, Work::Handshake(Request::Echo), resumed, HANDSHAKES_AT_ONCE))
    });
    let bulk = Version::BOTH
        .into_iter()
        .flat_map(|version| [Work::ToClient, Work::FromClient].map(|work| (version, work, false, 1)));
    let all: Vec<_> = handshakes.chain(bulk).collect();
    let each = total / u32::try_from(all.len()).unwrap_or(1);
    all.into_iter()
        .map(|(version, work, resumed, connections)| Phase {
            version,
            work,
            resumed,
            threads,
            connections,
            warm_up: each / 5,
            measured: each - each / 5,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demo_phases_are_distinct_and_fill_the_duration() {
        let phases = all(Duration::from_secs(16), 2);
        assert_eq!(phases.len(), 8);
        for (index, phase) in phases.iter().enumerate() {
            assert!(phases[index + 1..].iter().all(|other| other.label() != phase.label()));
        }
        let total: Duration = phases.iter().map(|phase| phase.warm_up + phase.measured).sum();
        assert_eq!(total, Duration::from_secs(16));
    }
}
