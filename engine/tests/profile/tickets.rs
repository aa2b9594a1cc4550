//! Tickets that are real and yet not good, presented by OpenSSL, which believes in them: each time the
//! handshake is completed as a full one, without an alert, and the ticket that comes with it resumes (RFC
//! 5077 §3.1, RFC 8446 §4.2.11; TS 33.328 Annex M).

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustls::HandshakeKind;

use crate::seal::{Content, Seal};
use crate::session::{self, Session, field};
use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::{Identity, NAME};
use offramp_testing::peer::{BOTH, Peer, Version, plain, s_client, trust_file};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{PATIENCE, have, scratch, text};

/// OpenSSL, a server, and where sessions go.
struct Bench {
    server: TestServer,
    _backend: Backend,
    files: tempfile::TempDir,
    trust: String,
}

impl Bench {
    fn start(flags: &str) -> Self {
        let backend = Backend::start(BackendBehavior::Echo);
        let server = Setup::new(backend.addr).flags(flags).start();
        let files = scratch();
        let trust = trust_file(files.path());
        Self { server, _backend: backend, files, trust }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        session::file(self.files.path(), name)
    }

    /// One connection that goes well; the session that it ends with is in `out`. What OpenSSL said.
    fn connect(&self, version: Version, more: &str, out: &Path) -> String {
        let flag = if version == Version::Tls12 { "-tls1_2" } else { "-tls1_3" };
        let words = format!("{flag} -servername {NAME} {more} -sess_out {}", out.display());
        let (output, echoed) = s_client(self.server.addr, &self.trust, &words, Some("there and back"));
        let said = text(&output);
        assert!(echoed && !said.contains("alert"), "{version:?} {more}: {said}");
        said
    }

    /// A session from a full handshake.
    fn session(&self, version: Version) -> Session {
        let out = self.file("session");
        let said = self.connect(version, "", &out);
        assert!(said.contains("New, TLSv1"), "{version:?}: {said}");
        Session::read(&out)
    }

    /// Presents the session: a full handshake, nobody told why, and a new ticket that resumes.
    fn starts_afresh(&self, version: Version, what: &str, session: &Session) {
        let before = self.server.settled();
        let (bad, new) = (self.file("bad"), self.file("new"));
        session.write(&bad);
        let said = self.connect(version, &format!("-sess_in {}", bad.display()), &new);
        assert!(said.contains("New, TLSv1"), "{version:?}, {what}: {said}");
        let fresh = Session::read(&new).ticket();
        assert!(fresh != session.ticket(), "{version:?}, {what}: no new ticket");
        let said = self.connect(version, &format!("-sess_in {}", new.display()), &self.file("newer"));
        assert!(said.contains("Reused, TLSv1"), "{version:?}, {what}: {said}");
        let now = self.server.settled();
        let more = |kind| now.handshakes(kind) - before.handshakes(kind);
        assert_eq!((more("full"), more("resumed")), (1, 1), "{version:?}, {what}");
        assert_eq!(now.faults(), before.faults(), "{version:?}, {what}");
    }

    /// The ticket as it is does resume: what is wrong with the others is what was done to them.
    fn resumes(&self, version: Version, session: &Session) {
        let good = self.file("good");
        session.write(&good);
        let said = self.connect(version, &format!("-sess_in {}", good.display()), &self.file("next"));
        assert!(said.contains("Reused, TLSv1"), "{version:?}: {said}");
    }
}

const OTHER: fn(Version) -> Version = |version| match version {
    Version::Tls12 => Version::Tls13,
    Version::Tls13 => Version::Tls12,
};

#[test]
fn a_ticket_that_is_cut_or_damaged_is_not_taken() {
    if !have("openssl") {
        return;
    }
    let bench = Bench::start("");
    for version in BOTH {
        let session = bench.session(version);
        bench.resumes(version, &session);
        let ticket = session.ticket();
        // Name and iv have 16 bytes each, the tag 32: within each part, and at its borders.
        for length in [1, 15, 16, 31, 32, 33, 64, ticket.len() - 32, ticket.len() - 1] {
            let cut = session.clone().with_ticket(&ticket[..length]);
            bench.starts_afresh(version, &format!("cut to {length} of {}", ticket.len()), &cut);
        }
        for at in [0, 15, 16, 31, 32, ticket.len() / 2, ticket.len() - 32, ticket.len() - 1] {
            let mut damaged = ticket.clone();
            damaged[at] ^= 0x10;
            let damaged = session.clone().with_ticket(&damaged);
            bench.starts_afresh(version, &format!("byte {at} of {} damaged", ticket.len()), &damaged);
        }
        let longer = session.clone().with_ticket(&[&ticket[..], &[0]].concat());
        bench.starts_afresh(version, "a byte too long", &longer);
        bench.starts_afresh(version, "rubbish", &session.clone().with_ticket(&[7; 300]));
        bench.resumes(version, &session);
    }
    bench.server.stop();
}

