//! The wire scenarios once more, inside guest kernels that have kernel TLS.
//!
//! The machines that build this project may have none. `offramp-guest` boots two kinds, neither of which
//! needs a privilege: User-Mode Linux, in two seconds and with this machine's files as its root, of three
//! generations (6.1, 6.12, and the newest, which replaces keys); and Debian's 6.12 cloud kernel on an
//! emulated machine, which is slow, so that its tests run when asked for:
//!
//! ```text
//! cargo test --test kernel -- --include-ignored
//! ```
//!
//! The very test binary of `tests/wire` runs in them, with `--offload always`. What the guest's kernel
//! counted (`/proc/net/tls_stat`) and what libtest summed up both come back and are asserted on.
//!
//! 1. `wire` finds the scenarios' binary and what it needs;
//! 2. the guest boots and runs it;
//! 3. `outcome` reads what came back.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod outcome;
mod wire;

use std::io::Write;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use offramp_guest::{Guest, Kernel, Outcome};
use outcome::{Stat, Summary};

const MIB: u64 = 1 << 20;
/// A guest that is not done by then is ended, and its test fails.
const LIMIT: Duration = Duration::from_secs(1800);

const V6_1: Kernel = Kernel::UserMode6_1;
const V6_12: Kernel = Kernel::UserMode6_12;
/// The one that can replace the keys of a direction.
const NEWEST: Kernel = Kernel::UserModeNewest;
const CLOUD: Kernel = Kernel::Cloud;
/// As [`NEWEST`], for servers.
const NEWEST_CLOUD: Kernel = Kernel::CloudNewest;

#[test]
fn accept_and_handshake_hold_on_kernel_records() {
    holds(V6_1, &["accept::", "handshake::"], 64 * MIB, 2000);
}

/// All that the other boots leave, so that a new file of scenarios is never left out.
#[test]
fn every_other_stage_holds_on_kernel_records() {
    let others = ["accept::", "handshake::", "bulk::", "control::", "key_update"];
    holds(V6_1, &others.map(|name| ["--skip", name]).concat(), 64 * MIB, 100);
}

/// Times that the kernel tries to open a forged record: the scenarios send four. It tries at each receive:
/// behind data, for the error, and while the alert waits to be read.
const FORGED: RangeInclusive<u64> = 4..=12;
/// Where keys cannot be replaced, the records that follow a KeyUpdate are counted too, as far as they come
/// before the connection is closed.
const BAD_RECORDS: RangeInclusive<u64> = 4..=BAD_RECORDS_MAX;
const BAD_RECORDS_MAX: u64 = 28;

#[test]
fn control_records_are_met_on_kernel_records() {
    holds_but_for(BAD_RECORDS, V6_1, &["control::", "key_update"], 64 * MIB, 20);
}

#[test]
fn bulk_holds_on_kernel_records_in_every_combination() {
    holds(V6_1, &["bulk::"], 64 * MIB, 8);
}

#[test]
fn a_gibibyte_each_way_holds_on_kernel_records() {
    let each_version = ["bulk::a_gibibyte_each_way_tls12_ecdsa", "bulk::a_gibibyte_each_way_tls13_ecdsa"];
    holds(V6_1, &each_version, 1 << 30, 4);
}

/// Both roles, TLS 1.3; TLS 1.2 in the client's role is among all other stages, with less.
#[test]
fn a_pair_carries_a_gibibyte_on_kernel_records() {
    holds(V6_1, &["originate::a_pair_carries_bulk"], 1 << 30, 2);
}

/// What differs from kernel to kernel: all but the handshake and what has nothing to do with records.
const RECORDS: [&str; 9] = [
    "control::",
    "key_update",
    "policy::",
    "record_paths::",
    "offload::",
    "midway::",
    "reencrypt::",
    "shutdown::",
    "the_probe_tells",
];

#[test]
fn records_are_carried_by_6_12() {
    holds_but_for(BAD_RECORDS, V6_12, &RECORDS, 64 * MIB, 100);
}

/// That the keys were the kernel's when they were replaced is what it counted itself.
#[test]
fn newest_kernel_carries_records_and_replaces_keys() {
    let kernel = holds_but_for(FORGED, NEWEST, &RECORDS, 64 * MIB, 100);
    replaced_keys(kernel, REPLACED);
}

