//! The agent: in each round it reads the ring from etcd, judges it, writes the file; and, if it leads,
//! rotates.
//!
//! The state is what etcd answers in this round and the ring in force; nothing else is remembered. A watch
//! only makes the next round come sooner.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use offramp_core::tls::ticket_keys::{KeyRefused, KeyRing, UnixSeconds, Use, rfc3339};

use crate::alarm::{self, Alarm, Alarms, State};
use crate::clock::{instant, unix};
use crate::etcd::{Etcd, EtcdError, If};
use crate::file::KeyFile;
use crate::leader::{Candidate, Leadership};
use crate::pace::Pace;
use crate::rotation::{self, Schedule};
use crate::seal::{Generation, OpenError, Opened, Sealer};
use crate::service::Service;

/// Rounds in the life of a lease: one that fails does not end it.
pub(crate) const ROUNDS_PER_LEASE: u32 = 3;

/// What the other threads have to say.
pub(crate) enum Event {
    /// Something may have changed in etcd.
    Changed,
    /// The process is to end.
    Stop,
}

pub(crate) struct Agent {
    pub(crate) etcd: Etcd,
    pub(crate) sealer: Sealer,
    pub(crate) file: KeyFile,
    pub(crate) candidate: Candidate,
    pub(crate) schedule: Schedule,
    /// The ring's key in etcd.
    pub(crate) place: String,
    /// Between two rounds.
    pub(crate) interval: Duration,
    pub(crate) alarms: Alarms,
    pub(crate) metrics_file: Option<PathBuf>,
    pub(crate) service: Service,
    pub(crate) state: State,
    /// The ring that the engine has.
    pub(crate) in_force: Option<Generation>,
    /// Rounds since there was a leader.
    pub(crate) vacant: u32,
}

/// Why the ring that etcd has is not taken.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error(transparent)]
    Unopened(#[from] OpenError),
    #[error(
        "it is older than the one in force: generation {theirs} behind {ours}, as from a restored backup"
    )]
    Older { theirs: u64, ours: u64 },
    #[error(
        "it has the generation of the one in force, {0}, and other keys; do two clusters share this prefix?"
    )]
    Other(u64),
}

impl Agent {
    /// Until it is to stop.
    pub(crate) fn run(&mut self, events: &Receiver<Event>) {
        let mut pace = Pace::new(self.interval, instant());
        loop {
            let now = instant();
            if now < pace.next() {
                match events.recv_timeout(pace.next() - now) {
                    Ok(Event::Changed) => pace.hurry(),
                    Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                    Err(RecvTimeoutError::Timeout) => {}
                }
                continue;
            }
            if matches!(events.try_recv(), Ok(Event::Stop)) {
                break;
            }
            let is_changed = self.round();
            pace.round(is_changed, instant());
        }
        self.service.stopping();
        self.candidate.resign(&mut self.etcd);
    }

    /// One round; whether it has changed something in etcd, and the next is due at once.
    fn round(&mut self) -> bool {
        self.state.is_leader = false;
        let is_changed = match self.exchange() {
            Ok(is_changed) => {
                self.alarms.clear(Alarm::Etcd);
                is_changed
            }
            Err(error) => {
                let text = format!("etcd: {error}; the ticket keys in force stay{}", self.reach());
                self.alarms.raise(Alarm::Etcd, instant(), &text);
                false
            }
        };
        self.check_rotation(unix());
        self.report();
        let status = self.status();
        self.service.stands(self.in_force.is_some(), &status);
        is_changed
    }

    /// Reads, judges, writes the file, leads.
    fn exchange(&mut self) -> Result<bool, EtcdError> {
        self.candidate.keep(&mut self.etcd)?;
        let [leader, ring] = self.etcd.get([self.candidate.key(), &self.place])?;
        let leadership = self.candidate.leads(leader.as_ref());
        let opened = match ring.as_ref().map(|ring| self.judge(&ring.value)).transpose() {
            Ok(opened) => opened,
            Err(unfit) => {
                // Whoever cannot use the ring must not lead: another agent may be able to.
                self.candidate.resign(&mut self.etcd);
                let text = format!(
                    "{}: the ring in etcd is refused: {unfit}; the ticket keys in force stay{}; if no agent \
                     takes the ring, remove it with: etcdctl del {}, and the leader publishes the keys in \
                     force",
                    self.place,
                    self.reach(),
                    self.place
                );
                self.alarms.raise(Alarm::Ring, instant(), &text);
                return Ok(false);
            }
        };
        self.alarms.clear(Alarm::Ring);
        self.state.contact = unix();
        if let Some(opened) = &opened {
            self.take(&opened.generation);
        }
        if let Some(leadership) = leadership {
            self.state.is_leader = true;
            let revision = ring.map(|ring| ring.modified);
            return self.lead(leadership, opened.zip(revision));
        }
        self.vacant = if leader.is_none() { self.vacant + 1 } else { 0 };
        // Where etcd has no ring, whoever has keys in force goes first, as it publishes them.
        let patience = if self.in_force.is_some() { 0 } else { ROUNDS_PER_LEASE };
        if self.vacant > patience {
            self.vacant = 0;
            return self.candidate.stand(&mut self.etcd).map(|()| true);
        }
        Ok(false)
    }

    /// Opens a value, and compares it with the ring in force.
    fn judge(&self, value: &[u8]) -> Result<Opened, Unfit> {
        let opened = self.sealer.open(value)?;
        let theirs = opened.generation.number;
        if let Some(in_force) = &self.in_force {
            let ours = in_force.number;
            if theirs < ours {
                return Err(Unfit::Older { theirs, ours });
            }
            if theirs == ours && *opened.generation.ring.content() != *in_force.ring.content() {
                return Err(Unfit::Other(ours));
            }
        }
        Ok(opened)
    }

