//! When a ring gets its next key, and what that ring is: a function of the ring, the schedule and the time.

use offramp_core::tls::ticket_keys::{KEYS_MAX, KeyRefused, KeyRing, TicketKey, UnixSeconds, Use};

/// How keys follow each other, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// A key seals for so long.
    pub(crate) every: u64,
    /// It is published so long before it seals: the time that hosts have to read it.
    pub(crate) lead: u64,
    /// It opens for so long after the next one seals.
    pub(crate) opens: u64,
}

impl Schedule {
    /// Most keys that are in a ring at once.
    pub(crate) fn keys(&self) -> u64 {
        let life = self.every.saturating_add(self.opens).saturating_add(self.lead);
        life.div_ceil(self.every.max(1)).saturating_add(1)
    }

    pub(crate) fn fits(&self) -> bool {
        self.keys() <= KEYS_MAX as u64
    }

    fn key(&self, from: UnixSeconds) -> Result<TicketKey, KeyRefused> {
        let until = from.saturating_add(self.every).saturating_add(self.opens);
        Ok(TicketKey::generate(from, until)?)
    }

    /// A ring for a cluster that has none: its key seals at once, as no other can.
    pub(crate) fn first(&self, now: UnixSeconds) -> Result<KeyRing, KeyRefused> {
        KeyRing::default().with(self.key(now)?, now)
    }

    /// What follows `ring` now: with the next key if it is time to publish that, without keys that have
    /// expired; `None` if nothing changes.
    pub(crate) fn next(&self, ring: &KeyRing, now: UnixSeconds) -> Result<Option<KeyRing>, KeyRefused> {
        match self.next_from(ring, now) {
            Some(from) => ring.with(self.key(from)?, now).map(Some),
            None => Ok(ring.without_expired(now)),
        }
    }

    /// When the next key is to seal, if it is time to publish it.
    fn next_from(&self, ring: &KeyRing, now: UnixSeconds) -> Option<UnixSeconds> {
        let soon = now.saturating_add(self.lead);
        let live = || ring.uses(now).filter(|(_, purpose)| *purpose != Use::Expired);
        if !live().any(|(key, purpose)| purpose == Use::Seals || key.from() <= soon) {
            // Nobody seals: nothing is lost where a host learns of the key a moment later.
            return Some(now);
        }
        let newest = live().map(|(key, _)| key.from()).max()?;
        let due = newest.saturating_add(self.every);
        (due <= soon).then_some(soon.max(due))
    }

    /// When the next key is to seal; `None` for a ring without keys.
    pub(crate) fn due(&self, ring: &KeyRing, now: UnixSeconds) -> Option<UnixSeconds> {
        let newest = ring.uses(now).map(|(key, _)| key.from()).max()?;
        Some(newest.saturating_add(self.every))
    }
}

/// When the last key ends: from then on every handshake is a full one.
pub(crate) fn end(ring: &KeyRing, now: UnixSeconds) -> UnixSeconds {
    ring.uses(now).map(|(key, _)| key.until()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = 1_790_000_000;
    const SCHEDULE: Schedule = Schedule { every: 100, lead: 10, opens: 200 };

    fn spans(ring: &KeyRing) -> Vec<(u64, u64)> {
        ring.uses(NOW).map(|(key, _)| (key.from() - NOW, key.until() - NOW)).collect()
    }

    #[test]
    fn next_key_is_published_a_lead_before_it_seals() {
        let ring = SCHEDULE.first(NOW).unwrap();
        assert_eq!(spans(&ring), [(0, 300)]);
        assert!(SCHEDULE.next(&ring, NOW + 89).unwrap().is_none());
        let ring = SCHEDULE.next(&ring, NOW + 90).unwrap().unwrap();
        assert_eq!(spans(&ring), [(100, 400), (0, 300)]);
        assert!(SCHEDULE.next(&ring, NOW + 189).unwrap().is_none());
        // Late by fifty: the lead stays.
        let late = SCHEDULE.next(&ring, NOW + 240).unwrap().unwrap();
        assert_eq!(spans(&late), [(250, 550), (100, 400), (0, 300)]);
    }

    #[test]
    fn expired_keys_go_and_an_empty_ring_seals_at_once() {
        let ring = SCHEDULE.first(NOW).unwrap();
        let ring = SCHEDULE.next(&ring, NOW + 90).unwrap().unwrap();
        let ring = SCHEDULE.next(&ring, NOW + 190).unwrap().unwrap();
        let without = SCHEDULE.next(&ring, NOW + 290).unwrap().unwrap();
        assert_eq!(spans(&without)[1..], spans(&ring)[..], "one more, and none has expired");
        assert_eq!(spans(&SCHEDULE.next(&without, NOW + 300).unwrap().unwrap()), spans(&without)[..3]);
        let dead = SCHEDULE.next(&without, NOW + 5000).unwrap().unwrap();
        assert_eq!(spans(&dead), [(5000, 5300)]);
    }

    #[test]
    fn schedule_bounds_the_ring_and_keeps_a_sealing_key() {
        for schedule in [SCHEDULE, Schedule { every: 11, lead: 10, opens: 300 }] {
            assert!(schedule.fits());
            let mut ring = schedule.first(NOW).unwrap();
            for now in NOW..NOW + 3000 {
                ring = schedule.next(&ring, now).unwrap().unwrap_or(ring);
                let count = ring.uses(now).count() as u64;
                assert!(count <= schedule.keys(), "{count} of {}", schedule.keys());
                assert!(ring.uses(now).any(|(_, purpose)| purpose == Use::Seals), "{}", now - NOW);
                assert!(ring.uses(now).all(|(_, purpose)| purpose != Use::Expired));
            }
        }
        assert!(!Schedule { every: 10, lead: 5, opens: 400 }.fits());
    }
}
