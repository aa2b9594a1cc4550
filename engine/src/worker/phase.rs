//! How far a connection has come, and since when, for the histograms. All times are those of the worker's
//! clock, which is read once per turn and between handshakes.

use std::time::{Duration, Instant};

use crate::conn::event::Leg;

/// Where a connection stands in its course.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase {
    accepted: Instant,
    since: Instant,
    awaits: Awaits,
}

/// What it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    /// The first bytes of the client.
    Hello,
    /// The end of the handshake with the client, or with the endpoint.
    Handshake(Leg),
    /// An endpoint.
    Connect,
    /// The first byte of the endpoint, once both legs are ready.
    FirstByte,
    /// Nothing that is measured.
    Nothing,
}

impl Phase {
    /// It was accepted.
    pub(super) fn begin(now: Instant) -> Self {
        Self { accepted: now, since: now, awaits: Awaits::Hello }
    }

    /// Bytes of a handshake came from the client: how long it took to the first ones, if these are they.
    pub(super) fn hello(&mut self, now: Instant) -> Option<Duration> {
        self.pass(Awaits::Hello, Awaits::Handshake(Leg::Near), now)
    }

    /// The handshake of a leg is complete: how long it took.
    pub(super) fn secured(&mut self, leg: Leg, now: Instant) -> Option<Duration> {
        let next = if leg == Leg::Near { Awaits::Nothing } else { Awaits::FirstByte };
        self.pass(Awaits::Handshake(leg), next, now)
    }

    /// An endpoint is being connected.
    pub(super) fn connecting(&mut self, now: Instant) {
        (self.since, self.awaits) = (now, Awaits::Connect);
    }

    /// It is connected, and secured next if it has TLS: how long that took.
    pub(super) fn connected(&mut self, has_tls: bool, now: Instant) -> Option<Duration> {
        let next = if has_tls { Awaits::Handshake(Leg::Far) } else { Awaits::FirstByte };
        self.pass(Awaits::Connect, next, now)
    }

    /// Bytes came from the endpoint: how long it took to the first ones, if these are they.
    pub(super) fn first_byte(&mut self, now: Instant) -> Option<Duration> {
        self.pass(Awaits::FirstByte, Awaits::Nothing, now)
    }

    /// How long it is since it was accepted.
    pub(super) fn lasted(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.accepted)
    }

    fn pass(&mut self, from: Awaits, to: Awaits, now: Instant) -> Option<Duration> {
        if self.awaits != from {
            return None;
        }
        let took = now.saturating_duration_since(self.since);
        (self.since, self.awaits) = (now, to);
        Some(took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn phase_measures_each_part_once() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let took = |seconds| Some(Duration::from_secs(seconds));
        let mut phase = Phase::begin(begin);
        assert_eq!((phase.hello(at(1)), phase.hello(at(2))), (took(1), None));
        assert_eq!(phase.secured(Leg::Near, at(3)), took(2));
        phase.connecting(at(3));
        assert_eq!(phase.first_byte(at(4)), None);
        phase.connecting(at(5));
        assert_eq!(phase.connected(true, at(7)), took(2), "of the second endpoint");
        assert_eq!((phase.secured(Leg::Near, at(8)), phase.secured(Leg::Far, at(8))), (None, took(1)));
        assert_eq!((phase.first_byte(at(12)), phase.first_byte(at(13))), (took(4), None));
        assert_eq!(phase.lasted(at(13)), Duration::from_secs(13));
    }
}