    /// Puts a ring in force: writes the file, or tries again in the next round.
    fn take(&mut self, generation: &Generation) {
        let path = self.file.path().display();
        match self.file.write(generation) {
            Ok(is_written) => {
                if is_written {
                    let names = names(&generation.ring, unix());
                    tracing::info!("{path} written: generation {}: {names}", generation.number);
                }
                self.alarms.clear(Alarm::File);
                self.in_force = Some(generation.clone());
            }
            Err(error) => {
                let text = format!("{path}: cannot be written: {error}; the ticket keys in force stay");
                self.alarms.raise(Alarm::File, instant(), &text);
            }
        }
    }

    /// Publishes the next ring, if it is time; whether it tried. `published` is what etcd has, and the
    /// revision by which that was written.
    fn lead(&mut self, leadership: Leadership, published: Option<(Opened, i64)>) -> Result<bool, EtcdError> {
        let next = match self.next(published.as_ref().map(|(opened, _)| opened)) {
            Ok(Some(next)) => next,
            Ok(None) => {
                self.alarms.clear(Alarm::Publish);
                return Ok(false);
            }
            Err(error) => {
                self.alarms.raise(Alarm::Publish, instant(), &format!("no ticket key was added: {error}"));
                return Ok(false);
            }
        };
        let value = match self.sealer.seal(&next) {
            Ok(value) => value,
            Err(error) => {
                self.alarms.raise(Alarm::Publish, instant(), &format!("the ring was not sealed: {error}"));
                return Ok(false);
            }
        };
        self.alarms.clear(Alarm::Publish);
        if leadership.is_over() {
            return Ok(false);
        }
        let unchanged = match published {
            Some((_, revision)) => If::Modified(&self.place, revision),
            None => If::Absent(&self.place),
        };
        let conditions = [If::Created(self.candidate.key(), leadership.created), unchanged];
        if self.etcd.put_if(&conditions, &self.place, &value, 0)? {
            let names = names(&next.ring, unix());
            tracing::info!("published generation {}: {names}", next.number);
        }
        // If not, somebody was faster, and the next round reads what is there.
        Ok(true)
    }

    /// What is to be published now; `None` if what etcd has stays.
    fn next(&self, published: Option<&Opened>) -> Result<Option<Generation>, KeyRefused> {
        let now = unix();
        let generation = published.map(|opened| &opened.generation);
        let (ring, number) = match (generation, &self.in_force) {
            (Some(generation), _) => match self.schedule.next(&generation.ring, now)? {
                Some(ring) => (ring, generation.number),
                None if published.is_some_and(|opened| opened.is_by_other_key) => {
                    (generation.ring.clone(), generation.number)
                }
                None => return Ok(None),
            },
            // What this host has, the others have as well, and clients have tickets of.
            (None, Some(in_force)) => {
                let ring = self.schedule.next(&in_force.ring, now)?;
                (ring.unwrap_or_else(|| in_force.ring.clone()), in_force.number)
            }
            (None, None) => (self.schedule.first(now)?, 0),
        };
        // Above every generation that was ever there, even where this host has not seen the last ones.
        Ok(Some(Generation { number: number.saturating_add(1).max(now), ring }))
    }

    /// Whether the next key came in time.
    fn check_rotation(&mut self, now: UnixSeconds) {
        let Some(in_force) = &self.in_force else { return };
        self.state.generation = in_force.number;
        self.state.end = rotation::end(&in_force.ring, now);
        let due = self.schedule.due(&in_force.ring, now);
        if due.is_some_and(|due| now < due.saturating_add(self.schedule.lead)) {
            self.alarms.clear(Alarm::Rotation);
            return;
        }
        let end = rfc3339(self.state.end);
        let text = if now < self.state.end {
            format!(
                "no new ticket key came in time; the last one ends at {end}, and from then on every \
                 handshake is a full one"
            )
        } else {
            format!("the last ticket key ended at {end}, and every handshake is a full one")
        };
        self.alarms.raise(Alarm::Rotation, instant(), &text);
    }

    /// How long the keys in force last, for a line of the log.
    fn reach(&self) -> String {
        match &self.in_force {
            Some(in_force) => format!(" until {}", rfc3339(rotation::end(&in_force.ring, unix()))),
            None => ": there are none yet".to_owned(),
        }
    }

    /// How the agent stands, in a line.
    fn status(&self) -> String {
        match (&self.in_force, self.alarms.first()) {
            (None, None) => "waits for ticket keys from etcd".to_owned(),
            (None, Some(text)) => format!("has no ticket keys: {text}"),
            (Some(_), Some(text)) => text.to_owned(),
            (Some(in_force), None) => {
                let role = if self.state.is_leader { "leads" } else { "follows" };
                let end = rfc3339(self.state.end);
                format!("{role}: ticket keys of generation {} in force until {end}", in_force.number)
            }
        }
    }

    fn report(&mut self) {
        let Some(path) = &self.metrics_file else { return };
        match alarm::write(path, &self.state, &self.alarms) {
            Ok(()) => self.alarms.clear(Alarm::Metrics),
            Err(error) => {
                let text = format!("{}: cannot be written: {error}", path.display());
                self.alarms.raise(Alarm::Metrics, instant(), &text);
            }
        }
    }
}

/// The keys with what each is for.
fn names(ring: &KeyRing, now: UnixSeconds) -> String {
    let name = |(key, purpose): (&offramp_core::tls::ticket_keys::TicketKey, Use)| match purpose {
        Use::Waits => format!("{} seals from {}", key.id(), key.span().0),
        purpose => format!("{} {purpose}", key.id()),
    };
    ring.uses(now).map(name).collect::<Vec<_>>().join(", ")
}
