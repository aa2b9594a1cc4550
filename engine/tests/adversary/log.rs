//! A log that takes nothing: the connections, the signals and the start go on without it.

use std::fs::OpenOptions;
use std::io::{PipeReader, PipeWriter, Write};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::victim::{established, noticed};
use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::peer::end_of_dial;
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{patiently, signal};

/// How long the victim is watched: a hundred messages.
const WATCHED: Duration = Duration::from_secs(2);

/// Makes the server log a fault: what comes is no TLS.
pub(crate) fn make_it_log(addr: SocketAddr) {
    let _ = end_of_dial(addr, b"GET / HTTP/1.1\r\nHost: offramp\r\n\r\n");
}

/// A pipe that has no room left, and whoever fills it.
pub(crate) struct Stalled {
    _reader: PipeReader,
}

impl Stalled {
    /// Takes all the room that there is now, and waits to take whatever there will be.
    pub(crate) fn fill(reader: PipeReader, mut writer: PipeWriter) -> Self {
        let filled = Arc::new(AtomicUsize::new(0));
        let so_far = Arc::clone(&filled);
        // Ends when the reader is dropped.
        thread::spawn(move || {
            while writer.write(&[b'.'; 512]).is_ok() {
                so_far.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut before = 0;
        let full = patiently(|| {
            thread::sleep(Duration::from_millis(50));
            let now = filled.load(Ordering::Relaxed);
            let stands = now > 0 && now == before;
            before = now;
            stands.then_some(())
        });
        assert!(full.is_some(), "a pipe that nobody reads is full at some time");
        Self { _reader: reader }
    }
}

/// What every log that fails must leave alone.
fn goes_on_without_its_log(server: TestServer) {
    let mut victim = established(server.addr);
    make_it_log(server.addr);
    signal(server.pid(), "HUP");
    make_it_log(server.addr);
    let noticed = noticed(&mut victim, WATCHED);
    assert!(noticed.count() > 1, "{noticed:?}");
    drop(victim);
    server.stop();
}

fn full_device() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").expect("/dev/full is there").into()
}

#[test]
fn log_on_a_full_device_harms_nobody() {
    let backend = Backend::start(BackendBehavior::Echo);
    goes_on_without_its_log(Setup::new(backend.addr).stderr(full_device()).start());
}

#[test]
fn log_on_a_full_device_does_not_prevent_the_start() {
    let backend = Backend::start(BackendBehavior::Echo);
    // More workers than CPUs: none is pinned, which is warned of.
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let flags = format!("--workers {} --pin-workers on", cpus + 1);
    Setup::new(backend.addr).stderr(full_device()).flags(&flags).start().stop();
}

#[test]
fn log_without_a_reader_harms_nobody() {
    let backend = Backend::start(BackendBehavior::Echo);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    goes_on_without_its_log(Setup::new(backend.addr).stderr(writer).start());
}

#[test]
fn log_whose_reader_stalls_harms_nobody() {
    let backend = Backend::start(BackendBehavior::Echo);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let ours = writer.try_clone().expect("a descriptor can be copied");
    let server = Setup::new(backend.addr).stderr(writer).start();
    let _stalled = Stalled::fill(reader, ours);
    goes_on_without_its_log(server);
}

#[test]
fn log_that_stalls_from_the_start_harms_nobody() {
    let backend = Backend::start(BackendBehavior::Echo);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let _stalled = Stalled::fill(reader, writer.try_clone().expect("a descriptor can be copied"));
    goes_on_without_its_log(Setup::new(backend.addr).stderr(writer).start());
}
