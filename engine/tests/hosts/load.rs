//! Load: several clients at once, each connecting over and over with its newest ticket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use offramp_testing::tools::eventually;
use rustls::{ClientConfig, HandshakeKind};

use crate::lab::{Cluster, Version, handshake};

/// Clients that run until they are stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    resumed: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// Two clients of each version; each has its session before this returns.
    pub(crate) fn start(cluster: &Cluster, addr: SocketAddr) -> Self {
        Self::start_with(|version| cluster.client(version), addr)
    }

    /// The same with clients of other hosts.
    pub(crate) fn start_with(client: impl Fn(Version) -> Arc<ClientConfig>, addr: SocketAddr) -> Self {
        let (stop, resumed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let versions = crate::BOTH.into_iter().cycle().take(4);
        let clients = versions.map(|version| {
            let config = client(version);
            assert_eq!(handshake(addr, &config).unwrap(), HandshakeKind::Full, "the first of a client");
            let (stop, resumed) = (Arc::clone(&stop), Arc::clone(&resumed));
            std::thread::spawn(move || connect_over_and_over(addr, &config, &stop, &resumed))
        });
        let clients = clients.collect();
        Self { stop, resumed, clients }
    }

    /// Until so many more sessions were resumed.
    pub(crate) fn goes_on_for(&self, handshakes: usize) {
        let before = self.resumed.load(Ordering::Relaxed);
        eventually(&format!("{handshakes} more sessions are resumed"), || {
            self.resumed.load(Ordering::Relaxed) >= before + handshakes
        });
    }

    /// How many sessions were resumed, and whatever else happened: full handshakes and failures.
    pub(crate) fn finish(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let all = self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        (self.resumed.load(Ordering::Relaxed), all)
    }
}

fn connect_over_and_over(
    addr: SocketAddr,
    config: &Arc<ClientConfig>,
    stop: &AtomicBool,
    resumed: &AtomicUsize,
) -> Vec<String> {
    let mut otherwise = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match handshake(addr, config) {
            Ok(HandshakeKind::Resumed) => drop(resumed.fetch_add(1, Ordering::Relaxed)),
            other => otherwise.push(format!("{other:?}")),
        }
        // The hosts, the balancer and all clients share a machine.
        std::thread::sleep(Duration::from_millis(2));
    }
    otherwise
}
