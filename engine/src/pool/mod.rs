//! A pool: endpoints of which one gets each connection.
//!
//! A worker has pools of its own ([`Pool`]); what it knows of an endpoint with the others and with the
//! control plane is the endpoint's [`EndpointState`]. Nobody waits for anybody: the control plane sets
//! whether an endpoint is up, workers count connections and failures.

use std::io;
use std::sync::Arc;
use std::time::Instant;

pub mod balance;
pub mod health;
mod state;

pub use balance::{Balance, ENDPOINTS_MAX, Key};
pub use state::{ConnectionCount, EndpointState, Note, Probed};

use crate::sys::socket::{Address, SockAddr};
use balance::{Balancer, Candidate, identity};

/// An address that the far leg is connected to.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it is.
    pub address: Address,
    pub(crate) sockaddr: SockAddr,
    /// Its part of the connections beside that of others, 1 to 256.
    pub weight: u32,
    /// Whether it gets connections only while no endpoint can that is no backup.
    pub is_backup: bool,
    /// Most connections of all workers, exceeded by up to the number of workers less one.
    pub max_connections: u32,
    /// What everybody knows of it.
    pub state: Arc<EndpointState>,
}

impl Endpoint {
    /// An endpoint of weight 1 without a limit.
    ///
    /// # Errors
    /// The path of a Unix socket is longer than 107 bytes.
    pub fn new(address: Address, state: Arc<EndpointState>) -> io::Result<Self> {
        let sockaddr = address.to_sockaddr()?;
        Ok(Self { address, sockaddr, weight: 1, is_backup: false, max_connections: u32::MAX, state })
    }

    /// Whether it has room, and is up, if that matters.
    fn may_take(&self, must_be_up: bool) -> bool {
        (!must_be_up || self.state.is_up())
            && (self.max_connections == u32::MAX || self.state.connections() < self.max_connections)
    }
}

/// One worker's view of a pool.
#[derive(Debug)]
pub struct Pool {
    /// For the log: as configured, or the address of the listener whose own it is.
    pub name: Arc<str>,
    endpoints: Vec<Endpoint>,
    balancer: Balancer,
    /// The zero of the clock of [`EndpointState::set_up`].
    origin: Instant,
    slow_start_ms: u64,
    is_probed: bool,
    balance: Balance,
}

/// What of a pool is the same for all endpoints.
#[derive(Clone, Copy, Debug)]
pub struct PoolRules {
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// Whether endpoints are probed: then one that is down gets nothing in any case.
    pub is_probed: bool,
    /// How long an endpoint that came up gets fewer connections, in milliseconds.
    pub slow_start_ms: u64,
    /// The zero of the clock by which endpoints come up.
    pub origin: Instant,
}

/// The endpoints that a connection has tried, by their place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried(u64);

impl Tried {
    /// Adds one.
    pub fn add(&mut self, endpoint: usize) {
        self.0 |= 1 << (endpoint % ENDPOINTS_MAX);
    }

    fn has(self, endpoint: usize) -> bool {
        self.0 & 1 << (endpoint % ENDPOINTS_MAX) != 0
    }
}

impl Pool {
    /// Of at most [`ENDPOINTS_MAX`] endpoints; those beyond get nothing. `seed` differs from worker to
    /// worker.
    #[must_use]
    pub fn new(name: Arc<str>, mut endpoints: Vec<Endpoint>, rules: PoolRules, seed: u64) -> Self {
        endpoints.truncate(ENDPOINTS_MAX);
        let identities: Vec<u64> =
            endpoints.iter().map(|endpoint| identity(&endpoint.address.to_string())).collect();
        let PoolRules { balance, slow_start_ms, is_probed, origin } = rules;
        let balancer = Balancer::new(balance, &identities, seed);
        Self { name, endpoints, balancer, origin, slow_start_ms, is_probed, balance }
    }

    /// With the rules of a configuration that says nothing of them.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "nothing comes up slowly here: any instant will do")]
    pub fn of(name: Arc<str>, endpoints: Vec<Endpoint>) -> Self {
        let rules = PoolRules {
            balance: Balance::RoundRobin,
            slow_start_ms: 0,
            is_probed: false,
            origin: Instant::now(),
        };
        Self::new(name, endpoints, rules, 0)
    }

