//! Stage 2 once more: sessions that are resumed by ticket, and a listener without tickets.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::{ClientConfig, HandshakeKind};

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::NAME;
use offramp_testing::peer::{BOTH, Peer, Version, plain, s_client, trust_file};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{eventually, have, scratch, text};

fn openssl_flag(version: Version) -> &'static str {
    match version {
        Version::Tls12 => "-tls1_2",
        Version::Tls13 => "-tls1_3",
    }
}

/// Two openssl connections, the second with the first one's session: what each printed.
fn twice(server: &TestServer, version: Version) -> (String, Option<String>) {
    let files = scratch();
    let (trust, session) = (trust_file(files.path()), files.path().join("session.pem"));
    let words = format!("{} -servername {NAME}", openssl_flag(version));
    let session_words = |way: &str| format!("{words} -sess_{way} {}", session.display());
    let (first, echoed) = s_client(server.addr, &trust, &session_words("out"), Some("the first line"));
    assert!(echoed, "{version:?}: {}", text(&first));
    // Without a ticket there may be nothing that openssl could keep.
    if !session.exists() {
        return (text(&first), None);
    }
    let (second, echoed) = s_client(server.addr, &trust, &session_words("in"), Some("the second line"));
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
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    for version in BOTH {
        let (first, second) = twice(&server, version);
        assert!(printed(&first, "New", version), "{version:?}: {first}");
        assert!(first.to_lowercase().contains("session ticket"), "{version:?}: no ticket: {first}");
        let second = second.unwrap_or_else(|| panic!("{version:?}: no session was kept: {first}"));
        assert!(printed(&second, "Reused", version), "{version:?}: {second}");
    }
    let metrics = server.settled();
    assert_eq!((metrics.handshakes("full"), metrics.handshakes("resumed")), (2, 2), "{}", metrics.raw);
    server.stop();
}

#[test]
fn without_tickets_every_handshake_is_full() {
    if !have("openssl") {
        return;
    }
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags("--tickets off").start();
    for version in BOTH {
        let (first, second) = twice(&server, version);
        for output in [Some(first), second].into_iter().flatten() {
            assert!(printed(&output, "New", version), "{version:?}: {output}");
            assert!(!output.to_lowercase().contains("session ticket"), "{version:?}: a ticket: {output}");
        }
    }
    let metrics = server.settled();
    assert_eq!(metrics.handshakes("resumed"), 0, "{}", metrics.raw);
    server.stop();
}

#[test]
fn rustls_resumes_and_the_data_arrives() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    for version in BOTH {
        let client = plain(version);
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let mut peer = Peer::open(server.addr, &client);
            // The ticket of TLS 1.3 comes behind the handshake: the ping takes it in.
            peer.ping(b"there and back");
            let kind = peer.kind();
            assert_eq!(kind, expected, "{version:?}");
        }
    }
    let metrics = server.settled();
    assert_eq!((metrics.handshakes("full"), metrics.handshakes("resumed")), (2, 4), "{}", metrics.raw);
    server.stop();
}

#[test]
fn tickets_are_switched_off_and_on_while_it_runs() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let path = files.path().join("offramp.toml");
    let switch = |to: &str| std::fs::write(&path, format!("tickets = \"{to}\"\n")).expect("written");
    switch("on");
    let server = Setup::new(backend.addr).flags(&format!("--config {}", path.display())).start();
    for version in BOTH {
        let client = plain(version);
        let kind = || {
            let mut peer = Peer::open(server.addr, &client);
            peer.ping(b"there and back");
            peer.kind()
        };
        assert_eq!([kind(), kind()], [HandshakeKind::Full, HandshakeKind::Resumed], "{version:?}");
        switch("off");
        server.reload("timeouts in force");
        assert_eq!([kind(), kind()], [HandshakeKind::Full; 2], "{version:?}");
        switch("on");
        server.reload("timeouts in force");
        // A ticket from before is as good as a new one.
        kind();
        assert_eq!(kind(), HandshakeKind::Resumed, "{version:?}");
    }
    server.stop();
}

/// The keys are those of the file and nobody makes up others: it is served without tickets, and said.
#[test]
fn no_sealing_key_causes_full_handshakes_and_warning() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let path = files.path().join("ticket.keys");
    for times in ["2001-01-01T00:00:00Z 2001-01-02T00:00:00Z", "9001-01-01T00:00:00Z 9001-01-02T00:00:00Z"] {
        std::fs::write(&path, format!("key {} {times} {}\n", "a".repeat(32), "1b2c".repeat(24)))
            .expect("the file can be written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).expect("the mode can be set");
        let server = Setup::new(backend.addr).flags(&format!("--ticket-keys {}", path.display())).start();
        eventually(&format!("the log warns of {times}"), || server.stderr().contains("no ticket key seals"));
        for version in BOTH {
            let client = plain(version);
            for _ in 0..2 {
                let mut peer = Peer::open(server.addr, &client);
                peer.ping(b"there and back");
                assert_eq!(peer.kind(), HandshakeKind::Full, "{version:?}, {times}");
            }
        }
        server.settled();
        server.stop();
    }
}

