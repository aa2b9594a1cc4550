//! The thread that looks after the endpoints of all pools: it decides once a [`TICK`] which are up, and
//! probes them in between.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::Instant;

use super::StartError;
use super::crew::{Report, vital};
use super::pools::now;
use super::probe::{Outcome, Probes};
use super::services::Services;
use crate::config::limits::TICK;

/// Starts it. `services` get new endpoints when a host name is elsewhere. It ends when what it gives back is
/// dropped; nobody waits for it.
pub(super) fn start(services: Services, reports: Sender<Report>) -> Result<Sender<()>, StartError> {
    // Nothing is sent: it is a wait that ends when the other end is dropped.
    let (alive, ended) = channel::<()>();
    let pools = services.lock().pools();
    let (mut is_elsewhere, mut probes) = (false, Probes::default());
    vital("pools", reports, move || {
        let mut outcomes = Vec::new();
        while look(&mut probes, now() + TICK, &ended, &mut outcomes) {
            let round = pools.lock().round(now(), std::mem::take(&mut outcomes));
            is_elsewhere |= round.is_elsewhere;
            outcomes.extend(round.jobs.into_iter().filter_map(|job| probes.begin(job, now())));
            // A reload may be waiting for a file; the next round will do.
            if is_elsewhere && services.try_with(|in_force| in_force.reroute()) {
                is_elsewhere = false;
            }
        }
        Ok(())
    })?;
    Ok(alive)
}

/// Looks after the probes until the next round. Whether there is one.
fn look(probes: &mut Probes, next: Instant, ended: &Receiver<()>, outcomes: &mut Vec<Outcome>) -> bool {
    loop {
        let left = next.saturating_duration_since(now());
        if probes.is_empty() {
            return ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout);
        }
        outcomes.extend(probes.wait(left, now));
        if ended.try_recv() == Err(TryRecvError::Disconnected) {
            return false;
        }
        if left.is_zero() {
            return true;
        }
    }
}
