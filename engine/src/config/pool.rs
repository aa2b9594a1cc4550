//! Pools: where connections go.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use offramp_ring::socket::Address;

use super::limits::{
    ENDPOINTS, MAX_CONNECTIONS, POOLS, RESOLVE_INTERVAL_DEFAULT, Span, UNIX_PATH_BYTES, WEIGHT,
};
use super::option::Scope;
use super::{ConfigError, ConfigOption, Given, HealthCheck, HealthSend, Raw, RawPool, health};
use crate::pool::Balance;

/// Endpoints of which one gets each connection, and how they are treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// That of the file; of a listener's own pool its address.
    pub name: String,
    /// 1 to 64.
    pub backends: Vec<Backend>,
    /// How one is chosen.
    pub balance: Balance,
    /// What is sent to it before anything else.
    pub send_proxy: SendProxy,
    /// What a PROXY header of version 2 has beside the addresses.
    pub proxy_tlvs: ProxyTlvs,
    /// Whether it is probed.
    pub health_check: HealthCheck,
    /// What a probe sends; nothing if empty.
    pub health_send: HealthSend,
    /// What the answer to a probe has to contain; anything if empty.
    pub health_expect: Vec<u8>,
    /// How long an endpoint that came up again gets fewer connections than its weight says; zero for not.
    pub slow_start: Duration,
    /// How often host names are resolved again.
    pub resolve_interval: Duration,
}

/// One endpoint as configured; a host name stands for as many as it has addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where it is.
    pub target: Target,
    /// Its part of the connections, 1 to 256.
    pub weight: u32,
    /// Whether it gets connections only while no other endpoint can.
    pub is_backup: bool,
    /// Most connections to it; of a host name, to each of its addresses.
    pub max_connections: Option<u32>,
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// At this address.
    Address(Address),
    /// Where this name is found.
    Name {
        /// A DNS name.
        host: String,
        /// Not 0.
        port: u16,
    },
}

/// Which PROXY header the backend gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SendProxy {
    /// None.
    #[default]
    Off,
    /// Version 1: text.
    V1,
    /// Version 2.
    V2,
}

impl SendProxy {
    /// How a configuration writes it.
    pub const ALLOWED: &'static str = "off, v1 or v2";

    /// Reads it as a configuration writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "off" => Some(Self::Off),
            "v1" => Some(Self::V1),
            "v2" => Some(Self::V2),
            _ => None,
        }
    }
}

/// What a PROXY header of version 2 has beside the addresses, by the names of its types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProxyTlvs {
    /// PP2_TYPE_ALPN.
    pub alpn: bool,
    /// PP2_TYPE_AUTHORITY: the name that the client has asked for.
    pub authority: bool,
    /// PP2_TYPE_SSL: version, cipher, and what is known of the client's certificate.
    pub ssl: bool,
    /// PP2_TYPE_UNIQUE_ID.
    pub unique_id: bool,
    /// PP2_TYPE_CRC32C.
    pub crc32c: bool,
    /// The client's certificate, DER (HAProxy's PP2_TYPE_SSL_CLIENT_CERT, 0x28 within PP2_TYPE_SSL).
    pub certificate: bool,
}

impl ProxyTlvs {
    /// How a configuration writes them.
    pub const ALLOWED: &'static str =
        "alpn, authority, ssl, unique-id, crc32c, certificate (which needs ssl)";

    /// Reads them as a configuration writes them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut these = Self::default();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            *match name {
                "alpn" => &mut these.alpn,
                "authority" => &mut these.authority,
                "ssl" => &mut these.ssl,
                "unique-id" => &mut these.unique_id,
                "crc32c" => &mut these.crc32c,
                "certificate" => &mut these.certificate,
                _ => return None,
            } = true;
        }
        (these.ssl || !these.certificate).then_some(these)
    }
}

/// A pool of the file, as routes and listeners find it.
pub(super) struct NamedPool {
    pub(super) pool: Arc<Pool>,
    /// As written, in the pool or above it.
    pub(super) health_check: Option<Given>,
}

/// The pool with this name.
pub(super) fn find<'a>(pools: &'a [NamedPool], name: &str) -> Option<&'a NamedPool> {
    pools.iter().find(|named| named.pool.name == name)
}

/// The names there are, for an error.
pub(super) fn known(pools: &[NamedPool]) -> String {
    let names: Vec<&str> = pools.iter().map(|named| named.pool.name.as_str()).collect();
    if names.is_empty() { "there is none".to_owned() } else { names.join(", ") }
}

