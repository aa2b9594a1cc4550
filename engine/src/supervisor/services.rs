//! The services in force: one for each listener of the configuration. Start, SIGHUP and changed files all
//! come here; what has changed is posted to every worker.
//!
//! A listener of a new configuration is the one that was there if it has the same address; that one's
//! connections go on under the policy under which they began.

mod handover;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::descriptors::{Affordable, affordable, share};
use super::inherited::{Giver, Inherited, Purpose};
use super::pools::Pools;
use super::running::Running;
use super::seen::Seen;
use super::unix_socket::{Bound, SocketFiles};
use super::{RecordPaths, StartError, published, sockets, ticket_clock};
use crate::config::limits::Timeouts;
use crate::config::{self, Config, Listener};
use crate::confine::Cage;
use crate::conn::policy::Legs;
use crate::limit::{LimitRules, Limits};
use crate::metrics::{EndpointRow, Expiries, Registry};
use crate::pool::{ConnectionCount, Endpoint};
use crate::state::{InForce as InForceView, Published};
use crate::sys::probe::Ktls;
use crate::tls::{Tickets, TlsPolicy, warnings};
use crate::worker::{Command, Mailbox, Route, Service, ServiceId};
pub(super) use handover::Lendable;

/// Shared by whoever puts services in force: one at a time.
#[derive(Clone, Debug)]
pub(super) struct Services {
    in_force: Arc<Mutex<InForce>>,
    /// Apart, so that the end waits for no reload, which may wait for a file.
    files: SocketFiles,
}

impl Services {
    /// None yet.
    pub(super) fn new(mailboxes: Arc<[Arc<Mailbox>]>, tickets: Arc<Tickets>) -> Self {
        let registry = Arc::new(Registry::new(mailboxes.len(), ticket_clock::now()));
        let pools = Pools::new(mailboxes.len(), Arc::clone(&registry));
        let limits = pools.lock().limits(LimitRules::default(), None);
        let files = SocketFiles::default();
        let in_force = InForce {
            mailboxes,
            files: files.clone(),
            tickets,
            services: Vec::new(),
            next_id: 0,
            timeouts: Timeouts::default(),
            incoming_cpus: Vec::new(),
            open_at_start: 0,
            inherited: Inherited::default(),
            released: None,
            owner: None,
            cage: None,
            max_connections: 0,
            seen: Seen::default(),
            warned: Vec::new(),
            expiries: Arc::default(),
            published: Published::default(),
            pools,
            limits,
            registry,
            shows_connections: false,
        };
        Self { in_force: Arc::new(Mutex::new(in_force)), files }
    }

    /// Does this with them, unless somebody has locked them. Whether it was done.
    pub(super) fn try_with(&self, what: impl FnOnce(&mut InForce)) -> bool {
        let Ok(mut in_force) = self.in_force.try_lock() else { return false };
        what(&mut in_force);
        true
    }

    /// Another process has the files of Unix sockets from now on.
    pub(super) fn leave_files(&self) {
        self.files.leave_all();
    }

    /// The end: removes the files of Unix sockets.
    pub(super) fn end(&self) {
        self.files.remove_all();
    }

    /// The files of all Unix sockets.
    pub(super) fn files(&self) -> SocketFiles {
        self.files.clone()
    }

