//! Versions, AEADs, what records are protected with, and directions.

use std::fmt;

/// The protocol versions of the profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// The AEADs of the profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aead {
    /// AES-128-GCM.
    Aes128Gcm,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305,
}

impl fmt::Display for Version {
    /// As a person writes it: `1.2` or `1.3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        })
    }
}

impl Version {
    /// ProtocolVersion (RFC 8446 §4.1.2).
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Tls12 => 0x0303,
            Self::Tls13 => 0x0304,
        }
    }
}

impl fmt::Display for Aead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes128Gcm => "aes-128-gcm",
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        })
    }
}

impl Aead {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Aes128Gcm, Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// Bytes of its key.
    #[must_use]
    pub fn key_bytes(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// Records that one key may protect: 2^24 for AES-GCM (RFC 8446 §5.5, rounded down), for
    /// ChaCha20-Poly1305 as many as there are sequence numbers.
    #[must_use]
    pub fn record_limit(self) -> u64 {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => 1 << 24,
            Self::ChaCha20Poly1305 => u64::MAX,
        }
    }
}

/// What protects records: the version says how the AEAD is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cipher {
    /// The protocol version.
    pub version: Version,
    /// The AEAD.
    pub aead: Aead,
}

impl Cipher {
    /// Of this version and AEAD.
    #[must_use]
    pub const fn new(version: Version, aead: Aead) -> Self {
        Self { version, aead }
    }

    /// Every one of the profile, TLS 1.2 first.
    pub fn all() -> impl Iterator<Item = Self> {
        let of = |version| Aead::ALL.into_iter().map(move |aead| Self { version, aead });
        [Version::Tls12, Version::Tls13].into_iter().flat_map(of)
    }

    /// Bytes that it adds to the plaintext of a record: header, explicit nonce or inner type, tag.
    #[must_use]
    pub fn bytes_a_record(self) -> u64 {
        match (self.version, self.aead) {
            (Version::Tls12, Aead::Aes128Gcm | Aead::Aes256Gcm) => 5 + 8 + 16,
            (Version::Tls12, Aead::ChaCha20Poly1305) => 5 + 16,
            (Version::Tls13, _) => 5 + 1 + 16,
        }
    }
}

/// A set of [`Cipher`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CipherSet(u8);

impl CipherSet {
    /// No cipher.
    pub const NONE: Self = Self(0);
    /// Every one of the profile.
    pub const ALL: Self = Self(0b11_1111);

    /// With this one.
    #[must_use]
    pub const fn with(self, cipher: Cipher) -> Self {
        Self(self.0 | Self::bit(cipher))
    }

    /// Whether it is in.
    #[must_use]
    pub const fn contains(self, cipher: Cipher) -> bool {
        self.0 & Self::bit(cipher) != 0
    }

    /// Whether none is in.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are in, TLS 1.2 first.
    pub fn iter(self) -> impl Iterator<Item = Cipher> {
        Cipher::all().filter(move |cipher| self.contains(*cipher))
    }

    const fn bit(cipher: Cipher) -> u8 {
        1 << (3 * cipher.version as u8 + cipher.aead as u8)
    }
}

/// One direction of a connection's records, seen from us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Transmit.
    Tx,
    /// Receive.
    Rx,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        let mut set = CipherSet::NONE;
        for (nth, cipher) in Cipher::all().enumerate() {
            assert!(!set.contains(cipher) && set.iter().count() == nth);
            set = set.with(cipher);
        }
        assert_eq!(set, CipherSet::ALL);
    }
}
