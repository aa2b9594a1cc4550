//! The check of what clients may use.

use std::num::{NonZero, NonZeroUsize};

use super::limits::{BUFFER_MEMORY, BUFFER_MEMORY_PER_WORKER, CONNECTION_LOG, LIMIT};
use super::{ConfigError, ConfigOption, Raw};
use crate::limit::{LimitRules, SourceRules};

impl Raw {
    pub(super) fn limits(&mut self, workers: usize) -> Result<LimitRules, ConfigError> {
        let default = SourceRules::default();
        Ok(LimitRules {
            listener_connections: self.limit(ConfigOption::ListenerConnections)?,
            sources: SourceRules {
                connections: self.limit(ConfigOption::SourceConnections)?,
                rate: self.limit(ConfigOption::SourceRate)?,
                prefix_v4: self.prefix(ConfigOption::SourcePrefixV4, 32)?.unwrap_or(default.prefix_v4),
                prefix_v6: self.prefix(ConfigOption::SourcePrefixV6, 128)?.unwrap_or(default.prefix_v6),
            },
            connection_rate: self.limit(ConfigOption::ConnectionRate)?,
            full_handshake_rate: self.limit(ConfigOption::FullHandshakeRate)?,
            buffer_memory: self.buffer_memory(workers)?,
            connection_log: self
                .number(ConfigOption::ConnectionLog, CONNECTION_LOG)?
                .and_then(|lines| u32::try_from(lines).ok())
                .and_then(NonZero::new),
        })
    }

    fn limit(&mut self, key: ConfigOption) -> Result<Option<NonZero<u32>>, ConfigError> {
        let count = self.number(key, LIMIT)?;
        Ok(count.and_then(|count| u32::try_from(count).ok()).and_then(NonZero::new))
    }

    /// Each worker gets a share.
    fn buffer_memory(&mut self, workers: usize) -> Result<Option<NonZeroUsize>, ConfigError> {
        let least = BUFFER_MEMORY_PER_WORKER.saturating_mul(workers);
        let allowed = format!(
            "a whole number with KiB, MiB, GiB or TiB behind it, from {}MiB ({}MiB per worker) to {}TiB",
            least >> 20,
            BUFFER_MEMORY_PER_WORKER >> 20,
            BUFFER_MEMORY.end() >> 40
        );
        self.parsed(ConfigOption::BufferMemory, allowed, |value| {
            let is_allowed = |bytes: &usize| *bytes >= least && BUFFER_MEMORY.contains(bytes);
            size(value).filter(is_allowed).and_then(NonZero::new)
        })
    }

    fn prefix(&mut self, key: ConfigOption, most: u8) -> Result<Option<u8>, ConfigError> {
        let bits = self.number(key, 1..=usize::from(most))?;
        Ok(bits.and_then(|bits| u8::try_from(bits).ok()))
    }
}

/// A number of bytes as a configuration writes it.
fn size(text: &str) -> Option<usize> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let (digits, shift) =
        units.into_iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)))?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: usize = digits.parse().ok().filter(|_| is_number)?;
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_read_with_its_unit() {
        assert_eq!(size("512MiB"), Some(512 << 20));
        assert_eq!((size("1KiB"), size("2GiB"), size("1TiB")), (Some(1024), Some(2 << 30), Some(1 << 40)));
        for bad in ["", "MiB", "512", "512MB", "512 MiB", "+1MiB", "-1MiB", "1.5GiB", "99999999999999TiB"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn buffer_memory_has_room_for_every_worker() {
        let with = |workers: &str, size: &str| {
            let mut raw = Raw::default();
            raw.give_flag(ConfigOption::BufferMemory, size.to_owned());
            raw.limits(workers.parse().expect("a number")).map(|limits| limits.buffer_memory)
        };
        assert_eq!(with("2", "16MiB").expect("allowed"), NonZero::new(16 << 20));
        let error = with("2", "15MiB").expect_err("too little").to_string();
        assert!(
            error.starts_with("--buffer-memory: ") && error.contains("16MiB (8MiB per worker)"),
            "{error}"
        );
    }
}