    /// For as long as something is read and put in force: nobody who may not wait for a file takes it.
    pub(super) fn lock(&self) -> MutexGuard<'_, InForce> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that is in force.
#[derive(Debug)]
pub(super) struct InForce {
    mailboxes: Arc<[Arc<Mailbox>]>,
    tickets: Arc<Tickets>,
    /// Those of all Unix sockets.
    files: SocketFiles,
    /// In the order of the configuration.
    services: Vec<Running>,
    next_id: u32,
    timeouts: Timeouts,
    /// The CPU by which each worker gets what arrives; empty if they do not.
    incoming_cpus: Vec<usize>,
    /// Descriptors that were open at the start.
    open_at_start: u64,
    /// Sockets that were given and that no listener has taken.
    inherited: Inherited,
    /// Where the commands are to go that wait in `mailboxes` until this process is to accept.
    released: Option<Arc<[Arc<Mailbox>]>>,
    /// The user and group that the process becomes; none if it stays who it is.
    owner: Option<(u32, u32)>,
    cage: Option<Arc<Cage>>,
    /// Of all workers.
    max_connections: usize,
    /// Its files as they were when they were last read.
    pub(super) seen: Seen,
    /// What is wrong with the certificates and was logged.
    warned: Vec<String>,
    expiries: Arc<Mutex<Expiries>>,
    published: Published,
    pools: Pools,
    limits: Arc<Limits>,
    /// What is counted of the services and pools.
    registry: Arc<Registry>,
    /// Whether admin shows connections.
    shows_connections: bool,
}

/// What a configuration needs, read and bound: to be put in force, or dropped.
#[derive(Debug)]
pub(super) struct Next {
    /// With the sockets that each needs; none if it is one that runs.
    services: Vec<(Running, Vec<OwnedFd>)>,
    /// Those that run and are no longer wanted.
    gone: Vec<Running>,
    seen: Seen,
    limits: LimitRules,
    timeouts: Timeouts,
    max_connections: usize,
    shows_connections: bool,
    /// What is in force otherwise than asked for.
    pub(super) warning: Option<String>,
}

impl InForce {
    /// Before the first services: what their sockets need to know, how many descriptors were open, and the
    /// sockets that were given.
    pub(super) fn begin(
        &mut self,
        incoming_cpus: Vec<usize>,
        open_at_start: u64,
        inherited: Inherited,
        owner: Option<(u32, u32)>,
    ) -> Result<(), StartError> {
        if inherited.giver != Giver::Nobody {
            self.hold()?;
        }
        self.owner = owner;
        (self.incoming_cpus, self.open_at_start, self.inherited) = (incoming_cpus, open_at_start, inherited);
        Ok(())
    }

    /// What the process is confined to from now on.
    pub(super) fn confine(&mut self, cage: Option<Arc<Cage>>) {
        self.cage = cage;
    }

    /// Whether the process can reach what this configuration names. Why it will leave out pairs of a
    /// directory is logged.
    pub(super) fn check_reach(&self, new: &Config) -> Result<(), StartError> {
        let Some(cage) = &self.cage else { return Ok(()) };
        cage.check(new)?;
        cage.out_of_reach(new).for_each(|why| tracing::warn!("not used: {why}"));
        Ok(())
    }

    /// Reads and binds what the configuration needs, of which `found` is what the kernel can do. Nothing
    /// changes by that.
    pub(super) fn prepare(&mut self, new: &Config, found: &Ktls) -> Result<Next, StartError> {
        let Affordable { max_connections, warning } =
            affordable(new, self.mailboxes.len().max(1), self.open_at_start)?;
        self.pools.prepare(new);
        let seen = Seen::of(&new.listeners);
        let mut staying: Vec<Option<Running>> = self.services.iter().cloned().map(Some).collect();
        let mut services = Vec::new();
        for listener in &new.listeners {
            let is_it = |it: &Option<Running>| {
                it.as_ref().is_some_and(|it| it.listener.listen == listener.listen && it.is_reachable())
            };
            let before = staying.iter_mut().find(|it| is_it(it)).and_then(Option::take);
            services.push(self.run(listener.clone(), before, found)?);
        }
        let gone = staying.into_iter().flatten().collect();
        let (limits, timeouts, shows_connections) = (new.limits, new.timeouts, new.admin_socket.is_some());
        Ok(Next { services, gone, seen, limits, timeouts, max_connections, shows_connections, warning })
    }

