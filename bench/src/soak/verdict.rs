//! What a soak found: epoch by epoch, and whether all of it is as it should be.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Memory may grow by this share between the first and the last third of the epochs, and by [`GROWTH_KIB`].
const GROWTH: f64 = 0.10;
/// What the allocator's segments make of chance: 4 MiB each (mimalloc), one per worker.
const GROWTH_KIB: u64 = 8 << 10;
/// With fewer epochs growth is not judged.
const EPOCHS_MIN: usize = 9;

/// The whole of it.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// What decided the order of the faults.
    pub seed: u64,
    /// How long it took.
    pub seconds: u64,
    /// Handshakes per second that were asked for: 70 % of what this machine does.
    pub handshakes_per_second: f64,
    /// Faults that this machine does not allow, and why.
    pub left_out: Vec<String>,
    /// In their order.
    pub epochs: Vec<Epoch>,
    /// How the engine ended.
    pub end: End,
}

/// One fault, with what the loads noticed of it and what was left over.
#[derive(Clone, Debug, Serialize)]
pub struct Epoch {
    /// Which.
    pub fault: String,
    /// By load.
    pub outcomes: Vec<Outcome>,
    /// Afterwards, with nothing open.
    pub rest: Rest,
}

/// What one load noticed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Which, and behind which pool.
    pub load: String,
    /// Connections that ended as they should.
    pub connections: u64,
    /// Messages that were answered.
    pub messages: u64,
    /// Connections that failed, and should not have.
    pub failed: u64,
    /// Why.
    pub reasons: BTreeMap<String, u64>,
    /// Connections that failed by the fault: a backend was killed, no descriptor was left.
    pub excused: u64,
    /// Connections with lost or changed bytes; no fault excuses one.
    pub changed: u64,
    /// Tickets that were offered and not taken; no fault excuses one.
    pub resumed_refused: u64,
    /// Why the load was broken off, if it was.
    pub broken_off: Option<String>,
}

/// What is left with nothing open.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rest {
    /// Slots in use.
    pub connections: u64,
    /// Buffers lent and not returned.
    pub buffers_lent: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Of these, more than behind the first epoch.
    pub descriptors_leaked: u64,
    /// Processes that have handed over and not ended.
    pub processes: u64,
    /// Resident memory.
    pub resident_kib: u64,
    /// What the engine counted in this epoch, by name.
    pub faults: BTreeMap<String, u64>,
}

/// How the engine ended, asked by SIGTERM with nothing open.
#[derive(Clone, Debug, Default, Serialize)]
pub struct End {
    /// With exit code 0.
    pub is_orderly: bool,
    /// As the system says it.
    pub status: String,
}

impl Verdict {
    pub(super) fn new(seed: u64, handshakes_per_second: f64, left_out: &[String]) -> Self {
        let (epochs, end) = (Vec::new(), End::default());
        Self { seed, seconds: 0, handshakes_per_second, left_out: left_out.to_vec(), epochs, end }
    }

    /// All that is not as it should be; nothing if all is well.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<_> =
            self.epochs.iter().enumerate().flat_map(|(nth, epoch)| epoch.problems(nth)).collect();
        problems.extend(self.growth());
        if !self.end.is_orderly {
            problems.push(format!("the engine's end: {}", self.end.status));
        }
        problems
    }

    /// Medians of the first and the last third, so that one epoch decides nothing.
    fn growth(&self) -> Option<String> {
        let third = self.epochs.len() / 3;
        if self.epochs.len() < EPOCHS_MIN {
            return None;
        }
        let (first, last) =
            (median(&self.epochs[..third]), median(&self.epochs[self.epochs.len() - third..]));
        let allowed = first + (first as f64 * GROWTH) as u64 + GROWTH_KIB;
        (last > allowed).then(|| format!("resident memory grew from {first} to {last} KiB"))
    }

    fn sum(&self, of: impl Fn(&Outcome) -> u64) -> u64 {
        self.epochs.iter().flat_map(|epoch| &epoch.outcomes).map(of).sum()
    }
}

