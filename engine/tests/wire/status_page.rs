//! The status page in Chromium, of a server that has something to show.

use std::path::Path;
use std::process::Command;

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::NAME;
use offramp_testing::peer::{Peer, Version, dial, plain};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{have, in_guest, scratch};

/// Words of Chromium for a browser of its own, as root too.
const WORDS: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--enable-logging=stderr",
    "--timeout=30000",
    "--virtual-time-budget=9000",
];

/// What the page is when its script has run for a while, and what the browser has logged.
fn visit(server: &TestServer, profile: &Path, more: &str) -> (String, String) {
    let mut chromium = Command::new("timeout");
    chromium.args(["-k", "5", "60", "chromium"]).args(WORDS).arg(more);
    chromium.arg(format!("--user-data-dir={}", profile.display()));
    let output = chromium.args(["--dump-dom", &format!("http://{}/", server.admin())]).output();
    let output = output.expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (text(output.stdout), text(output.stderr))
}

#[test]
fn status_page_shows_listener_pool_cert_and_fault() {
    if in_guest() || !have("chromium") {
        return;
    }
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let before = server.metrics();
    let mut peer = Peer::open(server.addr, &plain(Version::Tls13));
    peer.ping(b"held");
    std::io::Write::write_all(&mut dial(server.addr), b"GET / HTTP/1.0\r\n\r\n").expect("it reads");
    assert_eq!(server.faulted(&before, 1), ["not_tls"]);
    let profile = scratch();
    let (page, log) = visit(&server, profile.path(), "--window-size=1280,2000");
    for expected in [
        server.addr.to_string(),
        backend.addr.to_string(),
        server.certificate(offramp_testing::identity::Identity::ecdsa()).display().to_string(),
        format!(">{NAME}"),
        ">not_tls<".to_owned(),
        "The first bytes are no TLS handshake record.".to_owned(),
        "look at <code>client</code>".to_owned(),
        "points=\"".to_owned(),
        "1 since the start, 0 % resumed".to_owned(),
        "seals and opens".to_owned(),
    ] {
        assert!(page.contains(&expected), "{expected} is not in {page}\n{log}");
    }
    assert!(!log.contains("CONSOLE"), "{log}");
    drop(peer);
    server.stop();
}

/// A name from outside is text on the page, whatever it is.
#[test]
fn status_page_shows_markup_in_names_as_text() {
    if in_guest() || !have("chromium") {
        return;
    }
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let file = files.path().join("offramp.toml");
    let text = format!(
        "listen = \"127.0.0.1:0\"\nmode = \"plain\"\nbackend = \"unix:/tmp/<b>{}\"\n",
        backend.addr.port()
    );
    std::fs::write(&file, text).expect("the file can be written");
    let server = Setup::from_file(&file).start();
    let profile = scratch();
    let (page, log) = visit(&server, profile.path(), "--window-size=400,2000");
    assert!(page.contains("unix:/tmp/&lt;b&gt;") && !page.contains("/tmp/<b>"), "{page}\n{log}");
    assert!(!log.contains("CONSOLE"), "{log}");
    server.stop();
}
