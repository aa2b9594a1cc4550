//! The adversary: attacks on the built `offramp` over loopback, and what an established connection, the
//! memory and the log notice of them.
//!
//! A victim is one established TLS connection that echoes 64 bytes every 20 ms. Bounds are ratios to what the
//! same machine does without the attack, counts, or bytes: no test depends on how fast the machine is. The
//! attackers are `bench/attack`, the server and the TLS client those of `offramp-testing`, whose variables
//! hold here too. `soak` makes all attacks at once; its long form runs by hand:
//!
//! ```text
//! OFFRAMP_SOAK_SECONDS=600 cargo test -p offramp --test adversary -- --ignored soak
//! ```
#![expect(clippy::disallowed_methods, reason = "attackers and victims have clocks of their own")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod victim;

mod admin;
mod ceiling;
mod flood;
mod liveness;
mod log;
mod memory;
mod self_connect;
mod soak;
mod truncation;

/// Held by whoever needs most of the machine: one flood or wave at a time, however many threads run the
/// tests.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    // One that failed leaves nothing behind that another could miss.
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
