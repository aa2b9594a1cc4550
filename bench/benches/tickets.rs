//! Session tickets: sealed with every full handshake, opened with every resumption.
//!
//! Beside ours stands the floor, rustls's own ticketer, whose keys no other host can have.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use offramp_bench::scenario;
use offramp_loadgen::identity::Identity;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;

/// Bytes of a TLS 1.3 session without a client certificate, roughly.
const SESSION_BYTES: usize = 120;

fn tickets(criterion: &mut Criterion) {
    let identity = Identity::generate().expect("a certificate can be made");
    let policy = scenario::tls_policy(&identity).expect("an identity of the profile");
    let ours = policy.ticketer().expect("a terminating listener with tickets");
    let floor = Ticketer::new().expect("randomness");
    measure(criterion, "ours", &*ours);
    measure(criterion, "rustls alone", &*floor);
}

fn measure(criterion: &mut Criterion, who: &str, ticketer: &dyn ProducesTickets) {
    let session = [7; SESSION_BYTES];
    criterion.bench_function(&format!("tickets/seal {who}"), |bencher| {
        bencher.iter(|| ticketer.encrypt(black_box(&session)));
    });
    let ticket = ticketer.encrypt(&session).expect("a key that seals");
    assert!(ticketer.decrypt(&ticket).is_some_and(|opened| opened == session));
    criterion.bench_function(&format!("tickets/open {who}"), |bencher| {
        bencher.iter(|| ticketer.decrypt(black_box(&ticket)));
    });
    let forged = vec![9; ticket.len()];
    criterion.bench_function(&format!("tickets/refuse {who}"), |bencher| {
        bencher.iter(|| ticketer.decrypt(black_box(&forged)));
    });
}

criterion_group!(benches, tickets);
criterion_main!(benches);
