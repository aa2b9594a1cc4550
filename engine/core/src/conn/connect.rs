//! The far leg: one endpoint of the route after the other, until one is open or the time is over. What goes
//! in front of everything else is sent here.

use std::time::{Duration, Instant};

use super::Next;
use super::action::{Action, Outbox};
use super::event::{Event, Leg, Operation};
use super::fault::Fault;

/// The part of `timeouts.connect` after which another endpoint is tried, if the route has one.
const ATTEMPTS: u32 = 4;

/// Waits for the far leg to open.
#[derive(Debug)]
pub(super) struct Connect {
    /// The end of `timeouts.connect`.
    until: Instant,
    /// How long an endpoint may take while others have not been tried.
    patience: Duration,
    /// When the next endpoint is tried in place of the attempt that is under way; none while the preamble
    /// is sent.
    next_at: Option<Instant>,
    /// Another endpoint was asked for while an attempt was under way.
    is_under_way: bool,
    /// The errno of the attempt that failed last.
    failed: Option<i32>,
}

impl Connect {
    /// Within `timeout`.
    pub(super) fn begin(now: Instant, timeout: Duration, out: &mut Outbox) -> Self {
        out.push(Action::Connect);
        let patience = timeout / ATTEMPTS;
        let next_at = Some(now + patience);
        Self { until: now + timeout, patience, next_at, is_under_way: false, failed: None }
    }

    /// When it wants `Event::Expired`.
    pub(super) fn deadline(&self) -> Instant {
        self.next_at.map_or(self.until, |at| at.min(self.until))
    }

    /// An attempt that fails, or takes long, is followed by one to the next endpoint. The failure of the last
    /// one is reported.
    pub(super) fn on(&mut self, event: Event, now: Instant, out: &mut Outbox) -> Next<()> {
        match event {
            Event::Connected { preamble: None } => return Next::Advance(()),
            Event::Connected { preamble: Some(buf) } => {
                self.next_at = None;
                out.push(Action::Send { leg: Leg::Far, buf });
            }
            Event::Sent { buf, .. } => {
                out.bufs.give(buf);
                return Next::Advance(());
            }
            Event::Failed { operation: Operation::Connect, errno, .. } => {
                (self.failed, self.is_under_way) = (Some(errno), false);
                self.next_at = Some(now + self.patience);
                out.push(Action::Connect);
            }
            Event::Failed { .. } => return Next::End(Fault::PlainPeerReset),
            // The attempt has the rest of the time.
            Event::NoEndpoint if self.is_under_way => self.next_at = Some(self.until),
            Event::NoEndpoint => {
                return Next::End(self.failed.map_or(Fault::NoEndpoint, Fault::of_connect));
            }
            Event::Expired if self.until <= now => return Next::End(Fault::ConnectTimeout),
            Event::Expired => {
                (self.is_under_way, self.next_at) = (true, Some(now + self.patience));
                out.push(Action::Connect);
            }
            Event::Drain { .. } => {}
            _ => return Next::End(Fault::Internal),
        }
        Next::Stay
    }
}
