//! The endpoints of all pools: where they are, and whether they are up. Workers read what is decided here,
//! and report what becomes of connections.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::resolver::{Name, Resolver};
use crate::config::limits::{ENDPOINTS, PROBES_MAX, Timeouts};
use crate::config::{Config, HealthCheck, Pool, Target};
use crate::limit::{LimitRules, Limits};
use crate::pool::health::{Change, Health, HealthRules};
use crate::pool::{Endpoint, EndpointState, PoolRules};
use crate::sys::attempt::Attempt;
use crate::sys::errno;
use crate::sys::socket::Address;

/// How long a start or a reload waits for host names that are new.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(2);
/// Rounds from one probe of an endpoint to the next.
const PROBE_ROUNDS: u64 = 2;
/// Consecutive failures that take an endpoint down.
const FAILURES: u32 = 3;

/// Shared by whoever puts pools in force and the thread that looks after them.
#[derive(Clone, Debug)]
pub(super) struct Pools(Arc<Mutex<State>>);

pub(super) struct State {
    workers: usize,
    /// The zero of the clock of endpoints.
    origin: Instant,
    resolver: Resolver,
    endpoints: BTreeMap<Place, Watched>,
    rounds: u64,
}

/// An endpoint of a pool: two pools at one address do not share what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    pool: String,
    address: String,
}

struct Watched {
    address: Address,
    state: Arc<EndpointState>,
    health: Health,
    rules: HealthRules,
    probe: Option<io::Result<Attempt>>,
    /// The round in which it was probed last.
    probed_in: u64,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pools({} endpoints)", self.endpoints.len())
    }
}

