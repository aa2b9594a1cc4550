//! Everything random in the scenarios, from one seed each: a failure names its seed and can be run again.

use std::io::Read;

use aws_lc_rs::digest;

/// A small deterministic generator (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly enough for tests: a number in `low..=high`.
    pub(crate) fn between(&mut self, low: usize, high: usize) -> usize {
        low + usize::try_from(self.next() % (high - low + 1) as u64).expect("fits: it is below a usize")
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    /// A segment size: single bytes, header-sized pieces, packets and whole records, all of them often.
    pub(crate) fn cut(&mut self) -> usize {
        match self.next() % 4 {
            0 => 1,
            1 => self.between(2, 32),
            2 => self.between(33, 1_500),
            _ => self.between(1_501, 40_000),
        }
    }
}

/// `length` pseudorandom bytes, incompressible, as a stream; the same however it is read.
#[derive(Debug)]
pub(crate) struct Noise {
    dice: Rng,
    left: u64,
    /// What a read that ended within a word left of it.
    rest: Vec<u8>,
}

impl Noise {
    pub(crate) fn new(seed: u64, length: u64) -> Self {
        Self { dice: Rng::new(seed), left: length, rest: Vec::new() }
    }

    pub(crate) fn bytes(seed: u64, length: usize) -> Vec<u8> {
        let mut all = Vec::with_capacity(length);
        Self::new(seed, length as u64).read_to_end(&mut all).expect("noise never fails");
        all
    }
}

impl Read for Noise {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let take = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= take as u64;
        let (head, body) = into[..take].split_at_mut(self.rest.len().min(take));
        head.copy_from_slice(&self.rest[..head.len()]);
        self.rest.drain(..head.len());
        for word in body.chunks_mut(8) {
            let bytes = self.dice.next().to_le_bytes();
            word.copy_from_slice(&bytes[..word.len()]);
            self.rest.extend_from_slice(&bytes[word.len()..]);
        }
        Ok(take)
    }
}

/// SHA-256 of a stream that is never held in memory; also its length.
pub(crate) fn sha256_of(mut from: impl Read) -> (String, u64) {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut block = vec![0; 1 << 16];
    let mut length = 0;
    loop {
        let count = from.read(&mut block).expect("the stream that is hashed can be read");
        if count == 0 {
            return (hex(context.finish().as_ref()), length);
        }
        context.update(&block[..count]);
        length += count as u64;
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn noise_is_the_same_however_it_is_read_and_differs_by_seed() {
    let whole = Noise::bytes(7, 1_003);
    let mut parts = Vec::new();
    let mut source = Noise::new(7, 1_003);
    let mut block = [0; 21];
    while let Ok(count @ 1..) = source.read(&mut block) {
        parts.extend_from_slice(&block[..count]);
    }
    assert_eq!(whole, parts);
    assert_ne!(whole, Noise::bytes(8, 1_003));
    let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(sha256_of(&b"abc"[..]), (known.to_owned(), 3));
}
