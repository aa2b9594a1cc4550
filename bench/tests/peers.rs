//! Every terminator that is compared starts from its configuration and does what every row asks of it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

use std::io::Write;
use std::process::{Command, Stdio};

use offramp_bench::client::Client;
use offramp_bench::suite::Suite;
use offramp_bench::terminator::TERMINATORS;
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
fn every_peer_terminates_both_versions_and_resumes_from_its_tickets() {
    let backend = Backend::start(1).unwrap();
    let identity = Identity::generate().unwrap();
    for terminator in TERMINATORS.iter().filter(|terminator| terminator.name != "offramp") {
        if !is_installed(terminator.name) {
            continue;
        }
        let running = terminator.start(&terminator.program(), backend.address(), &identity);
        let running = running.unwrap_or_else(|error| panic!("{}: {error:#}", terminator.name));
        for version in [Version::Tls12, Version::Tls13] {
            let client =
                Client::new(running.address, &identity.certificate, Suite::usual(version), true).unwrap();
            for wanted in [HandshakeKind::Full, HandshakeKind::Resumed] {
                let opened = client.open(backend::ECHO, wanted);
                opened.unwrap_or_else(|error| {
                    panic!("{} {version:?}: {error:#}\n{}", terminator.name, running.last_words())
                });
            }
        }
    }
}
