//! Tickets that are real and yet not good, presented by OpenSSL, which believes in them: each time the
//! handshake is completed as a full one, without an alert, and the ticket that comes with it resumes (RFC
//! 5077 §3.1, RFC 8446 §4.2.11; TS 33.328 Annex M).

use std::path::Path;
use std::time::{Duration, Instant};

use rustls::HandshakeKind;

use crate::backend::{Backend, Manner};
use crate::identity::NAME;
use crate::lab::{Lab, Setup};
use crate::peer::{BOTH, Peer, Version, plain, s_client, trust_file};
use crate::session::{self, Session, field};
use crate::tools::{PATIENCE, have, scratch, text};

/// OpenSSL, a server, and where sessions go.
struct Bench {
    lab: Lab,
    _backend: Backend,
    files: tempfile::TempDir,
    trust: String,
}

impl Bench {
    fn start(flags: &str) -> Self {
        let backend = Backend::start(Manner::Echo);
        let lab = Setup::new(backend.addr).flags(flags).start();
        let files = scratch();
        let trust = trust_file(files.path());
        Self { lab, _backend: backend, files, trust }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        session::file(self.files.path(), name)
    }

    /// One connection that goes well; the session that it ends with is in `out`. What OpenSSL said.
    fn connect(&self, version: Version, more: &str, out: &Path) -> String {
        let flag = if version == Version::Tls12 { "-tls1_2" } else { "-tls1_3" };
        let words = format!("{flag} -servername {NAME} {more} -sess_out {}", out.display());
        let (output, echoed) = s_client(self.lab.addr, &self.trust, &words, Some("there and back"));
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
        let before = self.lab.settled();
        let (bad, new) = (self.file("bad"), self.file("new"));
        session.write(&bad);
        let said = self.connect(version, &format!("-sess_in {}", bad.display()), &new);
        assert!(said.contains("New, TLSv1"), "{version:?}, {what}: {said}");
        let fresh = Session::read(&new).ticket();
        assert!(fresh != session.ticket(), "{version:?}, {what}: no new ticket");
        let said = self.connect(version, &format!("-sess_in {}", new.display()), &self.file("newer"));
        assert!(said.contains("Reused, TLSv1"), "{version:?}, {what}: {said}");
        let now = self.lab.settled();
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
    bench.lab.stop();
}

#[test]
fn a_ticket_of_a_foreign_key_or_of_the_other_version_is_not_taken() {
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
    bench.lab.stop();
    elsewhere.lab.stop();
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
    bench.lab.stop();
}

#[test]
fn a_session_is_over_at_its_age_however_often_it_was_resumed_and_a_new_one_begins() {
    const LIFETIME: Duration = Duration::from_secs(6);
    let backend = Backend::start(Manner::Echo);
    let lab = Setup::new(backend.addr).flags(&format!("--session-lifetime {}s", LIFETIME.as_secs())).start();
    for version in BOTH {
        let client = plain(version);
        let kind = || {
            let mut peer = Peer::open(lab.addr, &client);
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
    lab.stop();
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
    let metrics = bench.lab.settled();
    assert_eq!((metrics.handshakes("full"), metrics.handshakes("resumed")), (1, 1), "{}", metrics.raw);
    bench.lab.stop();
}
