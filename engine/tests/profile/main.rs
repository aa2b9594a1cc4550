//! The 3GPP profile, row by row, seen from outside: the built `offramp` and clients that are not ours.
//!
//! `negotiation` and `extensions` speak in hellos made by hand and look at the very alert; `clients` are
//! OpenSSL, GnuTLS, NSS and Java, and `servers` the same in the other role; `originate` is our client's role
//! towards servers made by hand; `tickets` presents tickets that are not good; `certificates` is what the
//! configuration refuses; `conformance` holds the statement to all of these. The laboratory is that of the
//! wire tests, and their variables hold here too.
#![expect(clippy::disallowed_methods, reason = "hang guards and polling of another process need a clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

#[allow(dead_code, reason = "the wire tests use the rest")]
#[path = "../wire/backend.rs"]
mod backend;
#[allow(dead_code, reason = "the wire tests use the rest")]
#[path = "../wire/dice.rs"]
mod dice;
#[allow(dead_code, reason = "the wire tests use the rest")]
#[path = "../wire/identity.rs"]
mod identity;
#[allow(dead_code, reason = "the wire tests use the rest")]
#[path = "../wire/lab.rs"]
mod lab;
#[allow(dead_code, reason = "the wire tests use the rest")]
#[path = "../wire/metrics.rs"]
mod metrics;
#[allow(dead_code, reason = "the wire tests use the rest")]
#[path = "../wire/peer.rs"]
mod peer;
#[allow(dead_code, reason = "the wire tests use the rest")]
#[path = "../wire/tools.rs"]
mod tools;

mod hello;
mod seal;
mod server;
mod session;

mod certificates;
mod clients;
mod conformance;
mod extensions;
mod negotiation;
mod originate;
mod servers;
mod tickets;
