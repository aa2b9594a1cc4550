//! Signals work whatever the files are that a reload reads.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::victim::{established, noticed};
use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::Identity;
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::signal;

fn make_fifo(path: &Path) {
    std::fs::remove_file(path).expect("the file is ours");
    let status = Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
    assert!(status.success(), "mkfifo {}: {status}", path.display());
}

#[test]
fn reload_of_a_fifo_leaves_signals_alive() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).stderr(Stdio::null()).start();
    let mut victim = established(server.addr);
    make_fifo(&server.certificate(Identity::ecdsa()));
    signal(server.pid(), "HUP");
    // Long enough for the reload to have begun: the signals would be taken in the order of their numbers.
    assert!(noticed(&mut victim, Duration::from_secs(1)).count() > 1);
    drop(victim);
    server.stop();
}

#[test]
fn reload_of_a_fifo_names_the_file_and_keeps_serving() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    make_fifo(&server.certificate(Identity::ecdsa()));
    let name =
        server.certificate(Identity::ecdsa()).file_name().expect("a file").to_string_lossy().into_owned();
    server.reload(&name);
    // The certificate in force stays.
    drop(established(server.addr));
    server.stop();
}
