//! A service as it runs, and what a worker gets of it.

use std::sync::Arc;

use super::RecordPaths;
use super::pools;
use super::probe::Check;
use super::published;
use super::unix_socket::SocketFile;
use crate::config::limits::Timeouts;
use crate::config::{self, HealthCheck, Listener, Mode, Routes, Truncation};
use crate::conn::policy::{Legs, Policy};
use crate::metrics::Registry;
use crate::pool::{ConnectionCount, Pool};
use crate::sys::socket::Address;
use crate::tls::TlsPolicy;
use crate::worker::{Destination, ProxyHeader, Route, Rule, ServiceId};

/// A service as the workers have it.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) id: ServiceId,
    /// Where there are more sockets than workers: of each further one its name, and the worker that has it.
    pub(super) further: Vec<(ServiceId, usize)>,
    /// All workers accept on one socket.
    pub(super) is_shared: bool,
    /// As it was bound.
    pub(super) listen: Address,
    /// Of a Unix socket: removed with the last of what shares it.
    pub(super) file: Option<Arc<SocketFile>>,
    pub(super) listener: Listener,
    pub(super) records: RecordPaths,
    pub(super) legs: Legs,
    /// Of all workers.
    pub(super) connections: Arc<ConnectionCount>,
}

impl Running {
    /// Whether clients find it: not if somebody has removed or replaced the file of its Unix socket.
    pub(super) fn is_reachable(&self) -> bool {
        self.file.as_ref().is_none_or(|file| file.is_in_place())
    }

    pub(super) fn source(&self) -> published::Source<'_> {
        let Self { listen, listener, records, legs, connections, .. } = self;
        published::Source { listen, listener, records, legs, connections }
    }

    pub(super) fn route(
        &self,
        pools: &mut pools::State,
        timeouts: Timeouts,
        worker: usize,
        registry: &Registry,
    ) -> Route {
        let Routes { rules, default } = &self.listener.routes;
        let all: Vec<&Arc<config::Pool>> = self.listener.routes.pools().collect();
        let place = |pool: &Arc<config::Pool>| all.iter().position(|it| it.name == pool.name);
        let rules = rules.iter().filter_map(|rule| {
            Some(Rule {
                server_names: rule.server_names.clone(),
                alpn: rule.alpn.iter().map(|name| name.clone().into_bytes()).collect(),
                destination: place(&rule.pool)?,
            })
        });
        Route {
            listen: self.listen.clone(),
            rules: rules.collect(),
            default: default.as_ref().and_then(place),
            destinations: all
                .iter()
                .map(|pool| destination(pool, pools, timeouts, worker, registry))
                .collect(),
            connections: Arc::clone(&self.connections),
            counters: registry.listener(&self.listen.to_string(), worker),
            accept_proxy: self.listener.accept_proxy.clone(),
            keepalive: self.listener.keepalive,
            tcp_user_timeout: self.listener.tcp_user_timeout,
            is_shown: false,
        }
    }

    /// How the endpoints of one of its pools are probed.
    pub(super) fn check(&self, pool: &config::Pool) -> Check {
        let header = ProxyHeader::new(pool.send_proxy, pool.proxy_tlvs).map(ProxyHeader::local);
        let tls = match pool.health_check {
            HealthCheck::Off | HealthCheck::Tcp => None,
            HealthCheck::Tls if self.listener.mode == Mode::Passthrough => {
                // The configuration allows no name that cannot be asked for.
                TlsPolicy::unjudged(self.listener.routes.server_name_of(pool)).ok()
            }
            HealthCheck::Tls => self.legs.far.tls().and_then(|policy| policy.without_sessions()),
        };
        Check {
            header: header.unwrap_or_default(),
            tls,
            send: pool.health_send.clone(),
            expect: pool.health_expect.clone(),
        }
    }

    pub(super) fn policy(&self, timeouts: Timeouts) -> Policy {
        let Legs { near, far } = self.legs.clone();
        Policy {
            near,
            far,
            timeouts,
            offload: self.records.offer(),
            record_limit: self.listener.offload.record_limit,
            accepts_proxy: self.listener.accept_proxy.is_on(),
            passes_tls_through: self.listener.mode == Mode::Passthrough,
            takes_fin_for_the_end: self.listener.truncation == Truncation::Fin,
            expect_no_pad: self.records.expects_no_pad(),
        }
    }
}

/// A pool as a worker has it.
fn destination(
    pool: &config::Pool,
    pools: &mut pools::State,
    timeouts: Timeouts,
    worker: usize,
    registry: &Registry,
) -> Destination {
    let (endpoints, rules) = (pools.endpoints(pool, timeouts), pools.rules(pool));
    let pool_name = pool.name.as_str().into();
    let proxy = ProxyHeader::new(pool.send_proxy, pool.proxy_tlvs);
    let counters = registry.pool(&pool.name, worker);
    Destination { pool: Pool::new(pool_name, endpoints, rules, worker as u64), proxy, counters }
}
