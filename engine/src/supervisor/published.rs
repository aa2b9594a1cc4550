//! What of the services in force admin shows.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::pools::Pools;
use super::record_paths::{RecordPath, RecordPaths};
use crate::config::limits::Timeouts;
use crate::config::{self, ClientAuth};
use crate::conn::policy::Legs;
use crate::pool::ConnectionCount;
use crate::state::{self, InForce};
use crate::sys::socket::Address;
use crate::tls::TlsPolicy;

/// A service in force.
pub(super) struct Source<'a> {
    /// As it was bound.
    pub(super) listen: &'a Address,
    pub(super) listener: &'a config::Listener,
    pub(super) records: &'a RecordPaths,
    pub(super) legs: &'a Legs,
    /// Of all workers.
    pub(super) connections: &'a Arc<ConnectionCount>,
}

/// Without what holds for the whole process.
pub(super) fn of(services: &[Source<'_>], pools: &Pools, timeouts: Timeouts) -> InForce {
    let mut named = BTreeSet::new();
    let all = services.iter().flat_map(|service| service.listener.routes.pools());
    let new = all.filter(|pool| named.insert(pool.name.clone()));
    let pools = new.map(|pool| pool_of(pool, pools, timeouts)).collect();
    let listeners = services.iter().map(listener).collect();
    InForce { listeners, pools, certificates: certificates(services), ..InForce::default() }
}

fn listener(service: &Source<'_>) -> state::Listener {
    let listener = service.listener;
    let has_tls = listener.mode.is_server();
    state::Listener {
        address: service.listen.to_string(),
        mode: listener.mode.name(),
        offload: listener.offload.policy.to_string(),
        client_auth: has_tls.then_some(match listener.peers.auth {
            ClientAuth::None => "none",
            ClientAuth::Request => "request",
            ClientAuth::Require => "require",
        }),
        alpn: if listener.mode.has_no_tls() { Vec::new() } else { listener.alpn.clone() },
        tickets: listener.tickets && has_tls,
        accept_proxy: listener.accept_proxy.is_on(),
        pools: listener.routes.pools().map(|pool| pool.name.clone()).collect(),
        record_paths: record_paths(service.records),
        connections: Arc::clone(service.connections),
    }
}

fn record_paths(paths: &RecordPaths) -> [state::RecordPath; 2] {
    [&paths.tx, &paths.rx].map(|path| match path {
        RecordPath::Userspace(reason) => state::RecordPath { path: "userspace", detail: reason.clone() },
        RecordPath::Kernel(_) => {
            let text = path.to_string();
            let ciphers = text.trim_start_matches("kernel (").trim_end_matches(')');
            state::RecordPath { path: "kernel", detail: ciphers.to_owned() }
        }
    })
}

fn pool_of(pool: &config::Pool, pools: &Pools, timeouts: Timeouts) -> state::Pool {
    let endpoints = pools.lock().endpoints(pool, timeouts).into_iter().map(|endpoint| state::Endpoint {
        address: endpoint.address.to_string(),
        weight: endpoint.weight,
        is_backup: endpoint.is_backup,
        max_connections: (endpoint.max_connections != u32::MAX).then_some(endpoint.max_connections),
        state: endpoint.state,
    });
    state::Pool {
        name: pool.name.clone(),
        balance: pool.balance.name(),
        health_check: pool.health_check.name(),
        endpoints: endpoints.collect(),
    }
}

fn certificates(services: &[Source<'_>]) -> Vec<state::Certificate> {
    let mut seen = BTreeSet::new();
    let policies = services.iter().map(|service| service.legs).flat_map(Legs::policies);
    let all = policies.flat_map(TlsPolicy::certificates);
    let new = all.filter(|it| seen.insert((it.file.clone(), it.nth)));
    let shown = new.map(|it| state::Certificate {
        file: it.file.clone(),
        nth: it.nth,
        names: it.names.clone(),
        not_after: it.not_after(),
    });
    shown.collect()
}