#[test]
fn ticket_of_foreign_key_or_other_version_is_ignored() {
    if !have("openssl") {
        return;
    }
    let (bench, elsewhere) = (Bench::start(""), Bench::start(""));
    for version in BOTH {
        let (ours, theirs) = (bench.session(version), elsewhere.session(version));
        elsewhere.resumes(version, &theirs);
        bench.starts_afresh(version, "of another server's key", &theirs);
        let crossed = ours.with_ticket(&bench.session(OTHER(version)).ticket());
        bench.starts_afresh(version, "of the other version", &crossed);
    }
    bench.server.stop();
    elsewhere.server.stop();
}

type Change = fn(&mut Content);

/// Under a good seal, as a host with the same keys might have made it: of the future, of long ago, of another
/// class, of a form to come, and of no session.
#[test]
fn a_ticket_whose_content_does_not_hold_is_not_taken() {
    if !have("openssl") {
        return;
    }
    const HOUR: u64 = 3600;
    let keys = scratch();
    let path = keys.path().join("ticket.keys");
    Seal::write(&path);
    let bench = Bench::start(&format!("--session-lifetime 2h --ticket-keys {}", path.display()));
    for version in BOTH {
        let session = bench.session(version);
        let content = Seal::open(&session.ticket());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(now.abs_diff(content.origin) < PATIENCE.as_secs(), "made just now: {content:?}");
        let changed = |change: Change| {
            let mut content = content.clone();
            change(&mut content);
            session.clone().with_ticket(&Seal::seal(&content))
        };
        // Clocks of hosts that share keys may differ a little.
        for good in [changed(|_| {}), changed(|it| it.origin += 60), changed(|it| it.origin -= HOUR)] {
            bench.resumes(version, &good);
        }
        let bad: [(&str, Change); 8] = [
            ("of the future", |it| it.origin += HOUR),
            ("of the end of time", |it| it.origin = u64::MAX),
            ("of a session that is over", |it| it.origin -= 2 * HOUR),
            ("of the beginning of time", |it| it.origin = 0),
            ("of another class", |it| it.class[0] ^= 1),
            ("of a form to come", |it| it.form += 1),
            ("of no session", |it| it.session.clear()),
            ("of half a session", |it| it.session.truncate(it.session.len() / 2)),
        ];
        for (what, change) in bad {
            bench.starts_afresh(version, what, &changed(change));
        }
    }
    bench.server.stop();
}

/// All listeners share the keys. Where clients know the other one by other names, a session that crossed
/// would spare it to show the wrong certificate.
#[test]
fn ticket_is_not_valid_on_listener_with_other_names() {
    if !have("openssl") {
        return;
    }
    let (backend, files) = (Backend::start(BackendBehavior::Echo), scratch());
    let listener = |identity: &Identity| {
        let (certificate, key) = identity.write(files.path());
        format!(
            "[[listener]]\nlisten = \"127.0.0.1:0\"\nbackend = \"{}\"\n[[listener.identity]]\n\
             certificate = \"{}\"\nkey = \"{}\"\n",
            backend.addr,
            certificate.display(),
            key.display()
        )
    };
    let path = files.path().join("offramp.toml");
    // The first has the names of the command line's listener, under another key.
    std::fs::write(&path, [listener(Identity::rsa()), listener(Identity::one())].concat()).unwrap();
    let mut bench = Bench::start(&format!("--config {}", path.display()));
    let parts = bench.server.ready.split("listening on ").skip(1);
    let addr = |part: &str| part.split(',').next().and_then(|text| text.parse::<SocketAddr>().ok());
    let listeners: Vec<SocketAddr> = parts.filter_map(addr).collect();
    let [here, namesake, other] = listeners[..] else { panic!("three in: {}", bench.server.ready) };
    for version in BOTH {
        bench.server.addr = here;
        let session = bench.session(version);
        bench.server.addr = other;
        bench.starts_afresh(version, "of a listener with other names", &session);
        // In TLS 1.2 the suite says what kind of key there is, and the namesake's is of another.
        bench.server.addr = if version == Version::Tls13 { namesake } else { here };
        bench.resumes(version, &session);
    }
    bench.server.stop();
}

