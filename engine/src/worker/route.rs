//! Where the connections of a service go: rules that lead to pools.

use std::net::SocketAddr;

use super::about::About;
use super::proxy::ProxyHeader;
use crate::pool::Pool;
use crate::tls::TlsInfo;

/// Where the connections of a service come from and go to; each worker has its own.
#[derive(Debug)]
pub struct Route {
    /// Where the listener is bound.
    pub listen: SocketAddr,
    /// The first one that matches decides.
    pub rules: Vec<Rule>,
    /// Where connections go that match none, in `destinations`; without one they are refused.
    pub default: Option<usize>,
    /// Every pool that is named.
    pub destinations: Vec<Destination>,
    /// Whether TCP asks endpoints on other hosts if they are still there.
    pub keepalive: bool,
}

/// A pool, and what its endpoints get in front of everything else.
#[derive(Debug)]
pub struct Destination {
    /// Of which an endpoint is chosen.
    pub pool: Pool,
    /// What is sent first, if anything is.
    pub proxy: Option<ProxyHeader>,
}

/// Which connections go where: everything that it names has to match.
#[derive(Debug)]
pub struct Rule {
    /// Names in lower case that the client may have asked for; `*.` in front stands for one label or more.
    /// None matches any client.
    pub server_names: Vec<String>,
    /// Application protocols that may have been negotiated. None matches any.
    pub alpn: Vec<Vec<u8>>,
    /// A place in [`Route::destinations`].
    pub destination: usize,
}

impl Rule {
    fn matches(&self, info: Option<&TlsInfo>) -> bool {
        let name = info.and_then(|info| info.server_name.as_deref());
        let alpn = info.and_then(|info| info.alpn.as_deref());
        let is_name = |pattern: &String| name.is_some_and(|name| matches_name(pattern, name));
        let is_alpn = |protocol: &Vec<u8>| alpn == Some(protocol);
        (self.server_names.is_empty() || self.server_names.iter().any(is_name))
            && (self.alpn.is_empty() || self.alpn.iter().any(is_alpn))
    }
}

fn matches_name(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
        None => name == pattern,
    }
}

impl Route {
    /// Whether somebody decides by what a connection is, or is told: then that is kept until it is connected.
    #[must_use]
    pub fn wants_about(&self) -> bool {
        let wants = |it: &Destination| {
            it.proxy.is_some() || it.pool.wants_client() || it.pool.wants_server_name()
        };
        !self.rules.is_empty() || self.destinations.iter().any(wants)
    }

    /// Where a connection goes, as a place in [`Route::destinations`].
    pub(super) fn find(&self, about: Option<&About>) -> Option<usize> {
        let info = about.and_then(|about| about.near.as_deref());
        let rule = self.rules.iter().find(|rule| rule.matches(info));
        rule.map(|rule| rule.destination).or(self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_with_wildcard_matches_names_below() {
        for (pattern, name, expected) in [
            ("a.example", "a.example", true),
            ("a.example", "b.a.example", false),
            ("*.example", "a.example", true),
            ("*.example", "b.a.example", true),
            ("*.example", "example", false),
            ("*.example", ".example", false),
            ("*.example", "aexample", false),
        ] {
            assert_eq!(matches_name(pattern, name), expected, "{pattern} {name}");
        }
    }
}
