//! The wire: the built `offramp` over loopback, with curl, OpenSSL, GnuTLS, Java, nginx, `ktls` and rustls as
//! the other side.
//!
//! The scenario files are named after the stages of a connection. `tests/kernel` runs this very binary once
//! more inside a guest kernel that has kernel TLS; the environment is how it says so:
//!
//! | variable | meaning |
//! | --- | --- |
//! | `OFFRAMP_TEST_OFFLOAD` | what the servers are given as `--offload` (default `auto`) |
//! | `OFFRAMP_SCRATCH` | where small files go (default: cargo's directory for test files) |
//! | `OFFRAMP_BULK_BYTES` | size of one bulk transfer (default 1 GiB) |
//! | `OFFRAMP_SESSIONS` | how many sessions `memory` makes (default 20,000) |
//! | `OFFRAMP_GUEST` | set inside the guest: nothing else uses that kernel's TLS, so its counters are exact |
//! | `OFFRAMP_GUEST_REKEYS` | set with it: `1` if that kernel can replace the keys of a direction, or `0` |
//! | `OFFRAMP_SKIPS_ARE_FAILURES` | `1`: a scenario that cannot run fails instead of saying `SKIP:` |
//! | `OFFRAMP_BIN` | another server with the same command line, to develop the scenarios against |
#![expect(clippy::disallowed_methods, reason = "hang guards and polling of another process need a clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod backend;
mod capture;
mod control;
mod dice;
mod foreign;
mod identity;
mod ktls;
mod lab;
mod metrics;
mod nginx;
mod peer;
mod policy;
mod server;
mod tools;

mod startup;

mod accept;
mod admin;
mod authorities;
mod bulk;
mod carriers;
mod ending;
mod extensions;
mod faults;
mod foreign_control;
mod handshake;
mod interop;
mod key_update;
mod keys;
mod liveness;
mod log;
mod memory;
mod midway;
mod offload;
mod originate;
mod originate_control;
mod peers;
mod reencrypt;
mod relay;
mod resumption;
mod shutdown;
mod slow;
mod sockets;
mod stapling;
mod vouching;
