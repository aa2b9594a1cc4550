//! `TrafficKeys`: what protects one direction of a connection, wiped when dropped, and the rule for its
//! nonces.
//!
//! # The nonce rule
//! The nonce of TLS 1.2 AES-GCM is a salt of 4 bytes and an explicit part of 8 that the sender chooses (RFC
//! 5288 §3); it must never repeat under a key. In userspace the explicit part is `iv[4..12] XOR sequence`;
//! the Finished message is sequence 0 and so has spent `iv[4..12]`. Linux starts from the iv that it is
//! given, uses that very value for its first record, whatever the sequence number, and counts up. Given
//! `iv[4..12]` it would repeat the nonce of Finished, from which the authentication key of GCM follows.
//! [`TrafficKeys::kernel_iv`] therefore flips the top bit: the two sets of values differ in it for any number
//! of records that a key may protect.
//!
//! In TLS 1.3 and with ChaCha20-Poly1305 the kernel XORs iv and sequence number, as we do (RFC 8446 §5.3, RFC
//! 7905 §2). A receiver of TLS 1.2 AES-GCM reads the explicit part from the record.

use std::fmt;

pub use offramp_proto::{Aead, Cipher, Direction, Version};
use rustls::ConnectionTrafficSecrets;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Key, iv and the sequence number of the next record, of one direction.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct TrafficKeys {
    #[zeroize(skip)]
    cipher: Cipher,
    key: [u8; 32],
    iv: [u8; 12],
    sequence: u64,
}

impl TrafficKeys {
    /// From the parts; `key` is cut or padded to the AEAD's length by the caller's choice of `aead`.
    ///
    /// Returns `None` if `key` has not the AEAD's length.
    #[must_use]
    pub fn new(version: Version, aead: Aead, key: &[u8], iv: [u8; 12], sequence: u64) -> Option<Self> {
        if key.len() != aead.key_bytes() {
            return None;
        }
        let mut keys = Self { cipher: Cipher::new(version, aead), key: [0; 32], iv, sequence };
        keys.key[..key.len()].copy_from_slice(key);
        Some(keys)
    }

    /// From what rustls extracts. For TLS 1.2 it names both AES-GCM variants by the smaller: the key's length
    /// decides.
    #[must_use]
    pub fn from_rustls(
        version: Version,
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Option<Self> {
        let (aead, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } if key.as_ref().len() == 16 => {
                (Aead::Aes128Gcm, key, iv)
            }
            ConnectionTrafficSecrets::Aes128Gcm { key, iv }
            | ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Aead::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Aead::ChaCha20Poly1305, key, iv),
            _ => return None,
        };
        Self::new(version, aead, key.as_ref(), iv.as_ref().try_into().ok()?, sequence)
    }

    /// What records are protected with.
    #[must_use]
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// The protocol version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.cipher.version
    }

    /// The AEAD.
    #[must_use]
    pub fn aead(&self) -> Aead {
        self.cipher.aead
    }

    /// The key, of the AEAD's length.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key[..self.cipher.aead.key_bytes()]
    }

    /// The iv as the key schedule made it. To give it to the kernel, use [`TrafficKeys::kernel_iv`].
    #[must_use]
    pub fn iv(&self) -> &[u8; 12] {
        &self.iv
    }

    /// The sequence number of the next record.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Takes one sequence number.
    pub(super) fn advance(&mut self) {
        self.sequence = self.sequence.wrapping_add(1);
    }

    /// Whether the next record has an explicit nonce of 8 bytes.
    #[must_use]
    pub fn has_explicit_nonce(&self) -> bool {
        self.cipher.version == Version::Tls12 && self.cipher.aead != Aead::ChaCha20Poly1305
    }

    /// The iv for the kernel: by the nonce rule another one than userspace used, where the two would meet.
    #[must_use]
    pub fn kernel_iv(&self, direction: Direction) -> [u8; 12] {
        let mut iv = self.iv;
        if direction == Direction::Tx && self.has_explicit_nonce() {
            iv[4] ^= 0x80;
        }
        iv
    }

    /// iv XOR sequence number, the latter padded to the left (RFC 8446 §5.3; RFC 5288 §3 for the explicit
    /// part).
    #[must_use]
    pub fn nonce(&self) -> [u8; 12] {
        let mut nonce = self.iv;
        if let Some(low) = nonce.last_chunk_mut() {
            *low = (u64::from_be_bytes(*low) ^ self.sequence).to_be_bytes();
        }
        nonce
    }
}

impl fmt::Debug for TrafficKeys {
    /// Version, AEAD and sequence number; never key or iv.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrafficKeys({:?} {:?} at {})", self.cipher.version, self.cipher.aead, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn keys(version: Version, aead: Aead, iv: [u8; 12], sequence: u64) -> TrafficKeys {
        TrafficKeys::new(version, aead, &vec![7; aead.key_bytes()], iv, sequence).expect("the right length")
    }

    /// Explicit nonces as Linux makes them: the iv as given, counted up, whatever the sequence number.
    fn kernel_explicit_nonces(keys: &TrafficKeys, count: u64) -> impl Iterator<Item = u64> {
        let first = u64::from_be_bytes(keys.kernel_iv(Direction::Tx)[4..].try_into().expect("8 bytes"));
        (0..count).map(move |n| first.wrapping_add(n))
    }

    #[test]
    fn kernel_never_reuses_an_explicit_userspace_nonce() {
        for low in [
            0_u64,
            1,
            0x7fff_ffff_ffff_ffff,
            0x8000_0000_0000_0000,
            u64::MAX,
            u64::MAX - 3,
            0x6407_b3de_b4e4_562e,
        ] {
            let mut iv = [9; 12];
            iv[4..].copy_from_slice(&low.to_be_bytes());
            let mut seen = HashSet::new();
            let mut keys = keys(Version::Tls12, Aead::Aes128Gcm, iv, 0);
            for _ in 0..1000 {
                assert!(seen.insert(u64::from_be_bytes(keys.nonce()[4..].try_into().expect("8 bytes"))));
                keys.advance();
            }
            for nonce in kernel_explicit_nonces(&keys, 100_000) {
                assert!(seen.insert(nonce), "nonce {nonce:016x} repeats with iv {low:016x}");
            }
        }
    }

    #[test]
    fn only_transmitted_tls12_gcm_gets_another_iv() {
        let iv = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let unchanged = [
            (Version::Tls12, Aead::Aes128Gcm, Direction::Rx),
            (Version::Tls12, Aead::ChaCha20Poly1305, Direction::Tx),
            (Version::Tls13, Aead::Aes128Gcm, Direction::Tx),
            (Version::Tls13, Aead::Aes256Gcm, Direction::Tx),
        ];
        for (version, aead, direction) in unchanged {
            assert_eq!(keys(version, aead, iv, 5).kernel_iv(direction), iv);
        }
        let mut flipped = iv;
        flipped[4] ^= 0x80;
        assert_eq!(keys(Version::Tls12, Aead::Aes256Gcm, iv, 5).kernel_iv(Direction::Tx), flipped);
    }

    #[test]
    fn debug_shows_neither_key_nor_iv() {
        let shown = format!("{:?}", keys(Version::Tls13, Aead::Aes128Gcm, [0xab; 12], 3));
        assert_eq!(shown, "TrafficKeys(Tls13 Aes128Gcm at 3)");
    }
}
