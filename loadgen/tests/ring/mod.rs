//! Whether there is a ring to test on.

use offramp_ring::ring::Ring;

/// Whether this host has io_uring; says the skip if not, or fails where skips are failures.
pub(crate) fn is_there() -> bool {
    let Err(error) = Ring::<()>::new() else { return true };
    let refused = std::env::var("OFFRAMP_SKIPS_ARE_FAILURES").is_ok_and(|value| value == "1");
    assert!(!refused, "SKIP: no io_uring on this host: {error} (and OFFRAMP_SKIPS_ARE_FAILURES=1)");
    eprintln!("SKIP: no io_uring on this host: {error}");
    false
}
