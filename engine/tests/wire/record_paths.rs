//! A record path for each direction: the kernel one way and userspace the other, and both ways alike, with
//! peers that are not ours, in every version with every AEAD. The same bytes come out at either end, and the
//! metrics and the kernel's own count say who carried them.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::Path;

use crate::interop::lines;
use crate::offload::tls_stat;
use crate::originate::{by_name_and_any_key, originating_with, reversed};
use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::foreign::{AEADS, Typed, openssl_words};
use offramp_testing::metrics::Metrics;
use offramp_testing::peer::{BOTH, Version, drain};
use offramp_testing::rng::sha256_of;
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{have, in_guest, scratch};

/// Lines that go there and back, more than fit into one record. `gnutls-cli` takes a fifth of a second for
/// each in the guest.
const LINES: usize = 5;

/// What `--offload-directions` may be, and the directions that it gives to the kernel.
const WAYS: [(&str, [&str; 2]); 3] = [("tx", ["tx", ""]), ("rx", ["rx", ""]), ("both", ["tx", "rx"])];

#[test]
fn openssl_client_echoes_on_every_record_path() {
    echoes_on_every_record_path("openssl", &WAYS, |addr, files, version, aead| {
        let words = openssl_words(version, aead);
        // Brief: it prints the data alone, and says the rest to stderr.
        let client = Typed::openssl(addr, files, &format!("-brief {words}"));
        let (_, suite) = words.rsplit_once(' ').expect("the suite is the last word");
        client.await_said(&format!("Ciphersuite: {suite}\n"));
        client
    });
}

#[test]
fn gnutls_client_echoes_on_every_record_path() {
    // It has no other cipher to choose. Both directions alike are in `interop`, with more bytes.
    let client = |addr, files: &_, version, [cipher, ..]: [&'static str; 3]| {
        Typed::gnutls(addr, files, version, cipher)
    };
    echoes_on_every_record_path("gnutls-cli", &WAYS[..2], client);
}

type Dial = fn(SocketAddr, &Path, Version, [&'static str; 3]) -> Typed;

fn echoes_on_every_record_path(program: &str, ways: &[(&str, [&str; 2])], client: Dial) {
    if !have(program) {
        return;
    }
    let backend = Backend::start(BackendBehavior::Echo);
    let data = lines(7, LINES);
    for (ways, kernel) in ways {
        let offramp = Setup::new(backend.addr).flags(&format!("--offload-directions {ways}")).start();
        for version in BOTH {
            for aead in AEADS {
                let what = format!("{ways}, {version:?} {}", aead[0]);
                let before = Carried::so_far(&offramp);
                let files = scratch();
                let mut client = client(offramp.addr, files.path(), version, aead);
                client.write(&data);
                client.await_bytes(data.len());
                assert!(client.end() == data, "{what}: the echo differs");
                let (seen, (sha256, bytes)) = (backend.seen(), sha256_of(&data[..]));
                assert_eq!((seen.sha256, seen.bytes, seen.end), (sha256, bytes, Ok(())), "{what}");
                before.one_more(&offramp, *kernel, bytes, &what);
            }
        }
        offramp.stop();
    }
}

/// Nothing of this is the server's role alone.
#[test]
fn openssl_server_answers_on_every_record_path() {
    if !have("openssl") {
        return;
    }
    for (ways, kernel) in WAYS {
        for version in BOTH {
            for aead in AEADS {
                let (what, files) = (format!("{ways}, {version:?} {}", aead[0]), scratch());
                let words = format!("-rev {}", openssl_words(version, aead));
                let (_server, server) = Typed::openssl_server(files.path(), &words);
                let flags = format!("--offload-directions {ways}");
                let (offramp, _files) = originating_with(server, &by_name_and_any_key(), &flags);
                let before = Carried::so_far(&offramp);
                let mut tcp = reversed(&offramp, "there and back again");
                let (long, mut back) = ("0123456789abcdef".repeat(500) + "\n", vec![0; 8001]);
                for _ in 0..LINES {
                    tcp.write_all(long.as_bytes()).expect("it can be sent");
                    tcp.read_exact(&mut back).expect("it comes back");
                    assert!(back[..8000].iter().rev().eq(&long.as_bytes()[..8000]), "{what}: another line");
                }
                tcp.shutdown(Shutdown::Write).expect("connected");
                assert_eq!(drain(&tcp).0, b"", "{what}");
                before.one_more(&offramp, kernel, 21 + LINES as u64 * 8001, &what);
                offramp.stop();
            }
        }
    }
}

/// What had been carried when one more connection began, which ends without a fault.
struct Carried {
    metrics: Metrics,
    kernel: Option<BTreeMap<String, u64>>,
}

impl Carried {
    fn so_far(offramp: &TestServer) -> Self {
        Self { metrics: offramp.settled(), kernel: tls_stat() }
    }

    /// Since then one connection has ended, that the guest's kernel carried in these directions, with so many
    /// bytes each way.
    fn one_more(&self, offramp: &TestServer, kernel: [&str; 2], bytes: u64, what: &str) {
        let now = offramp.settled();
        let grown = |name, labels: &[_]| now.sum(name, labels) - self.metrics.sum(name, labels);
        assert_eq!(now.faults(), self.metrics.faults(), "{what}");
        for direction in ["tx", "rx"] {
            let by = |path| grown("offramp_offload_total", &[("direction", direction), ("path", path)]);
            let carried = [by("kernel"), by("userspace"), by("fallback")];
            let expected = match (kernel.contains(&direction), in_guest()) {
                (true, true) => [1, 0, 0],
                (false, _) => [0, 1, 0],
                // This host's kernel may know TLS, but perhaps not this cipher.
                (true, false) => [carried[0], 1 - carried[0], 0],
            };
            assert_eq!(carried, expected, "{what}: {direction} by kernel, userspace, fallback");
        }
        for leg in ["near", "far"] {
            assert_eq!(grown("offramp_bytes_total", &[("leg", leg)]), bytes, "{what}: from the {leg} leg");
        }
        if let (true, Some(before), Some(after)) = (in_guest(), &self.kernel, tls_stat()) {
            for (direction, name) in [("tx", "TlsTxSw"), ("rx", "TlsRxSw")] {
                let expected = u64::from(kernel.contains(&direction));
                assert_eq!(after[name] - before[name], expected, "{what}: {name}");
            }
        }
    }
}
