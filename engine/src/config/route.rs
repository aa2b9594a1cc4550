//! Routes: which pool gets a connection, by what its client has asked for.

use std::path::PathBuf;
use std::sync::Arc;

use offramp_ring::socket::Address;

use super::limits::ALPN_BYTES;
use super::{ConfigError, Origin, Pool};

/// Where the connections of a listener go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    /// The first one that matches decides.
    pub rules: Vec<Route>,
    /// The pool of what no rule matches; without one it is refused.
    pub default: Option<Arc<Pool>>,
}

/// A rule: it matches if everything does that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Names in lower case that a client may have asked for; `*.` in front stands for one label or more. None
    /// matches any client.
    pub server_names: Vec<String>,
    /// Application protocols that may have been negotiated. None matches any.
    pub alpn: Vec<String>,
    /// Where they go.
    pub pool: Arc<Pool>,
}

/// A `[[listener.route]]` of the file, not yet checked.
#[derive(Clone, Debug)]
pub struct RawRoute {
    /// Where it begins.
    pub path: PathBuf,
    /// 1-based.
    pub line: usize,
    /// As written.
    pub server_names: Vec<String>,
    /// As written.
    pub alpn: Vec<String>,
    /// The name of one.
    pub pool: String,
}

impl RawRoute {
    /// A rule for one of `pools`.
    pub(super) fn check(self, pools: &[Arc<Pool>]) -> Result<Route, ConfigError> {
        let Self { path, line, server_names, alpn, pool } = self;
        let origin = Origin::File { path: path.clone(), line };
        let refused = |key: &'static str, value: &str, allowed: &str| ConfigError::Route {
            path: path.clone(),
            line,
            key,
            value: value.to_owned(),
            allowed: allowed.to_owned(),
        };
        if server_names.is_empty() && alpn.is_empty() {
            let allowed = "one or more names; or give alpn; what no route matches goes to the backend or pool \
                           of the listener";
            return Err(refused("sni", "", allowed));
        }
        let server_names: Vec<String> = server_names.iter().map(|name| name.to_ascii_lowercase()).collect();
        for name in &server_names {
            if !offramp_core::tls::is_dns_name(name.strip_prefix("*.").unwrap_or(name)) {
                return Err(refused("sni", name, "a DNS name, or *. and a DNS name for all names below it"));
            }
        }
        if let Some(name) = alpn.iter().find(|name| !ALPN_BYTES.contains(&name.len())) {
            return Err(refused("alpn", name, "names of application protocols, each of 1 to 255 bytes"));
        }
        let pool = find(pools, &pool).ok_or_else(|| ConfigError::NoSuchPool {
            origin,
            name: pool.clone(),
            known: known(pools),
        })?;
        Ok(Route { server_names, alpn, pool })
    }
}

/// The pool with this name.
pub(super) fn find(pools: &[Arc<Pool>], name: &str) -> Option<Arc<Pool>> {
    pools.iter().find(|pool| pool.name == name).cloned()
}

/// The names there are, for an error.
pub(super) fn known(pools: &[Arc<Pool>]) -> String {
    let names: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
    if names.is_empty() { "there is none".to_owned() } else { names.join(", ") }
}

impl Routes {
    /// All connections go to one address.
    #[must_use]
    pub fn to(address: Address) -> Self {
        Self { rules: Vec::new(), default: Some(Arc::new(Pool::of(address))) }
    }

    /// All pools that connections may go to, each once.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        let all: Vec<&Arc<Pool>> = self.rules.iter().map(|rule| &rule.pool).chain(&self.default).collect();
        let is_first = |nth: usize| all[..nth].iter().all(|earlier| earlier.name != all[nth].name);
        let firsts: Vec<_> = (0..all.len()).filter(|nth| is_first(*nth)).map(|nth| all[nth]).collect();
        firsts.into_iter()
    }
}

impl std::fmt::Display for Routes {
    /// Where connections go, for the ready line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.default {
            Some(pool) => write!(f, "{pool}")?,
            None => write!(f, "by route alone")?,
        }
        match self.rules.len() {
            0 => Ok(()),
            1 => write!(f, " (1 route)"),
            count => write!(f, " ({count} routes)"),
        }
    }
}

