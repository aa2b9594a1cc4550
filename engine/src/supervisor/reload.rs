//! What of the configuration can change while the engine runs: certificates, peers, tickets, and when the
//! kernel is given the records.

use super::watch::{self, Seen};
use super::{Carriers, Control, StartError, ticket_clock};
use crate::config::{Config, ConfigError, Listener, OffloadPolicy};
use crate::sys::ktls::CipherSet;
use crate::sys::probe::{self, Ktls, Rekey};

/// What the kernel can do, found by trying, unless no listener wants to know.
pub(super) fn find(config: &Config) -> Ktls {
    if config.listeners.iter().all(|listener| listener.offload.policy == OffloadPolicy::Never) {
        let none = CipherSet::EMPTY;
        return Ktls { tx: none, rx: none, tx_reason: None, rx_reason: None, rekey: Rekey::Untried };
    }
    probe::ktls()
}

/// Puts in force what can be, and says what cannot. Where anything is wrong, all stays as it is.
pub(super) fn reload(running: &mut Config, read: Result<Config, ConfigError>, control: &Control) {
    ticket_clock::reread(&control.tickets);
    match read.map_err(|error| error.to_string()).and_then(|new| apply(running, new, control)) {
        Ok(done) => tracing::info!("SIGHUP: {done}"),
        Err(why) => tracing::error!("SIGHUP: {why}; the configuration in force stays"),
    }
}

fn apply(running: &mut Config, new: Config, control: &Control) -> Result<String, String> {
    let there_now = running.listeners.len();
    if new.listeners.len() != there_now {
        return Err(format!("there are {there_now} listeners: to have {} restart", new.listeners.len()));
    }
    let mode = |listener: &Listener| listener.mode.name();
    if running.listeners.iter().map(mode).ne(new.listeners.iter().map(mode)) {
        return Err("a listener cannot change its mode: restart".to_owned());
    }
    let found = find(&new);
    let chosen: Result<Vec<Carriers>, StartError> =
        new.listeners.iter().map(|listener| Carriers::choose(&listener.offload, &found)).collect();
    let chosen = chosen.map_err(|error| error.to_string())?;
    let mut in_force = control.watched.lock();
    let seen = Seen::of(&new.listeners);
    let terms = watch::load(&new.listeners, control).map_err(|error| error.to_string())?;
    warn(&new.collisions());
    in_force.replace(new.listeners.clone(), seen);
    in_force.warn(&terms);
    control.offers.replace(chosen.iter().map(Carriers::offer).collect(), terms);
    watch::warn_of_exposed_keys(&new.listeners);
    for (old, new) in running.listeners.iter_mut().zip(&new.listeners) {
        let record_limit = old.offload.record_limit;
        let Listener { listen, backend, truncation, keepalive, .. } = old.clone();
        *old = Listener { listen, backend, truncation, keepalive, ..new.clone() };
        old.offload.record_limit = record_limit;
    }
    let texts: Vec<String> = chosen.iter().map(ToString::to_string).collect();
    let rest = if *running == new {
        ""
    } else {
        "; what else has changed needs a restart: addresses, keepalive, workers, pin_workers, timeouts, \
         record_limit, truncation, max_connections, the path of ticket_keys, session_lifetime"
    };
    Ok(format!("certificates, peers, tickets and offload in force; {}{rest}", texts.join("; ")))
}

/// What does not keep the configuration from being put in force.
pub(super) fn warn(lines: &[String]) {
    lines.iter().for_each(|line| tracing::warn!("{line}"));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use std::sync::Arc;

    use super::*;
    use crate::config::{Key, Raw};
    use crate::tls::Tickets;
    use crate::worker::Offers;

    /// With a certificate of its own, in `dir`.
    fn config(dir: &Path, offload: &str, tickets: &str, workers: &str) -> Config {
        let (certificate, key) = (dir.join("c.pem"), dir.join("k.pem"));
        if !key.exists() {
            let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
            std::fs::write(&certificate, pair.cert.pem()).unwrap();
            std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
        }
        let mut raw = Raw::default();
        for (name, value) in [
            (Key::Listen, "127.0.0.1:0"),
            (Key::Backend, "127.0.0.1:1"),
            (Key::Workers, workers),
            (Key::Offload, offload),
            (Key::Tickets, tickets),
        ] {
            raw.give_flag(name, Some(value.to_owned()));
        }
        raw.give_identities(&[certificate], &[key]).unwrap();
        raw.check().unwrap()
    }

    fn control() -> Control {
        let tickets = Arc::new(Tickets::generate(1, 0).unwrap());
        Control::new(0, Arc::new(Offers::new(Vec::new(), Vec::new())), tickets).unwrap()
    }

    #[test]
    fn what_can_change_does_and_what_cannot_is_said() {
        let (control, dir) = (control(), tempfile::tempdir().unwrap());
        let config = |offload, tickets, workers| config(dir.path(), offload, tickets, workers);
        let mut running = config("never", "on", "1");
        let done = apply(&mut running, config("auto", "off", "1"), &control).unwrap();
        assert!(done.contains("records tx: ") && !done.contains("restart"), "{done}");
        assert_eq!(running, config("auto", "off", "1"));
        let done = apply(&mut running, config("never", "off", "2"), &control).unwrap();
        assert!(done.contains("offload = never") && done.contains("needs a restart"), "{done}");
        assert_eq!(running, config("never", "off", "1"), "what is not in force is not remembered");
    }

    #[test]
    fn a_certificate_that_is_not_there_changes_nothing() {
        let (control, dir) = (control(), tempfile::tempdir().unwrap());
        let mut running = config(dir.path(), "never", "on", "1");
        let mut new = config(dir.path(), "auto", "on", "1");
        new.listeners[0].identities[0].certificate = dir.path().join("gone.pem");
        let why = apply(&mut running, new, &control).unwrap_err();
        assert!(why.contains("gone.pem: cannot be read"), "{why}");
        assert_eq!(running, config(dir.path(), "never", "on", "1"));
    }

    #[test]
    fn listeners_do_not_come_and_go() {
        let (control, dir) = (control(), tempfile::tempdir().unwrap());
        let mut running = config(dir.path(), "never", "on", "1");
        let mut two = running.clone();
        two.listeners.push(two.listeners[0].clone());
        let why = apply(&mut running, two, &control).unwrap_err();
        assert_eq!(why, "there are 1 listeners: to have 2 restart");
    }
}
