//! Records that are not application data, from a peer that keeps to the record layer and to nothing else.
//! The scenarios have the names that they have in the sim.

use offramp_proto::record::{ALERT, HANDSHAKE};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use offramp_sim::{Hostile, PeerAction, talkative};

use crate::ending::{self, is_whole, slow};
use crate::offload::tls_stat;
use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::NAME;
use offramp_testing::peer::{BOTH, End, Peer, Version, plain};
use offramp_testing::rng::Noise;
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::in_guest;

const DATA: u8 = 23;

/// The peer, and what it has read.
struct Speaker {
    hostile: Hostile,
    tcp: TcpStream,
    wire: VecDeque<u8>,
    data: Vec<u8>,
    heard: Vec<(u8, Vec<u8>)>,
}

impl Speaker {
    fn open(server: &TestServer, version: Version) -> Self {
        let (config, secrets) = talkative(&plain(version));
        let mut peer = Peer::dial(server.addr, &Arc::new(config), NAME);
        peer.handshake().expect("the handshake is complete");
        // In TLS 1.3 tickets come behind it: rustls has to have read them whole before it is left.
        peer.ping(b"healthy");
        let Peer { tls, tcp } = peer;
        let hostile = Hostile::take_over(tls, &secrets);
        Self { hostile, tcp, wire: VecDeque::new(), data: Vec::new(), heard: Vec::new() }
    }

    fn say(&mut self, says: &[PeerAction]) {
        let bytes: Vec<u8> = says.iter().flat_map(|say| self.hostile.say(say)).collect();
        // The server may have had enough before it has read all.
        let _ = self.tcp.write_all(&bytes);
    }

    /// Reads until so much data has come.
    fn expect(&mut self, data: &[u8]) {
        while self.data.len() < data.len() && self.read() {}
        assert_eq!(self.data, data, "{:?}", self.heard);
    }

    fn read_to_the_end(&mut self) {
        while self.read() {}
        // The server waits for it; it may be gone already.
        let _ = self.tcp.shutdown(std::net::Shutdown::Write);
    }

    fn read(&mut self) -> bool {
        let mut block = [0; 1 << 14];
        let Ok(count @ 1..) = self.tcp.read(&mut block) else { return false };
        self.wire.extend(&block[..count]);
        while self.wire.len() >= 5 {
            let bytes = 5 + usize::from(u16::from_be_bytes([self.wire[3], self.wire[4]]));
            if self.wire.len() < bytes {
                break;
            }
            let record: Vec<u8> = self.wire.drain(..bytes).collect();
            match self.hostile.hear(&record).expect("the server's records can be opened") {
                (DATA, payload) => self.data.extend(payload),
                other => self.heard.push(other),
            }
        }
        true
    }

    fn alert(&self) -> Option<u8> {
        self.heard.iter().rev().find(|(kind, _)| *kind == ALERT).map(|(_, alert)| alert[1])
    }
}

/// A connection of each version, on whatever record path there is; all must be the kernel's in the guest.
fn each_version(versions: &[Version], scenario: impl Fn(&TestServer, &mut Speaker, &str)) {
    each_version_with("", versions, scenario);
}

fn each_version_with(flags: &str, versions: &[Version], scenario: impl Fn(&TestServer, &mut Speaker, &str)) {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags(flags).start();
    for (nth, version) in (1..).zip(versions) {
        let mut speaker = Speaker::open(&server, *version);
        scenario(&server, &mut speaker, &format!("{version:?}"));
        drop(speaker);
        let metrics = server.settled();
        assert!(!in_guest() || metrics.offload("rx", "kernel") == nth, "{}", metrics.raw);
    }
    server.stop();
}

fn counted(server: &TestServer, kind: &str) -> u64 {
    server.metrics().sum("offramp_control_records_total", &[("type", kind)])
}

#[test]
fn empty_and_padded_records_leave_the_stream_intact() {
    let record = |payload: &[u8], padding| PeerAction::Record {
        record_type: DATA,
        payload: payload.to_vec(),
        padding,
    };
    each_version(&BOTH, |server, speaker, version| {
        let before = server.metrics();
        speaker.say(&[PeerAction::data(b"one "), record(b"", 0), record(b"", 500), record(b"padded", 9000)]);
        speaker.expect(b"one padded");
        speaker.say(&[PeerAction::close_notify()]);
        speaker.read_to_the_end();
        assert_eq!(speaker.alert(), Some(0), "{version}");
        assert_eq!(server.settled().faults(), before.faults(), "{version}");
    });
}

