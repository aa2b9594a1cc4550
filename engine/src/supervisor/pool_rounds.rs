//! The thread that looks after the endpoints of all pools, once a [`TICK`].

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};

use super::StartError;
use super::crew::{Report, vital};
use super::pools;
use super::services::Services;
use crate::config::limits::TICK;

/// Starts it. `services` get new endpoints when a host name is elsewhere. It ends when what it gives back is
/// dropped.
pub(super) fn start(services: Services, reports: Sender<Report>) -> Result<Sender<()>, StartError> {
    // Nothing is sent: it is a wait that ends when the other end is dropped.
    let (alive, ended) = channel::<()>();
    let pools = services.lock().pools();
    let mut is_elsewhere = false;
    vital("pools", reports, move || {
        while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            is_elsewhere |= pools.lock().round(pools::now());
            // A reload may be waiting for a file; the next round will do.
            if is_elsewhere && services.try_with(|in_force| in_force.reroute()) {
                is_elsewhere = false;
            }
        }
        Ok(())
    })?;
    Ok(alive)
}
