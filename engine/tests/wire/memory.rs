//! Memory in the number of sessions: there is no session on the server, so whoever comes leaves nothing
//! behind (RFC 5077 §1; TS 33.328 Annex M).
//!
//! `OFFRAMP_SESSIONS` says how many sessions (default 20,000): half of them full handshakes that were never
//! seen before, half resumed, both versions, with a byte there and back and an orderly end.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::{ClientConfig, HandshakeKind};

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::peer::{BOTH, End, Peer, plain};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::in_guest;

/// By then the server has what it needs: buffers, pools, the allocator's pages.
const WARM: u64 = 2_000;
/// For all the rest of the sessions together.
const GROWTH_BYTES_MAX: u64 = 4 << 20;

/// In a guest, which may be an emulated machine, just enough to show that it is no other there.
fn sessions() -> u64 {
    let few = if in_guest() { 400 } else { 10 * WARM };
    std::env::var("OFFRAMP_SESSIONS").map_or(few, |count| count.parse().expect("a number of sessions"))
}

#[test]
fn memory_is_flat_however_many_sessions_there_were() {
    let count = sessions();
    let warm = WARM.min(count / 2);
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).start();
    come_and_go(&server, warm);
    let before = resident_bytes(&server);
    come_and_go(&server, count - warm);
    let after = resident_bytes(&server);
    let metrics = server.settled();
    let counts = (metrics.handshakes("full"), metrics.handshakes("resumed"), metrics.faults().len());
    assert_eq!(counts, (count / 2, count / 2, 0), "{}", metrics.raw);
    let said = format!("{before} bytes resident after {warm} sessions, {after} after {count}");
    println!("{said}");
    assert!(after <= before + GROWTH_BYTES_MAX, "{said}: more than {GROWTH_BYTES_MAX} more");
    server.stop();
}

/// A client for each version, so many sessions between them; all have ended.
fn come_and_go(server: &TestServer, sessions: u64) {
    assert!(sessions.is_multiple_of(4), "both versions, full and resumed: {sessions} is not four times any");
    std::thread::scope(|scope| {
        for version in BOTH {
            scope.spawn(move || {
                let shared = plain(version);
                for _ in 0..sessions / 4 {
                    let mut config = ClientConfig::clone(&shared);
                    config.resumption = Resumption::in_memory_sessions(4);
                    let config = Arc::new(config);
                    comes(server, &config, HandshakeKind::Full);
                    comes(server, &config, HandshakeKind::Resumed);
                }
            });
        }
    });
    server.settled();
}

fn comes(server: &TestServer, config: &Arc<ClientConfig>, kind: HandshakeKind) {
    let mut peer = Peer::open(server.addr, config);
    assert_eq!(peer.kind(), kind);
    peer.ping(b"!");
    peer.close_notify();
    assert_eq!(peer.rest(), (Vec::new(), End::Clean));
}

/// Rss of the server, all its mappings together; from its status where the kernel sums no mappings up.
fn resident_bytes(server: &TestServer) -> u64 {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", server.pid()));
    let text = read("smaps_rollup").or_else(|_| read("status")).expect("the server runs");
    let of = |mark| text.lines().find_map(|line| line.strip_prefix(mark));
    let line = of("Rss:").or_else(|| of("VmRSS:")).expect("it has a line for it");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}
