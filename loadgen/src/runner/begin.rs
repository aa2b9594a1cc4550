//! How connections begin: when, as what, and with which ticket.

use std::iter::Peekable;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Result;
use offramp_ring::socket;

use super::connection::{Connection, Stage, Times, Wish};
use super::now;
use super::worker::{Operation, Worker};
use crate::failure::{Failure, Moment};
use crate::plan::{Ending, Version};
use crate::profiles::Choice;
use crate::session::Session;
use crate::task::Task;

/// Connections that begin before their connects are submitted: a ClientHello is work, and what was begun
/// meanwhile waits.
const STARTS_AT_ONCE: usize = 4;
impl Worker<'_> {
    pub(super) fn begin_what_is_due(&mut self, now: Instant) -> Result<()> {
        for _ in 0..STARTS_AT_ONCE {
            if self.shared.stop.load(Ordering::Acquire) || !self.begin_next(now)? {
                break;
            }
        }
        Ok(())
    }

    /// Begins one connection, if one is due and there is a place for it.
    fn begin_next(&mut self, now: Instant) -> Result<bool> {
        let mut planned = None;
        if let Some(arrivals) = &mut self.arrivals {
            let due = arrivals.peek().map(|planned| self.shared.start + *planned);
            let Some(due) = due.filter(|due| *due <= now && !self.meter.is_exceeded(now)) else {
                return Ok(false);
            };
            planned = Some(due);
        } else if !self.may_begin() {
            return Ok(false);
        }
        let Some(place) = self.free.take() else { return Ok(false) };
        self.arrivals.as_mut().and_then(Peekable::next);
        self.begin(place, planned)?;
        Ok(true)
    }

    fn begin(&mut self, index: usize, planned: Option<Instant>) -> Result<()> {
        let place = &self.places[index];
        assert!(place.connection.is_none(), "a place is handed out when its connection has left");
        let opens = usize::from(!place.active);
        let (session, mut wish) = self.session(planned)?;
        let mut task = Task::new(&self.plan.work, &wish.choice.name.to_str(), self.dice.fork());
        task.carry_on(self.places[index].next_due);
        let socket = self.socket();
        self.connections += 1;
        // Behind our own work on the ClientHello, which is not the target's to answer for.
        let started = now();
        let planned = planned.unwrap_or(started);
        wish.counts = !wish.fetches && self.meter.admit(planned);
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                let failure = Failure::system(Moment::Connect, error.raw_os_error().unwrap_or_default());
                wish.lose_ticket();
                self.meter.failed(&failure);
                self.count_failure(&failure);
                self.rest(index, started);
                return Ok(());
            }
        };
        self.ring.connect(socket.as_fd(), self.address.to_sockaddr()?, (index, Operation::Connect));
        let connection = Connection {
            socket,
            session,
            task,
            wish,
            stage: Stage::Connecting,
            times: Times::new(planned, started),
            // The connect is in flight, in place of a send.
            sending: true,
            receiving: false,
            sleeps: false,
            confirmed: false,
        };
        self.meter.started(&connection, self.free.held_back(planned));
        self.open += 1;
        self.opening += opens;
        self.places[index].connection = Some(connection);
        Ok(())
    }

    /// The TLS of the next connection, and what it is to be.
    fn session(&mut self, planned: Option<Instant>) -> Result<(Session, Wish)> {
        let choice = self.profiles.next(self.plan.resume);
        loop {
            let fetches = choice.resume && self.fetches(&choice, planned);
            let session = Session::new(choice.config(fetches), choice.name.clone())?;
            let offered = choice.tickets.take_offered();
            if let Some(expired) = offered.filter(|_| !session.offers_ticket()) {
                choice.tickets.expired(&choice.name, expired);
                continue;
            }
            if fetches {
                choice.tickets.fetch_begins(&choice.name);
            }
            let foreign = offered.is_some_and(|ticket| ticket.origin != self.origin);
            return Ok((session, Wish { choice, offered, foreign, fetches, counts: false }));
        }
    }

    /// Whether a connection that shall be resumed only fetches a ticket, because there is none yet or too
    /// few: in the warm-up, and in a closed loop also later, once for each place that may have one in flight.
    fn fetches(&self, choice: &Choice, planned: Option<Instant>) -> bool {
        let Choice { tickets, name, version, .. } = choice;
        let count = tickets.count(name);
        match planned {
            None => {
                let warm_up = self.meter.window().is_none();
                count == 0 && (warm_up || tickets.fetches(name) < self.places.len())
            }
            Some(planned) => {
                // Tickets of an earlier target are there to be offered.
                let collects = *version == Version::Tls13 && !tickets.has_foreign(name);
                !self.meter.counts_already(planned) && (count == 0 || (collects && count < self.stock))
            }
        }
    }

    fn socket(&self) -> std::io::Result<std::os::fd::OwnedFd> {
        let source = match self.plan.sources.as_slice() {
            [] => None,
            sources => Some(sources[self.connections % sources.len()]),
        };
        let socket = match source {
            None => socket::outgoing(&self.address)?,
            Some(source) => socket::outgoing_from(&self.address, source)?,
        };
        if self.plan.ending == Ending::Reset {
            socket::abort_on_close(socket.as_fd())?;
        }
        Ok(socket)
    }
}
