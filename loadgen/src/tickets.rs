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
/// TLS 1.3 tickets that are kept for a name, each for a single use.
pub const TLS13_KEPT: usize = 8192;

/// Tickets by server name. Used by one thread; the mutex is what rustls's interface asks for.
#[derive(Debug, Default)]
pub struct TicketStore {
    tickets: Mutex<Tickets>,
}

/// A ticket that was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Where it came from.
    pub origin: Origin,
    /// Later ones have higher numbers.
    number: u64,
}

#[derive(Debug, Default)]
struct Tickets {
    tls12: HashMap<ServerName<'static>, Stock<Tls12ClientSessionValue>>,
    tls13: HashMap<ServerName<'static>, Stock<Tls13ClientSessionValue>>,
    /// Connections to the present target whose full handshake is to bring a ticket, by name.
    fetches: HashMap<ServerName<'static>, usize>,
    /// Where new tickets come from.
    origin: Origin,
    /// So many came.
    count: u64,
    /// The ticket that was handed out last.
    offered: Option<Offered>,
}

impl TicketStore {
    /// From now on, tickets come from this target.
    pub fn set_origin(&self, origin: Origin) {
        let mut tickets = self.tickets();
        tickets.origin = origin;
        tickets.fetches.clear();
        tickets.tls12.values_mut().for_each(|stock| stock.set_origin(origin, TLS12_KEPT));
        tickets.tls13.values_mut().for_each(|stock| stock.set_origin(origin, TLS13_KEPT));
    }

    /// How many tickets there are for a name.
    #[must_use]
    pub fn count(&self, name: &ServerName<'static>) -> usize {
        let tickets = self.tickets();
        tickets.tls12.get(name).map_or(0, Stock::len) + tickets.tls13.get(name).map_or(0, Stock::len)
    }

    /// Whether there are tickets of an earlier target for a name.
    #[must_use]
    pub fn has_foreign(&self, name: &ServerName<'static>) -> bool {
        let tickets = self.tickets();
        let tls12 = tickets.tls12.get(name).is_some_and(|stock| !stock.foreign.is_empty());
        tls12 || tickets.tls13.get(name).is_some_and(|stock| !stock.foreign.is_empty())
    }

    /// How many connections have fetched a ticket for a name, or are about to, since the last change of the
    /// target; without those whose ticket was lost.
    #[must_use]
    pub fn fetches(&self, name: &ServerName<'static>) -> usize {
        self.tickets().fetches.get(name).copied().unwrap_or(0)
    }

    /// A connection begins that shall bring a ticket.
    pub fn fetch_begins(&self, name: &ServerName<'static>) {
        *self.tickets().fetches.entry(name.clone()).or_default() += 1;
    }

    /// A ticket, or the connection that was to bring one, was lost: a further one may be fetched.
    pub fn fetch_lost(&self, name: &ServerName<'static>) {
        if let Some(fetches) = self.tickets().fetches.get_mut(name) {
            *fetches = fetches.saturating_sub(1);
        }
    }

    /// The ticket that was handed out since this was last asked, if one was.
    pub fn take_offered(&self) -> Option<Offered> {
        self.tickets().offered.take()
    }

    /// The server did not take this one.
    pub fn refused(&self, name: &ServerName<'static>, ticket: Offered) {
        if let Some(stock) = self.tickets().tls12.get_mut(name) {
            stock.retain(|kept| kept.number != ticket.number);
        }
    }

    /// This one has expired, and with it those of its target that are older.
    pub fn expired(&self, name: &ServerName<'static>, ticket: Offered) {
        let lives = |kept: Offered| kept.origin != ticket.origin || kept.number > ticket.number;
        let tickets = &mut *self.tickets();
        if let Some(stock) = tickets.tls12.get_mut(name) {
            stock.retain(lives);
        }
        if let Some(stock) = tickets.tls13.get_mut(name) {
            stock.retain(lives);
        }
        tickets.fetches.remove(name);
    }

    fn tickets(&self) -> MutexGuard<'_, Tickets> {
        // A queue of tickets is whole whatever happened to a thread that held the lock.
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tickets {
    fn arrived(&mut self) -> Offered {
        self.count += 1;
        Offered { origin: self.origin, number: self.count }
    }
}

/// The tickets for one name, each queue by age, the newest one last.
#[derive(Debug)]
struct Stock<T> {
    own: VecDeque<(Offered, T)>,
    /// Those of earlier targets.
    foreign: VecDeque<(Offered, T)>,
    /// So many were handed out in turn.
    turn: usize,
}

impl<T> Default for Stock<T> {
    fn default() -> Self {
        Self { own: VecDeque::new(), foreign: VecDeque::new(), turn: 0 }
    }
}

impl<T> Stock<T> {
    fn len(&self) -> usize {
        self.own.len() + self.foreign.len()
    }

