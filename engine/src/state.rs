//! What the process is doing, for whoever operates it: `/v1/state`.
//!
//! The control plane publishes what is in force whenever that changes. Counters, endpoints and ticket keys
//! are read when somebody asks, who waits for no file, no host name and no worker.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

mod report;

use crate::limit::LimitRules;
use crate::pool::{ConnectionCount, EndpointState};
pub use report::{Process, report};

/// Most certificates that are shown; the first ones.
const CERTIFICATES_MAX: usize = 4096;

/// What is in force, and what is wrong with it: written by the control plane, read by admin.
#[derive(Clone, Debug, Default)]
pub struct Published(Arc<Mutex<Shown>>);

#[derive(Debug, Default)]
struct Shown {
    in_force: Arc<InForce>,
    warnings: Arc<[String]>,
}

/// What a configuration has come to.
#[derive(Debug, Default)]
pub struct InForce {
    /// In the order of the configuration.
    pub listeners: Vec<Listener>,
    /// Those that listeners name, each once.
    pub pools: Vec<Pool>,
    /// Those that listeners work with, authorities included.
    pub certificates: Vec<Certificate>,
    /// Of the whole process.
    pub max_connections: usize,
    /// What clients may use.
    pub limits: LimitRules,
}

/// A listener.
#[derive(Debug)]
pub struct Listener {
    /// With the port that the kernel chose.
    pub address: String,
    /// As a configuration writes it.
    pub mode: &'static str,
    /// As a configuration writes it.
    pub offload: String,
    /// As a configuration writes it; none where clients have no TLS of ours.
    pub client_auth: Option<&'static str>,
    /// Application protocols that are negotiated.
    pub alpn: Vec<String>,
    /// Whether sessions are resumed.
    pub tickets: bool,
    /// Whether balancers say who the client is.
    pub accept_proxy: bool,
    /// Where connections go, by the pools' names.
    pub pools: Vec<String>,
    /// Of records that are sent, and of those that are received.
    pub record_paths: [RecordPath; 2],
    /// Of all workers.
    pub connections: Arc<ConnectionCount>,
}

/// Who carries the records of a direction where the cipher allows it.
#[derive(Debug)]
pub struct RecordPath {
    /// `kernel` or `userspace`.
    pub path: &'static str,
    /// With which ciphers, or why.
    pub detail: String,
}

/// A pool.
#[derive(Debug)]
pub struct Pool {
    /// As configured, or the address of the listener whose own it is.
    pub name: String,
    /// As a configuration writes it.
    pub balance: &'static str,
    /// As a configuration writes it.
    pub health_check: &'static str,
    /// Those that its backends are now.
    pub endpoints: Vec<Endpoint>,
}

/// An endpoint of a pool.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it is.
    pub address: String,
    /// Its part of the connections.
    pub weight: u32,
    /// Whether it is for the time when the others are down.
    pub is_backup: bool,
    /// Of all workers, if there is a limit.
    pub max_connections: Option<u32>,
    /// What everybody knows of it.
    pub state: Arc<EndpointState>,
}

/// A certificate of a file.
#[derive(Debug)]
pub struct Certificate {
    /// The file.
    pub file: PathBuf,
    /// Which one of the file, from 1.
    pub nth: usize,
    /// Whom it is for.
    pub names: Vec<String>,
    /// The last second at which it is valid, since 1970.
    pub not_after: i64,
}

impl Published {
    /// Replaces what was in force.
    pub fn put_in_force(&self, mut in_force: InForce) {
        in_force.certificates.truncate(CERTIFICATES_MAX);
        self.lock().in_force = Arc::new(in_force);
    }

    /// Replaces what is wrong with it.
    pub fn warn(&self, lines: &[String]) {
        self.lock().warnings = lines.into();
    }

    fn read(&self) -> (Arc<InForce>, Arc<[String]>) {
        let shown = self.lock();
        (Arc::clone(&shown.in_force), Arc::clone(&shown.warnings))
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
