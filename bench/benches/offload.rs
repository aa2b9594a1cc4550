//! From the client's last flight until the record path of both directions is settled, in memory: how long
//! the core takes to bring a connection to a record boundary and to hand the keys over. The kernel's part,
//! three system calls, is not in it.

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use offramp_bench::handover::{Behind, Handover};
use offramp_loadgen::plan::Version;

fn alignment(criterion: &mut Criterion) {
    for (name, version) in [("1.2", Version::Tls12), ("1.3", Version::Tls13)] {
        for (what, behind) in [
            ("nothing behind Finished", Behind::Nothing),
            ("a record behind Finished", Behind::Record),
            ("half a record behind Finished", Behind::HalfARecord),
        ] {
            let mut handover = Handover::new(version).expect("an identity of the profile");
            criterion.bench_function(&format!("offload/{name} {what}"), |bencher| {
                bencher.iter_custom(|count| {
                    let mut total = Duration::ZERO;
                    for _ in 0..count {
                        let mut ready = handover.prepare(behind).expect("a handshake up to its last flight");
                        #[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
                        let begin = Instant::now();
                        let done = ready.finish();
                        total += begin.elapsed();
                        assert!(done.expect("a hand-over"), "both directions are the kernel's");
                        ready.end().expect("the client can read what it was sent");
                    }
                    total
                });
            });
        }
    }
}

criterion_group!(benches, alignment);
criterion_main!(benches);
