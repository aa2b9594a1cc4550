//! The endpoints of all pools: where they are, and whether they are up. Workers read what is decided here,
//! and report what becomes of connections.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::probe::{Check, Job, Outcome};
#[cfg(test)]
use super::resolver::Lookup;
use super::resolver::{Name, Resolver};
use super::ticket_clock;
use crate::config::limits::{ENDPOINTS, PROBES_MAX, Timeouts};
use crate::config::{Config, HealthCheck, Pool, Target};
use crate::limit::{LimitRules, Limits};
use crate::metrics::Registry;
use crate::pool::health::{Change, Health, HealthRules};
use crate::pool::{Endpoint, EndpointState, PoolRules, Probed};
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
    /// A host name was found elsewhere since the last round.
    is_elsewhere: bool,
    endpoints: BTreeMap<Place, Watched>,
    /// How the endpoints of a pool in force are probed, by the pool's name.
    checks: BTreeMap<String, Arc<Check>>,
    /// Probes whose outcome has not come, by serial number: at most [`PROBES_MAX`].
    under_way: BTreeMap<u64, Place>,
    last_serial: u64,
    rounds: u64,
    /// Counts probes.
    registry: Arc<Registry>,
}

/// What a round comes to.
#[derive(Debug)]
pub(super) struct Round {
    /// Endpoints to be probed, each of which has an outcome.
    pub(super) jobs: Vec<Job>,
    /// Whether a host name is elsewhere.
    pub(super) is_elsewhere: bool,
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
    is_in_force: bool,
    /// The probe under way. Another one's outcome is not its own.
    probe: Option<u64>,
    outcome: Option<Result<(), String>>,
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
    pub(super) fn new(workers: usize, registry: Arc<Registry>) -> Self {
        let state = State {
            workers,
            origin: now(),
            resolver: Resolver::new(),
            is_elsewhere: false,
            endpoints: BTreeMap::new(),
            checks: BTreeMap::new(),
            under_way: BTreeMap::new(),
            last_serial: 0,
            rounds: 0,
            registry,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before a configuration is put in force, or refused: resolves its names. Names that are new are waited
    /// for, and meanwhile the rounds go on: no probe is late.
    pub(super) fn prepare(&self, config: &Config) {
        self.prepare_within(config, RESOLVE_PATIENCE);
    }

    fn prepare_within(&self, config: &Config, patience: Duration) {
        let mut names = BTreeMap::new();
        for pool in config.listeners.iter().flat_map(|listener| listener.routes.pools()) {
            names.extend(names_of(pool).map(|name| (name, pool.resolve_interval)));
        }
        let all_answered = self.lock().resolver.want(names, now());
        // Nothing comes: it ends with the last answer.
        let _ = all_answered.recv_timeout(patience);
        self.lock().take_answers();
    }
}

impl State {
    /// Those of the resolver, for what is put in force now.
    fn take_answers(&mut self) {
        self.is_elsewhere |= self.resolver.tick(now());
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
                (watched.rules, watched.is_in_force) = (rules, true);
                if is_alone {
                    // Not on trial either, where one failure would be enough.
                    watched.health = Health::new();
                    if !watched.state.is_up() {
                        watched.probe = None;
                        watched.state.set_up(true, 0);
                        watched.note_change(None);
                    }
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

    /// Forgets the names and endpoints that no pool in force has any more. Endpoints that have connections or
    /// are down may come back: those are known until their connections have ended or their pause is over.
    /// Endpoints are probed from now on as `checks` says for their pools.
    pub(super) fn forget_others(
        &mut self,
        in_force: &[(Arc<Pool>, Vec<Address>)],
        checks: BTreeMap<String, Arc<Check>>,
    ) {
        self.checks = checks;
        let mut names = BTreeMap::new();
        for (pool, _) in in_force {
            for name in names_of(pool) {
                // Of several pools with this name the shortest interval holds.
                let interval = names.entry(name).or_insert(pool.resolve_interval);
                *interval = pool.resolve_interval.min(*interval);
            }
        }
        self.resolver.keep(&names);
        let places = in_force.iter().flat_map(|(pool, all)| all.iter().map(|it| Place::of(pool, it)));
        let places: BTreeSet<Place> = places.collect();
        for (_, watched) in self.endpoints.iter_mut().filter(|(place, _)| !places.contains(place)) {
            // What is under way for it is not its business any more.
            (watched.is_in_force, watched.probe, watched.outcome) = (false, None, None);
            watched.rules.is_probed = false;
        }
        self.endpoints.retain(|_, watched| watched.is_known());
    }

    #[cfg(test)]
    pub(super) fn resolve_with(&mut self, lookup: Lookup) {
        self.resolver = Resolver::with(lookup);
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
                state.write_note(|note| note.since = Some(ticket_clock::now()));
                place.insert(Watched {
                    address: address.clone(),
                    state: Arc::clone(&state),
                    health: Health::new(),
                    rules: HealthRules::default(),
                    is_in_force: true,
                    probe: None,
                    outcome: None,
                    probed_in: 0,
                });
                state
            }
        }
    }

    /// Decides which endpoints are up, by what connections and the probes that have ended have found out.
    pub(super) fn round(&mut self, now: Instant, outcomes: Vec<Outcome>) -> Round {
        let since = now.saturating_duration_since(self.origin);
        self.rounds += 1;
        self.take(outcomes);
        for (place, watched) in &mut self.endpoints {
            watched.decide(place, since);
        }
        self.endpoints.retain(|_, watched| watched.is_known());
        let is_elsewhere = self.resolver.tick(now) | std::mem::take(&mut self.is_elsewhere);
        Round { jobs: self.probe(), is_elsewhere }
    }

    fn take(&mut self, outcomes: Vec<Outcome>) {
        for Outcome { serial, result } in outcomes {
            let place = self.under_way.remove(&serial);
            if let (Some(place), Some(result)) = (&place, &result) {
                self.registry.probed(&place.pool, result.is_ok());
            }
            let watched = place.and_then(|place| self.endpoints.get_mut(&place));
            if let Some(watched) = watched.filter(|watched| watched.probe == Some(serial)) {
                (watched.probe, watched.outcome) = (None, result);
            }
        }
    }

    /// Those to be probed that were not for a while, first those that wait longest.
    fn probe(&mut self) -> Vec<Job> {
        let rounds = self.rounds;
        let is_due = |(_, it): &(&Place, &mut Watched)| {
            it.rules.is_probed && it.probe.is_none() && it.probed_in + PROBE_ROUNDS <= rounds
        };
        let mut due: Vec<_> = self.endpoints.iter_mut().filter(is_due).collect();
        due.sort_by_key(|(_, watched)| watched.probed_in);
        let mut jobs = Vec::new();
        for (place, watched) in due {
            let Some(check) = self.checks.get(&place.pool) else { continue };
            if self.under_way.len() == PROBES_MAX {
                break;
            }
            self.last_serial += 1;
            let serial = self.last_serial;
            (watched.probed_in, watched.probe) = (rounds, Some(serial));
            self.under_way.insert(serial, place.clone());
            jobs.push(Job { serial, address: watched.address.clone(), check: Arc::clone(check) });
        }
        jobs
    }
}

fn names_of(pool: &Pool) -> impl Iterator<Item = Name> {
    pool.backends.iter().filter_map(|backend| match &backend.target {
        Target::Name { host, port } => Some(Name { host: host.clone(), port: *port }),
        Target::Address(_) => None,
    })
}

impl Watched {
    /// Whether it is to be kept.
    fn is_known(&self) -> bool {
        self.is_in_force || self.state.connections() > 0 || !self.state.is_up()
    }

    /// It has gone down for this reason, or come up.
    fn note_change(&self, reason: Option<String>) {
        self.state.write_note(|note| (note.since, note.reason) = (Some(ticket_clock::now()), reason));
    }

    fn decide(&mut self, place: &Place, since: Duration) {
        let Place { pool, address } = place;
        let failures = self.state.failures();
        let outcome = self.outcome.take();
        let now_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        if let Some(outcome) = &outcome {
            let probe = Probed { at: ticket_clock::now(), problem: outcome.as_ref().err().cloned() };
            self.state.write_note(|note| note.probe = Some(probe));
        }
        let verdict = outcome.as_ref().map(|outcome| if outcome.is_ok() { Ok(()) } else { Err(()) });
        let change = self.health.on_round(&self.rules, failures, verdict, since);
        match change {
            Some(Change::Down) => {
                self.state.set_up(false, now_ms);
                let problem = outcome.and_then(Result::err);
                let problem =
                    problem.unwrap_or_else(|| format!("{failures} connections in a row have failed"));
                tracing::warn!("pool {pool}: {address} is down: {problem}; it gets no connections");
                self.note_change(Some(problem));
            }
            Some(Change::Up) => {
                self.state.set_up(true, now_ms);
                self.note_change(None);
                if self.is_in_force {
                    tracing::info!("pool {pool}: {address} is up again");
                }
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
mod tests;