/// By Java: TLS 1.3, eight KeyUpdates each way with each AEAD.
#[test]
fn kernel_records_carry_a_gibibyte_with_key_updates() {
    let kernel = holds_but_for(0..=0, NEWEST, &["java_updates_keys"], 1 << 30, 3);
    // Eight of the peer's with each suite; one answer may do for all that came before it.
    replaced_keys(kernel, Replaced { tx: 3, rx: 24 });
}

/// Keys replaced, at least.
#[derive(Clone, Copy)]
struct Replaced {
    tx: u64,
    rx: u64,
}

/// A hundred each way are replaced in the middle of streams. The flood replaces 1,024 of what is received;
/// one answer may do for all that came before it (RFC 8446 §4.6.3).
const REPLACED: Replaced = Replaced { tx: 100, rx: 600 };

fn replaced_keys(kernel: Option<Stat>, at_least: Replaced) {
    let Some(kernel) = kernel else { return };
    for (direction, at_least) in [("Tx", at_least.tx), ("Rx", at_least.rx)] {
        let count = |what: &str| kernel.count(&format!("Tls{direction}Rekey{what}"));
        assert_eq!(count("Error"), Ok(0), "{kernel:?}");
        assert!(count("Ok").is_ok_and(|count| count >= at_least), "not {at_least} {direction}: {kernel:?}");
    }
}

// The rest takes long, and runs when asked for. `.ci/run` runs what takes an emulated machine less than five
// minutes, the two that are `in_short`.

#[test]
#[ignore = "slow: all scenarios"]
fn every_scenario_holds_on_kernel_records_of_6_12() {
    holds_but_for(BAD_RECORDS, V6_12, &[], 64 * MIB, 3000);
}

#[test]
#[ignore = "slow: all scenarios"]
fn every_scenario_holds_on_newest_kernel_records() {
    replaced_keys(holds_but_for(FORGED, NEWEST, &[], 64 * MIB, 3000), REPLACED);
}

/// Control records, by clients of ours.
const CONTROL_IN_SHORT: [&str; 8] =
    ["control::", "key_update", "--skip", "java", "--skip", "foreign_", "--skip", "originate_"];

#[test]
#[ignore = "slow: an emulated machine"]
fn control_holds_in_short_on_an_emulated_machine() {
    holds_but_for(BAD_RECORDS, CLOUD, &CONTROL_IN_SHORT, 16 * MIB, 20);
}

#[test]
#[ignore = "slow: an emulated machine"]
fn keys_are_replaced_in_short_on_an_emulated_machine() {
    replaced_keys(holds_but_for(FORGED, NEWEST_CLOUD, &CONTROL_IN_SHORT, 16 * MIB, 20), REPLACED);
}

#[test]
#[ignore = "slow: an emulated machine"]
fn bulk_holds_in_short_on_an_emulated_machine() {
    holds(CLOUD, &["bulk::"], 16 * MIB, 8);
}

#[test]
#[ignore = "slow: an emulated machine"]
fn foreign_peers_hold_on_an_emulated_machine() {
    let words = ["record_paths::", "foreign_control::", "originate_control::"];
    holds_but_for(0..=BAD_RECORDS_MAX, CLOUD, &words, 16 * MIB, 20);
}

/// All that the others leave. Without Java, whose virtual machine alone is larger than this guest's whole
/// root and takes minutes there; it runs on the same kernel in User-Mode Linux.
#[test]
#[ignore = "slow: an emulated machine"]
fn every_other_stage_holds_on_an_emulated_machine() {
    let others = ["bulk::", "java", "control::", "key_update", "record_paths::"];
    holds(CLOUD, &others.map(|name| ["--skip", name]).concat(), 16 * MIB, 2000);
}

/// Runs the scenarios that libtest's words choose; at least so many connections must have been the kernel's,
/// each way.
fn holds(kernel: Kernel, words: &[&str], bulk_bytes: u64, at_least: u64) {
    holds_but_for(0..=0, kernel, words, bulk_bytes, at_least);
}

