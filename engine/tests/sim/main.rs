//! Ring (a) of the proof: the connection core in worlds without sockets. The scenarios have the names that
//! they have on the wire and in the guest kernel.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod accept;
mod chance;
mod control;
mod handover;
mod hold;
mod lab;
mod limit;
mod nonces;
mod offload;
mod originate;
mod relay;
mod shutdown;
mod sides;