fn median(epochs: &[Epoch]) -> u64 {
    let mut all: Vec<_> = epochs.iter().map(|epoch| epoch.rest.resident_kib).collect();
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

impl Epoch {
    fn problems(&self, nth: usize) -> Vec<String> {
        let Rest { connections, buffers_lent, descriptors_leaked, processes, .. } = self.rest;
        let left = [
            (connections, "connections are still open"),
            (buffers_lent, "buffers are still lent"),
            (processes, "processes that have handed over are still there"),
            (descriptors_leaked, "descriptors more are open than behind the first epoch"),
        ];
        let left = left.into_iter().filter(|(count, _)| *count > 0);
        let mut found: Vec<_> = left.map(|(count, what)| format!("{count} {what}")).collect();
        for outcome in &self.outcomes {
            let Outcome { load, failed, changed, resumed_refused, reasons, .. } = outcome;
            if *failed > 0 {
                found.push(format!("{load}: {failed} connections failed: {reasons:?}"));
            }
            if *changed > 0 {
                found.push(format!("{load}: {changed} connections had LOST OR CHANGED BYTES"));
            }
            if *resumed_refused > 0 {
                found.push(format!("{load}: {resumed_refused} tickets were refused"));
            }
            if let Some(why) = &outcome.broken_off {
                found.push(format!("{load}: broken off: {why}"));
            }
            if outcome.connections + outcome.messages == 0 && outcome.excused == 0 {
                found.push(format!("{load}: nothing was done"));
            }
        }
        found.into_iter().map(|what| format!("epoch {nth} ({}): {what}", self.fault)).collect()
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |of: fn(&Outcome) -> u64| self.outcomes.iter().map(of).sum::<u64>();
        let (ended, messages) = (sum(|it| it.connections), sum(|it| it.messages));
        let (failed, excused) = (sum(|it| it.failed), sum(|it| it.excused));
        let Rest { descriptors, resident_kib, .. } = self.rest;
        write!(
            f,
            "{:<24} {ended:>8} connections {messages:>7} messages {failed:>4} failed {excused:>5} excused; \
             at rest {descriptors} descriptors, {resident_kib} KiB",
            self.fault
        )?;
        let faults: Vec<_> =
            self.rest.faults.iter().map(|(fault, count)| format!("{fault} {count}")).collect();
        if faults.is_empty() { Ok(()) } else { write!(f, "; faults: {}", faults.join(", ")) }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problems = self.problems();
        let (verdict, epochs) = (if problems.is_empty() { "GOOD" } else { "NOT GOOD" }, self.epochs.len());
        writeln!(f, "soak: {verdict}: {epochs} epochs in {} s, seed {}", self.seconds, self.seed)?;
        writeln!(
            f,
            "  {} connections and {} messages, {:.0} handshakes per second asked for",
            self.sum(|it| it.connections),
            self.sum(|it| it.messages),
            self.handshakes_per_second
        )?;
        writeln!(
            f,
            "  {} failed by the engine, {} by the fault; {} with lost or changed bytes",
            self.sum(|it| it.failed),
            self.sum(|it| it.excused),
            self.sum(|it| it.changed)
        )?;
        if let (Some(first), Some(last)) = (self.epochs.first(), self.epochs.last()) {
            let (first, last) = (&first.rest, &last.rest);
            writeln!(
                f,
                "  at rest: descriptors {} and {}, resident {} and {} KiB (first and last epoch)",
                first.descriptors, last.descriptors, first.resident_kib, last.resident_kib
            )?;
        }
        if self.epochs.len() < EPOCHS_MIN {
            writeln!(f, "  growth of memory is not judged with fewer than {EPOCHS_MIN} epochs")?;
        }
        for left_out in &self.left_out {
            writeln!(f, "  left out: {left_out}")?;
        }
        problems.iter().try_for_each(|problem| writeln!(f, "  {problem}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(resident_kib: u64) -> Epoch {
        let outcome = Outcome { load: "handshakes, Steady".to_owned(), connections: 9, ..Outcome::default() };
        let rest = Rest { descriptors: 40, resident_kib, ..Rest::default() };
        Epoch { fault: "reloads".to_owned(), outcomes: vec![outcome], rest }
    }

    fn verdict(epochs: Vec<Epoch>) -> Verdict {
        let end = End { is_orderly: true, status: "exit status: 0".to_owned() };
        Verdict { epochs, end, ..Verdict::new(1, 100.0, &[]) }
    }

    #[test]
    fn every_deviation_in_an_epoch_is_a_problem() {
        assert_eq!(verdict(vec![good(1)]).problems(), [""; 0]);
        type Change = fn(&mut Epoch);
        let changes: [(Change, &str); 9] = [
            (|it| it.outcomes[0].failed = 1, "1 connections failed"),
            (|it| it.outcomes[0].changed = 1, "LOST OR CHANGED"),
            (|it| it.outcomes[0].resumed_refused = 2, "2 tickets were refused"),
            (|it| it.outcomes[0].broken_off = Some("late".to_owned()), "broken off: late"),
            (|it| it.outcomes[0].connections = 0, "nothing was done"),
            (|it| it.rest.connections = 3, "3 connections are still open"),
            (|it| it.rest.buffers_lent = 4, "4 buffers"),
            (|it| it.rest.descriptors_leaked = 5, "5 descriptors"),
            (|it| it.rest.processes = 1, "1 processes"),
        ];
        for (change, expected) in changes {
            let mut epoch = good(1);
            change(&mut epoch);
            let problems = verdict(vec![good(1), epoch]).problems();
            let [problem] = &problems[..] else { panic!("{problems:?}") };
            assert!(problem.starts_with("epoch 1 (reloads): ") && problem.contains(expected), "{problem}");
        }
        let mut excused = good(1);
        excused.outcomes[0].excused = 7;
        assert_eq!(verdict(vec![excused]).problems(), [""; 0]);
        let mut ended = verdict(vec![good(1)]);
        ended.end.is_orderly = false;
        assert_eq!(ended.problems().len(), 1);
    }

    #[test]
    fn growth_is_judged_by_thirds_with_enough_epochs() {
        let rising = |epochs: usize, step: u64| {
            verdict((0..epochs as u64).map(|nth| good(100_000 + nth * step)).collect())
        };
        assert_eq!(rising(30, 100).problems(), [""; 0]);
        assert_eq!(rising(30, 2_000).problems().len(), 1);
        assert_eq!(rising(EPOCHS_MIN - 1, 20_000).problems(), [""; 0]);
        assert!(rising(EPOCHS_MIN - 1, 20_000).to_string().contains("not judged"));
    }
}