impl Pool {
    /// Of one endpoint, with the defaults of a configuration, and named by its address.
    #[must_use]
    pub fn of(address: Address) -> Self {
        let name = address.to_string();
        let target = Target::Address(address);
        Self {
            name,
            backends: vec![Backend { target, weight: 1, is_backup: false, max_connections: None }],
            balance: Balance::default(),
            send_proxy: SendProxy::default(),
            proxy_tlvs: ProxyTlvs::default(),
            health_check: HealthCheck::default(),
            health_send: HealthSend::default(),
            health_expect: Vec::new(),
            slow_start: Duration::ZERO,
            resolve_interval: RESOLVE_INTERVAL_DEFAULT,
        }
    }
}

impl fmt::Display for Target {
    /// As a configuration writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl fmt::Display for Pool {
    /// Its endpoints as a configuration writes them, without their parameters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, backend) in self.backends.iter().enumerate() {
            let between = if nth == 0 { "" } else { ", " };
            write!(f, "{between}{}", backend.target)?;
        }
        Ok(())
    }
}

impl Target {
    fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return is_unix_address(path).then(|| Self::Address(Address::Unix(PathBuf::from(path))));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return (address.port() != 0).then_some(Self::Address(Address::Tcp(address)));
        }
        let (host, port) = text.rsplit_once(':')?;
        let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
        is_host_name(host).then(|| Self::Name { host: host.to_ascii_lowercase(), port })
    }
}

impl Backend {
    /// An address with its parameters behind it, each after a space.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        // The path of a Unix socket may have spaces.
        let (mut address, mut this) = (
            text,
            Self { target: Target::parse("x:1")?, weight: 1, is_backup: false, max_connections: None },
        );
        while let Some((front, last)) = address.rsplit_once(' ') {
            match last.split_once('=') {
                Some(("weight", number)) => {
                    this.weight = number.parse().ok().filter(|weight| WEIGHT.contains(weight))?;
                }
                Some(("max_connections", number)) => {
                    let most: usize = number.parse().ok().filter(|most| MAX_CONNECTIONS.contains(most))?;
                    this.max_connections = u32::try_from(most).ok();
                }
                None if last == "backup" => this.is_backup = true,
                _ => break,
            }
            address = front.trim_end();
        }
        this.target = Target::parse(address)?;
        Some(this)
    }
}

impl Raw {
    /// The pools of the file, by name.
    pub(super) fn all_pools(&mut self) -> Result<Vec<NamedPool>, ConfigError> {
        let raw_pools = std::mem::take(&mut self.pools);
        if let Some(RawPool { path, line, .. }) = raw_pools.get(*POOLS.end()) {
            let error = ConfigError::Pools { count: raw_pools.len() };
            return Err(error.at(format_args!("{}:{line}", path.display())));
        }
        let mut pools: Vec<NamedPool> = Vec::new();
        for RawPool { path, line, name, given } in raw_pools {
            let Given { value: name, origin } = name;
            let refused = |allowed: &str| ConfigError::PoolName {
                origin: origin.clone(),
                name: name.clone(),
                allowed: allowed.to_owned(),
            };
            if !is_pool_name(&name) {
                return Err(refused("1 to 64 letters, digits, `-`, `_` and `.`"));
            }
            if find(&pools, &name).is_some() {
                return Err(refused("a name that no other [[pool]] has"));
            }
            let mut raw = Self::default();
            let is_inherited = |key: &ConfigOption| key.description().scope == Scope::Pool;
            raw.given = self.given.iter().filter(|(key, _)| is_inherited(key)).map(cloned).collect();
            raw.given.extend(given.clone());
            let missing = ConfigError::MissingInPool { path: path.clone(), line };
            let health_check = raw.given.get(&ConfigOption::HealthCheck).cloned();
            let pool = Arc::new(raw.pool(name)?.ok_or(missing)?);
            health::check_own(&given, &pool)?;
            pools.push(NamedPool { pool, health_check });
        }
        Ok(pools)
    }

    /// The endpoints of a pool, if any are given.
    fn backends(&mut self) -> Result<Option<Vec<Backend>>, ConfigError> {
        let allowed = format!(
            "{} to {} of these, each another: an IP address or a host name, and a port other than 0, such as \
             127.0.0.1:8080; or \
             unix:PATH, or unix:@NAME for an abstract socket, of {} to {} bytes behind the colon and no NUL; \
             each with any of weight=N ({} to {}), backup, max_connections=N behind it; or alone \
             pool:NAME, of a [[pool]]",
            ENDPOINTS.start(),
            ENDPOINTS.end(),
            UNIX_PATH_BYTES.start(),
            UNIX_PATH_BYTES.end(),
            WEIGHT.start(),
            WEIGHT.end()
        );
        self.parsed(ConfigOption::Backend, allowed, |value| {
            let backends: Vec<_> = value.split(',').map(Backend::parse).collect::<Option<_>>()?;
            let is_new = |nth: usize| {
                backends[..nth].iter().all(|earlier: &Backend| earlier.target != backends[nth].target)
            };
            let are_distinct = (0..backends.len()).all(is_new);
            (ENDPOINTS.contains(&backends.len()) && are_distinct).then_some(backends)
        })
    }