impl Pools {
    /// None yet.
    pub(super) fn new(workers: usize) -> Self {
        let state = State {
            workers,
            origin: now(),
            resolver: Resolver::new(),
            endpoints: BTreeMap::new(),
            rounds: 0,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Before a configuration is put in force, or refused: resolves its names.
    pub(super) fn prepare(&mut self, config: &Config) {
        let mut names = BTreeMap::new();
        for pool in config.listeners.iter().flat_map(|listener| listener.routes.pools()) {
            names.extend(names_of(pool).map(|name| (name, pool.resolve_interval)));
        }
        self.resolver.want(names, now, RESOLVE_PATIENCE);
    }

    /// The endpoints of a pool, as they are known now.
    pub(super) fn endpoints(&mut self, pool: &Pool, timeouts: Timeouts) -> Vec<Endpoint> {
        let mut found: Vec<Endpoint> = Vec::new();
        for backend in &pool.backends {
            for address in self.addresses(&backend.target) {
                let is_known = found.iter().any(|endpoint| endpoint.address == address);
                if is_known || found.len() == *ENDPOINTS.end() {
                    continue;
                }
                let state = self.state(pool, &address);
                // The configuration allows no path that is too long.
                let Ok(endpoint) = Endpoint::new(address, state) else { continue };
                found.push(Endpoint {
                    weight: backend.weight,
                    is_backup: backend.is_backup,
                    max_connections: backend.max_connections.unwrap_or(u32::MAX),
                    ..endpoint
                });
            }
        }
        let is_probed = pool.health_check != HealthCheck::Off;
        // One alone is tried always: there is none that its connections could go to.
        let is_alone = found.len() == 1 && !is_probed;
        let rules = HealthRules {
            failures: if is_alone { u32::MAX } else { FAILURES },
            is_probed,
            connect_timeout: timeouts.connect,
        };
        for endpoint in &found {
            if let Some(watched) = self.endpoints.get_mut(&Place::of(pool, &endpoint.address)) {
                watched.rules = rules;
                if is_alone && !watched.state.is_up() {
                    (watched.health, watched.probe) = (Health::new(), None);
                    watched.state.set_up(true, 0);
                }
            }
        }
        found
    }

    /// Limits, with the sources that are counted already.
    pub(super) fn limits(&self, rules: LimitRules, earlier: Option<&Limits>) -> Arc<Limits> {
        Arc::new(match earlier {
            Some(earlier) => earlier.changed(rules, self.origin),
            None => Limits::new(rules, self.origin),
        })
    }

    /// What is the same for the endpoints of a pool.
    pub(super) fn rules(&self, pool: &Pool) -> PoolRules {
        let slow_start_ms = u64::try_from(pool.slow_start.as_millis()).unwrap_or(u64::MAX);
        let is_probed = pool.health_check != HealthCheck::Off;
        PoolRules { balance: pool.balance, slow_start_ms, is_probed, origin: self.origin }
    }

    /// Forgets the names and endpoints that no pool in force has any more, but for endpoints that have
    /// connections or are down: they may come back.
    pub(super) fn forget_others(&mut self, in_force: &[(Arc<Pool>, Address)]) {
        self.resolver.keep(&in_force.iter().flat_map(|(pool, _)| names_of(pool)).collect());
        let places: BTreeSet<Place> =
            in_force.iter().map(|(pool, address)| Place::of(pool, address)).collect();
        self.endpoints.retain(|place, watched| {
            let is_known = watched.state.connections() > 0 || !watched.state.is_up();
            places.contains(place) || is_known
        });
    }

    fn addresses(&self, target: &Target) -> Vec<Address> {
        match target {
            Target::Address(address) => vec![address.clone()],
            Target::Name { host, port } => {
                let name = Name { host: host.clone(), port: *port };
                self.resolver.addresses(&name).iter().copied().map(Address::Tcp).collect()
            }
        }
    }

    fn state(&mut self, pool: &Pool, address: &Address) -> Arc<EndpointState> {
        match self.endpoints.entry(Place::of(pool, address)) {
            Entry::Occupied(known) => Arc::clone(&known.get().state),
            Entry::Vacant(place) => {
                let state = Arc::new(EndpointState::new(self.workers));
                place.insert(Watched {
                    address: address.clone(),
                    state: Arc::clone(&state),
                    health: Health::new(),
                    rules: HealthRules::default(),
                    probe: None,
                    probed_in: 0,
                });
                state
            }
        }
    }

    /// Decides which endpoints are up. Whether a host name is elsewhere.
    pub(super) fn round(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.origin);
        self.rounds += 1;
        for (place, watched) in &mut self.endpoints {
            let probe = watched.probe.take().map(|probe| probe.and_then(Attempt::finish));
            // What this host lacks says nothing of the endpoint.
            let probe = probe.filter(|probe| probe.as_ref().err().is_none_or(|error| !errno::is_ours(error)));
            watched.decide(place, probe, since);
        }
        self.probe();
        self.resolver.tick(now)
    }

    /// Begins to probe those that were not for a while, first those that wait longest.
    fn probe(&mut self) {
        let rounds = self.rounds;
        let is_due = |it: &&mut Watched| it.rules.is_probed && it.probed_in + PROBE_ROUNDS <= rounds;
        let mut due: Vec<&mut Watched> = self.endpoints.values_mut().filter(is_due).collect();
        due.sort_by_key(|watched| watched.probed_in);
        for watched in due.into_iter().take(PROBES_MAX) {
            watched.probed_in = rounds;
            watched.probe = Some(Attempt::begin(&watched.address));
        }
    }
}

fn names_of(pool: &Pool) -> impl Iterator<Item = Name> {
    pool.backends.iter().filter_map(|backend| match &backend.target {
        Target::Name { host, port } => Some(Name { host: host.clone(), port: *port }),
        Target::Address(_) => None,
    })
}

impl Watched {
    fn decide(&mut self, place: &Place, probe: Option<io::Result<()>>, since: Duration) {
        let Place { pool, address } = place;
        let problem = probe.as_ref().and_then(|probe| probe.as_ref().err()).map(errno::name);
        let failures = self.state.failures();
        let outcome = probe.map(|probe| probe.map_err(|_| ()));
        let now_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        match self.health.on_round(&self.rules, failures, outcome, since) {
            Some(Change::Down) => {
                self.state.set_up(false, now_ms);
                let problem = problem.map_or_else(
                    || format!("{failures} connections in a row have failed"),
                    |problem| format!("it does not answer ({problem})"),
                );
                tracing::warn!("pool {pool}: {address} is down: {problem}; it gets no connections");
            }
            Some(Change::Up) => {
                self.state.set_up(true, now_ms);
                tracing::info!("pool {pool}: {address} is up again");
            }
            None => {}
        }
    }
}

impl Place {
    fn of(pool: &Pool, address: &Address) -> Self {
        Self { pool: pool.name.clone(), address: address.to_string() }
    }
}

#[expect(clippy::disallowed_methods, reason = "the control plane owns a clock of its own")]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::config::{ConfigOption, Raw};

