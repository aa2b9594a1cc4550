//! Records that are not application data, of clients that are not ours: attempts to renegotiate.

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::foreign::{AEADS, Typed, openssl_words};
use offramp_testing::peer::Version;
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{eventually, have, in_guest, scratch};

/// The records of which type, since the server was started.
fn counted(server: &TestServer, kind: &str) -> u64 {
    server.metrics().sum("offramp_control_records_total", &[("type", kind)])
}

/// The directions that the kernel may carry, and what it then counts (tx, rx). An attempt to renegotiate
/// comes on the one, the refusal goes out on the other.
const WAYS: [(&str, (u64, u64)); 3] = [("both", (1, 1)), ("tx", (1, 0)), ("rx", (0, 1))];

fn carried(server: &TestServer, kernel: (u64, u64), nth: u64) {
    if in_guest() {
        let metrics = server.settled();
        let by = (metrics.offload("tx", "kernel"), metrics.offload("rx", "kernel"));
        assert_eq!(by, (nth * kernel.0, nth * kernel.1), "{}", metrics.raw);
    }
}

/// OpenSSL takes the warning for a refusal of what it cannot do without, and says so in an alert of its own.
#[test]
fn openssl_is_told_no_renegotiation_and_gives_up() {
    if !have("openssl") {
        return;
    }
    let backend = Backend::start(BackendBehavior::Echo);
    for (ways, kernel) in WAYS {
        let server = Setup::new(backend.addr).flags(&format!("--offload-directions {ways}")).start();
        for (nth, aead) in (1..).zip(AEADS) {
            let (before, files) = (server.metrics(), scratch());
            let words = openssl_words(Version::Tls12, aead);
            let mut client = Typed::openssl(server.addr, files.path(), &words);
            client.write(b"before\n");
            client.await_text("before\n");
            client.write(b"R\n");
            client.await_said("RENEGOTIATING");
            client.await_said(":no renegotiation:");
            assert_eq!(server.faulted(&before, 1), ["alert_received"], "{ways} {words}");
            eventually("the alert is named", || {
                server.stderr().contains("fault alert_received: handshake_failure (40)")
            });
            assert_eq!((counted(&server, "renegotiation"), counted(&server, "alert")), (nth, nth), "{ways}");
            let seen = backend.seen();
            assert_eq!(seen.end, Err(std::io::ErrorKind::ConnectionReset), "{ways} {words}");
            assert_eq!(seen.bytes, 7, "{ways} {words}: nothing of the attempt is data");
            carried(&server, kernel, nth);
        }
        server.stop();
    }
}

/// GnuTLS reads the warning and sends its hello once more.
#[test]
fn gnutls_renegotiation_is_warned_and_then_refused() {
    if !have("gnutls-cli") {
        return;
    }
    let backend = Backend::start(BackendBehavior::Echo);
    for (ways, kernel) in WAYS {
        let server = Setup::new(backend.addr).flags(&format!("--offload-directions {ways}")).start();
        for (nth, [cipher, ..]) in (1..).zip(AEADS) {
            let (before, files) = (server.metrics(), scratch());
            let mut client = Typed::gnutls(server.addr, files.path(), Version::Tls12, cipher);
            client.write(b"before\n");
            client.await_bytes(7);
            client.write(b"^renegotiate^\n");
            assert_eq!(server.faulted(&before, 1), ["renegotiation"], "{ways} {cipher}");
            let log = || std::fs::read_to_string(files.path().join("log")).expect("it keeps a log");
            let told = "Received alert [100]: No renegotiation is allowed";
            eventually(told, || log().contains(told));
            assert_eq!(counted(&server, "renegotiation"), 2 * nth, "{ways} {cipher}: told once");
            let seen = backend.seen();
            assert_eq!(seen.end, Err(std::io::ErrorKind::ConnectionReset), "{ways} {cipher}");
            assert_eq!(client.end(), b"before\n", "{ways} {cipher}");
            carried(&server, kernel, nth);
        }
        server.stop();
    }
}
