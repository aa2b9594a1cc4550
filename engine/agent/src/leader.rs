//! Who leads: the agent whose lease holds the leader's key.
//!
//! Only the leader changes the ring. It believes in its lease no longer than the lease lives, counted by its own
//! monotonic clock from before the question that renewed it; and each of its transactions has the condition that the
//! leader's key is still the one that it created. So an agent that was stopped for a while, or that is cut off from
//! etcd, changes nothing.

use std::time::{Duration, Instant};

use crate::clock::instant;
use crate::etcd::{Entry, Etcd, EtcdError, If};

/// A lease of this agent.
struct Lease {
    id: i64,
    /// It may have ended from here on.
    deadline: Instant,
}

/// This agent as a candidate.
pub(crate) struct Candidate {
    /// Of the leader, in etcd.
    key: String,
    /// Of this agent: the value of that key.
    name: String,
    seconds: u64,
    lease: Option<Lease>,
    /// Who leads, as it was logged.
    known: Option<String>,
}

/// The right to change the ring, for as long as the lease lives.
#[derive(Clone, Copy)]
pub(crate) struct Leadership {
    /// The revision by which the leader's key was created.
    pub(crate) created: i64,
    deadline: Instant,
}

impl Leadership {
    pub(crate) fn is_over(&self) -> bool {
        instant() >= self.deadline
    }
}

impl Candidate {
    pub(crate) fn new(key: String, name: String, lease: Duration) -> Self {
        Self { key, name, seconds: lease.as_secs(), lease: None, known: None }
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Keeps the lease alive, if there is one.
    pub(crate) fn keep(&mut self, etcd: &mut Etcd) -> Result<(), EtcdError> {
        let Some(Lease { id, .. }) = self.lease else { return Ok(()) };
        let asked = instant();
        if etcd.keep_alive(id)? {
            self.lease = Some(Lease { id, deadline: asked + Duration::from_secs(self.seconds) });
        } else {
            self.lease = None;
        }
        Ok(())
    }

    /// Whether this agent leads, by the leader's key as it was just read.
    pub(crate) fn leads(&mut self, leader: Option<&Entry>) -> Option<Leadership> {
        let lease = self.lease.as_ref();
        let leadership = leader.zip(lease).and_then(|(leader, lease)| {
            let is_ours = leader.lease == lease.id && instant() < lease.deadline;
            is_ours.then_some(Leadership { created: leader.created, deadline: lease.deadline })
        });
        let name = leader.map(|leader| crate::etcd::printable(&String::from_utf8_lossy(&leader.value)));
        if name != self.known {
            match &name {
                Some(_) if leadership.is_some() => tracing::info!("this agent leads, and rotates the keys"),
                Some(name) => tracing::info!("the leader is {name}"),
                None => tracing::info!("there is no leader"),
            }
            self.known = name;
        }
        leadership
    }

    /// Becomes the leader, if there is none. The next reading shows who it is.
    pub(crate) fn stand(&mut self, etcd: &mut Etcd) -> Result<(), EtcdError> {
        let lease = match &self.lease {
            Some(lease) => lease.id,
            None => {
                let asked = instant();
                let id = etcd.grant(self.seconds)?;
                self.lease = Some(Lease { id, deadline: asked + Duration::from_secs(self.seconds) });
                id
            }
        };
        let is_elected = etcd.put_if(&[If::Absent(&self.key)], &self.key, self.name.as_bytes(), lease)?;
        if !is_elected {
            self.resign(etcd);
        }
        Ok(())
    }

    /// Gives up the lease, and with it the leader's key: another agent need not wait until it ends.
    pub(crate) fn resign(&mut self, etcd: &mut Etcd) {
        let Some(lease) = self.lease.take() else { return };
        if let Err(error) = etcd.revoke(lease.id) {
            tracing::debug!(%error, "the lease ends by its time");
        }
    }
}
