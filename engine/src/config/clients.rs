//! The check of what clients may use.

use std::num::NonZero;

use super::limits::{CONNECTION_LOG, LIMIT};
use super::{ConfigError, ConfigOption, Raw};
use crate::limit::{LimitRules, SourceRules};

impl Raw {
    pub(super) fn limits(&mut self) -> Result<LimitRules, ConfigError> {
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

    fn prefix(&mut self, key: ConfigOption, most: u8) -> Result<Option<u8>, ConfigError> {
        let bits = self.number(key, 1..=usize::from(most))?;
        Ok(bits.and_then(|bits| u8::try_from(bits).ok()))
    }
}
