//! The 3GPP profile, row by row, seen from outside: the built `offramp` and clients that are not ours.
//!
//! `negotiation` and `extensions` speak in hellos made by hand and look at the very alert; `clients` are
//! OpenSSL, GnuTLS, NSS and Java, and `servers` the same in the other role; `originate` is our client's role
//! towards servers made by hand; `tickets` presents tickets that are not good; `certificates` is what the
//! configuration refuses; `conformance` holds the statement to all of these. The fixtures and the
//! variables of the environment are those of `offramp-testing`.
#![expect(clippy::disallowed_methods, reason = "hang guards and polling of another process need a clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

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
mod post_quantum;
mod servers;
mod tickets;
