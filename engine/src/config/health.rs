//! Health checks of endpoints, and what of a pool has no effect without another key.

use std::collections::BTreeMap;
use std::fmt;

use super::limits::HEALTH_TEXT_BYTES;
use super::{ConfigError, ConfigOption, Given, Mode, Pool, Raw, SendProxy};

/// Whether endpoints are probed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HealthCheck {
    /// They are not: connections that fail are all that counts.
    #[default]
    Off,
    /// By a TCP connection.
    Tcp,
    /// By a TCP connection and a TLS handshake.
    Tls,
}

impl HealthCheck {
    /// How a configuration writes it.
    pub const ALLOWED: &'static str = "off, tcp or tls";

    /// How a configuration writes this one.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }

    /// Reads it as a configuration writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "off" => Some(Self::Off),
            "tcp" => Some(Self::Tcp),
            "tls" => Some(Self::Tls),
            _ => None,
        }
    }
}

/// What is sent to a probed endpoint. A password may be in it: it is shown nowhere.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HealthSend(pub Vec<u8>);

impl fmt::Debug for HealthSend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HealthSend({} bytes)", self.0.len())
    }
}

impl Raw {
    /// `health_send` or `health_expect`; empty if it is not given.
    pub(super) fn health_text(&mut self, key: ConfigOption) -> Result<Vec<u8>, ConfigError> {
        let allowed = format!(
            "{} to {} bytes, in which \\r, \\n, \\t, \\\\ and \\xNN (two hexadecimal digits) stand for one \
             byte each; in a file write it in single quotes, such as 'PING\\r\\n'",
            HEALTH_TEXT_BYTES.start(),
            HEALTH_TEXT_BYTES.end()
        );
        let bytes = self.parsed(key, allowed, |value| {
            unescaped(value).filter(|bytes| HEALTH_TEXT_BYTES.contains(&bytes.len()))
        })?;
        Ok(bytes.unwrap_or_default())
    }

    /// What is given at the top for all pools has to have an effect on one of them at least.
    pub(super) fn check_inherited<'a>(
        given: &BTreeMap<ConfigOption, Given>,
        pools: impl Iterator<Item = &'a Pool> + Clone,
    ) -> Result<(), ConfigError> {
        for (key, has_effect, allowed) in DEPENDENT {
            if let Some(given) = given.get(&key).filter(|_| !pools.clone().any(has_effect)) {
                return Err(given.clone().refused(key, allowed));
            }
        }
        Ok(())
    }
}