/// With `expect_no_pad` the kernel opens a record where it is wanted, and a second time where it was padded
/// or is no data; it counts both itself.
#[test]
fn padded_records_are_met_where_none_are_expected() {
    const RECORDS: u64 = 20;
    let counted = || {
        let stat = tls_stat().unwrap_or_default();
        ["TlsRxNoPadViolation", "TlsDecryptRetry"].map(|name| stat.get(name).copied().unwrap_or(0))
    };
    each_version_with("--expect-no-pad on", &BOTH, |server, speaker, version| {
        let before = server.metrics();
        let mut echo = Vec::new();
        for padding in [0, 100] {
            let stat = counted();
            for nth in 0..RECORDS {
                let payload = Noise::bytes(nth, 1000 + 700 * usize::try_from(nth).unwrap_or(0));
                echo.extend_from_slice(&payload);
                speaker.say(&[PeerAction::Record { record_type: DATA, payload, padding }]);
                speaker.expect(&echo);
            }
            // TLS 1.2 has no padding, and the option is not for it.
            let padded = u64::from(in_guest() && version == "Tls13" && padding > 0) * RECORDS;
            let grown = counted().into_iter().zip(stat).map(|(now, before)| now - before);
            assert!(grown.eq([padded; 2]), "{version}, {padding}: {stat:?}, then {:?}", counted());
        }
        speaker.say(&[
            PeerAction::record(ALERT, &[1, 90]),
            PeerAction::data(b"!"),
            PeerAction::close_notify(),
        ]);
        echo.push(b'!');
        speaker.expect(&echo);
        speaker.read_to_the_end();
        assert_eq!(speaker.alert(), Some(0), "{version}");
        assert_eq!(server.settled().faults(), before.faults(), "{version}");
    });
}

/// In one read of the kernel's it looks like the end of the file.
#[test]
fn an_empty_record_in_front_of_another_type_is_no_end() {
    each_version(&BOTH, |server, speaker, version| {
        let before = server.metrics();
        speaker.say(&[
            PeerAction::data(b"x"),
            PeerAction::data(b""),
            PeerAction::record(ALERT, &[1, 90]),
            PeerAction::data(b"y"),
        ]);
        speaker.expect(b"xy");
        speaker.say(&[PeerAction::data(b""), PeerAction::close_notify()]);
        speaker.read_to_the_end();
        assert_eq!(speaker.alert(), Some(0), "{version}");
        assert_eq!(server.settled().faults(), before.faults(), "{version}");
    });
    each_version(&[Version::Tls13], |server, speaker, version| {
        let before = server.metrics();
        speaker.say(&[PeerAction::data(b""), PeerAction::KeyUpdate { requested: true }]);
        if server.refuses_key_updates() {
            // Met, not taken for the end.
            speaker.read_to_the_end();
            assert_eq!(server.faulted(&before, 1), ["rekey_refused"], "{version}");
            assert_eq!(speaker.alert(), Some(80), "{version}");
        } else {
            speaker.say(&[PeerAction::data(b"new")]);
            speaker.expect(b"new");
        }
    });
}

#[test]
fn a_fatal_alert_is_named() {
    each_version(&BOTH, |server, speaker, version| {
        let (before, counted_before) = (server.metrics(), counted(server, "alert"));
        speaker.say(&[PeerAction::record(ALERT, &[2, 20])]);
        speaker.read_to_the_end();
        assert_eq!(speaker.alert(), None, "{version}: an alert is not answered");
        assert_eq!(server.faulted(&before, 1), ["alert_received"], "{version}");
        let line = "fault alert_received: bad_record_mac (20)";
        offramp_testing::tools::eventually(line, || server.stderr().contains(line));
        assert_eq!(counted(server, "alert"), counted_before + 1, "{version}");
    });
}

#[test]
fn misplaced_record_is_refused_and_its_alert_sent() {
    for (what, fault, alert) in [
        (PeerAction::record(20, &[1]), "unexpected_record", 10),
        (PeerAction::record(HANDSHAKE, &[2, 0, 0, 0]), "unexpected_record", 10),
        (PeerAction::record(ALERT, &[1]), "malformed", 50),
    ] {
        each_version(&BOTH, |server, speaker, version| {
            let before = server.metrics();
            speaker.say(&[PeerAction::data(b"x"), what.clone(), PeerAction::data(b"y")]);
            speaker.read_to_the_end();
            assert_eq!(server.faulted(&before, 1), [fault], "{version} {what:?}");
            assert_eq!(speaker.alert(), Some(alert), "{version} {what:?}");
        });
    }
}

