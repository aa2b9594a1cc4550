//! The bytes of bulk transfers: what byte `offset` is, so that each one can be checked where it arrives.
//!
//! Noise that repeats after a prime number of bytes: what is lost, doubled or moved by anything but a
//! multiple of that prime changes the bytes, and checking is a comparison of memory.

use std::sync::LazyLock;

/// After how many bytes the noise repeats, and the most that [`at`] gives at once: a prime.
pub const PERIOD: usize = 65_521;

static NOISE: LazyLock<Box<[u8]>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise: Vec<u8> = std::iter::repeat_with(|| {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(PERIOD)
    .collect();
    noise.extend_from_within(..);
    noise.into_boxed_slice()
});

/// The `len` bytes from `offset` on; fewer if that is more than [`PERIOD`].
#[must_use]
pub fn at(offset: u64, len: usize) -> &'static [u8] {
    let start = (offset % PERIOD as u64) as usize;
    &NOISE[start..start + len.min(PERIOD)]
}

/// Whether `bytes` are those from `offset` on.
#[must_use]
pub fn matches(offset: u64, bytes: &[u8]) -> bool {
    let mut offset = offset;
    bytes.chunks(PERIOD).all(|chunk| {
        let same = at(offset, chunk.len()) == chunk;
        offset += chunk.len() as u64;
        same
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offset_has_its_bytes_and_long_runs_match() {
        let long: Vec<u8> = (0..200_000).map(|offset| at(7 + offset, 1)[0]).collect();
        assert!(matches(7, &long));
        assert_eq!(at(PERIOD as u64 - 1, 2), [at(PERIOD as u64 - 1, 1)[0], at(0, 1)[0]]);
    }

    #[test]
    fn lost_doubled_and_changed_bytes_do_not_match() {
        let bytes = at(0, 40_000).to_vec();
        assert!(!matches(1, &bytes), "one byte lost");
        assert!(!matches(16_384, &bytes), "one record lost");
        assert!(!matches(65_536, &bytes), "four records lost");
        let mut changed = bytes;
        changed[39_999] ^= 1;
        assert!(!matches(0, &changed));
    }
}
