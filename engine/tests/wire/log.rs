//! The log: a writer that fails or stands still stops nothing, and what is lost is counted.

use std::fs::File;
use std::io::{Read, Write, pipe};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::peer::{Peer, Version, dial, drain, plain};
use offramp_testing::server::{Setup, TestServer, identity_flags};
use offramp_testing::tools::{eventually, scratch, signal};

/// What a pipe holds (pipe(7)).
const PIPE_BYTES: usize = 64 * 1024;

fn full() -> File {
    File::options().write(true).open("/dev/full").expect("/dev/full is there")
}

/// One `GET /` to the TLS port: a line in the log is due.
fn plain_http(server: &TestServer) {
    let before = server.metrics();
    let mut tcp = dial(server.addr);
    tcp.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("it reads");
    drain(&tcp);
    assert_eq!(server.faulted(&before, 1), ["not_tls"]);
}

/// A connection that was there before goes on, whatever lines are due.
fn serves(server: &TestServer) {
    let mut victim = Peer::open(server.addr, &plain(Version::Tls13));
    victim.ping(b"before");
    plain_http(server);
    victim.ping(b"after a fault");
    signal(server.pid(), "HUP");
    victim.ping(b"after SIGHUP");
    Peer::open(server.addr, &plain(Version::Tls12)).ping(b"a new one");
}

/// An address that nobody else uses.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    SocketAddr::from(([127, 100, high, low], NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// At two addresses that are known before.
fn known(backend: &Backend) -> Setup {
    Setup::new(backend.addr).flags(&format!("--listen {} --admin {}", own_address(), own_address()))
}

#[test]
fn log_on_a_full_disk_stops_nothing_and_is_counted() {
    let backend = Backend::start(BackendBehavior::Echo);
    // A warning is due at the start.
    let server = Setup::new(backend.addr).flags("--admin 0.0.0.0:0").stderr(full()).start();
    serves(&server);
    let lost = || (server.metrics().required("offramp_log_lines_dropped_total"), server.metrics());
    eventually("the warning, the fault and the reload are counted", || lost().0 >= 3);
    assert!(lost().1.required("offramp_log_write_errors_total") >= 3);
    server.stop();
}

#[test]
fn log_into_a_pipe_without_a_reader_stops_nothing() {
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).stderr(writer).start();
    serves(&server);
    server.stop();
}

#[test]
fn stalled_log_reader_blocks_nothing_and_reads_later() {
    let (mut reader, mut writer) = pipe().expect("a pipe");
    writer.write_all(&[b'x'; PIPE_BYTES]).expect("it has room");
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).stderr(writer.try_clone().expect("a descriptor")).start();
    serves(&server);
    drop(writer);
    reader.read_exact(&mut [0; PIPE_BYTES]).expect("what was there before");
    let reads = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("text");
        text
    });
    server.stop();
    let text = reads.join().expect("the reader has ended");
    assert!(text.contains("fault not_tls") && text.contains("draining"), "{text}");
}

#[test]
fn log_whose_reader_stalls_does_not_hold_up_the_end() {
    let (_reader, mut writer) = pipe().expect("a pipe");
    writer.write_all(&[b'x'; PIPE_BYTES]).expect("it has room");
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).stderr(writer).start();
    serves(&server);
    server.stop();
}

#[test]
fn ready_line_without_a_place_is_a_warning() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = known(&backend).stdout(full()).start();
    serves(&server);
    eventually("it says so", || server.stderr().contains("the ready line could not be written to stdout"));
    server.stop();
}

#[test]
fn ready_line_whose_reader_stalls_holds_up_nothing() {
    let (_reader, mut writer) = pipe().expect("a pipe");
    writer.write_all(&[b'x'; PIPE_BYTES]).expect("it has room");
    let backend = Backend::start(BackendBehavior::Echo);
    let server = known(&backend).stdout(writer).start();
    serves(&server);
    server.stop();
}

#[test]
fn refusal_that_cannot_be_said_has_its_exit_code() {
    let files = scratch();
    let mut flags = identity_flags(offramp_testing::identity::Identity::ecdsa(), files.path()).to_vec();
    flags.extend(["--listen", "192.0.2.1:1", "--backend", "127.0.0.1:1"].map(str::to_owned));
    let bad = [vec!["serve".to_owned()], flags].concat();
    for words in [&bad[..], &["serve".to_owned()], &["check".to_owned(), "--config=/nowhere".to_owned()]] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_offramp"));
        let status = command.args(words).stderr(full()).stdout(full()).status().expect("it starts");
        assert_eq!(status.code(), Some(1), "{words:?}");
    }
}