    /// Keeps at most so many: the oldest one goes.
    fn add(&mut self, ticket: Offered, value: T, most: usize) {
        self.own.push_back((ticket, value));
        if self.own.len() > most {
            self.own.pop_front();
        }
    }

    /// Whose tickets are foreign changes with the target.
    fn set_origin(&mut self, origin: Origin, most: usize) {
        let mut all: Vec<_> = self.foreign.drain(..).chain(self.own.drain(..)).collect();
        all.sort_by_key(|(ticket, _)| ticket.number);
        for kept in all {
            let queue = if kept.0.origin == origin { &mut self.own } else { &mut self.foreign };
            queue.push_back(kept);
            if queue.len() > most {
                queue.pop_front();
            }
        }
        self.turn = 0;
    }

    /// The newest one, which lives longest, is gone with that; those of an earlier target come first.
    fn take(&mut self) -> Option<(Offered, T)> {
        self.foreign.pop_back().or_else(|| self.own.pop_back())
    }

    /// Each in turn, in the same order.
    fn next(&mut self) -> Option<&(Offered, T)> {
        let len = self.len();
        let turn = self.turn.checked_rem(len)?;
        self.turn = turn + 1;
        self.foreign.iter().rev().chain(self.own.iter().rev()).nth(turn)
    }

    fn retain(&mut self, keeps: impl Fn(Offered) -> bool) {
        self.own.retain(|(ticket, _)| keeps(*ticket));
        self.foreign.retain(|(ticket, _)| keeps(*ticket));
    }
}

impl ClientSessionStore for TicketStore {
    /// Not remembered: every connection is a fresh client that sends its first group's key share.
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, name: ServerName<'static>, session: Tls12ClientSessionValue) {
        let tickets = &mut *self.tickets();
        let ticket = tickets.arrived();
        tickets.tls12.entry(name).or_default().add(ticket, session, TLS12_KEPT);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        let tickets = &mut *self.tickets();
        let (ticket, session) = tickets.tls12.get_mut(&name.to_owned())?.next()?;
        tickets.offered = Some(*ticket);
        Some(session.clone())
    }

    /// The runner knows which one was offered, and says so.
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, name: ServerName<'static>, session: Tls13ClientSessionValue) {
        let tickets = &mut *self.tickets();
        let ticket = tickets.arrived();
        tickets.tls13.entry(name).or_default().add(ticket, session, TLS13_KEPT);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let tickets = &mut *self.tickets();
        let (ticket, session) = tickets.tls13.get_mut(name)?.take()?;
        tickets.offered = Some(ticket);
        Some(session)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Tickets 0, 1 … of a target.
    fn add(stock: &mut Stock<u64>, origin: Origin, numbers: std::ops::Range<u64>) {
        numbers.for_each(|number| stock.add(Offered { origin, number }, number, 4));
    }

    #[test]
    fn earlier_targets_then_newest_tickets_come_first() {
        let mut stock = Stock::default();
        add(&mut stock, 0, 0..6);
        assert_eq!((stock.len(), stock.take().unwrap().1), (4, 5), "the oldest ones went");
        stock.set_origin(1, 4);
        add(&mut stock, 1, 6..8);
        let order: Vec<_> = std::iter::from_fn(|| stock.take()).map(|(_, number)| number).collect();
        assert_eq!(order, [4, 3, 2, 7, 6]);
    }

    #[test]
    fn reusable_tickets_rotate_until_one_is_refused() {
        let mut stock = Stock::default();
        add(&mut stock, 0, 0..3);
        let next = |stock: &mut Stock<u64>| stock.next().map(|(_, number)| *number);
        assert_eq!([0; 4].map(|_| next(&mut stock)), [Some(2), Some(1), Some(0), Some(2)]);
        stock.retain(|ticket| ticket.number != 1);
        assert_eq!([0; 2].map(|_| next(&mut stock)), [Some(0), Some(2)]);
        stock.retain(|_| false);
        assert_eq!(next(&mut stock), None);
    }

    #[test]
    fn every_name_has_as_many_fetches_as_are_not_lost() {
        let (store, a) = (TicketStore::default(), ServerName::try_from("a.test").unwrap());
        store.fetch_begins(&a);
        store.fetch_begins(&a);
        store.fetch_lost(&a);
        let b = ServerName::try_from("b.test").unwrap();
        assert_eq!((store.fetches(&a), store.fetches(&b)), (1, 0));
        store.set_origin(1);
        assert_eq!(store.fetches(&a), 0, "another target has tickets of its own");
    }
}
