//! KeyUpdates of clients that are not ours, in the middle of a stream.

use crate::backend::{Backend, Manner};
use crate::bulk::bulk_bytes;
use crate::foreign::{AEADS, Typed, java};
use crate::lab::{Lab, Setup};
use crate::metrics::Metrics;
use crate::peer::Version;
use crate::tools::{have, in_guest, scratch};

pub(crate) fn received(metrics: &Metrics) -> u64 {
    metrics.sum("offramp_control_records_total", &[("type", "key_update")])
}

pub(crate) fn sent(metrics: &Metrics) -> u64 {
    metrics.sum("offramp_key_updates_sent_total", &[])
}

#[test]
fn openssl_updates_keys_in_userspace_and_the_stream_goes_on() {
    if !have("openssl") {
        return;
    }
    let backend = Backend::start(Manner::Echo);
    let lab = Setup::new(backend.addr).flags("--offload never").start();
    let files = scratch();
    let mut client = Typed::openssl(lab.addr, files.path(), "-tls1_3");
    client.write(b"under the first keys\n");
    client.await_text("under the first keys");
    for (order, line) in [("k\n", "client's second"), ("K\n", "both sides next"), ("K\n", "and once more")] {
        let before = received(&lab.metrics());
        client.write(order.as_bytes());
        crate::tools::eventually("the KeyUpdate is counted", || received(&lab.metrics()) > before);
        client.write(format!("{line}\n").as_bytes());
        client.await_text(line);
    }
    client.end();
    let metrics = lab.settled();
    assert_eq!((received(&metrics), sent(&metrics)), (3, 2), "K asks for an answer, k does not");
    assert_eq!(metrics.faults().len(), 0, "{:?}", metrics.faults());
    lab.stop();
}

/// Where the kernel carries the records and cannot replace keys, the client is told and the fault is counted;
/// elsewhere the stream goes on.
#[test]
fn a_key_update_of_openssl_is_followed_or_refused_by_alert() {
    if !have("openssl") {
        return;
    }
    let backend = Backend::start(Manner::Echo);
    for order in ["k\n", "K\n"] {
        let lab = Lab::start(backend.addr);
        let files = scratch();
        let mut client = Typed::openssl(lab.addr, files.path(), "-tls1_3");
        client.write(b"under the first keys\n");
        client.await_text("under the first keys");
        let before = lab.metrics();
        client.write(order.as_bytes());
        if in_guest() {
            assert_eq!(before.offload("rx", "kernel"), 1, "{}", before.raw);
            assert_eq!(lab.faulted(&before, 1), ["rekey_refused"], "{order:?}");
            // Before its input ends: its close_notify would come under a key that the kernel does not have.
            client.await_said("alert internal error");
            client.end();
        } else {
            crate::tools::eventually("the KeyUpdate is counted", || received(&lab.metrics()) == 1);
            client.write(b"under the next keys\n");
            client.await_text("under the next keys");
            client.end();
            assert_eq!(lab.settled().faults().len(), 0, "{:?}", lab.metrics().faults());
        }
        lab.settled();
        lab.stop();
    }
}

#[test]
fn gnutls_updates_keys_in_userspace_and_the_stream_goes_on() {
    const UPDATES: u64 = 5;
    if !have("gnutls-cli") {
        return;
    }
    let backend = Backend::start(Manner::Echo);
    let lab = Setup::new(backend.addr).flags("--offload never").start();
    for [cipher, ..] in AEADS {
        let (files, mut whole) = (scratch(), Vec::new());
        let before = lab.metrics();
        let mut client = Typed::gnutls(lab.addr, files.path(), Version::Tls13, cipher);
        for update in 0..=UPDATES {
            let text = format!("{:04000}\n", update).repeat(4);
            client.write(text.as_bytes());
            whole.extend_from_slice(text.as_bytes());
            client.await_bytes(whole.len());
            if update < UPDATES {
                client.write(b"^rekey^\n");
            }
        }
        assert!(client.end() == whole, "{cipher}: the echo differs");
        let metrics = lab.settled();
        assert_eq!(received(&metrics) - received(&before), UPDATES, "{cipher}");
        assert_eq!(sent(&metrics) - sent(&before), UPDATES, "{cipher}: each asks for an answer");
        assert_eq!(metrics.faults().len(), 0, "{cipher}: {:?}", metrics.faults());
    }
    lab.stop();
}

/// Java updates its keys when it has sent so much, and asks for ours when it has received so much. The
/// whole amount with the first AEAD, less with the others. Under this policy a kernel that cannot replace
/// keys is not given those of TLS 1.3, though it is told to have all others.
#[test]
fn java_updates_keys_in_the_middle_of_a_bulk_transfer_on_the_carrier_that_can_follow() {
    const UPDATES: u64 = 8;
    if !have("java") {
        return;
    }
    let backend = Backend::start(Manner::Echo);
    let lab = Setup::new(backend.addr).flags("--keyupdate userspace").start();
    for ([_, suite, _], part) in AEADS.into_iter().zip([1, 16, 16]) {
        let bytes = bulk_bytes() / part;
        let (files, before) = (scratch(), lab.metrics());
        let offer = [format!("TLSv1.3/{suite}")];
        let transfer = java(lab.addr, files.path(), bytes, Some(bytes / UPDATES), &offer).remove(0);
        assert_eq!(transfer.received, transfer.sent, "{suite}");
        let seen = backend.seen();
        assert_eq!((seen.sha256, seen.bytes, seen.end), (transfer.sent, bytes, Ok(())), "{suite}");
        let now = lab.settled();
        let (updates, answers) = (received(&now) - received(&before), sent(&now) - sent(&before));
        // Java counts what it protects, which is a little more than the data.
        assert!(updates >= UPDATES && answers >= UPDATES, "{suite}: {updates} KeyUpdates, {answers} answers");
        assert_eq!(now.faults().len(), 0, "{suite}: {:?}", now.faults());
        if in_guest() {
            for direction in ["tx", "rx"] {
                assert_eq!(now.offload(direction, "kernel"), 0, "{suite}: {}", now.raw);
            }
        }
    }
    lab.stop();
}
