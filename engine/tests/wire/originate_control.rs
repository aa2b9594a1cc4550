//! The client's role: records that are not application data, and ends, of servers that are not ours.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use rustls::CipherSuite;

use crate::key_update::{received, sent};
use crate::originate::{by_name_and_any_key, originating_with};
use offramp_testing::backend::{EARLY_ANSWER, LATE_ANSWER};
use offramp_testing::foreign::{AEADS, Typed, openssl_words};
use offramp_testing::peer::{BOTH, End, Version, dial, drain};
use offramp_testing::rng::{Noise, sha256_of};
use offramp_testing::server::TestServer;
use offramp_testing::tls_server::{Talk, start};
use offramp_testing::tools::{PATIENCE, eventually, have, in_guest, scratch};

/// A plain connection through to `openssl s_server`, with which a line has gone each way.
struct Through {
    server: Typed,
    offramp: TestServer,
    tcp: TcpStream,
    _files: [tempfile::TempDir; 2],
}

impl Through {
    fn open(words: &str, flags: &str) -> Self {
        let files = scratch();
        let (server, addr) = Typed::openssl_server(files.path(), words);
        let (offramp, more_files) = originating_with(addr, &by_name_and_any_key(), flags);
        let tcp = dial(offramp.addr);
        let mut through = Self { server, offramp, tcp, _files: [files, more_files] };
        through.exchange("the first lines");
        through
    }

    fn exchange(&mut self, line: &str) {
        let (there, back) = (format!("{line}, there\n"), format!("{line}, back\n"));
        self.tcp.write_all(there.as_bytes()).expect("it can be sent");
        self.server.await_text(&there);
        self.server.write(back.as_bytes());
        let mut heard = vec![0; back.len()];
        self.tcp.read_exact(&mut heard).expect("it comes");
        assert_eq!(String::from_utf8_lossy(&heard), back);
    }

    /// The guest's kernel has both directions.
    fn is_carried(&self) {
        if in_guest() {
            let metrics = self.offramp.metrics();
            let kernel = (metrics.offload("tx", "kernel"), metrics.offload("rx", "kernel"));
            assert_eq!(kernel, (1, 1), "{}", metrics.raw);
        }
    }
}

#[test]
fn a_servers_key_updates_are_followed_in_userspace() {
    if !have("openssl") {
        return;
    }
    for aead in AEADS {
        let mut through = Through::open(&openssl_words(Version::Tls13, aead), "--offload never");
        for (nth, (order, answers)) in (1..).zip([("k\n", 0), ("K\n", 1), ("k\n", 1), ("K\n", 2)]) {
            through.server.write(order.as_bytes());
            eventually("the KeyUpdate is counted", || received(&through.offramp.metrics()) == nth);
            through.exchange(&format!("after {nth} KeyUpdates"));
            assert_eq!(sent(&through.offramp.metrics()), answers, "K asks for an answer, k does not");
        }
        through.tcp.shutdown(Shutdown::Write).expect("connected");
        assert_eq!(drain(&through.tcp).0, b"");
        assert_eq!(through.offramp.settled().faults().len(), 0);
        through.offramp.stop();
    }
}

/// As with a client's: where the kernel carries the records and cannot replace keys, the server is told, the
/// fault is counted and the plain leg reset; elsewhere the stream goes on.
#[test]
fn server_key_update_is_followed_or_refused() {
    if !have("openssl") {
        return;
    }
    for order in ["k\n", "K\n"] {
        let mut through = Through::open("-tls1_3", "");
        through.is_carried();
        let before = through.offramp.metrics();
        through.server.write(order.as_bytes());
        if through.offramp.refuses_key_updates() {
            assert_eq!(through.offramp.faulted(&before, 1), ["rekey_refused"], "{order:?}");
            assert_eq!(drain(&through.tcp), (Vec::new(), End::Reset), "{order:?}");
            through.server.await_said("alert internal error");
        } else {
            eventually("the KeyUpdate is counted", || received(&through.offramp.metrics()) == 1);
            through.exchange("under the next keys");
            assert_eq!(through.offramp.metrics().faults().len(), 0, "{order:?}");
        }
        drop(through.tcp);
        through.offramp.settled();
        through.offramp.stop();
    }
}

