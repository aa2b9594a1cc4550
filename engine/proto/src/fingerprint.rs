//! Fingerprints of certificates, as SDP and the configuration write them (RFC 8122 §5).

use std::fmt;

/// A hash function for fingerprints, the weakest first. MD2, MD5 and SHA-1 are not to be used (RFC 8122 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FingerprintHash {
    /// sha-256.
    Sha256,
    /// sha-384.
    Sha384,
    /// sha-512.
    Sha512,
}

impl FingerprintHash {
    /// The function that SDP calls so, in either case of letters.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::Sha256, Self::Sha384, Self::Sha512]
            .into_iter()
            .find(|hash| hash.name().eq_ignore_ascii_case(name))
    }

    /// The name in SDP (RFC 8122 §5).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha-256",
            Self::Sha384 => "sha-384",
            Self::Sha512 => "sha-512",
        }
    }

    /// Bytes of a digest.
    #[must_use]
    pub fn digest_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

/// The hash of a certificate's DER form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint {
    /// By which function.
    pub hash: FingerprintHash,
    /// As many bytes as the function gives.
    pub digest: Vec<u8>,
}

impl Fingerprint {
    /// How a configuration writes it.
    pub const ALLOWED: &'static str = "sha-256, sha-384 or sha-512 and the bytes of the hash in hexadecimal \
         with colons between, such as \"sha-256 AB:CD:…\" (SDP's form, RFC 8122 §5); md5 and sha-1 are too \
         weak";

    /// Reads it as SDP writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (name, digits) = text.trim().split_once(' ')?;
        let hash = FingerprintHash::by_name(name)?;
        let byte = |pair: &str| {
            let is_hex = pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit());
            u8::from_str_radix(Some(pair).filter(|_| is_hex)?, 16).ok()
        };
        let digest: Vec<u8> = digits.trim().split(':').map(byte).collect::<Option<_>>()?;
        (digest.len() == hash.digest_bytes()).then_some(Self { hash, digest })
    }
}

impl fmt::Display for Fingerprint {
    /// As SDP writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.hash.name())?;
        for (index, byte) in self.digest.iter().enumerate() {
            write!(f, "{}{byte:02X}", if index == 0 { ' ' } else { ':' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_as_sdp_writes_them() {
        let bytes: Vec<String> = (0..32).map(|byte| format!("{byte:02X}")).collect();
        let text = format!("sha-256 {}", bytes.join(":"));
        let fingerprint = Fingerprint::parse(&text).expect("well formed");
        assert_eq!((fingerprint.digest[31], fingerprint.to_string()), (31, text.clone()));
        assert_eq!(Fingerprint::parse(&text.to_lowercase()), Some(fingerprint), "either case");
        for bad in [
            "",
            "sha-256",
            &text[..text.len() - 3],
            &text.replace("sha-256", "sha-1"),
            &text.replace("sha-256", "md5"),
            &text.replace("sha-256", "sha-384"),
            &text.replace(':', ""),
            &text.replace("1F", "+F"),
            &text.replace("1F", "1é"),
        ] {
            assert_eq!(Fingerprint::parse(bad), None, "{bad}");
        }
    }
}
