//! The ticket keys and the time: made at the start, told the time each second, read again when their file has
//! changed.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::StartError;
use crate::config::Config;
use crate::tls::Tickets;
use crate::tls::ticket_keys::UnixSeconds;

/// The keys of the file that the configuration names, or keys of this process alone.
pub(super) fn tickets(config: &Config) -> Result<Arc<Tickets>, StartError> {
    let lifetime = config.session_lifetime.as_secs();
    let tickets = match &config.ticket_keys {
        Some(file) => Tickets::from_file(file, lifetime, now())?,
        None => Tickets::generate(lifetime, now())?,
    };
    Ok(Arc::new(tickets))
}

/// The wall clock, by which hosts that share keys agree.
#[expect(clippy::disallowed_methods, reason = "the control plane owns the wall clock")]
fn now() -> UnixSeconds {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Looks at the clock and at the file.
pub(super) struct TicketClock {
    tickets: Arc<Tickets>,
    seen: Option<Stamp>,
}

/// By what a change of the file is seen.
type Stamp = (u64, i64, i64, u64);

impl TicketClock {
    pub(super) fn new(tickets: Arc<Tickets>) -> Self {
        let seen = stamp(&tickets);
        Self { tickets, seen }
    }

    pub(super) fn tick(&mut self) {
        if let Err(error) = self.tickets.tick(now()) {
            tracing::error!(%error, "the ticket keys were not changed");
        }
        let stamp = stamp(&self.tickets);
        // A file that is gone for a moment is being replaced.
        if stamp.is_some() && stamp != self.seen {
            self.seen = stamp;
            reread(&self.tickets);
        }
    }
}

/// Reads the keys again and says what came of it; with a mistake in the file, those in force stay.
pub(super) fn reread(tickets: &Tickets) {
    let Some(file) = tickets.file() else { return };
    match tickets.reread() {
        Ok(()) => tracing::info!("ticket keys read from {}", file.display()),
        Err(error) => tracing::error!("ticket keys: {error}; the keys in force stay"),
    }
}

fn stamp(tickets: &Tickets) -> Option<Stamp> {
    let metadata = std::fs::metadata(tickets.file()?).ok()?;
    Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.size()))
}