/// A HelloRequest is refused with the warning; OpenSSL takes that for the end.
#[test]
fn a_server_that_asks_to_renegotiate_is_told_no() {
    if !have("openssl") {
        return;
    }
    for aead in AEADS {
        for order in ["r\n", "R\n"] {
            let mut through = Through::open(&openssl_words(Version::Tls12, aead), "");
            through.is_carried();
            let before = through.offramp.metrics();
            through.server.write(order.as_bytes());
            through.server.await_said(":no renegotiation:");
            assert_eq!(through.offramp.faulted(&before, 1), ["alert_received"], "{order:?}");
            let line = "fault alert_received: handshake_failure (40)";
            eventually(line, || through.offramp.stderr().contains(line));
            let asked = &[("type", "renegotiation")];
            assert_eq!(through.offramp.metrics().sum("offramp_control_records_total", asked), 1, "{order:?}");
            assert_eq!(drain(&through.tcp), (Vec::new(), End::Reset), "not told a clean end");
            through.offramp.settled();
            through.offramp.stop();
        }
    }
}

/// Killed, or leaving without close_notify: either way a FIN and no more.
#[test]
fn lost_server_is_truncation_and_resets_the_plain_leg() {
    if !have("openssl") {
        return;
    }
    for version in ["-tls1_2", "-tls1_3"] {
        for is_killed in [true, false] {
            let through = Through::open(version, "");
            through.is_carried();
            let before = through.offramp.metrics();
            let mut server = Some(through.server);
            if is_killed {
                server.take().expect("it was there").kill();
            } else {
                server.as_mut().expect("it was there").write(b"q\n");
            }
            assert_eq!(through.offramp.faulted(&before, 1), ["truncated"], "{version}, killed: {is_killed}");
            assert_eq!(drain(&through.tcp), (Vec::new(), End::Reset), "{version}, killed: {is_killed}");
            through.offramp.settled();
            through.offramp.stop();
        }
    }
}

/// `s_server -www` says close_notify behind its page, and is gone; what it said is the whole.
#[test]
fn close_notify_of_a_server_is_an_orderly_end() {
    if !have("openssl") {
        return;
    }
    for version in BOTH {
        for aead in AEADS {
            let (files, words) = (scratch(), openssl_words(version, aead));
            let (_server, addr) = Typed::openssl_server(files.path(), &format!("-www {words}"));
            let (offramp, _files) = originating_with(addr, &by_name_and_any_key(), "");
            let mut tcp = dial(offramp.addr);
            tcp.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("it can be sent");
            let (page, end) = drain(&tcp);
            let page = String::from_utf8_lossy(&page);
            assert_eq!(end, End::Truncated, "a FIN to the plain leg: {words}");
            assert!(page.starts_with("HTTP/1.0 200 ok") && page.ends_with("</HTML>\r\n\r\n"), "{page}");
            drop(tcp);
            let metrics = offramp.settled();
            let closed = metrics.sum("offramp_control_records_total", &[("type", "close_notify")]);
            assert_eq!((closed, metrics.faults().len()), (1, 0), "{words}: {}", metrics.raw);
            offramp.stop();
        }
    }
}

/// Each direction ends for itself, in this role as in the other.
#[test]
fn one_direction_goes_on_after_the_other_has_ended() {
    let late = Noise::bytes(21, 100_000);
    for (version, suite) in [
        (Version::Tls12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
        (Version::Tls13, CipherSuite::TLS13_AES_128_GCM_SHA256),
    ] {
        // We end first, and the server answers afterwards.
        let (server, _) = start(version, suite, 1, Talk::AnswerAfterEnd);
        let (offramp, _files) = originating_with(server, &by_name_and_any_key(), "");
        let mut tcp = dial(offramp.addr);
        tcp.write_all(b"a question").expect("it can be sent");
        tcp.shutdown(Shutdown::Write).expect("connected");
        assert_eq!(drain(&tcp), (LATE_ANSWER.to_vec(), End::Truncated), "{version:?}");
        assert_eq!(offramp.settled().faults().len(), 0, "{version:?}: {:?}", offramp.metrics().faults());
        offramp.stop();

        // The server ends first, and is sent to afterwards.
        let (server, heard) = start(version, suite, 1, Talk::EndFirst);
        let (offramp, _files) = originating_with(server, &by_name_and_any_key(), "");
        let mut tcp = dial(offramp.addr);
        assert_eq!(drain(&tcp), (EARLY_ANSWER.to_vec(), End::Truncated), "{version:?}");
        tcp.write_all(&late).expect("the other half is open");
        tcp.shutdown(Shutdown::Write).expect("connected");
        let heard = heard.recv_timeout(PATIENCE).expect("the server reports the end");
        assert_eq!(heard, Ok(sha256_of(&late[..])), "{version:?}");
        drop(tcp);
        assert_eq!(offramp.settled().faults().len(), 0, "{version:?}: {:?}", offramp.metrics().faults());
        offramp.stop();
    }
}
