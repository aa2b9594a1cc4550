//! The server's part of a handshake, in memory: full and resumed, by version; from the client's first bytes
//! to the keys in hand. Beside it the floor: the same through rustls's own connection and its own ticketer.
//!
//! Only the server's calls are timed; the client's part of a full handshake costs more than the server's.

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use offramp_bench::pair::{self, hear, timed};
use offramp_bench::scenario;
use offramp_bench::suite::Suite;
use offramp_core::tls::TlsPolicy;
use offramp_core::tls::session::{Progress, Session};
use offramp_loadgen::identity::Identity;
use offramp_loadgen::plan::Version;
use offramp_proto::buf::{BUF_BYTES, Buf};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection};

const KEEPS: &str = "the server keeps to the protocol";

fn client(identity: &Identity, version: Version) -> Arc<ClientConfig> {
    pair::client(identity, Suite::usual(version)).expect("a certificate that can be trusted")
}

fn begin(client: &Arc<ClientConfig>) -> ClientConnection {
    pair::begin(client).expect("a valid configuration")
}

fn say(peer: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    pair::say(peer, &mut bytes).expect("a vector takes all");
    bytes
}

/// One handshake with our session: the time of the server's calls, until the keys are in hand.
fn ours(policy: &TlsPolicy, client: &Arc<ClientConfig>, wanted: HandshakeKind) -> Duration {
    let (mut total, mut peer) = (Duration::ZERO, begin(client));
    let (mut incoming, mut outgoing) = (Buf::with_capacity(BUF_BYTES), Buf::with_capacity(BUF_BYTES));
    let mut session = timed(&mut total, || Session::begin(policy, None).expect("a session"));
    loop {
        incoming.extend(&say(&mut peer));
        let progress = timed(&mut total, || session.feed(&mut incoming, &mut outgoing));
        hear(&mut peer, outgoing.filled()).expect(KEEPS);
        outgoing.clear();
        if progress.expect("a handshake of the profile") == Progress::Complete {
            break;
        }
    }
    let established = timed(&mut total, || session.establish().expect("keys"));
    assert_eq!(peer.handshake_kind(), Some(wanted));
    assert_eq!(established.info.resumed, wanted == HandshakeKind::Resumed);
    total
}

/// The same through rustls's own connection.
fn floors(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>, wanted: HandshakeKind) -> Duration {
    let (mut total, mut peer) = (Duration::ZERO, begin(client));
    let mut connection =
        timed(&mut total, || ServerConnection::new(Arc::clone(server)).expect("a connection"));
    while connection.is_handshaking() {
        let incoming = say(&mut peer);
        let outgoing = timed(&mut total, || {
            connection.read_tls(&mut &incoming[..]).expect("a slice can be read");
            connection.process_new_packets().expect("a handshake of the profile");
            let mut outgoing = Vec::new();
            while connection.wants_write() {
                connection.write_tls(&mut outgoing).expect("a vector takes all");
            }
            outgoing
        });
        hear(&mut peer, &outgoing).expect(KEEPS);
    }
    assert_eq!(peer.handshake_kind(), Some(wanted));
    total
}

fn group(criterion: &mut Criterion, name: &str, wanted: HandshakeKind) {
    let identity = Identity::generate().expect("a certificate can be made");
    let (policy, server) = (scenario::tls_policy(&identity), pair::server(&identity));
    let (policy, server) = (policy.expect("an identity of the profile"), server.expect("the same"));
    let mut group = criterion.benchmark_group(name);
    for version in Version::BOTH {
        let number = version.label().trim_start_matches("TLS ");
        let measure = |handshake: &dyn Fn(&Arc<ClientConfig>, HandshakeKind) -> Duration, count: u64| {
            let config = client(&identity, version);
            if wanted == HandshakeKind::Resumed {
                handshake(&config, HandshakeKind::Full);
                return (0..count).map(|_| handshake(&config, wanted)).sum();
            }
            (0..count).map(|_| handshake(&client(&identity, version), wanted)).sum::<Duration>()
        };
        group.bench_function(format!("{number} ours"), |bencher| {
            bencher.iter_custom(|count| measure(&|config, kind| ours(&policy, config, kind), count));
        });
        group.bench_function(format!("{number} rustls alone"), |bencher| {
            bencher.iter_custom(|count| measure(&|config, kind| floors(&server, config, kind), count));
        });
    }
}

fn full(criterion: &mut Criterion) {
    group(criterion, "handshake", HandshakeKind::Full);
}

fn resumed(criterion: &mut Criterion) {
    group(criterion, "resume", HandshakeKind::Resumed);
}

criterion_group!(benches, full, resumed);
criterion_main!(benches);
