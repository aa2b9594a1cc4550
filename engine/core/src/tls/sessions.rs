//! Sessions with servers, kept in the client's role for resumption (TS 33.328 Annex M) (A3b): in memory,
//! bounded, one store per listener. The servers of a store have one policy and differ by name, if the names
//! of clients are forwarded; else there is one name.
//!
//! A session counts from its first full handshake, as in the server's role, however often a server wraps it
//! anew. The store is in shares, one for each worker as long as there are not more than [`SHARES`], so that
//! workers do not wait for each other; who has nothing in its own looks into the others.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

use super::ticket_keys::UnixSeconds;
use super::tickets::{SessionBirth, Tickets};

const SHARES: usize = 16;
/// Most tickets of TLS 1.3 in a share, each for one handshake, and most sessions of TLS 1.2, one per name;
/// the oldest make room. With one name, so many connections of TLS 1.3 may be begun at once and all be
/// resumed.
const KEPT_MAX: usize = 64;

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Which share is this thread's.
    static SHARE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % SHARES;
}

/// Something kept, with the name of the server and the time of its session's first full handshake.
struct Kept<T> {
    server: ServerName<'static>,
    origin: UnixSeconds,
    session: T,
}

#[derive(Default)]
struct Share {
    /// That a server chose last.
    group: Option<NamedGroup>,
    tls12: VecDeque<Kept<Tls12ClientSessionValue>>,
    tls13: VecDeque<Kept<Tls13ClientSessionValue>>,
}

impl<T> Kept<T> {
    fn is_of(&self, server: &ServerName<'_>) -> bool {
        self.server == *server
    }
}

/// Keeps it; the oldest makes room.
fn keep<T>(all: &mut VecDeque<Kept<T>>, kept: Kept<T>) {
    if all.len() >= KEPT_MAX {
        all.pop_front();
    }
    all.push_back(kept);
}

/// All of a listener's.
pub(super) struct ClientSessions {
    shares: [Mutex<Share>; SHARES],
    /// Whether a share may have a session of TLS 1.2: a handshake of TLS 1.3 looks into none otherwise.
    has_tls12: AtomicBool,
    /// For the clock, and for how long a session may live.
    tickets: Arc<Tickets>,
}

impl ClientSessions {
    pub(super) fn new(tickets: Arc<Tickets>) -> Self {
        Self { shares: Default::default(), has_tls12: AtomicBool::new(false), tickets }
    }

    /// Forgets those with a server: the next handshake with it is a full one.
    pub(super) fn forget(&self, server: &ServerName<'_>) {
        for share in &self.shares {
            let mut share = lock(share);
            share.tls12.retain(|kept| !kept.is_of(server));
            share.tls13.retain(|kept| !kept.is_of(server));
        }
    }

    fn own(&self) -> MutexGuard<'_, Share> {
        lock(&self.shares[SHARE.with(|share| *share)])
    }

    /// What `find` finds first, in our own share or in another that nobody is at.
    fn find<T>(&self, mut find: impl FnMut(&mut Share) -> Option<T>) -> Option<T> {
        let found = find(&mut self.own());
        let others = || self.shares.iter().filter_map(|share| share.try_lock().ok());
        found.or_else(|| others().find_map(|mut share| find(&mut share)))
    }
}

/// One that was left locked by a panic has nothing half done in it.
fn lock(share: &Mutex<Share>) -> MutexGuard<'_, Share> {
    share.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientSessionStore for ClientSessions {
    fn set_kx_hint(&self, _server: ServerName<'static>, group: NamedGroup) {
        self.own().group = Some(group);
    }

    fn kx_hint(&self, _server: &ServerName<'_>) -> Option<NamedGroup> {
        self.own().group
    }

    fn set_tls12_session(&self, server: ServerName<'static>, session: Tls12ClientSessionValue) {
        let origin = SessionBirth::of_this_call(self.tickets.now());
        let mut share = self.own();
        share.tls12.retain(|kept| !kept.is_of(&server));
        keep(&mut share.tls12, Kept { server, origin, session });
        self.has_tls12.store(true, Ordering::Relaxed);
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        let (origin, session) = self.find(|share| {
            share.tls12.retain(|kept| !self.tickets.is_too_old(kept.origin));
            let kept = share.tls12.iter().find(|kept| kept.is_of(server))?;
            Some((kept.origin, kept.session.clone()))
        })?;
        SessionBirth::found(origin);
        Some(session)
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        if !self.has_tls12.swap(false, Ordering::Relaxed) {
            return;
        }
        for share in &self.shares {
            let mut share = lock(share);
            share.tls12.retain(|kept| !kept.is_of(server));
            if !share.tls12.is_empty() {
                self.has_tls12.store(true, Ordering::Relaxed);
            }
        }
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, session: Tls13ClientSessionValue) {
        let origin = SessionBirth::of_this_call(self.tickets.now());
        keep(&mut self.own().tls13, Kept { server, origin, session });
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let kept = self.find(|share| {
            share.tls13.retain(|kept| !self.tickets.is_too_old(kept.origin));
            let place = share.tls13.iter().rposition(|kept| kept.is_of(server))?;
            share.tls13.remove(place)
        })?;
        SessionBirth::found(kept.origin);
        Some(kept.session)
    }
}

impl fmt::Debug for ClientSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSessions").finish_non_exhaustive()
    }
}
