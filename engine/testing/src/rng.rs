//! Everything random in the scenarios, from one seed each: a failure names its seed and can be run again.

use std::io::Read;

use aws_lc_rs::digest;

pub use fastrand::Rng;

/// A segment size: single bytes, header-sized pieces, packets and whole records, all of them often.
pub fn cut(rng: &mut Rng) -> usize {
    match rng.u8(..4) {
        0 => 1,
        1 => rng.usize(2..=32),
        2 => rng.usize(33..=1_500),
        _ => rng.usize(1_501..=40_000),
    }
}

/// `length` pseudorandom bytes, incompressible, as a stream; the same however it is read.
#[derive(Debug)]
pub struct Noise {
    rng: Rng,
    left: u64,
    /// What a read that ended within a word left of it.
    rest: Vec<u8>,
}

impl Noise {
    pub fn new(seed: u64, length: u64) -> Self {
        Self { rng: Rng::with_seed(seed), left: length, rest: Vec::new() }
    }

    pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
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
            let bytes = self.rng.u64(..).to_le_bytes();
            word.copy_from_slice(&bytes[..word.len()]);
            self.rest.extend_from_slice(&bytes[word.len()..]);
        }
        Ok(take)
    }
}

/// SHA-256 of a stream that is never held in memory; also its length.
pub fn sha256_of(mut from: impl Read) -> (String, u64) {
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

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn noise_depends_on_its_seed_and_not_on_read_sizes() {
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
