//! What admin asks a worker of its connections.
//!
//! A worker answers one inquiry per turn. One that lists looks at 256 slots at most and says where to go on, so
//! that bytes wait no longer for it than for a turn of receives. No lock is taken on the data path: an inquiry
//! comes by the mailbox, and who has asked awaits an event.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::Worker;
use super::connection_log::path_name;
use super::owner::SlotId;
use super::slots::Slot;
use crate::conn::event::{Event, Leg};
use crate::conn::fault::Fault;
use crate::reply::Reply;
use crate::sys::socket::{self, Address};
use crate::tls::TlsInfo;

/// Slots that a worker looks at in one turn.
const SLOTS_PER_INQUIRY: u32 = 256;

/// What is asked, and where the answer goes.
#[derive(Debug)]
pub struct Inquiry {
    /// What is asked.
    pub task: InquiryTask,
    /// Where the answer goes.
    pub reply: Reply<InquiryAnswer>,
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum InquiryTask {
    /// The connections in the slots from this one on.
    List {
        /// The first slot.
        from: u32,
        /// How many at most.
        most: usize,
        /// Which.
        filter: Arc<ConnectionFilter>,
    },
    /// To end a connection.
    End(ConnectionName),
}

/// The answer.
#[derive(Debug)]
pub enum InquiryAnswer {
    /// Connections by slot, and the slot to go on with, if there are more.
    Listed(Vec<ConnectionInfo>, Option<u32>),
    /// Whether the connection was there.
    Ended(bool),
}

/// Which connections. What is not given admits all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    /// Accepted there.
    pub listener: Option<Address>,
    /// Routed to the pool of this name.
    pub pool: Option<String>,
    /// From a client in this network.
    pub source: Option<IpNet>,
    /// In this stage ([`Conn::stage`](crate::conn::Conn::stage)).
    pub stage: Option<String>,
}

/// Names a connection as long as it is open; no later one has the same name, unless 2^32 were there since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionName {
    /// The index of its worker.
    pub worker: usize,
    /// Its slot there.
    pub slot: u32,
    /// Tells this tenant of the slot from others.
    pub serial: u32,
}

impl fmt::Display for ConnectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.worker, self.slot, self.serial)
    }
}

impl FromStr for ConnectionName {
    type Err = NoName;

    fn from_str(text: &str) -> Result<Self, NoName> {
        let mut parts = text.split('-');
        let mut next = || parts.next().filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
        let name = (|| {
            let worker = next()?.parse().ok()?;
            Some(Self { worker, slot: next()?.parse().ok()?, serial: next()?.parse().ok()? })
        })();
        name.filter(|_| parts.next().is_none()).ok_or(NoName)
    }
}

/// The text is not the name of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the id of a connection is three numbers, WORKER-SLOT-SERIAL, as GET /v1/connections shows it")]
pub struct NoName;

