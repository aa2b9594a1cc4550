//! Clients that are not ours: OpenSSL, GnuTLS, NSS and Java, each accepted within the profile and refused
//! outside it, with the alert in its own words.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::session::{Session, field};
use offramp_testing::backend::{Backend, BackendBehavior, EARLY_ANSWER};
use offramp_testing::peer::{s_client, trust_file};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{PATIENCE, have, scratch, text};

/// What a client is to say at the end.
enum Expected {
    /// The handshake, and this.
    Accepted(&'static str),
    /// Refused with this alert, and this fault counted.
    Refused(&'static str, &'static str),
}

use Expected::{Accepted, Refused};

fn server() -> (TestServer, Backend) {
    let backend = Backend::start(BackendBehavior::Echo);
    (TestServer::start(backend.addr), backend)
}

/// Each attempt, one after another.
fn attempt(run: impl Fn(&TestServer, &str) -> String, attempts: &[(&str, Expected)]) {
    let (server, _backend) = server();
    attempt_at(server, run, attempts);
}

fn attempt_at(server: TestServer, run: impl Fn(&TestServer, &str) -> String, attempts: &[(&str, Expected)]) {
    for (words, expected) in attempts {
        let before = server.settled();
        let said = run(&server, words);
        match expected {
            Accepted(mark) => {
                assert!(said.contains(mark), "{words}: no {mark:?} in: {said}");
                let now = server.settled();
                let handshakes = now.handshakes("full") - before.handshakes("full");
                assert_eq!(handshakes, 1, "{words}: {said}");
            }
            Refused(alert, fault) => {
                assert!(said.contains(alert), "{words}: no {alert:?} in: {said}");
                assert_eq!(server.faulted(&before, 1), [*fault], "{words}: {said}");
            }
        }
    }
    server.settled();
    server.stop();
}

/// A program with these words, which is told one line. Both its streams.
fn run(program: &str, words: &[&str], line: &str) -> String {
    let limit = PATIENCE.as_secs().to_string();
    let mut command = Command::new("timeout");
    command.args(["-k", "5", &limit, program]).args(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A client that was refused reads nothing any more.
    let _ = child.stdin.take().unwrap().write_all(line.as_bytes());
    text(&child.wait_with_output().unwrap())
}

/// In front of a space the priority behind "NORMAL", behind it more words.
fn gnutls(server: &TestServer, words: &str) -> String {
    let port = server.addr.port().to_string();
    let (priority, more) = words.split_once(' ').unwrap_or((words, ""));
    let priority = format!("NORMAL:-VERS-ALL:{priority}");
    let words = ["--insecure", "--port", &port, "--priority", &priority];
    let more: Vec<&str> = more.split_whitespace().collect();
    run("gnutls-cli", &[&words, &more[..], &["127.0.0.1"]].concat(), "there and back\n")
}

fn nss(server: &TestServer, words: &str) -> String {
    let port = server.addr.port().to_string();
    let fixed = ["-h", "127.0.0.1", "-p", &port, "-D", "-o", "-O", "-Q"];
    let words: Vec<&str> = words.split_whitespace().collect();
    run("tstclnt", &[&fixed, &words[..]].concat(), "")
}

fn java(server: &TestServer, words: &str) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/profile/Client.java");
    let port = server.addr.port().to_string();
    // In front of the program what is for the machine, behind it what is for the program.
    let (machine, program): (Vec<&str>, Vec<&str>) =
        words.split_whitespace().partition(|word| word.starts_with("-D"));
    let source = [source.to_str().unwrap(), &port];
    run("java", &[&["-XX:TieredStopAtLevel=1"], &machine[..], &source, &program].concat(), "")
}

const VERSION: &str = "alert protocol version";
const FAILURE: &str = "alert handshake failure";
const NO_VERSION: &str = "no_common_version";
const NOTHING: &str = "nothing_in_common";

#[test]
fn openssl_is_accepted_only_within_the_profile() {
    if !have("openssl") {
        return;
    }
    let files = scratch();
    let trust = trust_file(files.path());
    let run = |server: &TestServer, words: &str| {
        text(&s_client(server.addr, &trust, words, Some("there and back")).0)
    };
    attempt(
        run,
        &[
            ("-tls1_2 -groups P-256", Accepted("Server Temp Key: ECDH, prime256v1")),
            ("-tls1_2 -groups P-384", Accepted("Server Temp Key: ECDH, secp384r1")),
            ("-tls1_2 -groups X25519", Accepted("Server Temp Key: X25519")),
            ("-tls1_3 -groups P-256", Accepted("Server Temp Key: ECDH, prime256v1")),
            ("-tls1_3 -groups P-384", Accepted("Server Temp Key: ECDH, secp384r1")),
            ("-tls1_3 -groups X25519", Accepted("Server Temp Key: X25519")),
            ("-tls1_2 -sigalgs RSA+SHA256", Accepted("Peer signature type: RSA\n")),
            ("-tls1_3 -sigalgs rsa_pss_rsae_sha256", Accepted("Peer signature type: RSA-PSS\n")),
            ("-tls1_3 -sigalgs ecdsa_secp256r1_sha256", Accepted("Peer signature type: ECDSA\n")),
            ("-tls1_2", Accepted("Secure Renegotiation IS supported")),
            ("-tls1_2 -comp -cipher DEFAULT:@SECLEVEL=1", Accepted("Compression: NONE")),
            ("-tls1_2 -maxfraglen 512", Accepted("there and back")),
            ("-tls1_3 -maxfraglen 512", Accepted("there and back")),
            ("-tls1_2 -status", Accepted("OCSP response: no response sent")),
            ("-tls1_3 -status", Accepted("OCSP response: no response sent")),
            ("-tls1 -cipher ALL:@SECLEVEL=0", Refused(VERSION, NO_VERSION)),
            ("-tls1_1 -cipher ALL:@SECLEVEL=0", Refused(VERSION, NO_VERSION)),
            ("-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA256:ECDHE-RSA-AES256-SHA", Refused(FAILURE, NOTHING)),
            ("-tls1_2 -cipher AES128-GCM-SHA256:AES256-SHA", Refused(FAILURE, NOTHING)),
            ("-tls1_2 -cipher DHE-RSA-AES128-GCM-SHA256", Refused(FAILURE, NOTHING)),
            ("-tls1_2 -cipher ECDHE-ECDSA-AES128-CCM", Refused(FAILURE, NOTHING)),
            ("-tls1_2 -cipher eNULL:aNULL:@SECLEVEL=0", Refused(FAILURE, NOTHING)),
            ("-tls1_2 -groups P-521", Refused(FAILURE, NOTHING)),
            ("-tls1_3 -groups P-521", Refused(FAILURE, NOTHING)),
            ("-tls1_3 -groups ffdhe2048", Refused(FAILURE, NOTHING)),
            ("-tls1_2 -sigalgs RSA+SHA1:ECDSA+SHA1 -cipher ALL:@SECLEVEL=0", Refused(FAILURE, NOTHING)),
            ("-tls1_3 -sigalgs ecdsa_secp521r1_sha512", Refused(FAILURE, NOTHING)),
        ],
    );
}

#[test]
fn openssl_renegotiates_in_vain() {
    if !have("openssl") {
        return;
    }
    let (server, _backend) = server();
    let files = scratch();
    // "R" at the start of a line is its command to renegotiate. Nothing echoes it; base64 may end like it.
    let (output, _) = s_client(server.addr, &trust_file(files.path()), "-tls1_2", Some("R"));
    let said = text(&output);
    assert!(said.contains("RENEGOTIATING") && said.contains("no renegotiation"), "{said}");
    let metrics = server.settled();
    assert_eq!(metrics.sum("offramp_control_records_total", &[("type", "renegotiation")]), 1, "{said}");
    assert_eq!(metrics.handshakes("full"), 1);
    server.stop();
}

#[test]
fn openssl_early_data_is_ignored_and_session_resumes() {
    if !have("openssl") {
        return;
    }
    let (server, _backend) = server();
    let files = scratch();
    let trust = trust_file(files.path());
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let (session, early) = (path("session.pem"), path("early"));
    let (_, echoed) =
        s_client(server.addr, &trust, &format!("-tls1_3 -sess_out {session}"), Some("the first"));
    assert!(echoed);
    std::fs::write(&early, "to be ignored\n".repeat(40)).unwrap();
    let words = format!("-tls1_3 -sess_in {session} -early_data {early}");
    let said = |line| text(&s_client(server.addr, &trust, &words, Some(line)).0);
    // Our ticket allows none, so that OpenSSL sends none,
    let first = said("the second");
    assert!(first.contains("Early data was not sent") && first.contains("Reused, TLSv1.3"), "{first}");
    // until its session claims that the ticket did.
    Session::read(Path::new(&session)).with_number(field::MAX_EARLY_DATA, 0x4000).write(Path::new(&session));
    let second = said("the third");
    assert!(second.contains("Early data was rejected") && second.contains("Reused, TLSv1.3"), "{second}");
    assert!(second.contains("the third\n") && !second.contains("to be ignored"), "{second}");
    let metrics = server.settled();
    assert_eq!((metrics.handshakes("resumed"), metrics.faults().len()), (2, 0), "{}", metrics.raw);
    server.stop();
}

#[test]
fn gnutls_is_accepted_only_within_the_profile() {
    if !have("gnutls-cli") {
        return;
    }
    const VERSION: &str = "Received alert [70]";
    const FAILURE: &str = "Received alert [40]";
    attempt(
        gnutls,
        &[
            ("+VERS-TLS1.2", Accepted("Options: extended master secret, safe renegotiation")),
            ("+VERS-TLS1.3", Accepted("Description: (TLS1.3-X.509)")),
            ("+VERS-TLS1.2:-GROUP-ALL:+GROUP-SECP256R1", Accepted("(ECDHE-SECP256R1)")),
            ("+VERS-TLS1.2:-GROUP-ALL:+GROUP-SECP384R1", Accepted("(ECDHE-SECP384R1)")),
            ("+VERS-TLS1.2:-GROUP-ALL:+GROUP-X25519", Accepted("(ECDHE-X25519)")),
            ("+VERS-TLS1.3:-GROUP-ALL:+GROUP-SECP384R1", Accepted("(ECDHE-SECP384R1)")),
            ("+VERS-TLS1.2:-SIGN-ALL:+SIGN-RSA-PSS-RSAE-SHA256", Accepted("(RSA-PSS-RSAE-SHA256)")),
            ("+VERS-TLS1.2 --recordsize 512", Accepted("there and back")),
            ("+VERS-TLS1.2:%DISABLE_SAFE_RENEGOTIATION", Accepted("there and back")),
            ("+VERS-TLS1.0", Refused(VERSION, NO_VERSION)),
            ("+VERS-TLS1.1", Refused(VERSION, NO_VERSION)),
            ("+VERS-TLS1.2:%NO_SESSION_HASH", Refused(FAILURE, "no_extended_master_secret")),
            ("+VERS-TLS1.2:-CIPHER-ALL:+AES-128-CBC:+AES-256-CBC", Refused(FAILURE, NOTHING)),
            ("+VERS-TLS1.2:-KX-ALL:+RSA", Refused(FAILURE, NOTHING)),
            ("+VERS-TLS1.2:-KX-ALL:+DHE-RSA", Refused(FAILURE, NOTHING)),
            ("+VERS-TLS1.2:-CIPHER-ALL:+ARCFOUR-128", Refused(FAILURE, NOTHING)),
            ("+VERS-TLS1.2:-GROUP-ALL:+GROUP-SECP521R1", Refused(FAILURE, NOTHING)),
            ("+VERS-TLS1.3:-GROUP-ALL:+GROUP-FFDHE2048", Refused(FAILURE, NOTHING)),
            ("+VERS-TLS1.3:-SIGN-ALL:+SIGN-RSA-SHA1", Refused(FAILURE, NOTHING)),
            ("+VERS-TLS1.3:-CIPHER-ALL:+AES-128-CCM", Refused(FAILURE, NOTHING)),
        ],
    );
}

#[test]
fn a_session_is_not_resumed_without_a_key_exchange() {
    if !have("gnutls-cli") {
        return;
    }
    let (server, _backend) = server();
    let port = server.addr.port().to_string();
    // GnuTLS with "PSK" enabled and a key for it offers psk_ke, and only that, for its tickets too.
    let psk = ["--pskusername", "nobody", "--pskkey", "00112233"];
    for (priority, more, expected) in [("", &psk[..0], (1, 1)), (":+PSK", &psk[..], (2, 0))] {
        let before = server.settled();
        let priority = format!("NORMAL:-VERS-ALL:+VERS-TLS1.3{priority}");
        let words = ["--insecure", "--resume", "--port", &port, "--priority", &priority];
        let said = run("gnutls-cli", &[&words, more, &["127.0.0.1"]].concat(), "there and back\n");
        assert!(said.contains("trying to resume") && said.contains("there and back"), "{said}");
        let now = server.settled();
        let more = |kind| now.handshakes(kind) - before.handshakes(kind);
        assert_eq!((more("full"), more("resumed")), expected, "{priority}: {said}");
    }
    server.stop();
}

#[test]
fn nss_is_accepted_only_within_the_profile() {
    if !have("tstclnt") {
        return;
    }
    // Its words for protocol_version and for handshake_failure.
    const VERSION: &str = "SSL_ERROR_PROTOCOL_VERSION_ALERT";
    const FAILURE: &str = "SSL_ERROR_NO_CYPHER_OVERLAP";
    attempt(
        nss,
        &[
            ("-V tls1.2:tls1.2 -I P256", Accepted("exit status: 0")),
            ("-V tls1.2:tls1.2 -I P384", Accepted("exit status: 0")),
            ("-V tls1.2:tls1.2 -I x25519", Accepted("exit status: 0")),
            ("-V tls1.2:tls1.2 -J rsa_pss_rsae_sha256", Accepted("CN=rsa")),
            ("-V tls1.2:tls1.2 -J ecdsa_secp256r1_sha256", Accepted("CN=ecdsa")),
            ("-V tls1.3:tls1.3 -I P256", Accepted("exit status: 0")),
            ("-V tls1.3:tls1.3 -I P384", Accepted("exit status: 0")),
            ("-V tls1.3:tls1.3 -J rsa_pss_rsae_sha256", Accepted("CN=rsa")),
            ("-V tls1.0:tls1.0", Refused(VERSION, NO_VERSION)),
            ("-V tls1.0:tls1.1", Refused(VERSION, NO_VERSION)),
            ("-V tls1.2:tls1.2 -I P521", Refused(FAILURE, NOTHING)),
            ("-V tls1.3:tls1.3 -I FF2048", Refused(FAILURE, NOTHING)),
            ("-V tls1.2:tls1.2 -c :C009:C013", Refused(FAILURE, NOTHING)),
            ("-V tls1.2:tls1.2 -c :009C", Refused(FAILURE, NOTHING)),
            ("-V tls1.2:tls1.2 -J rsa_pkcs1_sha1", Refused(FAILURE, NOTHING)),
        ],
    );
}

#[test]
fn java_is_accepted_only_within_the_profile() {
    if !have("java") {
        return;
    }
    // Newer updates of the JDK put the alert in front as well, in parentheses.
    const VERSION: &str = "Received fatal alert: protocol_version";
    const FAILURE: &str = "Received fatal alert: handshake_failure";
    attempt(
        java,
        &[
            ("TLSv1.2", Accepted("TLSv1.2 TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 echo true")),
            ("TLSv1.3", Accepted("TLSv1.3 TLS_AES_256_GCM_SHA384 echo true")),
            ("-Djdk.tls.namedGroups=secp384r1 TLSv1.2,TLSv1.3", Accepted("TLSv1.3")),
            ("TLSv1.1", Refused(VERSION, NO_VERSION)),
            (
                "-Djdk.tls.useExtendedMasterSecret=false TLSv1.2",
                Refused(FAILURE, "no_extended_master_secret"),
            ),
            ("-Djdk.tls.namedGroups=secp521r1 TLSv1.3", Refused(FAILURE, NOTHING)),
            ("TLSv1.2 TLS_RSA_WITH_AES_128_GCM_SHA256", Refused(FAILURE, NOTHING)),
            ("TLSv1.2 TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", Refused(FAILURE, NOTHING)),
            ("TLSv1.2 SSL_RSA_WITH_RC4_128_SHA", Refused(FAILURE, NOTHING)),
        ],
    );
}

/// The extensions of RFC 6066 that OpenSSL has not: here as any that it is told to send, with no body.
#[test]
fn rfc_6066_extensions_openssl_lacks_are_not_echoed() {
    if !have("openssl") {
        return;
    }
    let (server, _backend) = server();
    let files = scratch();
    let trust = trust_file(files.path());
    for version in ["-tls1_2", "-tls1_3"] {
        for (what, kind) in [("client_certificate_url", 2), ("trusted_ca_keys", 3), ("truncated_hmac", 4)] {
            let words = format!("{version} -serverinfo {kind} -tlsextdebug");
            let (output, echoed) = s_client(server.addr, &trust, &words, Some("there and back"));
            let said = text(&output);
            assert!(echoed, "{version} {what}: {said}");
            let in_answer = said.contains(&format!("(id={kind})")) || said.contains("SERVERINFO FOR");
            assert!(!in_answer, "{version}: {what} came back: {said}");
        }
    }
    let metrics = server.settled();
    assert_eq!((metrics.handshakes("full"), metrics.faults().len()), (6, 0), "{}", metrics.raw);
    server.stop();
}

#[test]
fn sessions_of_gnutls_nss_and_java_resume() {
    let (server, _backend) = server();
    let resumes = |program: &str, run: fn(&TestServer, &str) -> String, words: &str| {
        let before = server.settled();
        let said = run(&server, words);
        let now = server.settled();
        let more = |kind| now.handshakes(kind) - before.handshakes(kind);
        assert_eq!((more("full"), more("resumed")), (1, 1), "{program} {words}: {said}");
    };
    if have("gnutls-cli") {
        for words in ["+VERS-TLS1.2 --resume", "+VERS-TLS1.3 --resume"] {
            resumes("gnutls-cli", gnutls, words);
        }
    }
    if have("tstclnt") {
        // In TLS 1.3 it has gone before the ticket comes: below it reads on.
        resumes("tstclnt", nss, "-V tls1.2:tls1.2 -u -L 2");
    }
    if have("java") {
        for words in ["-Dconnections=2 TLSv1.2", "-Dconnections=2 TLSv1.3"] {
            resumes("java", java, words);
        }
    }
    server.stop();
}

/// In TLS 1.3 the ticket comes behind the handshake: NSS is to read on, until the backend has ended.
#[test]
fn nss_that_reads_to_the_end_resumes_both_versions() {
    if !have("tstclnt") {
        return;
    }
    let (backend, files) = (Backend::start(BackendBehavior::EndFirst), scratch());
    let server = TestServer::start(backend.addr);
    let (port, request) = (server.addr.port().to_string(), files.path().join("request"));
    std::fs::write(&request, "is anybody there?\n").unwrap();
    let fixed = ["-h", "127.0.0.1", "-p", &port, "-D", "-o", "-O", "-u", "-A", request.to_str().unwrap()];
    for version in ["tls1.2:tls1.2", "tls1.3:tls1.3"] {
        let before = server.settled();
        let said = run("tstclnt", &[&fixed[..], &["-L", "3", "-V", version]].concat(), "");
        let answer = String::from_utf8_lossy(EARLY_ANSWER);
        assert_eq!(said.matches(&*answer).count(), 3, "{version}: {said}");
        assert!(said.contains("2 stateless resumes"), "{version}: {said}");
        let now = server.settled();
        let more = |kind| now.handshakes(kind) - before.handshakes(kind);
        assert_eq!((more("full"), more("resumed")), (1, 2), "{version}: {said}");
    }
    server.stop();
}

#[test]
fn p384_identity_is_served_to_foreign_clients() {
    if !have("openssl") || !have("gnutls-cli") || !have("tstclnt") || !have("java") {
        return;
    }
    let (backend, files) = (Backend::start(BackendBehavior::Echo), scratch());
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let words = "req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-384 -sha384 -subj /CN=p384";
    let name = format!("subjectAltName=DNS:{}", offramp_testing::identity::NAME);
    let mut openssl = Command::new("openssl");
    openssl.args(words.split(' ')).args(["-addext", &name, "-keyout", &path("key"), "-out", &path("crt")]);
    let made = openssl.output().unwrap();
    assert!(made.status.success(), "{}", text(&made));
    let server = || {
        let flags = format!("--cert {} --key {}", path("crt"), path("key"));
        Setup::new(backend.addr).identities(&[]).flags(&flags).start()
    };
    let run = |server: &TestServer, words: &str| {
        text(&s_client(server.addr, &path("crt"), words, Some("there and back")).0)
    };
    let attempts = [
        (
            "-tls1_2 -sigalgs ECDSA+SHA384",
            Accepted("Peer signing digest: SHA384\nPeer signature type: ECDSA"),
        ),
        ("-tls1_2 -groups P-384", Accepted("Peer signing digest: SHA384\nPeer signature type: ECDSA")),
        ("-tls1_3 -sigalgs ecdsa_secp384r1_sha384", Accepted("Peer signature type: ECDSA")),
        ("-tls1_2 -groups P-256", Refused(FAILURE, NOTHING)),
        ("-tls1_2 -groups X25519:P-384", Accepted("Server Temp Key: X25519")),
        ("-tls1_3 -groups X25519", Accepted("Server Temp Key: X25519")),
        ("-tls1_3 -sigalgs ecdsa_secp256r1_sha256", Refused(FAILURE, NOTHING)),
    ];
    attempt_at(server(), run, &attempts);
    let attempts = [
        ("+VERS-TLS1.2:-SIGN-ALL:+SIGN-ECDSA-SHA384", Accepted("(ECDSA-SHA384)")),
        ("+VERS-TLS1.2:-GROUP-ALL:+GROUP-SECP256R1", Refused("Received alert [40]", NOTHING)),
        ("+VERS-TLS1.3:-SIGN-ALL:+SIGN-ECDSA-SECP384R1-SHA384", Accepted("(ECDSA-SECP384R1-SHA384)")),
    ];
    attempt_at(server(), gnutls, &attempts);
    let attempts = [
        ("-V tls1.2:tls1.2 -J ecdsa_secp384r1_sha384", Accepted("CN=p384")),
        ("-V tls1.3:tls1.3 -J ecdsa_secp384r1_sha384", Accepted("CN=p384")),
    ];
    attempt_at(server(), nss, &attempts);
    let attempts = [("TLSv1.2", Accepted("echo true")), ("TLSv1.3", Accepted("echo true"))];
    attempt_at(server(), java, &attempts);
}