/// A key, the pools on which it has an effect, and what is allowed of it on others.
type Dependent = (ConfigOption, fn(&Pool) -> bool, &'static str);

const DEPENDENT: [Dependent; 3] = [
    (ConfigOption::ProxyTlvs, |pool| pool.send_proxy == SendProxy::V2, "nothing without send_proxy = \"v2\""),
    (ConfigOption::HealthSend, is_probed, UNPROBED),
    (ConfigOption::HealthExpect, is_probed, UNPROBED),
];

const UNPROBED: &str = "nothing without health_check = \"tcp\" or \"tls\"";

fn is_probed(pool: &Pool) -> bool {
    pool.health_check != HealthCheck::Off
}

/// What a pool, or a listener with endpoints of its own, says has to have an effect on it. What it inherits
/// may be meant for others.
pub(super) fn check_own(own: &BTreeMap<ConfigOption, Given>, pool: &Pool) -> Result<(), ConfigError> {
    Raw::check_inherited(own, std::iter::once(pool))
}

/// A probe with TLS needs endpoints with TLS: `given` is the health check of a pool of a listener.
pub(super) fn check_mode(given: Option<&Given>, pool: &Pool, mode: &Mode) -> Result<(), ConfigError> {
    let has_tls = mode.server().is_some() || *mode == Mode::Passthrough;
    match given {
        Some(given) if pool.health_check == HealthCheck::Tls && !has_tls => {
            let allowed = format!(
                "off or tcp for the pool {} of a listener with mode = \"{}\": its backends have no TLS",
                pool.name,
                mode.name()
            );
            Err(given.clone().refused(ConfigOption::HealthCheck, allowed))
        }
        _ => Ok(()),
    }
}

/// The bytes that it stands for; `None` where a backslash is followed by something else.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let (&escape, behind) = rest.split_first()?;
        rest = behind;
        bytes.push(match escape {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'\\' => b'\\',
            b'x' => {
                let (digits, behind) = rest.split_first_chunk::<2>()?;
                rest = behind;
                let digit = |digit: u8| char::from(digit).to_digit(16);
                u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()?
            }
            _ => return None,
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, file};

    fn read(text: &str) -> Result<Config, String> {
        file::parse(Path::new("o.toml"), text).and_then(Raw::check).map_err(|error| error.to_string())
    }

    #[test]
    fn escapes_stand_for_one_byte_each() {
        assert_eq!(unescaped(r"a\r\n\t\\\x00\xfF").as_deref(), Some(&b"a\r\n\t\\\0\xff"[..]));
        for bad in [r"\", r"a\", r"\q", r"\x", r"\x1", r"\xg0", r"\x+1"] {
            assert_eq!(unescaped(bad), None, "{bad}");
        }
    }

    #[test]
    fn health_send_is_not_shown() {
        let listener = "listen = \"127.0.0.1:0\"\nbackend = \"127.0.0.1:1\"\nmode = \"plain\"";
        let error = read(&format!("{listener}\nhealth_send = 'AUTH hunter2\\q'")).unwrap_err();
        assert!(error.starts_with("o.toml:4: health_send = ") && !error.contains("hunter2"), "{error}");
        let config =
            read(&format!("{listener}\nhealth_check = \"tcp\"\nhealth_send = 'AUTH hunter2'")).unwrap();
        let shown = format!("{config:?}");
        assert!(shown.contains("HealthSend(12 bytes)") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn health_texts_of_a_pool_replace_those_of_the_top() {
        let config = read(
            "mode = \"plain\"\nhealth_check = \"tcp\"\nhealth_expect = \"+PONG\"\n\
             [[pool]]\nname = \"a\"\nbackend = \"10.0.0.1:1\"\nhealth_send = 'PING\\r\\n'\n\
             [[pool]]\nname = \"b\"\nbackend = \"10.0.0.1:2\"\nhealth_check = \"off\"\n\
             [[listener]]\nlisten = \"127.0.0.1:1\"\nbackend = \"pool:a\"\n\
             [[listener]]\nlisten = \"127.0.0.1:2\"\nbackend = \"pool:b\"\n",
        );
        let listeners = config.expect("it is meant for a").listeners;
        let pool = listeners[0].routes.default.as_ref().expect("a pool");
        assert_eq!((&*pool.health_send.0, &*pool.health_expect), (&b"PING\r\n"[..], &b"+PONG"[..]));
    }

    #[test]
    fn keys_without_effect_are_refused_with_their_line() {
        let pool = |keys: &str| format!("[[pool]]\nname = \"a\"\nbackend = \"10.0.0.1:1\"\n{keys}");
        let listener = "[[listener]]\nlisten = \"127.0.0.1:1\"\nbackend = \"pool:a\"\n";
        for (text, expected) in [
            (
                pool("health_send = \"x\"\n"),
                "o.toml:5: health_send = \"…\" is refused: allowed is nothing without",
            ),
            (
                pool("health_expect = \"x\"\n"),
                "o.toml:5: health_expect = \"x\" is refused: allowed is nothing",
            ),
            (
                pool("proxy_tlvs = [\"alpn\"]\n"),
                "o.toml:5: proxy_tlvs = \"alpn\" is refused: allowed is nothing",
            ),
            (
                pool("send_proxy = \"v1\"\nproxy_tlvs = [\"alpn\"]\n"),
                "o.toml:6: proxy_tlvs = \"alpn\" is refused: allowed is nothing without send_proxy = \"v2\"",
            ),
            (format!("proxy_tlvs = [\"alpn\"]\n{}", pool("")), "o.toml:2: proxy_tlvs = \"alpn\" is refused"),
            (format!("health_send = \"x\"\n{}", pool("")), "o.toml:2: health_send = \"…\" is refused"),
            (
                pool("health_check = \"tls\"\n"),
                "o.toml:5: health_check = \"tls\" is refused: allowed is off or tcp for the pool a",
            ),
            (
                pool("health_check = \"tcp\"\nhealth_send = \"\"\n"),
                "o.toml:6: health_send = \"…\" is refused",
            ),
            (pool("health_check = \"tcp\"\nhealth_send = '\\q'\n"), "allowed is 1 to 1024 bytes, in which"),
        ] {
            let error = read(&format!("mode = \"plain\"\n{text}{listener}")).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let own = "mode = \"plain\"\n[[listener]]\nlisten = \"127.0.0.1:1\"\nbackend = \"10.0.0.1:1\"\n";
        for (key, expected) in [
            ("health_check = \"tls\"\n", "o.toml:5: health_check = \"tls\" is refused"),
            ("health_send = \"x\"\n", "o.toml:5: health_send = \"…\" is refused"),
        ] {
            let error = read(&format!("{own}{key}")).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let through = own.replace("plain", "passthrough");
        assert_eq!(read(&format!("{through}health_check = \"tls\"\n")).map(drop), Ok(()));
    }
}
