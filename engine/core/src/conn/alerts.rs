//! The alerts of one event, for whoever counts them: by leg, direction and description.

use super::event::Leg;
use super::fault::alert::{PLACES, place};

/// Which way an alert went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertDirection {
    /// From us.
    Sent,
    /// From the peer.
    Received,
}

/// Alerts that were sent and received, and not yet taken.
#[derive(Debug, Default)]
pub struct Alerts {
    counts: [[[u32; PLACES]; 2]; 2],
    has_any: bool,
}

impl Alerts {
    pub(super) fn sent(&mut self, leg: Leg, description: u8) {
        self.add(leg, AlertDirection::Sent, description);
    }

    pub(super) fn received(&mut self, leg: Leg, description: u8) {
        self.add(leg, AlertDirection::Received, description);
    }

    fn add(&mut self, leg: Leg, direction: AlertDirection, description: u8) {
        self.counts[leg as usize][direction as usize][place(description)] += 1;
        self.has_any = true;
    }

    /// Takes them out: how many of each description, by its place in the table of descriptions.
    pub fn take(&mut self, mut each: impl FnMut(Leg, AlertDirection, usize, u32)) {
        if !std::mem::take(&mut self.has_any) {
            return;
        }
        for leg in Leg::BOTH {
            for direction in [AlertDirection::Sent, AlertDirection::Received] {
                for (place, count) in self.counts[leg as usize][direction as usize].iter_mut().enumerate() {
                    if *count > 0 {
                        each(leg, direction, place, std::mem::take(count));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::fault::alert;

    #[test]
    fn alerts_are_taken_once_with_their_counts() {
        let mut alerts = Alerts::default();
        alerts.sent(Leg::Near, alert::CLOSE_NOTIFY);
        alerts.received(Leg::Far, 200);
        alerts.received(Leg::Far, 201);
        let mut taken = Vec::new();
        let mut take = |alerts: &mut Alerts| {
            alerts.take(|leg, direction, place, count| {
                taken.push((leg, direction, alert::name_at(place), count));
            });
            std::mem::take(&mut taken)
        };
        let (sent, received) = (AlertDirection::Sent, AlertDirection::Received);
        assert_eq!(
            take(&mut alerts),
            [(Leg::Near, sent, "close_notify", 1), (Leg::Far, received, "unknown", 2)]
        );
        assert!(take(&mut alerts).is_empty());
    }
}