#[test]
fn bad_key_update_value_or_length_has_its_own_alert() {
    for (message, fault, alert) in [
        (&[24, 0, 0, 1, 2][..], "key_update_value", 47),
        (&[24, 0, 0, 1, 255], "key_update_value", 47),
        (&[24, 0, 0, 0], "malformed", 50),
        (&[24, 0, 0, 2, 0, 0], "malformed", 50),
    ] {
        each_version(&[Version::Tls13], |server, speaker, version| {
            let before = server.metrics();
            speaker.say(&[
                PeerAction::data(b"x"),
                PeerAction::record(HANDSHAKE, message),
                PeerAction::data(b"y"),
            ]);
            speaker.read_to_the_end();
            assert_eq!(server.faulted(&before, 1), [fault], "{version} {message:?}");
            assert_eq!(speaker.alert(), Some(alert), "{version} {message:?}");
        });
    }
}

#[test]
fn a_type_that_nobody_knows_is_refused() {
    each_version(&BOTH, |server, speaker, version| {
        let before = server.metrics();
        speaker.say(&[PeerAction::record(24, b"heartbeat"), PeerAction::data(b"y")]);
        speaker.read_to_the_end();
        let faults = server.faulted(&before, 1);
        assert!(faults == ["unexpected_record"] || faults == ["malformed"], "{version}: {faults:?}");
        assert!(matches!(speaker.alert(), Some(10 | 50)), "{version}: {:?}", speaker.heard);
        assert!(speaker.data.is_empty(), "{version}");
    });
}

/// In the handshake it is passed over (RFC 8446 §5); behind it, it belongs nowhere. The kernel takes it for a
/// record that cannot be opened.
#[test]
fn a_stray_change_cipher_spec_in_the_clear_is_refused() {
    each_version(&[Version::Tls13], |server, speaker, version| {
        let before = server.metrics();
        speaker.say(&[
            PeerAction::data(b"x"),
            PeerAction::Raw(vec![20, 3, 3, 0, 1, 1]),
            PeerAction::data(b"y"),
        ]);
        speaker.read_to_the_end();
        let (fault, alert) =
            if server.ready.contains("rx: kernel") { ("bad_record", 20) } else { ("unexpected_record", 10) };
        assert_eq!(server.faulted(&before, 1), [fault], "{version}");
        assert_eq!(speaker.alert(), Some(alert), "{version}");
    });
}

#[test]
fn renegotiation_is_warned_once_and_then_refused() {
    let hello = || PeerAction::record(HANDSHAKE, &[1, 0, 0, 0]);
    each_version(&[Version::Tls12], |server, speaker, version| {
        let before = server.metrics();
        speaker.say(&[PeerAction::data(b"a"), hello(), PeerAction::data(b"b")]);
        speaker.expect(b"ab");
        assert_eq!(speaker.alert(), Some(100), "{version}");
        speaker.say(&[PeerAction::data(b"c")]);
        speaker.expect(b"abc");
        speaker.say(&[hello()]);
        speaker.read_to_the_end();
        assert_eq!(server.faulted(&before, 1), ["renegotiation"], "{version}");
    });
}

/// As under `auto`: the kernel seals and userspace opens. A kernel that cannot replace its key could not seal
/// what follows our answer.
#[test]
fn sealing_kernel_answers_or_refuses_a_key_update() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags("--offload-directions tx").start();
    let before = server.metrics();
    let mut speaker = Speaker::open(&server, Version::Tls13);
    speaker.say(&[PeerAction::KeyUpdate { requested: false }, PeerAction::data(b"followed ")]);
    speaker.expect(b"followed ");
    speaker.say(&[PeerAction::KeyUpdate { requested: true }, PeerAction::data(b"and answered")]);
    let answers = if server.refuses_key_updates() {
        speaker.read_to_the_end();
        assert_eq!(speaker.alert(), Some(80), "{:?}", speaker.heard);
        assert_eq!(server.faulted(&before, 1), ["rekey_refused"]);
        0
    } else {
        speaker.expect(b"followed and answered");
        1
    };
    drop(speaker);
    let metrics = server.settled();
    let kernel = (metrics.offload("tx", "kernel"), metrics.offload("rx", "kernel"));
    assert_eq!(kernel, (u64::from(in_guest()), 0), "{}", metrics.raw);
    assert_eq!(metrics.sum("offramp_key_updates_sent_total", &[]), answers);
    server.stop();
}

