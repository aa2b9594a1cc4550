//! What an engine is made of at its start.

use std::sync::{Arc, Mutex};

use super::admin_address::Bound;
use super::files::Files;
use super::inherited::Inherited;
use super::services::Services;
use super::sockets::note_ipv6_alone;
use super::ticket_clock::{self, TicketClock};
use super::upgrade::{self, Upgrades};
use super::watch::{self, Watch};
use super::{Control, Served, StartError, reload};
use crate::admin::{self, ConfigTask};
use crate::config::{Config, Confine, Pinning};
use crate::confine::Cage;
use crate::metrics::{Counters, Expiries, Metrics};
use crate::state::Published;
use crate::sys::operations;
use crate::tls::Tickets;
use crate::tls::ticket_keys::NoRandomness;
use crate::worker::{Setup, WorkerCage};

/// What there is before the workers are.
pub(super) struct Opened {
    pub(super) served: Vec<Served>,
    pub(super) admin: Vec<Bound>,
    pub(super) expiries: Arc<Mutex<Expiries>>,
    pub(super) published: Published,
}

/// Reads the files, takes the sockets that were given and binds the others. `open_at_start` does not count
/// those that were given, which are counted with the listeners.
pub(super) fn open(
    config: &Config,
    control: &Control,
    cpus: &[usize],
    open_at_start: u64,
    mut inherited: Inherited,
) -> Result<Opened, StartError> {
    inherited.check(config)?;
    reload::warn(&config.collisions());
    note_ipv6_alone(config);
    let incoming_cpus = if config.pin_workers == Pinning::IncomingCpu { cpus.to_vec() } else { Vec::new() };
    let (owner, files) = (Cage::owner(config), control.services.files());
    let admin = Bound::all(config.admin_addresses(), owner, &mut inherited, &files)?;
    let mut in_force = control.services.lock();
    in_force.begin(incoming_cpus, open_at_start, inherited, Cage::owner(config))?;
    let next = in_force.prepare(config, &reload::find(config))?;
    reload::warn(next.warning.as_slice());
    in_force.commit(next);
    watch::warn_of_exposed_keys(in_force.listeners());
    let served = in_force.running().iter().map(Served::of).collect();
    let (expiries, published) = (in_force.expiries(), in_force.published());
    Ok(Opened { served, admin, expiries, published })
}

/// In a process of which we are a part: the rings are ours.
pub(super) fn embedded(config: &Config) -> WorkerCage {
    WorkerCage::of_ring(config.confine != Confine::Off && operations::can_be_restricted().is_ok())
}

/// What each worker is made of.
pub(super) fn setups(
    control: &Control,
    counters: Vec<Arc<Counters>>,
    cage: &WorkerCage,
) -> Result<Vec<Setup>, StartError> {
    let names = connection_names(counters.len())?;
    let in_force = control.services.lock();
    let setup = |(index, counters): (usize, _)| Setup {
        index,
        name: names[index],
        workers: control.mailboxes.len(),
        cage: cage.clone(),
        max_connections: in_force.max_connections_of(index),
        counters,
        limits: in_force.limits(),
        mailbox: Arc::clone(&control.mailboxes[index]),
    };
    Ok(counters.into_iter().enumerate().map(setup).collect())
}

/// Where admin hands over what is asked of the configuration, and for an upgrade.
pub(super) fn submit(files: &Files, upgrades: &Upgrades) -> admin::Submit {
    let (files, upgrades) = (files.clone(), upgrades.clone());
    admin::Submit(Arc::new(move |request| match request.task {
        ConfigTask::Upgrade => {
            upgrades.ask(upgrade::Ask::Request(request));
            true
        }
        ConfigTask::Show | ConfigTask::Change(_) => files.request(request),
    }))
}

/// What is done each TICK: ticket keys, certificates and authorities are read again when they have changed.
pub(super) fn look_at_files(tickets: Arc<Tickets>, services: Services) -> impl FnMut() + Send + 'static {
    let (mut clock, mut watch) = (TicketClock::new(tickets), Watch::new(services));
    move || {
        clock.tick();
        watch.tick();
    }
}

/// What is in front of the names of each worker's connections.
fn connection_names(workers: usize) -> Result<Vec<u64>, StartError> {
    let mut bytes = vec![0; workers * size_of::<u64>()];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes.as_chunks().0.iter().map(|bytes| u64::from_ne_bytes(*bytes)).collect())
}

/// What admin serves; `submit` takes what is asked of the configuration.
pub(super) fn service(
    config: &Config,
    control: &Control,
    metrics: &Metrics,
    cage: Option<&Cage>,
    (expiries, published): (Arc<Mutex<Expiries>>, Published),
    submit: Option<admin::Submit>,
) -> admin::Service {
    admin::Service {
        metrics: metrics.clone(),
        draining: Arc::clone(&control.stopping),
        offload: control.offload.clone(),
        expiries,
        submit,
        started: ticket_clock::now(),
        tickets: Arc::clone(&control.tickets),
        published,
        key_log: config.key_log.clone(),
        confinement: cage.map(Cage::report).cloned().unwrap_or_default(),
        mailboxes: Arc::clone(&control.mailboxes),
        siblings: control.siblings.clone(),
    }
}
