//! The two clocks: the wall clock, by which keys go, and the monotonic one, by which everything here waits.
#![expect(clippy::disallowed_methods, reason = "the owner of the clocks")]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use offramp_core::tls::ticket_keys::UnixSeconds;

pub(crate) fn instant() -> Instant {
    Instant::now()
}

pub(crate) fn unix() -> UnixSeconds {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
