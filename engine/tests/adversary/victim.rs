//! The victim of every attack, and a thread that plays it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use offramp_attack::victim::Noticed;
use rustls::{ClientConnection, StreamOwned};

use offramp_testing::peer::{Peer, Version, plain};

pub(crate) type Stream = StreamOwned<ClientConnection, std::net::TcpStream>;

/// An established connection through which one byte has come back.
pub(crate) fn established(addr: SocketAddr) -> Stream {
    let mut peer = Peer::open(addr, &plain(Version::Tls13));
    peer.ping(b"!");
    StreamOwned::new(peer.tls, peer.tcp)
}

/// What the victim notices in so long.
pub(crate) fn noticed(stream: &mut Stream, length: Duration) -> Noticed {
    let noticed = Noticed::watch_for(stream, length);
    noticed.unwrap_or_else(|error| panic!("the victim's messages do not go on: {error}"))
}

/// A victim at work on a thread of its own.
pub(crate) struct Watching {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<Noticed>>,
}

impl Watching {
    pub(crate) fn start(mut stream: Stream) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread =
            std::thread::spawn(move || Noticed::watch(&mut stream, || !stopped.load(Ordering::Relaxed)));
        Self { stop, thread }
    }

    /// What it noticed; that every message has come back is certain then.
    pub(crate) fn finish(self) -> Noticed {
        self.stop.store(true, Ordering::Relaxed);
        let noticed = self.thread.join().expect("the victim does not panic");
        noticed.unwrap_or_else(|error| panic!("the victim's messages did not go on: {error}"))
    }
}
