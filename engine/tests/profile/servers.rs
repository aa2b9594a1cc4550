//! Servers that are not ours, met in the client's role: OpenSSL, GnuTLS, NSS and Java. Within the profile
//! they serve and resume; outside it they are refused, and say in their own words with which alert.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::certificates::fingerprint;
use offramp_testing::identity::{Identity, NAME};
use offramp_testing::peer::{dial, end_of_dial};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{eventually, have, scratch, text};

/// A server of another library; killed when dropped.
struct Foreign {
    child: Child,
    stdin: ChildStdin,
    said: Arc<Mutex<String>>,
    addr: SocketAddr,
}

impl Foreign {
    /// Where the port is known before.
    fn at(addr: SocketAddr, program: &str, words: &[&str]) -> Self {
        let (child, stdin, said) = spawn(program, words);
        eventually(&format!("{program} listens"), || TcpStream::connect(addr).is_ok());
        Self { child, stdin, said, addr }
    }

    /// Where it says its port behind a mark.
    fn telling(mark: &str, program: &str, words: &[&str]) -> Self {
        let (child, stdin, said) = spawn(program, words);
        let port = || {
            let said = said.lock().unwrap();
            let (_, behind) = said.split_once(mark)?;
            behind.split_once(|c: char| !c.is_ascii_digit())?.0.parse::<u16>().ok()
        };
        eventually(&format!("{program} says its port: {}", said.lock().unwrap()), || port().is_some());
        let addr = SocketAddr::from(([127, 0, 0, 1], port().unwrap()));
        Self { child, stdin, said, addr }
    }

    /// `openssl s_server`, with the certificate and key of a directory.
    fn openssl(files: &Path, words: &str) -> Self {
        let (certificate, key) = (files.join("it.crt"), files.join("it.key"));
        let fixed = ["s_server", "-accept", "127.0.0.1:0", "-cert", certificate.to_str().unwrap()];
        let fixed = [&fixed[..], &["-key", key.to_str().unwrap()]].concat();
        let words: Vec<&str> = fixed.into_iter().chain(words.split_whitespace()).collect();
        Self::telling("ACCEPT 127.0.0.1:", "openssl", &words)
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the server at {} said\n{}", self.addr, self.said());
        }
    }
}

fn spawn(program: &str, words: &[&str]) -> (Child, ChildStdin, Arc<Mutex<String>>) {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let said = Arc::new(Mutex::new(String::new()));
    collect(child.stdout.take().unwrap(), &said);
    collect(child.stderr.take().unwrap(), &said);
    let stdin = child.stdin.take().unwrap();
    (child, stdin, said)
}