#[test]
fn floods_end_the_connection() {
    each_version(&[Version::Tls13], |server, speaker, version| {
        let before = server.metrics();
        speaker.say(&vec![PeerAction::KeyUpdate { requested: true }; 2000]);
        speaker.read_to_the_end();
        // A kernel that cannot follow the first has met no flood.
        let fault = if server.refuses_key_updates() { "rekey_refused" } else { "key_update_flood" };
        assert_eq!(server.faulted(&before, 1), [fault], "{version}");
    });
    each_version(&[Version::Tls13], |server, speaker, version| {
        let before = server.metrics();
        speaker.say(&vec![PeerAction::record(ALERT, &[1, 90]); 2000]);
        speaker.read_to_the_end();
        assert_eq!(server.faulted(&before, 1), ["unexpected_record"], "{version}");
    });
}

#[test]
fn bytes_that_are_no_record_are_named() {
    // The kernel looks at a header only when the explicit nonce behind it is there too.
    let header = |header: [u8; 5]| [header.as_slice(), &[9; 64]].concat();
    for (bytes, fault, alert) in [
        (header([23, 3, 3, 0x41, 0x01]), ["record_too_long"], 22),
        (header([23, 2, 0, 0, 64]), ["malformed"], 50),
        (header([23, 3, 3, 0, 64]), ["bad_record"], 20),
    ] {
        each_version(&BOTH, |server, speaker, version| {
            let before = server.metrics();
            speaker.say(&[PeerAction::Raw(bytes.clone())]);
            speaker.read_to_the_end();
            assert_eq!(server.faulted(&before, 1), fault, "{version}");
            assert_eq!(speaker.alert(), Some(alert), "{version} {fault:?}");
        });
    }
}

/// RFC 8446 §6.1: whatever follows a close_notify is ignored. The kernel looks at it before anybody asks.
#[test]
fn garbage_after_close_notify_leaves_the_answer_whole() {
    const BYTES: usize = 2 << 20;
    let backend = Backend::start(BackendBehavior::EchoThenSource { seed: 9, bytes: BYTES });
    let server = TestServer::start(backend.addr);
    let expected = [&b"ask"[..], &Noise::bytes(9, BYTES)].concat();
    for version in BOTH {
        for rubbish in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[21, 3, 3, 0, 2, 2, 40], &[23, 3, 3, 0, 64, 9]] {
            let mut speaker = Speaker::open(&server, version);
            speaker.say(&[
                PeerAction::data(b"ask"),
                PeerAction::close_notify(),
                PeerAction::Raw(rubbish.to_vec()),
            ]);
            // Most of the answer is with our socket, and not with this client, when the backend has ended.
            assert_eq!(backend.seen().end, Ok(()), "{version:?}");
            speaker.read_to_the_end();
            assert_eq!(speaker.data.len(), expected.len(), "{version:?} {rubbish:?}");
            assert!(speaker.data == expected && speaker.alert() == Some(0), "{version:?} {rubbish:?}");
        }
    }
    assert_eq!(server.settled().faults().len(), 0, "{:?}", server.metrics().faults());
    server.stop();
}

#[test]
fn a_bad_record_resets_a_slow_backend_behind_all_data() {
    let backend = slow();
    let server = TestServer::start(backend.addr);
    for version in BOTH {
        let before = server.metrics();
        let mut peer = Peer::open(server.addr, &plain(version));
        peer.send(&Noise::bytes(3, ending::BYTES));
        peer.tcp.write_all(&[&[23, 3, 3, 0, 64][..], &[9; 64]].concat()).expect("the server still reads");
        let (answer, end) = peer.rest();
        let is_bad_mac = matches!(&end, End::Alert(alert) if alert.contains("BadRecordMac"));
        assert!(answer.is_empty() && is_bad_mac, "{version:?}: {end:?}");
        let seen = backend.seen();
        is_whole(&seen, &format!("{version:?}"));
        assert_eq!(seen.end, Err(ErrorKind::ConnectionReset), "{version:?}");
        assert_eq!(server.faulted(&before, 1), ["bad_record"], "{version:?}");
    }
    server.settled();
    server.stop();
}
