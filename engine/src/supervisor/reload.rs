//! What of the configuration can change while the engine runs: listeners, but for what their sockets were
//! given (`keepalive`, `tcp_user_timeout`, `socket_mode`, `socket_owner`), pools, limits and timeouts.

use super::{Control, ticket_clock, watch};
use crate::config::{Config, ConfigError, ConfigOption, OffloadPolicy};
use crate::sys::probe::{self, Ktls, Rekey};
use offramp_proto::CipherSet;

/// What the kernel can do, found by trying, unless no listener wants to know.
pub(super) fn find(config: &Config) -> Ktls {
    if config.listeners.iter().all(|listener| listener.offload.policy == OffloadPolicy::Never) {
        let none = CipherSet::NONE;
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
    let mut in_force = control.services.lock();
    in_force.apply(&new, &find(&new)).map_err(|error| error.to_string())?;
    warn(&new.collisions());
    watch::warn_of_exposed_keys(in_force.listeners());
    running.listeners = in_force.listeners().cloned().collect();
    running.timeouts = new.timeouts;
    let services = in_force.running();
    let texts: Vec<String> = services.iter().map(|it| format!("{}: {}", it.listen, it.records)).collect();
    let waiting: Vec<&str> = needs_restart(running, &new).map(ConfigOption::name).collect();
    let rest = if waiting.is_empty() {
        String::new()
    } else {
        format!("; not in force until a restart: {}", waiting.join(", "))
    };
    Ok(format!("listeners, pools, limits and timeouts in force; {}{rest}", texts.join("; ")))
}

/// What of `new` differs from what runs, and cannot change while it runs.
fn needs_restart(running: &Config, new: &Config) -> impl Iterator<Item = ConfigOption> {
    let user_timeout =
        |config: &Config| config.listeners.iter().map(|it| it.tcp_user_timeout).collect::<Vec<_>>();
    let keepalive = |config: &Config| config.listeners.iter().map(|it| it.keepalive).collect::<Vec<_>>();
    let mode = |config: &Config| config.listeners.iter().map(|it| it.socket_access.mode).collect::<Vec<_>>();
    let owner = |config: &Config| {
        let owners = config.listeners.iter().map(|it| (it.socket_access.user, it.socket_access.group));
        owners.collect::<Vec<_>>()
    };
    let differs = [
        (ConfigOption::Keepalive, keepalive(running) != keepalive(new)),
        (ConfigOption::TcpUserTimeout, user_timeout(running) != user_timeout(new)),
        (ConfigOption::SocketMode, mode(running) != mode(new)),
        (ConfigOption::SocketOwner, owner(running) != owner(new)),
        (ConfigOption::Workers, running.workers != new.workers),
        (ConfigOption::PinWorkers, running.pin_workers != new.pin_workers),
        (ConfigOption::Admin, running.admin != new.admin),
        (ConfigOption::MaxConnections, running.max_connections != new.max_connections),
        (ConfigOption::TicketKeys, running.ticket_keys != new.ticket_keys),
        (ConfigOption::SessionLifetime, running.session_lifetime != new.session_lifetime),
    ];
    differs.into_iter().filter_map(|(option, differs)| differs.then_some(option))
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
    use crate::config::{ConfigOption, Listener, Mode, Raw};
    use crate::sys::socket::Address;
    use crate::tls::Tickets;
    use crate::worker::Command;

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
            (ConfigOption::Listen, "127.0.0.1:0"),
            (ConfigOption::Backend, "127.0.0.1:1"),
            (ConfigOption::Workers, workers),
            (ConfigOption::Offload, offload),
            (ConfigOption::Tickets, tickets),
        ] {
            raw.give_flag(name, value.to_owned());
        }
        raw.give_identities(&[certificate], &[key]).unwrap();
        raw.check().unwrap()
    }

    fn control() -> Control {
        let tickets = Arc::new(Tickets::generate(1, 0).unwrap());
        Control::new(1, tickets).unwrap()
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
        assert!(done.contains("offload = never") && done.contains("until a restart: "), "{done}");
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
    fn listeners_come_and_go_and_one_that_stays_keeps_its_socket() {
        let (control, dir) = (control(), tempfile::tempdir().unwrap());
        let mut running = config(dir.path(), "never", "on", "1");
        let posted = || -> Vec<Command> { control.mailboxes[0].take().into() };
        apply(&mut running.clone(), running.clone(), &control).unwrap();
        let [Command::Add(first)] = &*posted() else { panic!("one was added") };
        let mut two = running.clone();
        two.listeners
            .push(Listener { listen: Address::Tcp("[::1]:0".parse().unwrap()), ..two.listeners[0].clone() });
        apply(&mut running, two.clone(), &control).unwrap();
        let [Command::Update { id, .. }, Command::Add(second)] = &*posted() else { panic!("one stays") };
        assert!(*id == first.id && second.id != first.id && second.route.listen.tcp().unwrap().is_ipv6());
        assert_eq!(running, two);
        let other = Listener { mode: Mode::Plain, ..two.listeners.remove(1) };
        two.listeners[0] = other;
        apply(&mut running, two.clone(), &control).unwrap();
        let [Command::Remove(gone), Command::Update { id, policy, .. }] = &*posted() else {
            panic!("one goes, the other changes its mode")
        };
        assert!(*gone == first.id && *id == second.id && policy.near.tls().is_none());
        let taken = second.route.listen.clone();
        let mut third = two.clone();
        third.listeners[0].listen = taken;
        let why = apply(&mut running, third, &control).unwrap_err();
        assert!(why.contains("is in use") && posted().is_empty(), "{why}");
        assert_eq!(running, two, "what was in force stays");
    }
}