    /// Puts in force what was prepared.
    pub(super) fn commit(&mut self, next: Next) {
        let is_start = self.services.is_empty();
        if *self.limits.rules() != next.limits {
            self.limits = self.pools.lock().limits(next.limits, Some(&self.limits));
            self.mailboxes.iter().for_each(|mailbox| mailbox.post(Command::Limits(Arc::clone(&self.limits))));
        }
        if self.max_connections != next.max_connections {
            self.max_connections = next.max_connections;
            for (index, mailbox) in self.mailboxes.iter().enumerate() {
                mailbox.post(Command::MaxConnections(self.max_connections_of(index)));
            }
        }
        let (services, sockets): (Vec<_>, Vec<_>) = next.services.into_iter().unzip();
        (self.timeouts, self.seen, self.services) = (next.timeouts, next.seen, services);
        self.shows_connections = next.shows_connections;
        for gone in next.gone {
            tracing::info!("no longer listening on {}; its connections go on", gone.listen);
            self.mailboxes.iter().for_each(|mailbox| mailbox.post(Command::Remove(gone.id)));
            gone.further.iter().for_each(|(id, worker)| self.mailboxes[*worker].post(Command::Remove(*id)));
        }
        self.forget_endpoints();
        for (running, sockets) in self.services.iter().zip(sockets) {
            if !is_start && !sockets.is_empty() {
                tracing::info!("listening on {}, backend {}", running.listen, running.listener.routes);
            }
            self.post(running, sockets);
        }
        self.publish();
    }

    /// The share of one worker.
    pub(super) fn max_connections_of(&self, worker: usize) -> usize {
        share(self.max_connections, self.mailboxes.len(), worker)
    }

    /// A listener as it will run, with the sockets that it needs: none if it is the one that ran `before`.
    fn run(
        &mut self,
        mut listener: Listener,
        before: Option<Running>,
        found: &Ktls,
    ) -> Result<(Running, Vec<OwnedFd>), StartError> {
        let legs = listener.load(Some(&self.tickets), before.as_ref().map(|it| &it.legs))?;
        let records = RecordPaths::of(&listener, found)?;
        let workers = self.mailboxes.len();
        let connections = before.as_ref().map(|it| Arc::clone(&it.connections));
        let connections = connections.unwrap_or_else(|| Arc::new(ConnectionCount::new(workers)));
        if let Some(before) = before {
            listener.socket_access = before.listener.socket_access;
            return Ok((Running { listener, records, legs, connections, ..before }, Vec::new()));
        }
        let given = self.inherited.take(Purpose::Listener, &listener.listen);
        let socket_access = listener.socket_access.or_owner(self.owner);
        let asked = Listener { socket_access, ..listener.clone() };
        let bound = sockets::listening(&asked, given, workers, &self.incoming_cpus)?;
        let Bound { listen, sockets, file, is_shared } = bound;
        let mut next_id = || {
            self.next_id += 1;
            ServiceId(self.next_id)
        };
        let id = next_id();
        let further = (workers..sockets.len()).map(|nth| (next_id(), nth % workers)).collect();
        let file = file.map(|file| self.files.add(file));
        let running = Running { id, further, is_shared, listen, file, listener, records, legs, connections };
        Ok((running, sockets))
    }

    /// Sends every worker what the service is now; with its socket, if there are new ones. Each worker gets
    /// values of its own: their counts of references change with every connection.
    fn post(&self, running: &Running, sockets: Vec<OwnedFd>) {
        let mut sockets = sockets.into_iter();
        let firsts = (0..self.mailboxes.len()).map(|worker| (running.id, worker));
        for (id, worker) in firsts.chain(running.further.iter().copied()) {
            let policy = Arc::new(running.policy(self.timeouts));
            let route = running.route(&mut self.pools.lock(), self.timeouts, worker, &self.registry);
            let route = Arc::new(Route { is_shown: self.shows_connections, ..route });
            let is_shared = running.is_shared;
            self.mailboxes[worker].post(match sockets.next() {
                Some(listener) => Command::Add(Service { id, listener, is_shared, policy, route }),
                None => Command::Update { id, policy, route },
            });
        }
    }

