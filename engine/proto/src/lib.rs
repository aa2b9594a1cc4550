//! Facts of the TLS protocol, and the buffers that bytes travel in: what the core and the ring both need.
//! Without a dependency.
#![forbid(unsafe_code)]

pub mod alert;
pub mod buf;
pub mod handshake;
pub mod record;
mod suite;

pub use suite::{Aead, Cipher, CipherSet, Direction, Version};
