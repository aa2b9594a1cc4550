//! A dead backend whose port lies in the ephemeral range: a connect to it may connect a socket to itself
//! (TCP simultaneous open), and the client would get its own bytes back as the answer.
//!
//! It takes a network namespace with an ephemeral range of a few ports: the test runs itself once more in
//! one.

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};

use offramp_testing::peer::{Peer, Version, plain};
use offramp_testing::server::Setup;
use offramp_testing::tools::{skip, text};

/// The ephemeral ports of the namespace. The kernel takes those that are as even as the first for connect().
const FIRST: u16 = 20_000;
const PORTS: u16 = 32;
/// Where no backend listens.
const DEAD: u16 = FIRST + 10;
/// One in sixteen connects to itself: that none of these does has a probability of 1e-11.
const CONNECTIONS: usize = 400;
const WITHIN: &str = "OFFRAMP_WITHIN_NAMESPACE";

/// This test program in a network namespace of its own, running one test.
fn in_namespace(test: &str) -> std::io::Result<Output> {
    let range = format!("{FIRST} {}", FIRST + PORTS - 1);
    let prepare =
        "ip link set lo up && echo \"$1\" >/proc/sys/net/ipv4/ip_local_port_range && shift && exec \"$@\"";
    let program = std::env::current_exe()?;
    Command::new("unshare")
        .args(["--net", "sh", "-c", prepare, "sh", &range])
        .arg(program)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(WITHIN, "1")
        .output()
}

#[test]
fn self_connect_is_a_backend_that_refuses() {
    let permitted = Command::new("unshare").args(["--net", "ip", "link", "set", "lo", "up"]).output();
    match permitted {
        Ok(output) if output.status.success() => {}
        Ok(output) => return skip(&format!("no network namespace may be made: {}", text(&output))),
        Err(error) => return skip(&format!("unshare (util-linux) cannot be run: {error}")),
    }
    let output = in_namespace("self_connect::within_the_namespace").expect("it ran a moment ago");
    assert!(output.status.success(), "{}", text(&output));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("1 passed"), "{}", text(&output));
}

#[test]
#[ignore = "runs in a network namespace, where self_connect_is_a_backend_that_refuses starts it"]
fn within_the_namespace() {
    if std::env::var_os(WITHIN).is_none() {
        return;
    }
    let dead = SocketAddr::from(([127, 0, 0, 1], DEAD));
    // Outside of the range: a free port would come from within.
    let server = Setup::new(dead).flags("--listen 127.0.0.1:9443 --admin 127.0.0.1:9100").start();
    let before = server.metrics();
    let config = plain(Version::Tls13);
    let mut to_themselves = 0;
    for _ in 0..CONNECTIONS {
        let mut peer = Peer::open(server.addr, &config);
        peer.seal(b"to the backend");
        // It may have been refused by now.
        let _ = peer.flush();
        to_themselves += usize::from(peer.tls_read_exact(&mut [0]));
        peer.reset();
    }
    let labels = server.faulted(&before, CONNECTIONS as u64);
    assert_eq!(to_themselves, 0, "of {CONNECTIONS} clients so many got their own bytes back");
    assert_eq!(labels, ["backend_refused"]);
    server.settled();
    TcpListener::bind(dead).expect("nothing keeps the backend from its port");
    server.stop();
}
