//! The worlds of these tests.

use std::sync::Arc;
use std::time::Instant;

pub(crate) use offramp::sim::lab::{BOTH, NOTHING, SUITES, bytes, client, rules};
pub(crate) use offramp::sim::wire::explicit_nonces;

use offramp::conn::Rules;
use offramp::conn::carrier::Offer;
use offramp::sim::{Outcome, Plan, World};
use rustls::ClientConfig;

pub(crate) fn run(plan: Plan, offer: Offer, client: Arc<ClientConfig>) -> Outcome {
    run_under(plan, rules(offer), client)
}

pub(crate) fn run_under(plan: Plan, rules: Rules, client: Arc<ClientConfig>) -> Outcome {
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning of a world")]
    let beginning = Instant::now();
    World::new(plan, rules, client, beginning).run()
}

pub(crate) fn all_distinct(nonces: &[[u8; 8]]) -> bool {
    let set: std::collections::HashSet<_> = nonces.iter().collect();
    set.len() == nonces.len()
}

#[test]
fn a_repeated_nonce_is_seen() {
    assert!(all_distinct(&[[1; 8], [2; 8]]));
    assert!(!all_distinct(&[[1; 8], [2; 8], [1; 8]]));
}
