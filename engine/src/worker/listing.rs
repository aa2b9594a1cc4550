//! The answers to inquiries. A worker answers one per turn. One that lists looks at 256 slots at most and
//! says where to go on, so that bytes wait no longer for it than for a turn of receives.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::Worker;
use super::connection_log::path_name;
use super::inquiry::{ConnectionFilter, ConnectionInfo, ConnectionName, Inquiry, InquiryAnswer, InquiryTask};
use super::owner::SlotId;
use super::slots::Slot;
use crate::conn::event::{Event, Leg};
use crate::conn::fault::Fault;
use crate::sys::socket;
use crate::tls::TlsInfo;

/// Slots that a worker looks at in one turn.
const SLOTS_PER_INQUIRY: u32 = 256;

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