/// What is known of a connection. Some of it only of those that were accepted since admin shows them.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// Its name here.
    pub name: ConnectionName,
    /// Its name in the log and in PROXY headers.
    pub log_id: Option<String>,
    /// Where it was accepted.
    pub listener: Address,
    /// Who connected; none on a Unix socket.
    pub client: Option<SocketAddr>,
    /// The name that the client asks for.
    pub server_name: Option<String>,
    /// The handshakes of the near and the far leg, without certificates.
    pub tls: [Option<TlsInfo>; 2],
    /// Where it is routed to.
    pub pool: Option<Arc<str>>,
    /// The endpoint that was chosen last.
    pub endpoint: Option<Address>,
    /// By leg, who carries the records that are sent and received.
    pub paths: [[Option<&'static str>; 2]; 2],
    /// The part of its course in which it is.
    pub stage: &'static str,
    /// Since it was accepted.
    pub age: Option<Duration>,
    /// Bytes of plaintext that came from each leg.
    pub bytes: Option<[u64; 2]>,
}

impl Worker {
    /// Answers.
    pub(super) fn inquire(&mut self, Inquiry { task, reply }: Inquiry) {
        reply.send(match task {
            InquiryTask::List { from, most, filter } => self.list(from, most, &filter),
            InquiryTask::End(ConnectionName { slot: index, serial, .. }) => {
                let id = SlotId { index, serial };
                let is_there = self.slots.get(id).is_some();
                if is_there {
                    self.step(id, Event::TurnedAway(Fault::EndedByOperator));
                }
                InquiryAnswer::Ended(is_there)
            }
        });
    }

    fn list(&mut self, from: u32, most: usize, filter: &ConnectionFilter) -> InquiryAnswer {
        let end = from.saturating_add(SLOTS_PER_INQUIRY).min(self.slots.end());
        let mut found = Vec::new();
        for index in from..end {
            let Some((serial, slot)) = self.slots.at(index) else { continue };
            let name = ConnectionName { worker: self.index, slot: index, serial };
            let Some(info) = ConnectionInfo::of(name, slot, filter) else { continue };
            let accepted = slot.timeline().map(|timeline| timeline.accepted);
            let age = accepted.map(|accepted| self.now.saturating_duration_since(accepted));
            found.push(ConnectionInfo { age, ..info });
            if found.len() >= most {
                return InquiryAnswer::Listed(found, Some(index + 1));
            }
        }
        InquiryAnswer::Listed(found, (end < self.slots.end()).then_some(end))
    }
}

impl ConnectionInfo {
    /// Without its age; none if the filter does not admit it.
    fn of(name: ConnectionName, slot: &mut Slot, filter: &ConnectionFilter) -> Option<Self> {
        let stage = slot.conn.stage();
        let is_wanted = filter.listener.as_ref().is_none_or(|listener| *listener == slot.route.listen)
            && filter.stage.as_ref().is_none_or(|wanted| wanted == stage);
        if !is_wanted {
            return None;
        }
        let pool = slot.target.destination(&slot.route).map(|it| Arc::clone(&it.pool.name));
        if filter.pool.as_deref().is_some_and(|wanted| pool.as_deref() != Some(wanted)) {
            return None;
        }
        let client = client(slot);
        let is_in = |network: &IpNet| client.is_some_and(|client| network.contains(&client.ip()));
        if filter.source.as_ref().is_some_and(|network| !is_in(network)) {
            return None;
        }
        let about = slot.about.as_deref();
        let timeline = about.and_then(|about| about.timeline.as_deref());
        let without = |info: &TlsInfo| TlsInfo { certificate: None, ..info.clone() };
        Some(Self {
            name,
            log_id: about.map(|about| about.id.to_string()),
            listener: slot.route.listen.clone(),
            client,
            server_name: about.and_then(|about| about.server_name()).map(ToOwned::to_owned),
            tls: about.map_or([None, None], |about| {
                [&about.near, &about.far].map(|info| info.as_deref().map(without))
            }),
            pool,
            endpoint: slot.target.endpoint(&slot.route).map(|endpoint| endpoint.address.clone()),
            paths: timeline
                .map_or([[None; 2]; 2], |it| it.paths.map(|leg| leg.map(|path| path.map(path_name)))),
            stage,
            age: None,
            bytes: timeline.map(|timeline| timeline.bytes),
        })
    }
}

/// Who connected, as far as it is known.
fn client(slot: &mut Slot) -> Option<SocketAddr> {
    let known = slot.about.as_ref().and_then(|about| about.client).or(slot.client.as_deref().copied());
    let ask = || socket::peer_addr(slot.leg(Leg::Near).socket()?).ok();
    let canonical = |it: SocketAddr| SocketAddr::new(IpAddr::to_canonical(&it.ip()), it.port());
    known.or_else(ask).map(canonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_name_is_read_as_it_is_written() {
        let name = ConnectionName { worker: 3, slot: 17, serial: u32::MAX };
        assert_eq!(name.to_string().parse(), Ok(name));
        for text in ["", "1-2", "1-2-3-4", "-1-2-3", "1-2-+3", "1-2-4294967296", "a-b-c", "1--3"] {
            assert_eq!(text.parse::<ConnectionName>(), Err(NoName), "{text}");
        }
    }
}
