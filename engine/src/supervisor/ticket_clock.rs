//! The ticket keys and the time: made at the start, told the time each second, read again when their file has
//! changed.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::StartError;
use crate::config::Config;
use crate::tls::ticket_keys::{UnixSeconds, Use};
use crate::tls::{NextKeys, Tickets};
use offramp_files::Stamp;

/// The keys of the file that the configuration names, or keys of this process alone: those that the process
/// before it has `given`, if there are some.
pub(super) fn tickets(config: &Config, given: Option<&str>) -> Result<Arc<Tickets>, StartError> {
    let lifetime = config.session_lifetime.as_secs();
    let tickets = match (&config.ticket_keys, given) {
        (Some(file), _) => Tickets::from_file(file, lifetime, now())?,
        (None, Some(keys)) => Tickets::from_shared(keys, lifetime, now())?,
        (None, None) => Tickets::generate(lifetime, now())?,
    };
    Ok(Arc::new(tickets))
}

/// The keys that a configuration asks for and that are not in force; none if they are.
pub(super) fn next_keys(tickets: &Tickets, config: &Config) -> Result<Option<NextKeys>, StartError> {
    match &config.ticket_keys {
        file if *file == tickets.file() => Ok(None),
        Some(file) => Ok(Some(NextKeys::read(file)?)),
        None => Ok(Some(NextKeys::generate(now())?)),
    }
}

/// Puts in force what the configuration says of sessions.
pub(super) fn change(tickets: &Tickets, keys: Option<NextKeys>, session_lifetime: Duration) {
    tickets.set_session_lifetime(session_lifetime.as_secs());
    let Some(keys) = keys else { return };
    tickets.replace(keys);
    match tickets.file() {
        Some(file) => tell(tickets, &file),
        None => tracing::info!("ticket keys: those of this process alone"),
    }
}

/// The wall clock, by which hosts that share keys agree.
#[expect(clippy::disallowed_methods, reason = "the control plane owns the wall clock")]
pub(super) fn now() -> UnixSeconds {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Looks at the clock and at the file.
pub(super) struct TicketClock {
    tickets: Arc<Tickets>,
    seen: Option<Stamp>,
    sealing: Option<String>,
}

impl TicketClock {
    pub(super) fn new(tickets: Arc<Tickets>) -> Self {
        let seen = stamp(&tickets);
        if let Some(file) = tickets.file() {
            tell(&tickets, &file);
        }
        let sealing = sealing(&tickets);
        Self { tickets, seen, sealing }
    }

    pub(super) fn tick(&mut self) {
        self.tick_at(now());
    }

    fn tick_at(&mut self, now: UnixSeconds) {
        if let Err(error) = self.tickets.tick(now) {
            tracing::error!(%error, "the ticket keys were not changed");
        }
        let stamp = stamp(&self.tickets);
        // A file that is gone for a moment is being replaced.
        if stamp.is_some() && stamp != self.seen {
            self.seen = stamp;
            reread(&self.tickets);
        }
        let sealing = sealing(&self.tickets);
        if sealing != self.sealing {
            match &sealing {
                Some(id) => tracing::info!("ticket key {id} seals from now on"),
                None => tracing::warn!("{NONE_SEALS}"),
            }
            self.sealing = sealing;
        }
    }
}

const NONE_SEALS: &str = "no ticket key seals: every handshake will be a full one; try: offramp ticket-key \
                          rotate FILE --start-in 0s";

/// Reads the keys again and says what came of it; with a mistake in the file, those in force stay.
pub(super) fn reread(tickets: &Tickets) {
    let Some(file) = tickets.file() else { return };
    match tickets.reread() {
        Ok(()) => tell(tickets, &file),
        Err(error) => tracing::error!("ticket keys: {error}; the keys in force stay"),
    }
}

/// Names the keys and what each is for, and warns where none seals or none will for a time.
fn tell(tickets: &Tickets, file: &Path) {
    tracing::info!("ticket keys read from {}: {}", file.display(), names(tickets));
    if sealing(tickets).is_none() {
        tracing::warn!("{}: {NONE_SEALS}", file.display());
    } else if let Some((begin, end)) = tickets.gap() {
        tracing::warn!("{}: no ticket key seals from {begin} until {end}", file.display());
    }
}

fn names(tickets: &Tickets) -> String {
    let names: Vec<_> = tickets.keys().iter().map(|key| format!("{} {}", key.id, key.purpose)).collect();
    names.join(", ")
}

fn sealing(tickets: &Tickets) -> Option<String> {
    tickets.keys().into_iter().find_map(|key| (key.purpose == Use::Seals).then_some(key.id))
}

fn stamp(tickets: &Tickets) -> Option<Stamp> {
    tickets.file().and_then(|file| Stamp::of(&file))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::tls::ticket_keys::KeyRing;

    const NOW: UnixSeconds = 1_790_000_000;

    #[test]
    fn ticket_file_is_reread_after_a_mode_change_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ticket.keys");
        let first = KeyRing::generate(NOW).unwrap();
        first.create(&file).unwrap();
        let tickets = Arc::new(Tickets::from_file(&file, 3600, NOW).unwrap());
        let mut clock = TicketClock::new(Arc::clone(&tickets));
        let before = tickets.keys();
        std::fs::remove_file(&file).unwrap();
        KeyRing::generate(NOW).unwrap().create(&file).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        clock.tick_at(NOW);
        assert_eq!(tickets.keys(), before, "the keys in force stay");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        clock.tick_at(NOW);
        assert_ne!(tickets.keys(), before);
        assert_eq!(names(&tickets), format!("{} seals", tickets.keys()[0].id));
    }
}
