//! The hand-over in the middle of a relay, captured: userspace seals the first records of a direction under
//! a key, the kernel those that follow, in either role.

use std::io::{Read, Write};
use std::net::Shutdown;

use rustls::CipherSuite;

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::capture::{Capture, distinct_nonces, records};
use offramp_testing::foreign::Typed;
use offramp_testing::identity::NAME;
use offramp_testing::peer::{End, Peer, Version, config, dial, drain};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{have, in_guest, scratch, skip};

const AFTER: &str = "--offload after-bytes(1000)";
const PINGS: usize = 60;

/// Both directions of both connections of this capture; at least so many records each.
fn all_distinct(capture: Capture, port: u16) {
    let streams = capture.finish();
    assert!(streams.len() >= 2, "both ways of {port}");
    for ((from, to), stream) in streams {
        let stream = stream.unwrap_or_else(|why| panic!("{from} to {to}: {why}"));
        // Finished, each ping at least one record, close_notify.
        distinct_nonces(&records(&stream), PINGS + 2).unwrap_or_else(|why| panic!("{from} to {to}: {why}"));
    }
}

fn handed_over(offramp: &TestServer) {
    let metrics = offramp.settled();
    assert_eq!(metrics.faults().len(), 0, "{}", metrics.raw);
    if in_guest() {
        let kernel = (metrics.offload("tx", "kernel"), metrics.offload("rx", "kernel"));
        assert_eq!(kernel, (1, 1), "{}", metrics.raw);
    }
}

#[test]
fn nonces_are_distinct_across_a_midway_handover() {
    for suite in [
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ] {
        let backend = Backend::start(BackendBehavior::Echo);
        let offramp = Setup::new(backend.addr).flags(AFTER).start();
        let capture = match Capture::start(offramp.addr.port()) {
            Ok(capture) => capture,
            Err(why) => return skip(&why),
        };
        let mut peer = Peer::open(offramp.addr, &config(Version::Tls12, Some(suite), None));
        (0..PINGS).for_each(|nth| peer.ping(format!("record {nth:0100}").as_bytes()));
        peer.close_notify();
        assert_eq!(peer.rest(), (Vec::new(), End::Clean));
        all_distinct(capture, offramp.addr.port());
        drop(peer);
        handed_over(&offramp);
        offramp.stop();
    }
}

#[test]
fn client_role_nonces_differ_across_midway_handover() {
    if !have("openssl") {
        return;
    }
    let files = scratch();
    let words = "-rev -tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256";
    let (_server, server) = Typed::openssl_server(files.path(), words);
    let path = files.path().join("offramp.toml");
    let text = format!("mode = \"originate\"\nserver_name = \"{NAME}\"\nserver_ca = \"ecdsa.crt\"\n");
    std::fs::write(&path, text).expect("the file can be written");
    let words = format!("{AFTER} --config {}", path.display());
    let offramp = Setup::new(server).identities(&[]).flags(&words).start();
    let capture = match Capture::start(server.port()) {
        Ok(capture) => capture,
        Err(why) => return skip(&why),
    };
    let mut tcp = dial(offramp.addr);
    for nth in 0..PINGS {
        let line = format!("line {nth:0100}");
        writeln!(tcp, "{line}").expect("it can be sent");
        let mut back = vec![0; line.len() + 1];
        tcp.read_exact(&mut back).expect("it comes back");
    }
    tcp.shutdown(Shutdown::Write).expect("connected");
    assert_eq!(drain(&tcp).0, b"");
    all_distinct(capture, server.port());
    handed_over(&offramp);
    offramp.stop();
}