    /// The next endpoint for a connection, by its place; none if there is none that it has not tried and that
    /// may take one. Backups come behind all others, and behind those, where nothing is probed, what is down.
    #[must_use]
    pub fn choose(&self, tried: Tried, key: Key<'_>, now: Instant) -> Option<usize> {
        // The usual pool has no choice to make.
        if let [only] = &*self.endpoints {
            return (!tried.has(0) && only.may_take(true)).then_some(0);
        }
        let since = now.saturating_duration_since(self.origin).as_millis();
        let now_ms = u64::try_from(since).unwrap_or(u64::MAX);
        let among = |is_wanted: &dyn Fn(&Endpoint) -> bool| {
            let candidate = |place: usize| {
                let endpoint = self.endpoints.get(place)?;
                let weight = endpoint.weight * endpoint.state.share(now_ms, self.slow_start_ms);
                let may = !tried.has(place) && is_wanted(endpoint);
                may.then(|| Candidate { weight, connections: endpoint.state.connections() })
            };
            self.balancer.choose(candidate, key)
        };
        let is_main = |endpoint: &Endpoint| !endpoint.is_backup && endpoint.may_take(true);
        let is_backup = |endpoint: &Endpoint| endpoint.is_backup && endpoint.may_take(true);
        // What connections have found out is not more than a guess once nobody else is left.
        let is_any = |endpoint: &Endpoint| !self.is_probed && endpoint.may_take(false);
        among(&is_main).or_else(|| among(&is_backup)).or_else(|| among(&is_any))
    }

    /// Whether it has to know who the client is.
    #[must_use]
    pub fn wants_client(&self) -> bool {
        self.balance == Balance::HashClient && self.endpoints.len() > 1
    }

    /// Whether it has to know which name the client has asked for.
    #[must_use]
    pub fn wants_server_name(&self) -> bool {
        self.balance == Balance::HashSni && self.endpoints.len() > 1
    }

    /// Its endpoints.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16) -> Endpoint {
        let address = Address::Tcp(([127, 0, 0, 1], port).into());
        Endpoint::new(address, Arc::new(EndpointState::new(2))).expect("an address")
    }

    fn pool(endpoints: Vec<Endpoint>) -> Pool {
        Pool::of("p".into(), endpoints)
    }

    fn chosen(pool: &Pool, tried: Tried) -> Option<u16> {
        let place = pool.choose(tried, Key::default(), pool.origin)?;
        pool.endpoints[place].address.port()
    }

    #[test]
    fn backup_is_chosen_when_all_others_are_out() {
        let mut endpoints: Vec<_> = (1..=3).map(endpoint).collect();
        endpoints[1].is_backup = true;
        let pool = pool(endpoints);
        assert!((0..10).all(|_| chosen(&pool, Tried::default()) != Some(2)));
        pool.endpoints[0].state.set_up(false, 1);
        let mut tried = Tried::default();
        tried.add(2);
        assert_eq!(chosen(&pool, tried), Some(2));
        tried.add(1);
        assert_eq!(chosen(&pool, tried), Some(1), "the one that is down, rather than none");
        tried.add(0);
        assert_eq!(chosen(&pool, tried), None);
    }

    #[test]
    fn endpoint_at_its_limit_gets_no_more() {
        for others in [vec![], vec![endpoint(2)]] {
            let mut limited = endpoint(1);
            limited.max_connections = 2;
            let state = Arc::clone(&limited.state);
            let rest = others.first().map(|_| 2);
            let pool = pool([vec![limited], others].concat());
            state.enter(0);
            assert!((0..4).any(|_| chosen(&pool, Tried::default()) == Some(1)));
            state.enter(1);
            assert!((0..4).all(|_| chosen(&pool, Tried::default()) == rest));
        }
    }

    #[test]
    fn pool_without_endpoints_chooses_none() {
        assert_eq!(chosen(&pool(Vec::new()), Tried::default()), None);
        let down = endpoint(1);
        down.state.set_up(false, 0);
        assert_eq!(chosen(&pool(vec![down]), Tried::default()), None);
    }

    #[test]
    fn endpoints_beyond_the_bound_get_nothing() {
        let pool = pool((1..=200).map(endpoint).collect());
        assert_eq!(pool.endpoints().len(), ENDPOINTS_MAX);
        let all: std::collections::BTreeSet<_> =
            (0..ENDPOINTS_MAX).filter_map(|_| chosen(&pool, Tried::default())).collect();
        assert_eq!(all.len(), ENDPOINTS_MAX);
    }
}
