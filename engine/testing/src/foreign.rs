//! Peers that are not ours: OpenSSL and GnuTLS as programs that one types into, OpenSSL in either role, and
//! Java as a client that is told what to transfer.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::identity::{Identity, NAME};
use crate::peer::{Version, trust_file};
use crate::tools::{PATIENCE, patiently, text};

/// The three kinds of protection that both versions have: their names in GnuTLS, in Java's TLS 1.3 and 1.2.
pub const AEADS: [[&str; 3]; 3] = [
    ["AES-128-GCM", "TLS_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"],
    ["AES-256-GCM", "TLS_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"],
    ["CHACHA20-POLY1305", "TLS_CHACHA20_POLY1305_SHA256", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"],
];

/// What makes OpenSSL, in either role, use this version and one of [`AEADS`] alone.
pub fn openssl_words(version: Version, [_, tls13, tls12]: [&str; 3]) -> String {
    match version {
        Version::Tls13 => format!("-tls1_3 -ciphersuites {tls13}"),
        // By OpenSSL's own names (openssl-ciphers(1)).
        Version::Tls12 => {
            let name = tls12.trim_start_matches("TLS_").trim_end_matches("_SHA256").replace("_WITH_", "_");
            let name = name.replace("AES_128", "AES128").replace("AES_256", "AES256").replace('_', "-");
            let hash = if name.ends_with("AES128-GCM") { "-SHA256" } else { "" };
            format!("-tls1_2 -cipher {name}{hash}")
        }
    }
}

/// A program that sends what it reads and prints what it receives, to be typed into.
pub struct Typed {
    child: Child,
    stdin: Option<ChildStdin>,
    printed: Arc<Mutex<Vec<u8>>>,
    said: Arc<Mutex<Vec<u8>>>,
    readers: [JoinHandle<()>; 2],
}

impl Typed {
    /// `openssl s_client` with these words. A line that begins with K or k is an order to update keys (TLS
    /// 1.3), and K asks for the server's too; with R it is one to renegotiate (TLS 1.2).
    pub fn openssl(addr: SocketAddr, directory: &Path, words: &str) -> Self {
        let mut command = patient("openssl");
        command.args(["s_client", "-connect", &addr.to_string(), "-servername", NAME]);
        command.args(words.split(' '));
        Self::start(command.args(["-verify_return_error", "-CAfile", &trust_file(directory)]))
    }

    /// `openssl s_server` with an identity of each key type and these words, and where it listens. Lines are
    /// orders as to the client; r asks the client to renegotiate, q leaves the connection without
    /// close_notify.
    pub fn openssl_server(directory: &Path, words: &str) -> (Self, SocketAddr) {
        let ((certificate, key), (rsa, rsa_key)) =
            (Identity::ecdsa().write(directory), Identity::rsa().write(directory));
        // Without a guard of its own: killed when dropped, it is itself what is killed.
        let mut command = Command::new("openssl");
        command.args(["s_server", "-accept", "127.0.0.1:0"]).args(words.split(' '));
        command.arg("-cert").arg(certificate).arg("-key").arg(key);
        command.arg("-dcert").arg(rsa).arg("-dkey").arg(rsa_key);
        let server = Self::start(&mut command);
        let accepting = |line: &str| line.strip_prefix("ACCEPT ")?.strip_suffix('\n')?.parse().ok();
        let addr = patiently(|| {
            String::from_utf8_lossy(&server.printed()).split_inclusive('\n').find_map(accepting)
        });
        (server, addr.expect("it says where it accepts"))
    }

    /// `gnutls-cli` with one version and one cipher; what it says of itself is in `directory`/log. A line
    /// `^rekey^` is an order to update the keys of both sides.
    pub fn gnutls(addr: SocketAddr, directory: &Path, version: Version, cipher: &str) -> Self {
        let version = if version == Version::Tls12 { "1.2" } else { "1.3" };
        let mut command = patient("gnutls-cli");
        command.args(["--inline-commands", "--port", &addr.port().to_string(), "--verify-hostname", NAME]);
        command.arg("--priority").arg(format!("NORMAL:-VERS-ALL:+VERS-TLS{version}:-CIPHER-ALL:+{cipher}"));
        command.arg("--logfile").arg(directory.join("log"));
        Self::start(command.args(["--x509cafile", &trust_file(directory), "127.0.0.1"]))
    }

    fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the client runs");
        let (printed, said) = (Arc::default(), Arc::default());
        let readers = [
            collect(child.stdout.take().expect("piped"), &printed),
            collect(child.stderr.take().expect("piped"), &said),
        ];
        Self { stdin: child.stdin.take(), child, printed, said, readers }
    }

    /// One write: an order is one only at the beginning of what the program reads.
    pub fn write(&mut self, bytes: &[u8]) {
        // A client whose connection was ended is gone; what it printed says so.
        let _ = self.stdin.as_mut().expect("not yet ended").write_all(bytes);
    }

    pub fn printed(&self) -> Vec<u8> {
        self.printed.lock().expect("no holder panics").clone()
    }

    /// Waits for a text that it prints.
    pub fn await_text(&mut self, wanted: &str) {
        let seen = patiently(|| {
            let ended = self.child.try_wait().expect("it can be waited for").is_some();
            let found = String::from_utf8_lossy(&self.printed()).contains(wanted);
            (found || ended).then_some(found)
        });
        let printed = String::from_utf8_lossy(&self.printed()).into_owned();
        assert_eq!(seen, Some(true), "{wanted:?} is not in what the client printed:\n{printed}");
    }

    /// Waits for a text that it says to stderr, on its own account.
    pub fn await_said(&self, wanted: &str) {
        let said = || String::from_utf8_lossy(&self.said.lock().expect("no holder panics")).into_owned();
        let seen = patiently(|| said().contains(wanted).then_some(()));
        assert!(seen.is_some(), "{wanted:?} is not in what the client said:\n{}", said());
    }

    /// Waits until it has printed so much.
    pub fn await_bytes(&self, count: usize) {
        let enough = patiently(|| (self.printed().len() >= count).then_some(()));
        assert!(enough.is_some(), "{} of {count} bytes are back", self.printed().len());
    }

    /// Gone without a word: its kernel ends its connections for it.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it can be waited for");
    }

    /// No more input; waits for its end and gives all that it printed.
    pub fn end(mut self) -> Vec<u8> {
        drop(self.stdin.take());
        self.child.wait().expect("it ends, or timeout ends it");
        // Both pipes are at their end, or soon will be.
        let read = patiently(|| self.readers.iter().all(JoinHandle::is_finished).then_some(()));
        assert!(read.is_some(), "what the client printed has no end");
        self.printed()
    }
}

