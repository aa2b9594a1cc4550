//! Our two roles against each other, in memory: what resumes and what does not.

use offramp_proto::handshake;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{CertificateParams, KeyPair};

use super::cipher::Opener;
use super::record::Header;
use super::session::{Established, Progress, Session};
use super::{PeerRefusal, Settings, Tickets, TlsPolicy, TlsRole};
use crate::buf::{BUF_BYTES, Buf};
use crate::config::{
    Fingerprint, FingerprintHash, IdentityFiles, Mode, Originate, PeerRules, PostQuantum, TrustAnchor,
    UnknownName,
};

/// The files of a certificate with these names, and its fingerprint.
fn identity(dir: &Path, file: &str, names: &[&str]) -> (IdentityFiles, Fingerprint) {
    let path = |ending: &str| -> PathBuf { dir.join(format!("{file}.{ending}")) };
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(names).expect("names").self_signed(&key).expect("signs");
    std::fs::write(path("crt"), certificate.pem()).expect("writes");
    std::fs::write(path("key"), key.serialize_pem()).expect("writes");
    let digest = digest(&SHA256, certificate.der()).as_ref().to_vec();
    let files = IdentityFiles { certificate: path("crt"), key: path("key"), ocsp: None };
    (files, Fingerprint { hash: FingerprintHash::Sha256, digest })
}

/// The settings of a listener in this role.
struct Rules {
    identities: Vec<IdentityFiles>,
    mode: Mode,
    peers: PeerRules,
}

impl Rules {
    fn tls(&self) -> Settings<'_> {
        let Self { identities, mode, peers } = self;
        let role = mode.server().map_or(TlsRole::Server, TlsRole::Client);
        let (unknown_name, post_quantum) = (UnknownName::First, PostQuantum::Off);
        Settings { role, identities, found: &[], unknown_name, alpn: &[], tickets: true, post_quantum, peers }
    }
}

fn listener(identities: Vec<IdentityFiles>, mode: Mode) -> Rules {
    Rules { identities, mode, peers: PeerRules::default() }
}

fn server(identity: &IdentityFiles, tickets: &Arc<Tickets>) -> TlsPolicy {
    TlsPolicy::load(listener(vec![identity.clone()], Mode::Terminate).tls(), Some(tickets))
        .expect("good files")
}

/// The client's role, for servers with one of these fingerprints.
fn originate(told: &[Fingerprint]) -> Mode {
    let trust = TrustAnchor::Fingerprints(told.to_vec());
    Mode::Originate(Originate { server_name: "a.example".to_owned(), forward_server_name: false, trust })
}

/// Whether the handshake was resumed, and what the client makes of the server. The client's tickets of TLS
/// 1.3, which come behind, it takes if the server is one that holds.
fn shake(client: &TlsPolicy, server: &TlsPolicy) -> (bool, Result<(), PeerRefusal>) {
    let begin = |policy| Session::begin(policy, None).expect("a session");
    let (mut client, mut server) = (begin(client), begin(server));
    let (mut up, mut down) = (Buf::with_capacity(BUF_BYTES), Buf::with_capacity(BUF_BYTES));
    let (mut client_is_done, mut server_is_done) = (false, false);
    while !(client_is_done && server_is_done) {
        if !client_is_done {
            client_is_done = client.feed(&mut down, &mut up).expect("agrees") == Progress::Complete;
        }
        if !server_is_done {
            server_is_done = server.feed(&mut up, &mut down).expect("agrees") == Progress::Complete;
        }
    }
    let mut ours = client.establish().expect("keys");
    let theirs = server.establish().expect("keys");
    assert_eq!(ours.info.resumed, theirs.info.resumed);
    let (resumed, peer) = (ours.info.resumed, ours.peer.as_ref().map(|_| ()).map_err(|refusal| *refusal));
    if peer.is_ok() {
        take_tickets(&mut ours, down.filled());
    }
    (resumed, peer)
}

fn take_tickets(ours: &mut Established, mut records: &[u8]) {
    let Some(rekey) = &mut ours.rekey else {
        assert!(records.is_empty(), "TLS 1.2 has no messages behind the handshake");
        return;
    };
    let mut opener = Opener::new(ours.rx.clone());
    while let Some(header) = Header::read(records).expect("a record") {
        let (record, rest) = records.split_at(header.record_bytes());
        let mut opened = Buf::with_capacity(BUF_BYTES);
        opener.open(header, record, &mut opened).expect("under the server's key");
        rekey.take_ticket(&opened.filled()[handshake::HEADER_BYTES..]).expect("a ticket alone");
        records = rest;
    }
}

mod tests {
    use std::slice::from_ref;

    use rustls::SupportedProtocolVersion;
    use rustls::version::{TLS12, TLS13};

    use super::*;
    use crate::tls::findings::Findings;
    use crate::tls::originate::Origination;
    use crate::tls::{Role, Sources};