    /// Reads all files of the listeners again and puts them in force.
    pub(super) fn reread(&mut self) -> Result<(), StartError> {
        self.check_reach(&Config::new(self.listeners().cloned().collect()))?;
        let load = |it: &Running| it.listener.load(Some(&self.tickets), Some(&it.legs));
        let all = self.services.iter().map(load).collect::<Result<Vec<_>, _>>()?;
        for (running, legs) in self.services.iter_mut().zip(all) {
            running.legs = legs;
        }
        self.forget_endpoints();
        self.services.iter().for_each(|running| self.post(running, Vec::new()));
        self.publish();
        Ok(())
    }

    /// Endpoints are elsewhere.
    pub(super) fn reroute(&self) {
        self.services.iter().for_each(|running| self.post(running, Vec::new()));
        self.forget_endpoints();
        self.show();
    }

    /// Forgets what no pool in force has: names and endpoints.
    pub(super) fn forget_endpoints(&self) {
        let mut pools = self.pools.lock();
        let (mut in_force, mut checks, mut rows) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for running in &self.services {
            for pool in running.listener.routes.pools() {
                // Of several listeners the first one decides how a pool is probed.
                checks.entry(pool.name.clone()).or_insert_with(|| Arc::new(running.check(pool)));
                let endpoints = pools.endpoints(pool, self.timeouts);
                for endpoint in &endpoints {
                    let row = row(pool, endpoint);
                    rows.entry((pool.name.clone(), row.address.clone())).or_insert(row);
                }
                // One without endpoints too: its names may be resolved later.
                in_force.push((Arc::clone(pool), endpoints.into_iter().map(|it| it.address).collect()));
            }
        }
        pools.forget_others(&in_force, checks);
        self.registry.set_endpoints(rows.into_values().collect());
    }

    /// What is counted of services and pools.
    pub(super) fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    /// What is known of the pools.
    pub(super) fn pools(&self) -> Pools {
        self.pools.clone()
    }

    /// What clients may use.
    pub(super) fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.limits)
    }

    /// The listeners, in the order of the configuration.
    pub(super) fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.services.iter().map(|running| &running.listener)
    }

    /// The same, with where and how they run.
    pub(super) fn running(&self) -> &[Running] {
        &self.services
    }

    /// Until when the certificates in force are valid, as of now and later.
    pub(super) fn expiries(&self) -> Arc<Mutex<Expiries>> {
        Arc::clone(&self.expiries)
    }

    /// What admin shows, as of now and later.
    pub(super) fn published(&self) -> Published {
        self.published.clone()
    }

    fn show(&self) {
        let sources: Vec<_> = self.services.iter().map(Running::source).collect();
        self.published.put_in_force(InForceView {
            max_connections: self.max_connections,
            limits: *self.limits.rules(),
            ..published::of(&sources, &self.pools, self.timeouts)
        });
    }

    /// Logs what is wrong with the certificates in force, and publishes until when they are valid.
    fn publish(&mut self) {
        self.show();
        self.warned.clear();
        self.warn();
        let mut expiries = Expiries::default();
        for certificate in self.legs().flat_map(Legs::policies).flat_map(TlsPolicy::certificates) {
            let file = certificate.file.to_string_lossy();
            expiries.add(&file, certificate.nth, certificate.not_after());
        }
        *self.expiries.lock().unwrap_or_else(PoisonError::into_inner) = expiries;
    }

    /// Logs what is wrong with the certificates now and was not logged before: a certificate may have expired
    /// since, an OCSP response may be out of date.
    pub(super) fn warn(&mut self) {
        let found = warnings(self.legs().flat_map(Legs::policies), ticket_clock::now());
        for line in found.iter().filter(|line| !self.warned.contains(line)) {
            tracing::warn!("{line}");
        }
        self.published.warn(&found);
        self.warned = found;
    }

    fn legs(&self) -> impl Iterator<Item = &Legs> {
        self.services.iter().map(|running| &running.legs)
    }
}

/// An endpoint as the metrics show it.
fn row(pool: &config::Pool, endpoint: &Endpoint) -> EndpointRow {
    EndpointRow {
        pool: pool.name.as_str().into(),
        address: endpoint.address.to_string(),
        weight: endpoint.weight,
        state: Arc::clone(&endpoint.state),
    }
}
