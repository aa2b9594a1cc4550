//! Record arithmetic: what is done for each record before any cipher.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use offramp_proto::record::{self, Header};

fn header(criterion: &mut Criterion) {
    let whole = [23, 3, 3, 0x40, 0x11, 0, 0, 0];
    criterion.bench_function("record/header", |bencher| bencher.iter(|| Header::read(black_box(&whole))));
    criterion.bench_function("record/header, half of one", |bencher| {
        bencher.iter(|| Header::read(black_box(&whole[..3])));
    });
}

/// Where the record at the front ends: asked once a receive while a direction is on its way to the kernel.
fn boundary(criterion: &mut Criterion) {
    let mut record = vec![23, 3, 3, 0x40, 0x11];
    record.resize(record.len() + 0x4011, 0);
    let cut = &record[..record.len() - 7];
    assert_eq!(record::missing_bytes(cut), Ok(7), "the record lacks seven bytes");
    criterion.bench_function("record/missing bytes", |bencher| {
        bencher.iter(|| record::missing_bytes(black_box(cut)));
    });
}

criterion_group!(benches, header, boundary);
criterion_main!(benches);