/// A file that cannot be used is named, and whoever has a ticket does not notice.
#[test]
fn a_bad_file_of_ticket_keys_leaves_the_keys_in_force() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let path = files.path().join("ticket.keys");
    let write = |content: &[u8], mode: u32| {
        // A directory may stand there.
        let _ = std::fs::remove_dir(&path);
        std::fs::write(&path, content).expect("the file can be written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&path, mode).expect("the mode can be set");
    };
    let key = |digit: &str, secret: &str| {
        let times = "2026-01-01T00:00:00Z 2099-01-01T00:00:00Z";
        format!("key {} {times} {}\n", digit.repeat(32), secret.repeat(24))
    };
    let good = key("a", "1b2c");
    write(good.as_bytes(), 0o600);
    let server = Setup::new(backend.addr).flags(&format!("--ticket-keys {}", path.display())).start();
    let clients = BOTH.map(|version| (version, plain(version)));
    let kind = |client| kind_of(server.addr, client);
    clients.iter().for_each(|(_, client)| assert_eq!(kind(client), HandshakeKind::Full));
    let bad: [(Vec<u8>, u32, &str); 6] = [
        (good.clone().into(), 0o644, "its mode is 0644"),
        (format!("{good}key of no form\n").into(), 0o600, "ticket.keys:2: not the word `key` and four more"),
        (format!("{good}{good}").into(), 0o600, "ticket.keys:2: a key with this name or secret"),
        (b"# none\n".to_vec(), 0o600, "0 keys; allowed is 1 to 32"),
        (b"\xff\xfe".to_vec(), 0o600, "it is not text"),
        (vec![b'#'; 70_000], 0o600, "it is longer than 65536 bytes"),
    ];
    let in_force = |problem: &str| {
        server.reload(problem);
        for (version, client) in &clients {
            assert_eq!(kind(client), HandshakeKind::Resumed, "{version:?} after {problem}");
        }
    };
    for (content, mode, problem) in bad {
        write(&content, mode);
        in_force(problem);
    }
    std::fs::remove_file(&path).expect("it is there");
    in_force("No such file");
    let private: &mut std::fs::DirBuilder = &mut std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(private, 0o700).create(&path).expect("nothing is there");
    in_force("is no regular file");
    // And a good one is taken again.
    write(key("c", "3d4e").as_bytes(), 0o600);
    server.reload("ticket keys read from");
    clients.iter().for_each(|(_, client)| assert_eq!(kind(client), HandshakeKind::Full, "its key is gone"));
    let said = server.stderr();
    assert!(said.contains("the keys in force stay") && !said.contains(&"1b2c".repeat(4)), "{said}");
    server.stop();
}

/// As the kubelet changes a Secret: `ticket.keys` leads to `..data/ticket.keys`, and `..data` is renamed to
/// another directory at once; the files have mode 0440.
#[test]
fn kubernetes_ticket_keys_are_reread_on_each_swap() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let at = |name: &str| files.path().join(name);
    let key = |digit: &str, secret: &str| {
        let times = "2026-01-01T00:00:00Z 2099-01-01T00:00:00Z";
        format!("key {} {times} {}\n", digit.repeat(32), secret.repeat(24))
    };
    let swap = |nth: usize, content: &str| {
        let directory = at(&format!("..2026_11_29_{nth}"));
        std::fs::create_dir(&directory).expect("new");
        let file = directory.join("ticket.keys");
        std::fs::write(&file, content).expect("written");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o440)).expect("chmod");
        symlink(directory.file_name().expect("a name"), at("..data_tmp")).expect("linked");
        std::fs::rename(at("..data_tmp"), at("..data")).expect("swapped");
        if nth > 0 {
            std::fs::remove_dir_all(at(&format!("..2026_11_29_{}", nth - 1))).expect("the old one goes");
        }
    };
    let (first, second) = (key("a", "1b2c"), key("b", "3d4e"));
    swap(0, &first);
    symlink("..data/ticket.keys", at("ticket.keys")).expect("linked");
    let server =
        Setup::new(backend.addr).flags(&format!("--ticket-keys {}", at("ticket.keys").display())).start();
    let clients = BOTH.map(|version| (version, plain(version)));
    let kind = |client| kind_of(server.addr, client);
    clients.iter().for_each(|(_, client)| assert_eq!(kind(client), HandshakeKind::Full));
    let contents =
        [(format!("{first}{second}"), HandshakeKind::Resumed), (key("c", "5f60"), HandshakeKind::Full)];
    for (nth, (content, expected)) in (1..).zip(contents) {
        let readings = || server.stderr().matches("ticket keys read from").count();
        let before = readings();
        swap(nth, &content);
        eventually("the swap is seen", || readings() > before);
        for (version, client) in &clients {
            assert_eq!(kind(client), expected, "{version:?}, swap {nth}");
        }
    }
    server.stop();
}

/// The kind of a handshake, and that the connection behind it carries bytes.
fn kind_of(server: SocketAddr, client: &Arc<ClientConfig>) -> HandshakeKind {
    let mut peer = Peer::open(server, client);
    peer.ping(b"there and back");
    peer.kind()
}
