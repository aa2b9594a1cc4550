//! Bulk: a gibibyte each way between curl and nginx, every version and key type; the hash is the same at both
//! ends.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use offramp_testing::identity::{Identity, NAME};
use offramp_testing::nginx::Nginx;
use offramp_testing::peer::{Version, trust_file};
use offramp_testing::rng::{Noise, sha256_of};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{bulk_scratch, have, text};

#[test]
fn a_gibibyte_each_way_tls12_ecdsa() {
    both_ways(Version::Tls12, Identity::ecdsa());
}

#[test]
fn a_gibibyte_each_way_tls12_rsa() {
    both_ways(Version::Tls12, Identity::rsa());
}

#[test]
fn a_gibibyte_each_way_tls13_ecdsa() {
    both_ways(Version::Tls13, Identity::ecdsa());
}

#[test]
fn a_gibibyte_each_way_tls13_rsa() {
    both_ways(Version::Tls13, Identity::rsa());
}

/// How much one bulk transfer moves.
pub(crate) fn bulk_bytes() -> u64 {
    std::env::var("OFFRAMP_BULK_BYTES").map_or(1 << 30, |size| size.parse().expect("a number of bytes"))
}

/// One at a time: two gibibytes of files each, and nothing is learnt from their competing.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn both_ways(version: Version, identity: &'static Identity) {
    if !have("nginx") || !have("curl") {
        return;
    }
    let _turn = turn();
    let size = bulk_bytes();
    let directory = bulk_scratch();
    let nginx = Nginx::start(directory.path());
    let server = Setup::new(nginx.addr).identities(&[identity]).start();
    let content = nginx.file("content");
    io::copy(&mut Noise::new(size, size), &mut File::create(&content).expect("a file"))
        .expect("the disk has room");
    let (sha256, _) = sha256_of(File::open(&content).expect("the file is there"));

    let down = download(&server, version, directory.path());
    assert_eq!(down, (sha256.clone(), size), "what curl received against what nginx has");

    upload(&server, version, directory.path(), &content);
    let up = sha256_of(File::open(nginx.file("stored")).expect("nginx stored the upload"));
    assert_eq!(up, (sha256, size), "what nginx stored against what curl sent");

    let metrics = server.settled();
    assert_eq!(metrics.faults().len(), 0, "faults: {:?}", metrics.faults());
    let (near, far) = (bytes(&server, "near"), bytes(&server, "far"));
    assert!(near >= size && far >= size, "bytes counted: near {near}, far {far}, sent {size} each way");
    server.stop();
}

fn bytes(server: &TestServer, leg: &str) -> u64 {
    server.metrics().sum("offramp_bytes_total", &[("leg", leg)])
}

fn curl(server: &TestServer, version: Version, directory: &Path) -> Command {
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "900",
        "--cacert",
        &trust_file(directory),
    ]);
    curl.args(["--resolve", &format!("{NAME}:{}:127.0.0.1", server.addr.port())]);
    match version {
        Version::Tls12 => curl.args(["--tlsv1.2", "--tls-max", "1.2"]),
        Version::Tls13 => curl.args(["--tlsv1.3"]),
    };
    curl
}

/// What curl writes is hashed as it comes.
fn download(server: &TestServer, version: Version, directory: &Path) -> (String, u64) {
    let mut curl = curl(server, version, directory);
    curl.arg(format!("https://{NAME}:{}/content", server.addr.port()));
    let mut child = curl.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("curl runs");
    let received = sha256_of(child.stdout.take().expect("piped"));
    let output = child.wait_with_output().expect("curl ends");
    assert!(output.status.success(), "curl: {}", text(&output));
    received
}

fn upload(server: &TestServer, version: Version, directory: &Path, content: &Path) {
    let mut curl = curl(server, version, directory);
    // Without `Expect:` curl sends the body at once, behind the header.
    curl.args(["--header", "Expect:", "--upload-file"]).arg(content);
    let output =
        curl.arg(format!("https://{NAME}:{}/stored", server.addr.port())).output().expect("curl runs");
    assert!(output.status.success(), "curl: {}", text(&output));
}
