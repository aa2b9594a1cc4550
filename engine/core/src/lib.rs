//! The core of Offramp: what happens to a connection, decided without a socket, a clock, a lock or a counter.
//!
//! [`conn`] turns events into actions, [`tls`] is policy: what is negotiated, who we are, how sessions
//! resume.
//! [`files`] reads regular files for it, and [`config`] has what an operator decides of both.
#![forbid(unsafe_code)]

pub mod config;
pub mod conn;
pub mod tls;

pub(crate) use offramp_proto::buf;