/// The same, but for so many records that the kernel could not open. Gives what the guest's kernel counted.
fn holds_but_for(
    bad_records: RangeInclusive<u64>,
    kernel: Kernel,
    words: &[&str],
    bulk_bytes: u64,
    at_least: u64,
) -> Option<Stat> {
    let _core = Core::take();
    let (guest, binary) = match ready(kernel) {
        Ok(ready) => ready,
        Err(why) => {
            skip(&why);
            return None;
        }
    };
    let expected = wire::count(&binary, words);
    assert!(expected > 0, "{words:?} chooses no scenario");

    let job = wire::job(&binary, words, bulk_bytes, [NEWEST, NEWEST_CLOUD].contains(&kernel), LIMIT);
    let outcome = guest.run(&job).expect("the guest can be started");
    for line in outcome.output.lines().filter(|line| line.contains("SKIP:")) {
        skip(&format!("in the guest: {line}"));
    }
    let checked = check(&outcome, expected, at_least, &bad_records);
    Some(checked.unwrap_or_else(|why| {
        panic!("{why}\n--- guest output\n{}\n--- guest console\n{}", outcome.output, outcome.console)
    }))
}

/// The guest and the scenarios; fetched and built by one test at a time.
fn ready(kernel: Kernel) -> Result<(Guest, PathBuf), String> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target/tmp is in target");
    Ok((offramp_guest::obtain(kernel, target)?, wire::binary()))
}

/// Held while a guest runs: each takes a core and up to three gigabytes, so no more run at once than there
/// are cores.
struct Core;

/// Guests that run.
static GUESTS: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

impl Core {
    fn take() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let guests = GUESTS.lock().unwrap_or_else(PoisonError::into_inner);
        let free = ENDED.wait_while(guests, |guests| *guests >= cores);
        *free.unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        *GUESTS.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

fn check(
    run: &Outcome,
    expected: usize,
    at_least: u64,
    bad_records: &RangeInclusive<u64>,
) -> Result<Stat, String> {
    let summary = Summary::of(&run.output)?;
    if run.status != Some(0) || summary.failed > 0 {
        return Err(format!("the scenarios ended with {:?}: {summary:?}", run.status));
    }
    if summary.passed != expected || summary.ignored > 0 {
        return Err(format!("{expected} scenarios were chosen, but {summary:?}"));
    }
    let stat = Stat::of(&run.tls_stat)?;
    stat.proves(at_least, bad_records).map_err(|why| format!("{why} in\n{}", run.tls_stat))?;
    Ok(stat)
}

/// Never silent; written past libtest's capture.
fn skip(reason: &str) {
    let refused = std::env::var("OFFRAMP_SKIPS_ARE_FAILURES").is_ok_and(|value| value == "1");
    assert!(!refused, "SKIP: {reason} (and OFFRAMP_SKIPS_ARE_FAILURES=1)");
    let _ = writeln!(std::io::stderr(), "SKIP: {reason}");
}

#[test]
fn only_a_complete_run_on_kernel_records_is_accepted() {
    let good = Outcome {
        status: Some(0),
        output:
            "test result: ok. 9 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; finished in 3s\n"
                .into(),
        tls_stat: "TlsCurrTxSw 0\nTlsCurrRxSw 0\nTlsTxSw 12\nTlsRxSw 12\nTlsDecryptError 0\n".into(),
        console: String::new(),
    };
    assert!(check(&good, 9, 12, &(0..=0)).is_ok());
    assert!(check(&good, 10, 12, &(0..=0)).is_err(), "a scenario that did not run");
    assert!(check(&good, 9, 13, &(0..=0)).is_err(), "fewer connections than there must be");
    assert!(
        check(&Outcome { status: Some(101), ..good.clone() }, 9, 12, &(0..=0)).is_err(),
        "a failing status"
    );
    assert!(
        check(&Outcome { status: None, ..good.clone() }, 9, 12, &(0..=0)).is_err(),
        "no status: the guest was killed"
    );
    assert!(
        check(&Outcome { output: String::new(), ..good.clone() }, 9, 12, &(0..=0)).is_err(),
        "no summary"
    );
    assert!(
        check(&Outcome { tls_stat: String::new(), ..good }, 9, 12, &(0..=0)).is_err(),
        "no count by the kernel"
    );
}
