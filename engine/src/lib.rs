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
//!     offload          InstallKeys, each direction for itself → who carries its records
//!     relay            Connect; then two halves, each: receive → (open | seal) → send
//!       userspace        tls::cipher opens and seals
//!       kernel           bytes pass through; records of other types are asked for by type
//!       control          alerts, KeyUpdate, renegotiation: the same for both carriers
//!     shutdown         the last alert, FIN, linger → Report
//!   worker::apply      Action → an operation on the ring, or a system call
//! ```
//!
//! Around it: [`supervisor`] starts and stops workers, [`admin`] shows [`metrics`], [`mod@log`] keeps the log
//! out of everybody's way, [`config`] is what was asked for, [`tls`] is policy, [`sys`] is the kernel and the
//! only place with `unsafe`. `ARCHITECTURE.md` beside this crate has the decisions and their reasons.
//!
//! To embed the engine, make a [`config::Config`] and give it to [`supervisor::Engine::start`].
#![forbid(unsafe_code)]

pub mod admin;
pub mod config;
pub mod log;
pub mod metrics;
pub mod supervisor;
pub mod upstream;
pub mod worker;

pub use offramp_core::{conn, files, tls};
pub use offramp_proto::buf;
pub use offramp_ring as sys;
