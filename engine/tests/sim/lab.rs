//! The worlds of these tests.

use std::time::Instant;

pub(crate) use offramp_sim::lab::{
    BOTH, NOTHING, SUITES, bytes, client, client_with_certificate, fingerprint, held, held_originating,
    held_resuming, originating, resuming, rules, server, server_showing,
};

use offramp_core::conn::policy::Policy;
use offramp_core::conn::record_path::Offer;
use offramp_sim::{Outcome, Plan, Role, World};
use rustls::SupportedCipherSuite;

/// In the role that the peer leaves.
pub(crate) fn run(plan: Plan, offer: Offer, peer: impl Into<Role>) -> Outcome {
    let peer = peer.into();
    let rules = match &peer {
        Role::Client(_) => rules(offer),
        Role::Server(_) => originating(offer),
    };
    run_under(plan, rules, peer)
}

pub(crate) fn run_under(plan: Plan, rules: Policy, peer: impl Into<Role>) -> Outcome {
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning of a world")]
    let beginning = Instant::now();
    World::new(plan, rules, peer, beginning).run()
}

/// One that leaves us the server's role, and one that leaves us the client's.
pub(crate) fn peers(suite: SupportedCipherSuite) -> [Role; 2] {
    [client(suite).into(), server(suite).into()]
}
