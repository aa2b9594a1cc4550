//! `loadgen message --msrp` with servers that are not ours behind the terminator.

#![expect(clippy::unwrap_used, reason = "a test stops at what must not fail")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::thread;

use offramp_loadgen::identity::Identity;
use offramp_loadgen::msrp::Chunk;
use serde_json::Value;

use crate::kamailio::Kamailio;

mod engine;
mod kamailio;
#[expect(dead_code, reason = "no server of OpenSSL is needed here")]
mod peers;
mod ring;

/// Messages in both versions of TLS on `target`, believing anybody: how it ended, with a report in JSON.
fn message(target: SocketAddr) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["message", "--msrp", "--every", "10ms", "--target", &target.to_string(), "--insecure"])
        .args(["--tls", "1.2,1.3", "-c", "2", "-t", "1", "--warm-up", "0", "-d", "1s", "-q"])
        .args(["--give-up", "5", "--json"])
        .output()
        .unwrap()
}

/// A run through Offramp to the server at `backend` ends without a failure, or with this one; none if the
/// host has no io_uring.
fn run(backend: SocketAddr, failure: Option<&str>) -> Option<()> {
    let engine = engine::start(backend, &Identity::generate().unwrap(), true)?;
    let output = message(engine.local_addr().unwrap());
    let errors = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let run = &report["runs"][0];
    assert_eq!(output.status.code(), Some(if failure.is_some() { 3 } else { 0 }), "{failure:?}: {errors}");
    if let Some(failure) = failure {
        assert!(errors.contains(&format!("× {failure}")), "{failure}: {errors}");
    } else {
        assert!(run["data"]["messages"].as_u64().unwrap() > 0, "{run}");
        assert_eq!(run["data"]["messages_unanswered"], 0, "{run}");
    }
    Some(())
}

/// What a server needs of a SEND: the transaction, To-Path and From-Path.
struct Send {
    id: String,
    to: String,
    from: String,
}

/// Answers every SEND with this.
fn answering(answer: fn(&Send) -> String) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's process.
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            thread::spawn(move || serve(&socket, answer));
        }
    });
    address
}

fn serve(mut socket: &TcpStream, answer: fn(&Send) -> String) {
    let mut send = Send { id: String::new(), to: String::new(), from: String::new() };
    for line in BufReader::new(socket).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        // An end line begins a line, whatever the body before it ends with.
        let line = line.trim_end_matches('\r');
        if let Some(id) = line.strip_prefix("MSRP ").and_then(|rest| rest.strip_suffix(" SEND")) {
            id.clone_into(&mut send.id);
        } else if let Some(path) = line.strip_prefix("To-Path: ") {
            path.clone_into(&mut send.to);
        } else if let Some(path) = line.strip_prefix("From-Path: ") {
            path.clone_into(&mut send.from);
        } else if line.strip_prefix("-------").is_some_and(|end| end.starts_with(&send.id))
            && socket.write_all(answer(&send).as_bytes()).is_err()
        {
            return;
        }
    }
}

#[test]
fn an_msrp_server_may_word_its_responses_as_it_likes() {
    let plain = |Send { id, to, from }: &Send| {
        format!("MSRP {id} 200\r\nTo-Path: {from}\r\nFrom-Path: {to}\r\n-------{id}$\r\n")
    };
    let other = |Send { id, to, from }: &Send| {
        let to = to.replace(";tcp", ";TCP;own=1");
        format!("MSRP {id} 200 Fine\r\nfrom-path: {to}\r\nX-More: 1\r\nto-path: {from}\r\n-------{id}+\r\n")
    };
    for answer in [plain, other] {
        let Some(()) = run(answering(answer), None) else { return };
    }
}

#[test]
fn what_an_msrp_server_does_wrong_has_its_name() {
    type Answer = fn(&Send) -> String;
    let cases: [(Answer, &str); 5] = [
        (
            |Send { id, to, from }| {
                format!("MSRP {id} 413 Enough\r\nTo-Path: {from}\r\nFrom-Path: {to}\r\n-------{id}$\r\n")
            },
            "msrp status 413",
        ),
        (
            |Send { to, from, .. }| {
                format!("MSRP abcd 200 OK\r\nTo-Path: {from}\r\nFrom-Path: {to}\r\n-------abcd$\r\n")
            },
            "msrp response to another request: no such transaction",
        ),
        (
            |Send { id, to, from }| {
                format!("MSRP {id} 200 OK\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n-------{id}$\r\n")
            },
            "msrp response to another request: To-Path is not the From-Path that was sent",
        ),
        (
            |Send { to, from, .. }| {
                format!(
                    "MSRP dkei38sd REPORT\r\nTo-Path: {from}\r\nFrom-Path: {to}\r\nMessage-ID: 1\r\n\
                     Status: 000 413 Enough\r\n-------dkei38sd$\r\n"
                )
            },
            "msrp request from the peer: REPORT",
        ),
        (|Send { id, .. }| format!("MSRP {id} 200 OK\r\n\r\n"), "not an MSRP response: a header without"),
    ];
    for (answer, failure) in cases {
        let Some(()) = run(answering(answer), Some(failure)) else { return };
    }
}

/// Kamailio adds Message-ID to its responses.
#[test]
fn kamailio_is_an_msrp_peer() {
    let Some(kamailio) = Kamailio::start("msrp_reply(\"200\", \"OK\");") else { return };
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    Chunk { id: 1, message: 7, start: 0, len: 3, total: 3 }.write(&mut request, b"abc");
    let mut direct = TcpStream::connect(kamailio.address).unwrap();
    direct.write_all(&request).unwrap();
    while !answer.ends_with(b"$\r\n") {
        let mut byte = [0];
        direct.read_exact(&mut byte).unwrap();
        answer.extend(byte);
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.contains("\r\nMessage-ID: 0000000000000007\r\n"), "{answer}");
    run(kamailio.address, None);
}

#[test]
fn status_413_of_kamailio_is_a_failure() {
    let Some(kamailio) = Kamailio::start("msrp_reply(\"413\", \"Enough\");") else { return };
    run(kamailio.address, Some("msrp status 413"));
}
