//! Where the connections of a service go: rules that lead to pools.

use std::sync::Arc;
use std::time::Duration;

use super::about::About;
use super::proxy::ProxyHeader;
use crate::config::AcceptProxy;
use crate::config::limits::TCP_USER_TIMEOUT_DEFAULT;
use crate::metrics::{ListenerCounters, PoolCounters};
use crate::pool::{ConnectionCount, Pool};
use crate::sys::socket::Address;

/// Where the connections of a service come from and go to; each worker has its own.
#[derive(Debug)]
pub struct Route {
    /// Where the listener is bound.
    pub listen: Address,
    /// The first one that matches decides.
    pub rules: Vec<Rule>,
    /// Where connections go that match none, in `destinations`; without one they are refused.
    pub default: Option<usize>,
    /// Every pool that is named.
    pub destinations: Vec<Destination>,
    /// The connections of the service, in all workers.
    pub connections: Arc<ConnectionCount>,
    /// What this worker counts of them.
    pub counters: Arc<ListenerCounters>,
    /// The balancers in front, whose PROXY headers are believed.
    pub accept_proxy: AcceptProxy,
    /// Whether TCP asks endpoints on other hosts if they are still there.
    pub keepalive: bool,
    /// How long TCP waits for endpoints to acknowledge, or to take what was sent.
    pub tcp_user_timeout: Duration,
}

/// A pool, and what its endpoints get in front of everything else.
#[derive(Debug)]
pub struct Destination {
    /// Of which an endpoint is chosen.
    pub pool: Pool,
    /// What is sent first, if anything is.
    pub proxy: Option<ProxyHeader>,
    /// What this worker counts of the pool.
    pub counters: Arc<PoolCounters>,
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
    fn matches(&self, about: Option<&About>) -> bool {
        let name = about.and_then(About::server_name);
        let is_name = |pattern: &String| name.is_some_and(|name| matches_name(pattern, name));
        let is_alpn = |protocol: &Vec<u8>| about.is_some_and(|about| about.has_alpn(protocol));
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
    /// All connections of a listener that is bound there go to one pool, in a process of one worker.
    #[must_use]
    pub fn to(listen: impl Into<Address>, pool: Pool) -> Self {
        Self {
            listen: listen.into(),
            rules: Vec::new(),
            default: Some(0),
            destinations: vec![Destination { pool, proxy: None, counters: Arc::default() }],
            connections: Arc::new(ConnectionCount::new(1)),
            counters: Arc::default(),
            accept_proxy: AcceptProxy::Off,
            keepalive: true,
            tcp_user_timeout: TCP_USER_TIMEOUT_DEFAULT,
        }
    }

    /// Whether a rule, a pool, a balancer or a PROXY header needs what is known of a connection: then that is
    /// kept until an endpoint is connected.
    #[must_use]
    pub fn wants_about(&self) -> bool {
        let wants =
            |it: &Destination| it.proxy.is_some() || it.pool.wants_client() || it.pool.wants_server_name();
        !self.rules.is_empty() || self.accept_proxy.is_on() || self.destinations.iter().any(wants)
    }

    /// Where a connection goes, as a place in [`Route::destinations`].
    pub(super) fn find(&self, about: Option<&About>) -> Option<usize> {
        let rule = self.rules.iter().find(|rule| rule.matches(about));
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