fn collect(pipe: impl Read + Send + 'static, said: &Arc<Mutex<String>>) {
    let said = Arc::clone(said);
    std::thread::spawn(move || {
        let (mut pipe, mut line) = (BufReader::new(pipe), Vec::new());
        while pipe.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            said.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
}

/// A port that was free when it was asked for: these servers can be given no 0.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap()
}

/// A directory with an identity in `it.crt` and `it.key`.
fn directory() -> tempfile::TempDir {
    let files = scratch();
    std::fs::write(files.path().join("it.crt"), &Identity::ecdsa().certificate).unwrap();
    std::fs::write(files.path().join("it.key"), &Identity::ecdsa().key).unwrap();
    files
}

fn run(directory: &Path, program: &str, words: &str) {
    let mut command = Command::new(program);
    let output = command.current_dir(directory).args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {words}: {}", text(&output));
}

fn originating(files: &Path, server: SocketAddr, lines: &str) -> TestServer {
    let path = files.join("offramp.toml");
    std::fs::write(&path, format!("mode = \"originate\"\n{lines}\n")).unwrap();
    Setup::new(server).identities(&[]).flags(&format!("--config {}", path.display())).start()
}

fn by_name() -> String {
    format!("server_name = \"{NAME}\"\nserver_ca = \"it.crt\"")
}

/// Says a line, and until an answer with this in it has come.
fn asks(offramp: &TestServer, line: &str, answer: &str) {
    let mut plain = dial(offramp.addr);
    plain.write_all(line.as_bytes()).unwrap();
    let (mut heard, mut block) = (Vec::new(), [0; 1024]);
    while !String::from_utf8_lossy(&heard).contains(answer) {
        let count = plain.read(&mut block).unwrap();
        assert!(count > 0, "no {answer:?}, but {:?} and the end", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&block[..count]);
    }
}

/// Twice: the second time with the session of the first.
fn serves_and_resumes(offramp: &TestServer, what: &str, line: &str, answer: &str) {
    for expected in [(1, 0), (1, 1)] {
        asks(offramp, line, answer);
        let metrics = offramp.settled();
        let counts = (metrics.handshakes("full"), metrics.handshakes("resumed"));
        assert_eq!(counts, expected, "{what}: {}", metrics.raw);
    }
}

#[test]
fn gnutls_serves_and_its_sessions_resume() {
    if !have("gnutls-serv") {
        return;
    }
    let files = directory();
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    for version in ["1.2", "1.3"] {
        let addr = free_port();
        let (port, priority) = (addr.port().to_string(), format!("NORMAL:-VERS-ALL:+VERS-TLS{version}"));
        let words = ["--echo", "--port", &port, "--priority", &priority];
        let identity = ["--x509certfile", &path("it.crt"), "--x509keyfile", &path("it.key")];
        let server = Foreign::at(addr, "gnutls-serv", &[&words[..], &identity].concat());
        let offramp = originating(files.path(), server.addr, &by_name());
        serves_and_resumes(&offramp, version, "there and back\n", "there and back\n");
        offramp.stop();
    }
}

#[test]
fn nss_serves_and_its_sessions_resume() {
    if !have("selfserv") {
        return;
    }
    let files = directory();
    std::fs::create_dir(files.path().join("db")).unwrap();
    run(
        files.path(),
        "openssl",
        "pkcs12 -export -in it.crt -inkey it.key -name it -passout pass:x -out it.p12",
    );
    run(files.path(), "certutil", "-N -d sql:db --empty-password");
    run(files.path(), "pk12util", "-i it.p12 -d sql:db -W x");
    let database = format!("sql:{}", files.path().join("db").display());
    for version in ["tls1.2:tls1.2", "tls1.3:tls1.3"] {
        let addr = free_port();
        let port = addr.port().to_string();
        let words = ["-d", &database, "-n", "it", "-p", &port, "-V", version, "-u", "-v"];
        let server = Foreign::at(addr, "selfserv", &words);
        let offramp = originating(files.path(), server.addr, &by_name());
        serves_and_resumes(&offramp, version, "GET / HTTP/1.0\r\n\r\n", "200 OK");
        offramp.stop();
    }
}

#[test]
fn java_serves_and_its_sessions_resume() {
    if !have("java") {
        return;
    }
    let files = directory();
    run(
        files.path(),
        "openssl",
        "pkcs12 -export -in it.crt -inkey it.key -name it -passout pass:secret -out it.p12",
    );
    let store = files.path().join("it.p12");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/profile/Server.java");
    for version in ["TLSv1.2", "TLSv1.3"] {
        let (source, store) = (source.to_str().unwrap(), store.to_str().unwrap());
        let words = ["-XX:TieredStopAtLevel=1", source, store, "secret", version];
        let server = Foreign::telling("port ", "java", &words);
        let offramp = originating(files.path(), server.addr, &by_name());
        serves_and_resumes(&offramp, version, "there and back\n", "there and back\n");
        offramp.stop();
    }
}

#[test]
fn openssl_serves_by_ip_with_alpn_and_without_tickets() {
    if !have("openssl") {
        return;
    }
    let files = directory();
    for version in ["-tls1_2", "-tls1_3"] {
        let server = Foreign::openssl(files.path(), &format!("-rev {version} -alpn msrp"));
        // The certificate is for this address too.
        let lines = "server_name = \"127.0.0.1\"\nserver_ca = \"it.crt\"\nalpn = [\"msrp\"]";
        let offramp = originating(files.path(), server.addr, lines);
        serves_and_resumes(&offramp, version, "there and back\n", "kcab dna ereht\n");
        offramp.stop();
        let offramp = originating(files.path(), server.addr, &format!("{}\nalpn = [\"cpim\"]", by_name()));
        is_refused(&offramp, &server, version, "no application protocol", "alert_in_handshake");
        offramp.stop();
        let offramp = originating(files.path(), server.addr, &format!("{}\ntickets = \"off\"", by_name()));
        (0..2).for_each(|_| asks(&offramp, "there and back\n", "kcab dna ereht\n"));
        let metrics = offramp.settled();
        let counts = (metrics.handshakes("full"), metrics.handshakes("resumed"));
        assert_eq!(counts, (2, 0), "{version}: {}", metrics.raw);
        offramp.stop();
    }
}

#[test]
fn a_server_that_asks_to_renegotiate_is_told_no() {
    if !have("openssl") {
        return;
    }
    let files = directory();
    let mut server = Foreign::openssl(files.path(), "-tls1_2");
    let offramp = originating(files.path(), server.addr, &by_name());
    let mut plain = dial(offramp.addr);
    plain.write_all(b"is anybody there?\n").unwrap();
    eventually("the line arrives", || server.said().contains("is anybody there?"));
    // "r" at the start of a line is its command to send a HelloRequest.
    server.stdin.write_all(b"r\n").unwrap();
    eventually("it is told no_renegotiation", || server.said().contains("no renegotiation"));
    drop(plain);
    let metrics = offramp.settled();
    assert_eq!(
        metrics.sum("offramp_control_records_total", &[("type", "renegotiation")]),
        1,
        "{}",
        metrics.raw
    );
    assert_eq!((metrics.handshakes("full"), metrics.handshakes("resumed")), (1, 0));
    offramp.stop();
}

/// What the server says when it is refused, or refuses, and the fault that we count.
fn is_refused(offramp: &TestServer, server: &Foreign, what: &str, says: &str, fault: &str) {
    let before = offramp.settled();
    // How it ends is said by the fault: a reset may come before the connection has.
    end_of_dial(offramp.addr, b"to whom?\n");
    assert_eq!(offramp.faulted(&before, 1), [fault], "{what}: {}", server.said());
    eventually(&format!("{what}: the server says {says:?}"), || server.said().contains(says));
    assert!(!server.said().contains("to whom?"), "{what}: data reached it: {}", server.said());
}

#[test]
fn servers_outside_the_profile_are_refused() {
    if !have("openssl") || !have("gnutls-serv") {
        return;
    }
    let files = directory();
    let cases = [
        ("-tls1_1 -cipher ALL:@SECLEVEL=0", "unsupported protocol", "alert_in_handshake"),
        ("-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA256", "no shared cipher", "alert_in_handshake"),
        ("-tls1_2 -cipher ECDHE-ECDSA-AES128-CCM", "no shared cipher", "alert_in_handshake"),
        ("-tls1_2 -groups P-521", "no shared cipher", "alert_in_handshake"),
        ("-tls1_3 -groups P-521", "no suitable key share", "alert_in_handshake"),
    ];
    for (words, says, fault) in cases {
        let server = Foreign::openssl(files.path(), words);
        let offramp = originating(files.path(), server.addr, &by_name());
        is_refused(&offramp, &server, words, says, fault);
        offramp.stop();
    }
    let addr = free_port();
    let (port, path) = (addr.port().to_string(), |name: &str| files.path().join(name));
    let priority = "NORMAL:-VERS-ALL:+VERS-TLS1.2:%NO_SESSION_HASH";
    let words = ["--echo", "--port", &port, "--priority", priority, "--x509certfile"];
    let (certificate, key) = (path("it.crt"), path("it.key"));
    let identity = [certificate.to_str().unwrap(), "--x509keyfile", key.to_str().unwrap()];
    let server = Foreign::at(addr, "gnutls-serv", &[&words[..], &identity].concat());
    let offramp = originating(files.path(), server.addr, &by_name());
    is_refused(
        &offramp,
        &server,
        "no EMS",
        "A TLS fatal alert has been received",
        "no_extended_master_secret",
    );
    offramp.stop();
}

#[test]
fn certificates_outside_the_profile_are_refused() {
    if !have("openssl") {
        return;
    }
    let files = directory();
    run(files.path(), "openssl", "req -x509 -nodes -subj /CN=ca -newkey rsa:2048 -keyout ca.key -out ca.crt");
    let name = format!("subjectAltName=DNS:{NAME}");
    std::fs::write(files.path().join("san"), name).unwrap();
    let trust = format!("server_name = \"{NAME}\"\nserver_ca = \"ca.crt\"");
    let cases = [
        ("rsa:2048", "-sha256", true),
        ("ec -pkeyopt ec_paramgen_curve:P-384", "-sha384", true),
        ("rsa:1024", "-sha256", false),
        ("rsa:2048", "-sha1", false),
        ("rsa:2048", "-md5", false),
    ];
    for (key, hash, is_good) in cases {
        let request = format!("req -nodes -subj /CN=it -newkey {key} -keyout it.key -out it.csr");
        run(files.path(), "openssl", &request);
        let sign = "x509 -req -in it.csr -CA ca.crt -CAkey ca.key -extfile san -out it.crt";
        run(files.path(), "openssl", &format!("{sign} {hash}"));
        for version in ["-tls1_2", "-tls1_3"] {
            let words = format!("{version} -cipher ALL:@SECLEVEL=0 -rev");
            let server = Foreign::openssl(files.path(), &words);
            let offramp = originating(files.path(), server.addr, &trust);
            let what = format!("{key} {hash} {version}");
            if is_good {
                asks(&offramp, "there and back\n", "kcab dna ereht\n");
            } else {
                is_refused(&offramp, &server, &what, "alert bad certificate", "peer_certificate_refused");
            }
            offramp.stop();
        }
    }
}

/// Its certificate only holds its key: signed by itself or by anybody, of version 1, over, for another
/// purpose, or by a hash that proves nothing (RFC 8122 §6.2).
#[test]
fn pinned_server_certificate_needs_only_a_profile_key() {
    if !have("openssl") {
        return;
    }
    let directory = directory();
    let files = directory.path();
    std::fs::write(files.join("v3"), "extendedKeyUsage=clientAuth").unwrap();
    let cases = [
        ("version 1", "rsa:2048", "x509 -req -in it.csr -signkey it.key -sha256", true),
        ("P-384", "ec -pkeyopt ec_paramgen_curve:P-384", "x509 -req -in it.csr -signkey it.key", true),
        ("MD5", "rsa:2048", "x509 -req -in it.csr -signkey it.key -md5", true),
        ("over", "rsa:2048", "x509 -req -in it.csr -signkey it.key -days -1", true),
        ("for clients", "rsa:2048", "x509 -req -in it.csr -signkey it.key -extfile v3", true),
        ("short key", "rsa:1024", "x509 -req -in it.csr -signkey it.key -sha256", false),
    ];
    for (what, key, sign, holds) in cases {
        let request = format!("req -nodes -subj /CN=it -newkey {key} -keyout it.key -out it.csr");
        run(files, "openssl", &request);
        run(files, "openssl", &format!("{sign} -out it.crt"));
        run(files, "openssl", "x509 -in it.crt -outform DER -out it.der");
        let der = std::fs::read(files.join("it.der")).unwrap();
        let trust = |der: &[u8]| format!("server_name = \"any.example\"\n{}", fingerprint(der));
        for version in ["-tls1_2", "-tls1_3"] {
            let what = format!("{what} {version}");
            let words = format!("{version} -cipher ALL:@SECLEVEL=0 -rev -msg");
            let server = Foreign::openssl(files, &words);
            let offramp = originating(files, server.addr, &trust(&der));
            if holds {
                serves_and_resumes(&offramp, &what, "there and back\n", "kcab dna ereht\n");
            } else {
                is_refused(&offramp, &server, &what, "fatal bad_certificate", "peer_certificate_refused");
            }
            offramp.stop();
            let server = Foreign::openssl(files, &words);
            let offramp = originating(files, server.addr, &trust(&Identity::rsa().der));
            is_refused(&offramp, &server, &what, "fatal bad_certificate", "peer_certificate_refused");
            offramp.stop();
        }
    }
}

/// Judged after every handshake, resumed or not; of a server that does not hold no session is kept.
#[test]
fn expired_server_certificate_ends_its_sessions() {
    if !have("openssl") {
        return;
    }
    let files = scratch();
    let unix_now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let last = Duration::from_secs(unix_now().as_secs() + 10);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + last;
    std::fs::write(files.path().join("it.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(files.path().join("it.key"), key.serialize_pem()).unwrap();
    let pairs = ["-tls1_2", "-tls1_3"].map(|version| {
        let server = Foreign::openssl(files.path(), &format!("{version} -rev -msg"));
        let offramp = originating(files.path(), server.addr, &by_name());
        serves_and_resumes(&offramp, version, "there and back\n", "kcab dna ereht\n");
        (version, server, offramp)
    });
    eventually("the certificate ends", || unix_now() > last + Duration::from_secs(1));
    for (version, server, offramp) in pairs {
        // OpenSSL resumes, and rustls would look at nothing.
        is_refused(&offramp, &server, version, "fatal bad_certificate", "peer_certificate_refused");
        is_refused(&offramp, &server, version, "fatal certificate_expired", "peer_certificate_refused");
        offramp.stop();
    }
}
