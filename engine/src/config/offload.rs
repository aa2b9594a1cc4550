//! When the kernel shall carry the records, and what becomes of a peer that changes its keys.

use std::fmt;

use super::limits::{AFTER_BYTES, RECORD_LIMIT};
use super::{ConfigError, ConfigOption, Raw};

/// When the kernel shall carry the records of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OffloadPolicy {
    /// Where the kernel can and where it was measured to pay; otherwise userspace, counted.
    #[default]
    Auto,
    /// With the handshake; the engine does not start where the kernel cannot.
    Always,
    /// Never: userspace carries all records.
    Never,
    /// Each direction once it has carried so many bytes of plaintext, where the kernel can.
    AfterBytes(u64),
}

impl OffloadPolicy {
    /// How a configuration writes it.
    pub const ALLOWED: &'static str =
        "auto, always, never or after-bytes(N), N a whole number from 1 to 1099511627776";

    /// Reads it as a configuration writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "always" => Some(Self::Always),
            "never" => Some(Self::Never),
            _ => {
                let bytes = text.strip_prefix("after-bytes(")?.strip_suffix(')')?;
                let bytes = Some(bytes).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
                bytes.parse().ok().filter(|bytes| AFTER_BYTES.contains(bytes)).map(Self::AfterBytes)
            }
        }
    }
}

impl fmt::Display for OffloadPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Always => f.write_str("always"),
            Self::Never => f.write_str("never"),
            Self::AfterBytes(bytes) => write!(f, "after-bytes({bytes})"),
        }
    }
}

/// Which directions may be handed to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OffloadDirections {
    /// Both, each for itself.
    #[default]
    Both,
    /// Records from us to the peer.
    Tx,
    /// Records from the peer to us.
    Rx,
}

impl OffloadDirections {
    /// How a configuration writes it.
    pub const ALLOWED: &'static str = "both, tx or rx";

    /// Reads it as a configuration writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "both" => Some(Self::Both),
            "tx" => Some(Self::Tx),
            "rx" => Some(Self::Rx),
            _ => None,
        }
    }

    /// Whether records from us may be.
    #[must_use]
    pub fn has_tx(self) -> bool {
        self != Self::Rx
    }

    /// Whether records from the peer may be.
    #[must_use]
    pub fn has_rx(self) -> bool {
        self != Self::Tx
    }
}

/// What becomes of TLS 1.3 on a kernel that cannot take the key that follows a KeyUpdate (before Linux 6.14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyUpdatePolicy {
    /// The kernel carries it; a peer that does update its keys is told `internal_error` and counted as
    /// `rekey_refused`. Such peers are rare in media.
    #[default]
    Offload,
    /// Userspace carries it: KeyUpdates are followed.
    Userspace,
}

impl KeyUpdatePolicy {
    /// How a configuration writes it.
    pub const ALLOWED: &'static str = "offload or userspace";

    /// Reads it as a configuration writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "offload" => Some(Self::Offload),
            "userspace" => Some(Self::Userspace),
            _ => None,
        }
    }
}

/// All that a listener says of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffloadRules {
    /// When.
    pub policy: OffloadPolicy,
    /// Which directions.
    pub directions: OffloadDirections,
    /// What of TLS 1.3 where keys cannot be replaced.
    pub key_update: KeyUpdatePolicy,
    /// Whether peers are expected not to pad their records (`TLS_RX_EXPECT_NO_PAD`).
    pub expect_no_pad: bool,
    /// Most records that one key may protect, whoever carries them; where its AEAD allows fewer, those.
    pub record_limit: u64,
}

impl Default for OffloadRules {
    fn default() -> Self {
        Self {
            policy: OffloadPolicy::default(),
            directions: OffloadDirections::default(),
            key_update: KeyUpdatePolicy::default(),
            expect_no_pad: false,
            record_limit: u64::MAX,
        }
    }
}

impl Raw {
    pub(super) fn offload(&mut self) -> Result<OffloadRules, ConfigError> {
        let default = OffloadRules::default();
        let policy = self.parsed(ConfigOption::Offload, OffloadPolicy::ALLOWED, OffloadPolicy::parse)?;
        let directions = self.parsed(
            ConfigOption::OffloadDirections,
            OffloadDirections::ALLOWED,
            OffloadDirections::parse,
        )?;
        let key_update =
            self.parsed(ConfigOption::KeyUpdate, KeyUpdatePolicy::ALLOWED, KeyUpdatePolicy::parse)?;
        let allowed = format!("a whole number from {} to {}", RECORD_LIMIT.start(), RECORD_LIMIT.end());
        let record_limit = self.parsed(ConfigOption::RecordLimit, allowed, |value| {
            value.parse().ok().filter(|limit| RECORD_LIMIT.contains(limit))
        })?;
        let expect_no_pad = self.switch(ConfigOption::ExpectNoPad)?;
        Ok(OffloadRules {
            policy: policy.unwrap_or(default.policy),
            directions: directions.unwrap_or(default.directions),
            key_update: key_update.unwrap_or(default.key_update),
            expect_no_pad: expect_no_pad.unwrap_or(default.expect_no_pad),
            record_limit: record_limit.unwrap_or(default.record_limit),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_they_are_written() {
        for text in ["auto", "always", "never", "after-bytes(1)", "after-bytes(1099511627776)"] {
            assert_eq!(OffloadPolicy::parse(text).map(|policy| policy.to_string()).as_deref(), Some(text));
        }
        for text in [
            "",
            "Auto",
            "after-bytes",
            "after-bytes()",
            "after-bytes(0)",
            "after-bytes(+1)",
            "after-bytes(-1)",
            "after-bytes(1k)",
            "after-bytes(1099511627777)",
            "after-bytes(99999999999999999999)",
        ] {
            assert_eq!(OffloadPolicy::parse(text), None, "{text}");
        }
        assert_eq!(OffloadDirections::parse("rx"), Some(OffloadDirections::Rx));
        assert_eq!(KeyUpdatePolicy::parse("userspace"), Some(KeyUpdatePolicy::Userspace));
        assert_eq!((OffloadDirections::parse("none"), KeyUpdatePolicy::parse("")), (None, None));
    }
}
