//! Signals work whatever the files are that a reload reads.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::backend::{Backend, BackendBehavior};
use crate::server::{GUARD, Server};
use crate::tools::signal;
use crate::victim::{established, noticed};

fn make_fifo(path: &Path) {
    std::fs::remove_file(path).expect("the file is ours");
    let status = Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
    assert!(status.success(), "mkfifo {}: {status}", path.display());
}

#[test]
fn reload_of_a_fifo_leaves_signals_alive() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Server::start(backend.addr, Stdio::null(), "").expect("it starts");
    let mut victim = established(server.addr);
    make_fifo(&server.certificate);
    signal(server.pid(), "HUP");
    // Long enough for the reload to have begun: the signals would be taken in the order of their numbers.
    assert!(noticed(&mut victim, GUARD / 20).count() > 1);
    drop(victim);
    server.stop();
}

#[test]
fn reload_of_a_fifo_names_the_file_and_keeps_serving() {
    let backend = Backend::start(BackendBehavior::Echo);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let server = Server::start(backend.addr, writer.into(), "").expect("it starts");
    let lines = crate::server::follow(reader);
    make_fifo(&server.certificate);
    let name = server.certificate.file_name().expect("a file").to_string_lossy().into_owned();
    signal(server.pid(), "HUP");
    let named = std::iter::from_fn(|| lines.recv_timeout(GUARD).ok()).any(|line| line.contains(&name));
    assert!(named, "no line of the log names {name}");
    // The certificate in force stays.
    drop(established(server.addr));
    server.stop();
}
