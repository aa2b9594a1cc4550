//! The relay's own work on bytes: records sealed and opened in userspace, by version, AEAD and size. Beside
//! it the floor: the same bytes through an established connection of rustls's own.

use std::hint::black_box;
use std::io::{Read, Write};
use std::time::Duration;

use criterion::{BatchSize, Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use offramp_bench::pair::{self, timed};
use offramp_bench::suite::Suite;
use offramp_core::tls::cipher::{Opener, Sealer};
use offramp_core::tls::secrets::{TrafficKeys, Version};
use offramp_loadgen::identity::Identity;
use offramp_loadgen::plan;
use offramp_proto::buf::{BUF_BYTES, Buf};
use offramp_proto::record::{Header, RecordType};
use rustls::{ClientConnection, ServerConnection};

const SIZES: [usize; 3] = [1024, 16 * 1024, 64 * 1024];
/// A key lasts for 2^24 records and a bench may want more: a pair seals so many times four of them at most.
const PAIR_LASTS: u64 = 1 << 20;

fn keys(suite: Suite) -> TrafficKeys {
    let version = match suite.version {
        plan::Version::Tls12 => Version::Tls12,
        plan::Version::Tls13 => Version::Tls13,
    };
    let key = vec![7; suite.aead.key_bytes()];
    TrafficKeys::new(version, suite.aead, &key, [9; 12], 1).expect("the AEAD's key length")
}

fn sealed(suite: Suite, plaintext: &[u8]) -> Buf {
    let mut records = Buf::with_capacity(BUF_BYTES);
    let mut sealer = Sealer::new(keys(suite));
    sealer.seal(RecordType::ApplicationData, plaintext, &mut records).expect("a buffer holds 64 KiB sealed");
    records
}

/// Our cipher and the floor, one behind the other, for each suite and size.
fn group(
    criterion: &mut Criterion,
    name: &str,
    ours: impl Fn(&mut Bencher<'_>, Suite, usize),
    floors: impl Fn(&mut Bencher<'_>, &Pairs, usize),
) {
    let mut group = criterion.benchmark_group(name);
    for suite in Suite::all() {
        let pairs = Pairs::new(suite);
        for size in SIZES {
            group.throughput(Throughput::Bytes(size as u64));
            let id = |whose| BenchmarkId::new(format!("{} {whose}", suite.label()), size);
            group.bench_function(id("ours"), |bencher| ours(bencher, suite, size));
            group.bench_function(id("rustls alone"), |bencher| floors(bencher, &pairs, size));
        }
    }
}

fn seal(criterion: &mut Criterion) {
    group(criterion, "relay/seal", our_seal, floors_seal);
}

fn open(criterion: &mut Criterion) {
    group(criterion, "relay/open", our_open, floors_open);
}

fn our_seal(bencher: &mut Bencher<'_>, suite: Suite, size: usize) {
    let plaintext = vec![5; size];
    let mut records = Buf::with_capacity(BUF_BYTES);
    bencher.iter_batched_ref(
        // A key lasts for 2^24 records and a bench may want more: each batch has its own.
        || Sealer::new(keys(suite)),
        |sealer| {
            records.clear();
            sealer.seal(RecordType::ApplicationData, black_box(&plaintext), &mut records)
        },
        BatchSize::SmallInput,
    );
}

fn our_open(bencher: &mut Bencher<'_>, suite: Suite, size: usize) {
    let records = sealed(suite, &vec![5; size]);
    let mut opened = Buf::with_capacity(BUF_BYTES);
    bencher.iter_batched_ref(
        || Opener::new(keys(suite)),
        |opener| {
            opened.clear();
            open_all(opener, black_box(records.filled()), &mut opened);
        },
        BatchSize::SmallInput,
    );
    assert_eq!(opened.len(), size, "every byte was opened");
}

fn open_all(opener: &mut Opener, mut records: &[u8], opened: &mut Buf) {
    while let Ok(Some(header)) = Header::read(records) {
        let (record, rest) = records.split_at(header.record_bytes());
        opener.open(header, record, opened).expect("records of our own");
        records = rest;
    }
}

/// Where established pairs of a suite come from.
struct Pairs {
    suite: Suite,
    identity: Identity,
}

impl Pairs {
    fn new(suite: Suite) -> Self {
        Self { suite, identity: Identity::generate().expect("a certificate can be made") }
    }

    /// Does `work` `count` times on pairs that last, and adds up what it says that it took.
    fn on_each(
        &self,
        count: u64,
        mut work: impl FnMut(&mut ClientConnection, &mut ServerConnection, u64) -> Duration,
    ) -> Duration {
        let (client, server) =
            (pair::client(&self.identity, self.suite).expect("trusted"), pair::server(&self.identity));
        let server = server.expect("an identity of the profile");
        let (mut left, mut total) = (count, Duration::ZERO);
        while left > 0 {
            let many = left.min(PAIR_LASTS);
            let (mut client, mut server) = pair::established(&client, &server).expect("a handshake");
            total += work(&mut client, &mut server, many);
            left -= many;
        }
        total
    }
}

fn floors_seal(bencher: &mut Bencher<'_>, pairs: &Pairs, size: usize) {
    let plaintext = vec![5; size];
    let mut records = Vec::with_capacity(BUF_BYTES);
    let mut seal = |server: &mut ServerConnection| {
        records.clear();
        server.writer().write_all(black_box(&plaintext)).expect("a connection without a limit");
        pair::say(server, &mut records).expect("a vector takes all");
    };
    bencher.iter_custom(|count| {
        pairs.on_each(count, |_, server, many| {
            let mut total = Duration::ZERO;
            timed(&mut total, || (0..many).for_each(|_| seal(server)));
            total
        })
    });
}

fn floors_open(bencher: &mut Bencher<'_>, pairs: &Pairs, size: usize) {
    let plaintext = vec![5; size];
    // No record can be opened twice. So many are sealed beforehand that the clock's own time does not count
    // and the cache holds them, as it holds the one that ours opens.
    let at_once = (SIZES[2] / size) as u64;
    let (mut records, mut opened) = (Vec::with_capacity(BUF_BYTES), vec![0; BUF_BYTES]);
    bencher.iter_custom(|count| {
        pairs.on_each(count, |client, server, many| {
            let (mut left, mut total) = (many, Duration::ZERO);
            while left > 0 {
                let now = left.min(at_once);
                records.clear();
                for _ in 0..now {
                    client.writer().write_all(&plaintext).expect("a connection without a limit");
                    pair::say(client, &mut records).expect("a vector takes all");
                }
                let bytes = timed(&mut total, || floor_opens(server, black_box(&records), &mut opened));
                assert_eq!(bytes as u64, now * size as u64, "every byte was opened");
                left -= now;
            }
            total
        })
    });
}

/// How many bytes were in these records.
fn floor_opens(server: &mut ServerConnection, mut records: &[u8], opened: &mut [u8]) -> usize {
    let mut total = 0;
    while !records.is_empty() {
        server.read_tls(&mut records).expect("a slice can be read");
        let waiting = server.process_new_packets().expect("records of its client").plaintext_bytes_to_read();
        let room = opened.get_mut(..waiting).expect("what a buffer of records holds");
        server.reader().read_exact(room).expect("what it says that it has");
        total += waiting;
    }
    total
}

criterion_group!(benches, seal, open);
criterion_main!(benches);
