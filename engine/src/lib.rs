//! Offramp: TLS termination with the handshake in userspace, the records in the kernel and the bytes on
//! io_uring.
//!
//! # The data path in thirty lines
//!
//! ```text
//! worker::turn         waits on the ring; each completion becomes an Event of one connection
//!   conn::step         Event → Actions; pure: no socket, clock, lock or counter
//!     accept           the first bytes: is it TLS at all?
//!     handshake        bytes ↔ tls::session, until keys and sequence numbers are there
//!     offload          InstallKeys, each direction separately → who carries its records
//!     connect          the far leg, to one endpoint of the route after another; then it is secured too
//!     relay            two sides, plain or TLS: receive → (open) → plaintext → (seal) → send
//!     shutdown         what came whole, the last alert, FIN, linger → Report
//!   worker::apply      Action → an operation on the ring, or a system call
//! ```
//!
//! Around it: [`supervisor`] starts and stops workers, [`admin`] shows [`metrics`] and [`state`],
//! [`mod@log`] keeps the log out of everybody's way, [`config`] is what was asked for, [`tls`] is policy,
//! [`sys`] is the kernel and the only place with `unsafe`. `ARCHITECTURE.md` beside this crate says where to
//! change what, and links the decisions.
//!
//! To embed the engine, make a [`config::Config`] and give it to [`supervisor::Engine::start`]:
//!
//! ```no_run
//! use std::path::Path;
//!
//! use offramp::config::file;
//! use offramp::supervisor::Engine;
//!
//! let config = file::read(Path::new("offramp.toml"))?.check()?;
//! let engine = Engine::start(config)?;
//! println!("{engine}");
//! engine.drain();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

pub mod admin;
pub mod command;
pub mod config;
pub mod confine;
pub mod conformance;
pub mod limit;
pub mod log;
pub mod metrics;
pub mod pool;
pub mod reply;
pub mod state;
pub mod supervisor;
pub mod worker;

pub use offramp_core::{conn, tls};
pub use offramp_proto::buf;
pub use offramp_ring as sys;