    /// A pool with this name; none if no endpoints are given, and then what else is given of it is only
    /// checked.
    pub(super) fn pool(&mut self, name: String) -> Result<Option<Pool>, ConfigError> {
        let backends = self.backends()?;
        let pool = Pool {
            name,
            backends: backends.clone().unwrap_or_default(),
            balance: self
                .parsed(ConfigOption::Balance, Balance::ALLOWED, Balance::parse)?
                .unwrap_or_default(),
            send_proxy: self
                .parsed(ConfigOption::SendProxy, SendProxy::ALLOWED, SendProxy::parse)?
                .unwrap_or_default(),
            proxy_tlvs: self
                .parsed(ConfigOption::ProxyTlvs, ProxyTlvs::ALLOWED, ProxyTlvs::parse)?
                .unwrap_or_default(),
            health_check: self
                .parsed(ConfigOption::HealthCheck, HealthCheck::ALLOWED, HealthCheck::parse)?
                .unwrap_or_default(),
            health_send: HealthSend(self.health_text(ConfigOption::HealthSend)?),
            health_expect: self.health_text(ConfigOption::HealthExpect)?,
            slow_start: self.duration(ConfigOption::SlowStart, Span::SLOW_START)?.unwrap_or_default(),
            resolve_interval: self
                .duration(ConfigOption::ResolveInterval, Span::RESOLVE)?
                .unwrap_or(RESOLVE_INTERVAL_DEFAULT),
        };
        Ok(backends.map(|_| pool))
    }
}

fn is_pool_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(is_allowed)
}

fn cloned((key, given): (&ConfigOption, &Given)) -> (ConfigOption, Given) {
    (*key, given.clone())
}

/// A path, or an abstract name behind an `@`. A NUL would end the one and begin the other.
pub(super) fn is_unix_address(text: &str) -> bool {
    UNIX_PATH_BYTES.contains(&text.len()) && text != "@" && !text.contains('\0')
}

/// As RFC 1123 §2.1 has it, with underscores, which names of services in containers have; not digits and dots
/// alone, which would be an address that was written wrongly.
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    (1..=253).contains(&name.len())
        && name.split('.').all(is_label)
        && !name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backend_parameters_are_read_in_any_order() {
        let read = Backend::parse("gw.example:2855 backup weight=3  max_connections=100").unwrap();
        assert_eq!(read.target.to_string(), "gw.example:2855");
        assert_eq!((read.weight, read.is_backup, read.max_connections), (3, true, Some(100)));
        let plain = Backend::parse("[::1]:80").unwrap();
        assert_eq!((plain.weight, plain.is_backup, plain.max_connections), (1, false, None));
        let spaced = Backend::parse("unix:/run/a b.sock weight=2").unwrap();
        assert_eq!((spaced.target.to_string().as_str(), spaced.weight), ("unix:/run/a b.sock", 2));
    }

    #[test]
    fn backend_that_means_nothing_is_refused() {
        for bad in [
            "",
            "localhost",
            "localhost:0",
            "localhost:65536",
            "127.0.0.1:0",
            "127.0.0:80",
            "300.1.1.1:80",
            "a..b:80",
            "-a:80",
            "a b:80",
            ":80",
            "[::1:80",
            "a:80 weight=0",
            "a:80 weight=257",
            "a:80 max_connections=0",
            "a:80 weigth=2",
            "a:80 backup=1",
        ] {
            assert_eq!(Backend::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn proxy_tlvs_are_read_by_name() {
        let all = ProxyTlvs::parse("alpn, authority, ssl, unique-id, crc32c, certificate").unwrap();
        assert!(all.alpn && all.authority && all.ssl && all.unique_id && all.crc32c && all.certificate);
        assert_eq!(ProxyTlvs::parse(""), Some(ProxyTlvs::default()));
        assert_eq!(ProxyTlvs::parse("certificate"), None, "it is part of ssl");
        assert_eq!(ProxyTlvs::parse("sll"), None);
    }
}
