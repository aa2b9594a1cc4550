//! The relay's own work on bytes: records sealed and opened in userspace, by AEAD, version and size.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use offramp::buf::{BUF_BYTES, Buf};
use offramp::tls::cipher::{Opener, Sealer};
use offramp::tls::record::{Header, RecordType};
use offramp::tls::secrets::{Aead, TrafficKeys, Version};

const SIZES: [usize; 3] = [1024, 16 * 1024, 64 * 1024];
const SUITES: [(&str, Version, Aead); 4] = [
    ("1.2 aes-128-gcm", Version::Tls12, Aead::Aes128Gcm),
    ("1.3 aes-128-gcm", Version::Tls13, Aead::Aes128Gcm),
    ("1.3 aes-256-gcm", Version::Tls13, Aead::Aes256Gcm),
    ("1.3 chacha20-poly1305", Version::Tls13, Aead::ChaCha20Poly1305),
];

fn keys(version: Version, aead: Aead) -> TrafficKeys {
    TrafficKeys::new(version, aead, &vec![7; aead.key_bytes()], [9; 12], 1).expect("the AEAD's key length")
}

fn sealed(version: Version, aead: Aead, plaintext: &[u8]) -> Buf {
    let mut records = Buf::with_capacity(BUF_BYTES);
    let mut sealer = Sealer::new(keys(version, aead));
    sealer.seal(RecordType::ApplicationData, plaintext, &mut records).expect("a buffer holds 64 KiB sealed");
    records
}

fn seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("relay/seal");
    for (name, version, aead) in SUITES {
        for size in SIZES {
            let plaintext = vec![5; size];
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                let mut records = Buf::with_capacity(BUF_BYTES);
                bencher.iter_batched_ref(
                    // A key lasts for 2^24 records and a bench may want more: each batch has its own.
                    || Sealer::new(keys(version, aead)),
                    |sealer| {
                        records.clear();
                        sealer.seal(RecordType::ApplicationData, black_box(&plaintext), &mut records)
                    },
                    BatchSize::SmallInput,
                );
            });
        }
    }
}

fn open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("relay/open");
    for (name, version, aead) in SUITES {
        for size in SIZES {
            let records = sealed(version, aead, &vec![5; size]);
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                let mut opened = Buf::with_capacity(BUF_BYTES);
                bencher.iter_batched_ref(
                    || Opener::new(keys(version, aead)),
                    |opener| {
                        opened.clear();
                        open_all(opener, black_box(records.filled()), &mut opened);
                    },
                    BatchSize::SmallInput,
                );
                assert_eq!(opened.len(), size, "every byte was opened");
            });
        }
    }
}

fn open_all(opener: &mut Opener, mut records: &[u8], opened: &mut Buf) {
    while let Ok(Some(header)) = Header::read(records) {
        let (record, rest) = records.split_at(header.record_bytes());
        opener.open(header, record, opened).expect("records of our own");
        records = rest;
    }
}

criterion_group!(benches, seal, open);
criterion_main!(benches);
