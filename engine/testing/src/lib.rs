//! Fixtures of the tests: the built server, what stands behind it and before it, and what is watched of it.
//!
//! A scenario starts a [`backend`], a [`server`] before it and a [`peer`], and asks the server's [`metrics`]
//! what it has counted:
//!
//! ```no_run
//! use offramp_testing::backend::{Backend, BackendBehavior};
//! use offramp_testing::peer::{BOTH, End, Peer, plain};
//! use offramp_testing::server::TestServer;
//!
//! let backend = Backend::start(BackendBehavior::Echo);
//! let server = TestServer::start(backend.addr);
//! for version in BOTH {
//!     let mut peer = Peer::open(server.addr, &plain(version));
//!     peer.ping(b"hello");
//!     peer.close_notify();
//!     assert_eq!(peer.rest(), (Vec::new(), End::Clean), "{version:?}");
//! }
//! assert_eq!(server.settled().faults().len(), 0);
//! server.stop();
//! ```
//!
//! The environment says where a scenario runs:
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
#![allow(clippy::unwrap_used, clippy::panic, reason = "a fixture says what went wrong by panicking")]
#![allow(missing_docs, reason = "the names of small fixtures speak")]

pub mod backend;
pub mod capture;
pub mod docs;
pub mod foreign;
pub mod identity;
pub mod ktls_client;
pub mod loadgen;
pub mod metrics;
pub mod nginx;
pub mod peer;
mod process;
pub mod rng;
pub mod server;
pub mod service_manager;
pub mod tls_server;
pub mod tools;
