//! Every terminator that is compared starts from its configuration and does what every row asks of it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use offramp_attack::hello::Key;
use offramp_bench::client::Client;
use offramp_bench::flood::UnderFlood;
use offramp_bench::suite::Suite;
use offramp_bench::terminator::{REENCRYPT, TERMINATORS, by_name};
use offramp_bench::workload::{Amount, Bench, Row, Work};
use offramp_loadgen::backend::{self, Backend};
use offramp_loadgen::identity::Identity;
use offramp_loadgen::plan::Version;
use rustls::HandshakeKind;

/// Never silent; written past libtest's capture.
fn skip(reason: &str) {
    let refused = std::env::var("OFFRAMP_SKIPS_ARE_FAILURES").is_ok_and(|value| value == "1");
    assert!(!refused, "SKIP: {reason} (and OFFRAMP_SKIPS_ARE_FAILURES=1)");
    let _ = writeln!(std::io::stderr(), "SKIP: {reason}");
}

fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("-v").stdin(Stdio::null()).output();
    if found.is_err() {
        skip(&format!("{program} is not installed: apt-get install {program}"));
    }
    found.is_ok()
}

#[test]
fn every_peer_terminates_and_resumes_both_versions() {
    let backend = Backend::start(1).unwrap();
    let identity = Identity::generate().unwrap();
    for terminator in TERMINATORS.iter().filter(|terminator| terminator.name != "offramp") {
        if !is_installed(terminator.name) {
            continue;
        }
        let running = terminator.start(&terminator.program(), backend.address(), &identity);
        let running = running.unwrap_or_else(|error| panic!("{}: {error:#}", terminator.name));
        for version in [Version::Tls12, Version::Tls13] {
            let client = Client::new(&running, &identity.certificate, Suite::usual(version), true).unwrap();
            for wanted in [HandshakeKind::Full, HandshakeKind::Resumed] {
                let opened = client.open(backend::ECHO, wanted);
                opened.unwrap_or_else(|error| {
                    panic!("{} {version:?}: {error:#}\n{}", terminator.name, running.last_words())
                });
            }
        }
    }
}

#[test]
fn every_peer_reencrypts_only_to_a_trusted_server() {
    if !is_installed("nginx") {
        return;
    }
    let backend = Backend::start(1).unwrap();
    let (identity, other) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let nginx = by_name("nginx").unwrap();
    let server = nginx.start(&nginx.program(), backend.address(), &identity).unwrap();
    for terminator in REENCRYPT.iter().filter(|terminator| terminator.name != "offramp reencrypt") {
        if !is_installed(&terminator.program().display().to_string()) {
            continue;
        }
        for (identity, is_trusted) in [(&identity, true), (&other, false)] {
            let running = terminator.start(&terminator.program(), server.address, identity).unwrap();
            let suite = Suite::usual(Version::Tls13);
            let client = Client::new(&running, &identity.certificate, suite, false).unwrap();
            let opened = client.open(backend::ECHO, HandshakeKind::Full);
            assert_eq!(opened.is_ok(), is_trusted, "{}: {opened:?}", terminator.name);
        }
    }
}

#[test]
fn every_peer_answers_a_flood_and_holds_half_hellos() {
    let backend = Backend::start(1).unwrap();
    let half = Row { work: Work::HalfHello, version: Version::Tls12 };
    for terminator in TERMINATORS.iter().filter(|terminator| terminator.name != "offramp") {
        if !is_installed(terminator.name) {
            continue;
        }
        let identities =
            [(Key::Ecdsa, Identity::generate().unwrap()), (Key::Rsa, Identity::generate_rsa().unwrap())];
        for (key, identity) in identities {
            let running = terminator.start(&terminator.program(), backend.address(), &identity).unwrap();
            let trusted = &identity.certificate;
            let bench = Bench { terminator: &running, backend: &backend, trusted, clients: 1 };
            let flood = UnderFlood { key, clients: 4 };
            for tls13 in [false, true] {
                let outcome = flood.sample(&bench, tls13, Duration::from_millis(300));
                let outcome = outcome.unwrap_or_else(|error| panic!("{}: {error:#}", terminator.name));
                let is_measured = outcome.noticed.count() > 0 && outcome.handshakes_per_second > 0.0;
                assert!(is_measured, "{}: {outcome:?}", terminator.name);
            }
            let kib = bench.sample(half, Amount::COUNTED);
            let kib = kib.unwrap_or_else(|error| panic!("{}: {error:#}", terminator.name));
            assert!(kib < 1024.0, "{}: {kib} KiB", terminator.name);
        }
    }
}