impl Drop for Typed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ended after a while, whatever becomes of the scenario.
fn patient(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", &PATIENCE.as_secs().to_string(), program]);
    command
}

fn collect(mut pipe: impl Read + Send + 'static, into: &Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut block = vec![0; 1 << 16];
        while let Ok(count @ 1..) = pipe.read(&mut block) {
            into.lock().expect("no holder panics").extend_from_slice(&block[..count]);
        }
    })
}

/// One line of the Java client: what it negotiated, and the SHA-256 of what it sent and received.
#[derive(Debug, PartialEq, Eq)]
pub struct Transfer {
    pub negotiated: String,
    pub sent: String,
    pub received: String,
}

/// Runs `TlsClient.java`: a transfer for each of the offers (`protocol/suite`). Keys are updated after
/// `key_limit` bytes, where one is given.
pub fn java(
    addr: SocketAddr,
    directory: &Path,
    bytes: u64,
    key_limit: Option<u64>,
    offers: &[String],
) -> Vec<Transfer> {
    // Long enough for a bulk transfer inside a guest.
    let mut java = Command::new("timeout");
    java.args(["-k", "5", "600", "java"]);
    if let Some(limit) = key_limit {
        let security = directory.join("java.security");
        let limits =
            ["AES/GCM/NoPadding", "ChaCha20-Poly1305"].map(|name| format!("{name} KeyUpdate {limit}"));
        fs::write(&security, format!("jdk.tls.keyLimits={}\n", limits.join(", "))).expect("a file");
        java.arg(format!("-Djava.security.properties={}", security.display()));
    }
    java.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/TlsClient.java"));
    java.args([addr.port().to_string(), trust_file(directory), bytes.to_string()]).args(offers);
    let output = java.output().expect("java runs");
    assert!(output.status.success(), "java: {}", text(&output));
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let transfers: Option<Vec<Transfer>> = lines.lines().map(parse).collect();
    let transfers = transfers.unwrap_or_else(|| panic!("java: {}", text(&output)));
    assert_eq!(transfers.iter().map(|one| &one.negotiated).collect::<Vec<_>>(), Vec::from_iter(offers));
    transfers
}

fn parse(line: &str) -> Option<Transfer> {
    let mut words = line.split(' ').map(str::to_owned);
    Some(Transfer { negotiated: words.next()?, sent: words.next()?, received: words.next()? })
}

/// The offers of every version and AEAD.
pub fn java_offers() -> Vec<String> {
    let both = |[_, tls13, tls12]: [&str; 3]| [format!("TLSv1.3/{tls13}"), format!("TLSv1.2/{tls12}")];
    AEADS.into_iter().flat_map(both).collect()
}

#[test]
fn openssl_is_told_its_own_names() {
    let words = |version| AEADS.map(|aead| openssl_words(version, aead));
    assert_eq!(
        words(Version::Tls12),
        ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"]
            .map(|name| format!("-tls1_2 -cipher {name}"))
    );
    assert_eq!(words(Version::Tls13)[1], "-tls1_3 -ciphersuites TLS_AES_256_GCM_SHA384");
}
