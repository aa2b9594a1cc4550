//! Facts of the TLS protocol, among them fingerprints of certificates, and the buffers that bytes travel in:
//! what the core shares with the ring and with the SDP of the media gateway.
//! Without a dependency.
#![forbid(unsafe_code)]

pub mod alert;
pub mod buf;
pub mod fingerprint;
pub mod handshake;
pub mod record;
mod suite;

pub use suite::{Aead, Cipher, CipherSet, Direction, Version};