    #[test]
    fn session_resumes_only_under_the_same_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = |file: &str, names: &[&str]| identity(dir.path(), file, names);
        let (old, old_told) = made("old", &["a.example", "b.example"]);
        let (renewed, renewed_told) = made("renewed", &["b.example", "A.example"]);
        let (other, other_told) = made("other", &["c.example"]);
        let (nameless, nameless_told) = made("nameless", &[]);
        let (stranger, stranger_told) = made("stranger", &[]);
        let tickets = Arc::new(Tickets::generate(3600, 0).expect("randomness"));
        let told = [old_told, renewed_told, other_told, nameless_told, stranger_told];
        let resumes = |from: &IdentityFiles, to: &IdentityFiles| {
            let client = TlsPolicy::load(listener(Vec::new(), originate(&told)).tls(), Some(&tickets))
                .expect("no files");
            assert_eq!(shake(&client, &server(from, &tickets)), (false, Ok(())));
            let (resumed, peer) = shake(&client, &server(to, &tickets));
            assert_eq!(peer, Ok(()));
            resumed
        };
        assert!(resumes(&old, &old));
        assert!(resumes(&old, &renewed), "another key and the same names");
        assert!(!resumes(&old, &other), "another listener on the same ring of keys");
        assert!(!resumes(&other, &old) && !resumes(&old, &nameless));
        assert!(
            resumes(&nameless, &nameless) && !resumes(&nameless, &stranger),
            "by the key where there is no name"
        );
    }

    const HOUR: u64 = 3600;

    /// A client of one version and a server, each with keys and a clock of its own.
    struct Two {
        client: TlsPolicy,
        server: TlsPolicy,
        client_tickets: Arc<Tickets>,
    }

    impl Two {
        /// The client keeps sessions for ten hours, the server for as long as anybody wants.
        fn of(version: &'static SupportedProtocolVersion, server: &IdentityFiles, told: Fingerprint) -> Self {
            let tickets = |hours: u64| Arc::new(Tickets::generate(hours * HOUR, 0).expect("randomness"));
            let client_tickets = tickets(10);
            let Mode::Originate(rules) = originate(&[told]) else { unreachable!("it is that mode") };
            let mut findings = Findings::default();
            let origination = Origination::load_for(
                &Sources::system(),
                &[version],
                &rules,
                &[],
                Some(&client_tickets),
                Vec::new(),
                &mut findings,
            );
            let role = Role::Originate(Arc::new(origination.expect("no files")));
            Self {
                client: TlsPolicy { role, findings },
                server: super::server(server, &tickets(1000)),
                client_tickets,
            }
        }

        fn shake(&self) -> (bool, Result<(), PeerRefusal>) {
            shake(&self.client, &self.server)
        }
    }

    const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

    #[test]
    fn client_session_ages_from_its_first_full_handshake() {
        let dir = tempfile::tempdir().expect("a directory");
        let (files, told) = identity(dir.path(), "it", &["a.example"]);
        for version in VERSIONS {
            let two = Two::of(version, &files, told.clone());
            assert_eq!(two.shake(), (false, Ok(())));
            for hour in 1..10 {
                two.client_tickets.tick(hour * HOUR).expect("randomness");
                assert_eq!(two.shake(), (true, Ok(())), "{version:?}, hour {hour}");
            }
            two.client_tickets.tick(10 * HOUR).expect("randomness");
            assert_eq!(two.shake(), (false, Ok(())), "{version:?}: wrapped anew nine times, and over");
            assert_eq!(two.shake(), (true, Ok(())), "{version:?}");
        }
    }

    #[test]
    fn a_session_of_one_worker_resumes_on_another() {
        let dir = tempfile::tempdir().expect("a directory");
        let (files, told) = identity(dir.path(), "it", &["a.example"]);
        for version in VERSIONS {
            let two = Two::of(version, &files, told.clone());
            assert_eq!(two.shake(), (false, Ok(())));
            let there = std::thread::scope(|scope| scope.spawn(|| two.shake()).join().expect("no panic"));
            assert_eq!(there, (true, Ok(())), "{version:?}");
        }
    }

    #[test]
    fn of_a_server_that_does_not_hold_no_session_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let (files, _) = identity(dir.path(), "it", &["a.example"]);
        let (_, another) = identity(dir.path(), "another", &["a.example"]);
        for version in VERSIONS {
            let two = Two::of(version, &files, another.clone());
            for _ in 0..2 {
                assert_eq!(two.shake(), (false, Err(PeerRefusal::Refused)), "{version:?}");
            }
        }
    }

    #[test]
    fn client_sessions_survive_a_reload_without_changes() {
        let dir = tempfile::tempdir().expect("a directory");
        let (files, told) = identity(dir.path(), "it", &["a.example"]);
        let (own, _) = identity(dir.path(), "own", &[]);
        let (_, another) = identity(dir.path(), "another", &["a.example"]);
        let tickets = Arc::new(Tickets::generate(HOUR, 0).expect("randomness"));
        let server = server(&files, &tickets);
        let rules = |told: &[Fingerprint]| listener(vec![own.clone()], originate(told));
        let reload = |told: &[Fingerprint], earlier| {
            TlsPolicy::reload(rules(told).tls(), Some(&tickets), earlier).expect("good files")
        };
        let first = reload(from_ref(&told), None);
        assert_eq!(shake(&first, &server), (false, Ok(())));
        let same = reload(from_ref(&told), Some(Arc::clone(&first)));
        assert!(Arc::ptr_eq(&first, &same));
        assert_eq!(shake(&same, &server), (true, Ok(())));
        let stricter = reload(&[another], Some(same));
        assert_eq!(shake(&stricter, &server), (false, Err(PeerRefusal::Refused)));
        identity(dir.path(), "own", &[]);
        let renewed = reload(&[told], Some(Arc::clone(&first)));
        assert!(!Arc::ptr_eq(&first, &renewed), "with another certificate of its own");
    }
}
