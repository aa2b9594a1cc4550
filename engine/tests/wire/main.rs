//! The wire: the built `offramp` over loopback, with curl, OpenSSL, GnuTLS, Java, nginx, `ktls` and rustls as
//! the other side.
//!
//! The scenario files are named after the stages of a connection. `tests/kernel` runs this very binary once
//! more inside a guest kernel that has kernel TLS. The fixtures are those of `offramp-testing`, which lists
//! the variables of the environment that say where and how the scenarios run.
#![expect(clippy::disallowed_methods, reason = "hang guards and polling of another process need a clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod accept;
mod admin;
mod authorities;
mod bulk;
mod config;
mod confine;
mod control;
mod ending;
mod extensions;
mod faults;
mod foreign_control;
mod handshake;
mod interop;
mod key_update;
mod keys;
mod limits;
mod liveness;
mod log;
mod memory;
mod metrics;
mod midway;
mod narrowed;
mod offload;
mod originate;
mod originate_control;
mod peers;
mod policy;
mod pools;
mod proxy;
mod proxy_interop;
mod record_paths;
mod reencrypt;
mod relay;
mod resumption;
mod shutdown;
mod sides;
mod slow;
mod sockets;
mod stapling;
mod startup;
mod unix;
mod vouching;
