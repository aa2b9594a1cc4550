//! Where a client thread keeps its tickets, for one version and one client certificate.
//!
//! rustls's session values can be kept but not written down: their fields are private and have no encoding
//! (0.23). So tickets live as long as the process; a run that shall prove that another host takes them
//! switches its target (`--then-target`) and keeps this store. Each ticket remembers from which target it
//! came.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// The number of a target, in the order in which they were first visited.
pub type Origin = usize;

/// TLS 1.2 tickets that are kept for a name. Each can be used any number of times; several are kept so that
/// a server sees different ones.
const TLS12_KEPT: usize = 16;
/// TLS 1.3 tickets that are kept for a name, each for a single use: more than a thread has connections at
/// once.
const TLS13_KEPT: usize = 8192;

/// Tickets by server name. Used by one thread; the mutex is what rustls's interface asks for.
#[derive(Debug, Default)]
pub struct TicketStore {
    tickets: Mutex<Tickets>,
}

#[derive(Debug, Default)]
struct Tickets {
    tls12: HashMap<ServerName<'static>, VecDeque<(Origin, Tls12ClientSessionValue)>>,
    tls13: HashMap<ServerName<'static>, VecDeque<(Origin, Tls13ClientSessionValue)>>,
    /// Where new tickets come from.
    origin: Origin,
    /// Where the ticket came from that was handed out last.
    offered: Option<Origin>,
}

impl TicketStore {
    /// From now on, tickets come from this target.
    pub fn set_origin(&self, origin: Origin) {
        self.tickets().origin = origin;
    }

    /// How many tickets there are for a name.
    #[must_use]
    pub fn count(&self, name: &ServerName<'_>) -> usize {
        let tickets = self.tickets();
        let name = &name.to_owned();
        tickets.tls12.get(name).map_or(0, VecDeque::len) + tickets.tls13.get(name).map_or(0, VecDeque::len)
    }

    /// Where the ticket came from that was offered since this was last asked, if one was.
    pub fn take_offered(&self) -> Option<Origin> {
        self.tickets().offered.take()
    }

    fn tickets(&self) -> MutexGuard<'_, Tickets> {
        // A queue of tickets is whole whatever happened to a thread that held the lock.
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for TicketStore {
    /// Not remembered: every connection is a fresh client that sends its first group's key share.
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, name: ServerName<'static>, session: Tls12ClientSessionValue) {
        let mut tickets = self.tickets();
        let origin = tickets.origin;
        let queue = tickets.tls12.entry(name).or_default();
        queue.push_back((origin, session));
        if queue.len() > TLS12_KEPT {
            queue.pop_front();
        }
    }

    /// Each in turn.
    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        let mut tickets = self.tickets();
        let queue = tickets.tls12.get_mut(&name.to_owned())?;
        let (origin, session) = queue.pop_front()?;
        queue.push_back((origin, session.clone()));
        tickets.offered = Some(origin);
        Some(session)
    }

    /// The one that was handed out last is of no use any more.
    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        if let Some(queue) = self.tickets().tls12.get_mut(name) {
            queue.pop_back();
        }
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut tickets = self.tickets();
        let origin = tickets.origin;
        let queue = tickets.tls13.entry(name).or_default();
        queue.push_back((origin, ticket));
        if queue.len() > TLS13_KEPT {
            queue.pop_front();
        }
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut tickets = self.tickets();
        let (origin, ticket) = tickets.tls13.get_mut(name)?.pop_front()?;
        tickets.offered = Some(origin);
        Some(ticket)
    }
}

/// Keeps what comes, and offers nothing: for the full handshakes of a run that also resumes.
#[derive(Debug)]
pub struct Collect(pub Arc<TicketStore>);

impl ClientSessionStore for Collect {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, name: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.0.set_tls12_session(name, session);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, name: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(name, ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

/// Takes tickets and never has one.
#[derive(Debug)]
pub struct Forgetful;

impl ClientSessionStore for Forgetful {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {}

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}
