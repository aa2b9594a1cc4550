//! Stage 2 once more: sessions that are resumed by ticket, and a listener without tickets.

use rustls::HandshakeKind;

use crate::backend::{Backend, Manner};
use crate::identity::NAME;
use crate::lab::{Lab, Setup};
use crate::peer::{BOTH, Peer, Version, plain, s_client, trust_file};
use crate::tools::{have, scratch, text};

fn openssl_flag(version: Version) -> &'static str {
    match version {
        Version::Tls12 => "-tls1_2",
        Version::Tls13 => "-tls1_3",
    }
}

/// Two openssl connections, the second with the first one's session: what each printed.
fn twice(lab: &Lab, version: Version) -> (String, Option<String>) {
    let files = scratch();
    let (trust, session) = (trust_file(files.path()), files.path().join("session.pem"));
    let words = format!("{} -servername {NAME}", openssl_flag(version));
    let session_words = |way: &str| format!("{words} -sess_{way} {}", session.display());
    let (first, echoed) = s_client(lab.addr, &trust, &session_words("out"), Some("the first line"));
    assert!(echoed, "{version:?}: {}", text(&first));
    // Without a ticket there may be nothing that openssl could keep.
    if !session.exists() {
        return (text(&first), None);
    }
    let (second, echoed) = s_client(lab.addr, &trust, &session_words("in"), Some("the second line"));
    assert!(echoed, "{version:?}: {}", text(&second));
    (text(&first), Some(text(&second)))
}

fn printed(output: &str, what: &str, version: Version) -> bool {
    output.contains(&format!("{what}, {}", if version == Version::Tls12 { "TLSv1.2" } else { "TLSv1.3" }))
}

#[test]
fn openssl_echoes_lines_and_resumes_by_ticket() {
    if !have("openssl") {
        return;
    }
    let backend = Backend::start(Manner::Echo);
    let lab = Lab::start(backend.addr);
    for version in BOTH {
        let (first, second) = twice(&lab, version);
        assert!(printed(&first, "New", version), "{version:?}: {first}");
        assert!(first.to_lowercase().contains("session ticket"), "{version:?}: no ticket: {first}");
        let second = second.unwrap_or_else(|| panic!("{version:?}: no session was kept: {first}"));
        assert!(printed(&second, "Reused", version), "{version:?}: {second}");
    }
    let metrics = lab.settled();
    assert_eq!((metrics.handshakes("full"), metrics.handshakes("resumed")), (2, 2), "{}", metrics.raw);
    lab.stop();
}

#[test]
fn without_tickets_every_handshake_is_full() {
    if !have("openssl") {
        return;
    }
    let backend = Backend::start(Manner::Echo);
    let lab = Setup::new(backend.addr).flags("--tickets off").start();
    for version in BOTH {
        let (first, second) = twice(&lab, version);
        for output in [Some(first), second].into_iter().flatten() {
            assert!(printed(&output, "New", version), "{version:?}: {output}");
            assert!(!output.to_lowercase().contains("session ticket"), "{version:?}: a ticket: {output}");
        }
    }
    let metrics = lab.settled();
    assert_eq!(metrics.handshakes("resumed"), 0, "{}", metrics.raw);
    lab.stop();
}

#[test]
fn rustls_resumes_and_the_data_arrives() {
    let backend = Backend::start(Manner::Echo);
    let lab = Lab::start(backend.addr);
    for version in BOTH {
        let client = plain(version);
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let mut peer = Peer::open(lab.addr, &client);
            // The ticket of TLS 1.3 comes behind the handshake: the ping takes it in.
            peer.ping(b"there and back");
            let kind = peer.kind();
            assert_eq!(kind, expected, "{version:?}");
        }
    }
    let metrics = lab.settled();
    assert_eq!((metrics.handshakes("full"), metrics.handshakes("resumed")), (2, 4), "{}", metrics.raw);
    lab.stop();
}

#[test]
fn tickets_are_switched_off_and_on_while_it_runs() {
    let backend = Backend::start(Manner::Echo);
    let files = scratch();
    let path = files.path().join("offramp.toml");
    let switch = |to: &str| std::fs::write(&path, format!("tickets = \"{to}\"\n")).expect("written");
    switch("on");
    let lab = Setup::new(backend.addr).flags(&format!("--config {}", path.display())).start();
    for version in BOTH {
        let client = plain(version);
        let kind = || {
            let mut peer = Peer::open(lab.addr, &client);
            peer.ping(b"there and back");
            peer.kind()
        };
        assert_eq!([kind(), kind()], [HandshakeKind::Full, HandshakeKind::Resumed], "{version:?}");
        switch("off");
        lab.reload("tickets and offload in force");
        assert_eq!([kind(), kind()], [HandshakeKind::Full; 2], "{version:?}");
        switch("on");
        lab.reload("tickets and offload in force");
        // A ticket from before is as good as a new one.
        kind();
        assert_eq!(kind(), HandshakeKind::Resumed, "{version:?}");
    }
    lab.stop();
}
