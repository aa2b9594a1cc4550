//! Worlds of which a seed decides everything.
//!
//! `OFFRAMP_WORLDS` says how many (default 4,000), `OFFRAMP_SEED` runs one of them again and prints the
//! digest of what happened in it.

use std::process::Command;

use offramp_sim::{Outcome, outcome_of_chance};

use crate::lab::bytes;

const SEED: &str = "OFFRAMP_SEED";
const HERE: &str = "chance::whatever_chance_decides_the_contract_holds";

/// Most seeds of failed worlds that are listed.
const FAILED_MAX: usize = 32;

fn outcome(seed: u64) -> Outcome {
    outcome_of_chance(&bytes(600, seed))
}

fn world(seed: u64) -> u64 {
    outcome(seed).transcript
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

#[test]
fn whatever_chance_decides_the_contract_holds() {
    if let Some(seed) = number(SEED) {
        println!("\nseed {seed}: transcript {:016x}", world(seed));
        return;
    }
    let worlds = number("OFFRAMP_WORLDS").unwrap_or(4000);
    let fails = |seed: &u64| {
        if *seed > 0 && seed.is_multiple_of(50_000) {
            eprintln!("{seed} worlds were run");
        }
        std::panic::catch_unwind(|| world(*seed)).is_err()
    };
    let failed: Vec<u64> = (0..worlds).filter(fails).take(FAILED_MAX).collect();
    let again = "cargo test --workspace --test sim whatever_chance -- --nocapture";
    assert!(failed.is_empty(), "seeds {failed:?} of {worlds}; one again: {SEED}={} {again}", failed[0]);
}

/// Without these a world that is never set up would be one in which nothing fails.
#[test]
fn chance_passes_tls_through_and_sends_headers() {
    let [mut passed, mut proxied, mut both] = [0; 3];
    for outcome in (0..2000).map(outcome) {
        let is_relayed = !outcome.to_backend.is_empty();
        let passes = is_relayed && outcome.peer.is_passed_through();
        let has_client = is_relayed && outcome.proxied.is_some();
        passed += u32::from(passes);
        proxied += u32::from(has_client && !passes);
        both += u32::from(has_client && passes);
    }
    assert!(passed > 100 && proxied > 50 && both > 10, "{passed}, {proxied}, {both}");
}

#[test]
fn a_seed_decides_its_world_every_time() {
    for seed in 0..200 {
        assert_eq!(world(seed), world(seed), "seed {seed}");
    }
}

/// Nothing of a process shows in a world: its clock, its randomness, its addresses, what ran before.
#[test]
fn a_seed_decides_its_world_in_every_process() {
    for seed in [3, 393_463] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output =
            command.args(["--exact", HERE, "--nocapture"]).env(SEED, seed.to_string()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let expected = format!("seed {seed}: transcript {:016x}", world(seed));
        assert!(output.status.success() && text.contains(&expected), "{expected} is not in {text}");
    }
}
