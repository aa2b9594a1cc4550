//! The services of a worker, and the commands of the control plane that change them.

use std::sync::Arc;
use std::time::Instant;

use super::Worker;
use super::faults::Circumstances;
use super::listener::Listener;
use super::mailbox::{Command, Lent, Service, ServiceId};
use super::owner::SlotId;
use super::route::Route;
use crate::conn::action::Evidence;
use crate::conn::event::Event;
use crate::conn::policy::Policy;
use crate::metrics::ListenerCounters;

/// A service as the worker runs it.
pub(super) struct Served {
    pub(super) listener: Listener,
    /// For the connections that are accepted from now on.
    pub(super) policy: Arc<Policy>,
    pub(super) route: Arc<Route>,
    /// It has as many connections as a listener may.
    pub(super) is_limited: bool,
    /// It may have no further connection, while others may.
    pub(super) is_held: bool,
    /// One of its handshakes has had its time, and ends for a newcomer.
    pub(super) has_evictable: bool,
    /// When to look for that again.
    pub(super) look_at: Instant,
}

impl Served {
    /// For the connections that are accepted from now on.
    fn update(&mut self, policy: Arc<Policy>, route: Arc<Route>) {
        let inherited = |route: &Route| (route.keepalive, route.tcp_user_timeout);
        if !route.listen.is_unix() && inherited(&route) != inherited(&self.route) {
            self.listener.set_inherited(route.keepalive, route.tcp_user_timeout);
        }
        (self.policy, self.route) = (policy, route);
    }

    /// When to look again at whether it may accept.
    pub(super) fn wakes_at(&self) -> impl Iterator<Item = Instant> + use<> {
        let look_at = Some(self.look_at).filter(|_| self.is_held && !self.listener.is_closed());
        look_at.into_iter().chain(self.listener.rests_until())
    }

    /// For the log.
    pub(super) fn circumstances_of_accept(&self, errno: i32, hint: &'static str) -> Circumstances {
        let evidence = Evidence { errno: Some(errno), ..Evidence::default() };
        let listener = Some(self.route.listen.clone());
        Circumstances { listener, evidence, hint: Some(hint), ..Circumstances::default() }
    }
}

impl Worker {
    /// Obeys all commands that wait.
    pub(super) fn obey(&mut self) {
        let mut has_been_asked = false;
        for command in self.mailbox.take() {
            match command {
                // One per turn: the next one waits for the next.
                Command::Ask(_) if has_been_asked => self.mailbox.post(command),
                Command::Ask(inquiry) => {
                    has_been_asked = true;
                    self.inquire(inquiry);
                }
                Command::Add(service) => self.add(service),
                Command::Update { id, policy, route } => {
                    self.count(&route.counters);
                    if let Some(served) = self.services.get_mut(&id) {
                        served.update(policy, route);
                    }
                }
                Command::Remove(id) => {
                    if let Some(served) = self.services.get_mut(&id) {
                        served.listener.close(&mut self.ring);
                    }
                    self.forget(id);
                }
                Command::Limits(limits) => {
                    self.limits = limits;
                    self.set_memory_ceiling();
                }
                Command::MaxConnections(most) => self.max_connections = most,
                Command::Offload(allowed) => self.may_offload = allowed,
                Command::Lend(sender) => {
                    let duplicate = |(id, served): (&ServiceId, &Served)| {
                        served.listener.duplicate().map(|socket| socket.map(|socket| (*id, socket)))
                    };
                    let sockets = self.services.iter().filter_map(duplicate).collect();
                    // Who has asked may not wait any more.
                    drop(sender.send(Lent { worker: self.index, sockets }));
                }
                Command::Drain => self.drain(),
                Command::End => self.ending = true,
            }
        }
    }

    fn add(&mut self, Service { id, listener, is_shared, policy, route }: Service) {
        let mut listener = Listener::new(id, listener, is_shared);
        self.count(&route.counters);
        if self.draining {
            listener.close(&mut self.ring);
        } else {
            listener.accept(1, self.now, &mut self.ring);
        }
        self.services.insert(
            id,
            Served {
                listener,
                policy,
                route,
                is_limited: false,
                is_held: false,
                has_evictable: false,
                look_at: self.now,
            },
        );
    }

    /// Publishes these counters at the end of each turn.
    fn count(&mut self, counters: &Arc<ListenerCounters>) {
        if !self.counted.iter().any(|known| Arc::ptr_eq(known, counters)) {
            self.counted.push(Arc::clone(counters));
        }
    }

    /// Drops a service that was removed, once the accepts that it had started are over: what they have
    /// accepted is served.
    pub(super) fn forget(&mut self, id: ServiceId) {
        if self.services.get(&id).is_some_and(|served| served.listener.is_over()) {
            self.services.remove(&id);
        }
    }

    /// Whether every listener is closed, and what was accepted was taken in: another process may accept on
    /// the same sockets, so that no client is turned away.
    pub(super) fn accepts_nobody(&self) -> bool {
        self.services.values().all(|served| served.listener.is_over())
    }

    fn drain(&mut self) {
        if self.draining {
            return;
        }
        self.draining = true;
        for served in self.services.values_mut() {
            served.listener.close(&mut self.ring);
        }
        self.slots.ids().into_iter().for_each(|id| self.drain_one(id));
    }

    /// The connection has the time of a drain from now on.
    pub(super) fn drain_one(&mut self, id: SlotId) {
        let Some(slot) = self.slots.get(id) else { return };
        let until = self.now + slot.conn.policy().timeouts.drain;
        self.step(id, Event::Drain { until });
    }
}
