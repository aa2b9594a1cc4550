//! Sessions with a server, kept in the client's role for resumption (TS 33.328 Annex M) (A3b): in memory,
//! bounded, one store a listener, which has one server.
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
/// Most tickets of TLS 1.3 in a share, each for one handshake; the oldest make room. As many connections may
/// be begun at once and all be resumed.
const TICKETS: usize = 64;

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Which share is this thread's.
    static SHARE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % SHARES;
}

/// Something kept, with the time of its session's first full handshake.
struct Kept<T> {
    origin: UnixSeconds,
    session: T,
}

#[derive(Default)]
struct Share {
    /// That the server chose last.
    group: Option<NamedGroup>,
    tls12: Option<Kept<Tls12ClientSessionValue>>,
    tls13: VecDeque<Kept<Tls13ClientSessionValue>>,
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

    /// Forgets them all: the next handshake is a full one.
    pub(super) fn forget(&self) {
        for share in &self.shares {
            *lock(share) = Share::default();
        }
        self.has_tls12.store(false, Ordering::Relaxed);
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

    fn set_tls12_session(&self, _server: ServerName<'static>, session: Tls12ClientSessionValue) {
        let origin = SessionBirth::of_this_call(self.tickets.now());
        self.own().tls12 = Some(Kept { origin, session });
        self.has_tls12.store(true, Ordering::Relaxed);
    }

    fn tls12_session(&self, _server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        let (origin, session) = self.find(|share| {
            let is_old = |kept: &mut Kept<_>| self.tickets.is_too_old(kept.origin);
            share.tls12.take_if(is_old);
            share.tls12.as_ref().map(|kept| (kept.origin, kept.session.clone()))
        })?;
        SessionBirth::found(origin);
        Some(session)
    }

    fn remove_tls12_session(&self, _server: &ServerName<'static>) {
        if self.has_tls12.swap(false, Ordering::Relaxed) {
            self.shares.iter().for_each(|share| lock(share).tls12 = None);
        }
    }

    fn insert_tls13_ticket(&self, _server: ServerName<'static>, session: Tls13ClientSessionValue) {
        let origin = SessionBirth::of_this_call(self.tickets.now());
        let mut share = self.own();
        if share.tls13.len() >= TICKETS {
            share.tls13.pop_front();
        }
        share.tls13.push_back(Kept { origin, session });
    }

    fn take_tls13_ticket(&self, _server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let kept = self.find(|share| {
            share.tls13.retain(|kept| !self.tickets.is_too_old(kept.origin));
            share.tls13.pop_back()
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
