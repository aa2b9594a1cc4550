//! The key log: the secrets that OpenSSL has of the same connections, in either role.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::Identity;
use offramp_testing::peer::{Peer, Version, dial, plain, s_client, trust_file};
use offramp_testing::server::{Setup, refused};
use offramp_testing::tools::{eventually, scratch};

use super::originate::{by_name_and_any_key, originating_with};

/// What a key log has, without comments.
fn lines(path: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_ascii_lowercase).collect()
}

#[test]
fn key_log_has_the_secrets_that_openssl_has() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let (ours, theirs) = (files.path().join("ours"), files.path().join("theirs"));
    let server = Setup::new(backend.addr).flags(&format!("--key-log {}", ours.display())).start();
    let trust = trust_file(files.path());
    for (version, labels) in [("-tls1_2", 1), ("-tls1_3", 5)] {
        let _ = std::fs::remove_file(&theirs);
        let words = format!(
            "{version} -servername {} -keylogfile {}",
            offramp_testing::identity::NAME,
            theirs.display()
        );
        let (_, echoed) = s_client(server.addr, &trust, &words, Some("a line"));
        assert!(echoed, "{version}");
        let expected = lines(&theirs);
        assert_eq!(expected.len(), labels, "{version}: {expected:?}");
        eventually("all are written", || expected.is_subset(&lines(&ours)));
    }
    assert_eq!(ours.metadata().expect("a file").permissions().mode() & 0o777, 0o600);
    let warning = format!("key log: the secrets of every connection are written to {}", ours.display());
    assert_eq!(server.stderr().matches(&warning).count(), 1);
    assert!(server.ask("GET /v1/state").contains(&format!("\"key_log\":\"{}\"", ours.display())));
    server.reload("SIGHUP: listeners, pools");
    assert_eq!(server.stderr().matches(&warning).count(), 2, "{}", server.stderr());
    server.stop();
}

#[test]
fn key_log_of_both_roles_has_the_same_secrets() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let logs = ["server", "client"].map(|name| files.path().join(name));
    let flag = |path: &Path| format!("--key-log {}", path.display());
    let server = Setup::new(backend.addr).flags(&flag(&logs[0])).start();
    let (client, _files) = originating_with(server.addr, &by_name_and_any_key(), &flag(&logs[1]));
    let mut tcp = dial(client.addr);
    std::io::Write::write_all(&mut tcp, b"through both").expect("it is connected");
    std::io::Read::read_exact(&mut tcp, &mut [0; 12]).expect("the echo");
    eventually("both are written", || {
        let [server, client] = logs.each_ref().map(|path| lines(path));
        server.len() == 5 && server == client
    });
    drop(tcp);
    client.stop();
    server.stop();
}

#[test]
fn key_log_is_a_flag_and_nothing_else() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    Identity::ecdsa().write(files.path());
    let file = files.path().join("offramp.toml");
    std::fs::write(&file, "key_log = \"keys\"\n").expect("the file can be written");
    let refusal = refused(&["--config".to_owned(), file.display().to_string()]);
    assert!(refusal.stderr.contains("unknown key key_log"), "{}", refusal.stderr);
    let words = format!("--listen 127.0.0.1:0 --mode plain --backend {} --workers 1", backend.addr);
    let mut words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    words.extend(["--key-log".to_owned(), files.path().display().to_string()]);
    let refusal = refused(&words);
    assert!(refusal.stderr.contains("--key-log: ") && refusal.stderr.contains("cannot be written"));
    let server = Setup::new(backend.addr).start();
    Peer::open(server.addr, &plain(Version::Tls13)).ping(b"no secret is written");
    assert!(server.ask("GET /v1/state").contains("\"key_log\":null"));
    server.stop();
}