    fn config(backends: &str, health_check: &str) -> Config {
        let mut raw = Raw::default();
        for (key, value) in [
            (ConfigOption::Listen, "127.0.0.1:0"),
            (ConfigOption::Backend, backends),
            (ConfigOption::Mode, "plain"),
            (ConfigOption::HealthCheck, health_check),
        ] {
            raw.give_flag(key, value.to_owned());
        }
        raw.check().expect("a configuration")
    }

    fn pool(config: &Config) -> Arc<Pool> {
        Arc::clone(config.listeners[0].routes.pools().next().expect("one"))
    }

    fn rounds(pools: &Pools, seconds: std::ops::Range<u64>) {
        let begin = pools.lock().origin;
        for second in seconds {
            pools.lock().round(begin + Duration::from_secs(second));
        }
    }

    #[test]
    fn endpoint_that_fails_is_down_and_comes_back_by_time() {
        let config = config("127.0.0.1:1, 127.0.0.1:2 weight=3", "off");
        let pools = Pools::new(1);
        let endpoints = pools.lock().endpoints(&pool(&config), config.timeouts);
        assert_eq!(endpoints.iter().map(|it| it.weight).collect::<Vec<_>>(), [1, 3]);
        (0..FAILURES).for_each(|_| endpoints[0].state.failed());
        rounds(&pools, 1..2);
        assert!(!endpoints[0].state.is_up() && endpoints[1].state.is_up());
        rounds(&pools, 2..4);
        assert!(endpoints[0].state.is_up());
    }

    #[test]
    fn endpoint_that_is_alone_is_tried_always() {
        let config = config("127.0.0.1:1", "off");
        let pools = Pools::new(1);
        let endpoints = pools.lock().endpoints(&pool(&config), config.timeouts);
        (0..100).for_each(|_| endpoints[0].state.failed());
        rounds(&pools, 1..10);
        assert!(endpoints[0].state.is_up());
    }

    #[test]
    fn endpoint_that_is_probed_is_down_until_it_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let config = config(&address.to_string(), "tcp");
        let pools = Pools::new(1);
        let endpoints = pools.lock().endpoints(&pool(&config), config.timeouts);
        rounds(&pools, 1..20);
        assert!(endpoints[0].state.is_up());
        drop(listener);
        rounds(&pools, 20..40);
        assert!(!endpoints[0].state.is_up());
        let _listener = TcpListener::bind(address).expect("the port is free again");
        rounds(&pools, 40..60);
        assert!(endpoints[0].state.is_up());
    }

    #[test]
    fn state_of_an_endpoint_outlasts_a_reload() {
        let config = config("127.0.0.1:1, 127.0.0.1:2", "off");
        let pools = Pools::new(1);
        let get = || pools.lock().endpoints(&pool(&config), config.timeouts);
        let (first, again) = (get(), get());
        assert!(Arc::ptr_eq(&first[0].state, &again[0].state));
        let address = first[1].address.clone();
        pools.lock().forget_others(&[(pool(&config), address)]);
        let later = get();
        assert!(!Arc::ptr_eq(&first[0].state, &later[0].state));
        assert!(Arc::ptr_eq(&first[1].state, &later[1].state));
    }

    #[test]
    fn every_endpoint_is_probed_however_many_there_are() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let pools = Pools::new(1);
        // Ten pools of sixty addresses of this host.
        for pool_nth in 0..10 {
            let backends = (1..=60).map(|host| format!("127.0.{pool_nth}.{host}:{port}"));
            let config = config(&backends.collect::<Vec<_>>().join(","), "tcp");
            let named = Pool { name: pool_nth.to_string(), ..Pool::clone(&pool(&config)) };
            pools.lock().endpoints(&named, config.timeouts);
        }
        rounds(&pools, 1..10);
        let unprobed = pools.lock().endpoints.values().filter(|watched| watched.probed_in == 0).count();
        assert_eq!((pools.lock().endpoints.len(), unprobed), (600, 0));
    }
}
