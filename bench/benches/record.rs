//! Record arithmetic: what is done for each record before any cipher.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use offramp::tls::record::{self, Header};

fn header(criterion: &mut Criterion) {
    let whole = [23, 3, 3, 0x40, 0x11, 0, 0, 0];
    criterion.bench_function("record/header", |bencher| bencher.iter(|| Header::read(black_box(&whole))));
    criterion.bench_function("record/header, half of one", |bencher| {
        bencher.iter(|| Header::read(black_box(&whole[..3])));
    });
}

/// Where the next record ends: asked once a receive while a direction is on its way to the kernel.
fn boundary(criterion: &mut Criterion) {
    let mut records = Vec::new();
    for payload_bytes in [16_401_u16, 100, 2_048] {
        records.extend([23, 3, 3]);
        records.extend(payload_bytes.to_be_bytes());
        records.resize(records.len() + usize::from(payload_bytes), 0);
    }
    let cut = &records[..records.len() - 7];
    assert_eq!(record::missing_bytes(cut), Ok(7), "the last record lacks seven bytes");
    criterion.bench_function("record/missing bytes of the third", |bencher| {
        bencher.iter(|| record::missing_bytes(black_box(cut)));
    });
}

criterion_group!(benches, header, boundary);
criterion_main!(benches);