#[test]
fn a_ticket_of_a_session_that_is_over_is_not_taken() {
    if !have("openssl") {
        return;
    }
    let bench = Bench::start("--session-lifetime 8s");
    const DAY: u32 = 86_400;
    // The client is made to believe that they last: it is the server that knows better.
    let lasts =
        |session: Session| session.with_number(field::LIFETIME_HINT, DAY).with_number(field::TIMEOUT, DAY);
    let sessions = BOTH.map(|version| lasts(bench.session(version)));
    BOTH.into_iter().zip(&sessions).for_each(|(version, session)| bench.resumes(version, session));
    let end = Instant::now() + PATIENCE;
    for (version, session) in BOTH.into_iter().zip(&sessions) {
        let path = bench.file("aging");
        session.write(&path);
        let words = format!("-sess_in {}", path.display());
        while bench.connect(version, &words, &bench.file("next")).contains("Reused, TLSv1") {
            assert!(Instant::now() < end, "{version:?}: still resumed");
            std::thread::sleep(Duration::from_millis(200));
        }
        bench.starts_afresh(version, "of a session that is over", session);
    }
    bench.server.stop();
}

#[test]
fn session_ends_at_its_age_however_often_resumed() {
    const LIFETIME: Duration = Duration::from_secs(6);
    let backend = Backend::start(BackendBehavior::Echo);
    let server =
        Setup::new(backend.addr).flags(&format!("--session-lifetime {}s", LIFETIME.as_secs())).start();
    for version in BOTH {
        let client = plain(version);
        let kind = || {
            let mut peer = Peer::open(server.addr, &client);
            peer.ping(b"there and back");
            peer.kind()
        };
        // Twice: the second session has an age of its own.
        let mut began = Instant::now();
        assert_eq!(kind(), HandshakeKind::Full, "{version:?}: the first");
        for nth in 1..=2 {
            let mut resumed = 0;
            // Each time with the newest ticket: the client keeps no other.
            let mut asked = Instant::now();
            while kind() == HandshakeKind::Resumed {
                resumed += 1;
                assert!(began.elapsed() < PATIENCE, "{version:?}: session {nth} does not end");
                std::thread::sleep(Duration::from_millis(100));
                asked = Instant::now();
            }
            assert!(resumed > 1, "{version:?}: session {nth} was resumed {resumed} times");
            // The server's clock ticks in seconds.
            let age = began.elapsed();
            assert!(age > LIFETIME / 2, "{version:?}: session {nth} was over after {age:?}");
            began = asked;
        }
    }
    server.stop();
}

#[test]
fn a_session_resumes_across_a_hello_retry_request() {
    if !have("openssl") {
        return;
    }
    let bench = Bench::start("");
    let path = bench.file("session");
    // OpenSSL sends a share of the first group alone, and P-521 is none of ours.
    let retried = "-groups P-521:P-256 -msg";
    let full = bench.connect(Version::Tls13, retried, &path);
    let resume = format!("{retried} -sess_in {}", path.display());
    let resumed = bench.connect(Version::Tls13, &resume, &bench.file("next"));
    for (said, kind) in [(&full, "New, TLSv1.3"), (&resumed, "Reused, TLSv1.3")] {
        let hellos = |mark: &str| said.lines().filter(|line| line.contains(mark)).count();
        assert_eq!((hellos(", ClientHello"), hellos(", ServerHello")), (2, 2), "no retry: {said}");
        assert!(said.contains(kind), "not {kind}: {said}");
    }
    let metrics = bench.server.settled();
    assert_eq!((metrics.handshakes("full"), metrics.handshakes("resumed")), (1, 1), "{}", metrics.raw);
    bench.server.stop();
}
