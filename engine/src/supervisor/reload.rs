//! What of the configuration can change while the engine runs.

use std::sync::atomic::Ordering;

use super::admin_address::AdminAddresses;
use super::files::Ask;
use super::{Control, StartError, key_log, ticket_clock, watch};
use crate::admin::{ConfigTask, Refusal};
use crate::config::{Config, ConfigError, ConfigOption, Listener, Loaded, OffloadPolicy, SocketAccess};
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

/// Reads the configuration again: the file, or in its place a text that was sent, with the flags of the
/// command line.
pub type Reread = Box<dyn Fn(Option<&str>) -> Result<Loaded, ConfigError> + Send>;

/// Puts configurations in force.
pub(super) struct Reloader {
    /// As it is in force.
    running: Config,
    reread: Reread,
    control: Control,
    admin: AdminAddresses,
    /// What is in force, as it was read or sent.
    text: Option<String>,
}

impl Reloader {
    pub(super) fn new(
        running: Config,
        reread: Reread,
        control: Control,
        admin: AdminAddresses,
        text: Option<String>,
    ) -> Self {
        Self { running, reread, control, admin, text }
    }

    /// Puts in force what can be, and says what cannot. Where anything is wrong, all stays as it is.
    pub(super) fn obey(&mut self, ask: Ask) {
        match ask {
            Ask::Signal => drop(self.reload("SIGHUP", None)),
            Ask::Config(request) => {
                let said = match &request.task {
                    ConfigTask::Show => self.text.clone().ok_or(Refusal::FlagsAlone),
                    ConfigTask::Change(text) => self.reload(SENT, Some(text)).map_err(Refusal::Wrong),
                    // Another thread does that.
                    ConfigTask::Upgrade => Err(Refusal::Wrong("no upgrade here".to_owned())),
                };
                request.done(said);
            }
        }
    }

    fn reload(&mut self, why: &str, sent: Option<&str>) -> Result<String, String> {
        if self.control.is_stopping() {
            tracing::warn!("{why}: nothing is put in force while the connections drain");
            return Err("nothing is put in force while the connections drain".to_owned());
        }
        self.control.manager.reloading();
        ticket_clock::reread(&self.control.tickets);
        let loaded = (self.reread)(sent).map_err(|error| error.to_string());
        let outcome = loaded.and_then(|Loaded { config, text }| {
            let origins = config.origins.clone();
            let said = self.apply(config).map_err(|error| error.at(&origins).to_string())?;
            self.text = text;
            Ok(said)
        });
        self.control.services.lock().registry().reloaded(outcome.is_ok());
        match &outcome {
            Ok((said, _)) => {
                tracing::info!("{why}: {said}");
                self.control.manager.ready("serving; the last reload is in force");
            }
            Err(error) => {
                // What was sent is quoted in it, and makes no line of its own.
                let error = error.replace(char::is_control, " ");
                tracing::error!("{why}: {error}; the configuration in force stays");
                self.control.manager.ready(&format!("serving; the last reload failed: {error}"));
            }
        }
        outcome.map(|(said, warnings)| {
            std::iter::once(said)
                .chain(warnings.into_iter().map(|line| format!("warning: {line}")))
                .collect::<Vec<_>>()
                .join("\n")
        })
    }

    /// What is in force then, and what is to be warned of.
    fn apply(&mut self, new: Config) -> Result<(String, Vec<String>), StartError> {
        let control = self.control.clone();
        let mut in_force = control.services.lock();
        if control.upgrading.load(Ordering::Acquire) {
            return Err(StartError::Upgrading);
        }
        in_force.check_reach(&new)?;
        let keys = ticket_clock::next_keys(&control.tickets, &new)?;
        let next = in_force.prepare(&new, &find(&new));
        let prepared = next.and_then(|next| Ok((next, self.admin.prepare(&new.admin_addresses())?)));
        // The names of a configuration that is refused are not resolved any more.
        let (next, admin) = prepared.inspect_err(|_| in_force.forget_endpoints())?;
        // Nothing fails from here on.
        let warnings: Vec<String> = new.collisions().into_iter().chain(next.warning.clone()).collect();
        warn(&warnings);
        self.running.key_log.as_deref().into_iter().for_each(key_log::warn);
        ticket_clock::change(&control.tickets, keys, new.session_lifetime);
        in_force.commit(next);
        self.admin.commit(admin);
        watch::warn_of_exposed_keys(in_force.listeners());
        let services = in_force.running();
        let texts: Vec<String> = services.iter().map(|it| format!("{}: {}", it.listen, it.records)).collect();
        let waiting: Vec<&str> = needs_new_process(&self.running, &new).map(ConfigOption::name).collect();
        let rest = if waiting.is_empty() {
            String::new()
        } else {
            format!("; not in force until an upgrade or a restart: {}", waiting.join(", "))
        };
        let Config { workers, pin_workers, run_as, confine, .. } = self.running.clone();
        // As they run: what the socket of one that stays was given stays too.
        let listeners = in_force.listeners().cloned().collect();
        self.running = Config { workers, pin_workers, run_as, confine, listeners, ..new };
        let said = format!("listeners, pools, limits and timeouts in force; {}{rest}", texts.join("; "));
        Ok((said, warnings))
    }
}

/// How messages call a configuration that was sent.
pub const SENT: &str = "PUT /v1/config";

/// What of `new` differs from what runs, and cannot change while it runs: the threads, the user and what the
/// process has given up, and the files of Unix sockets.
fn needs_new_process(running: &Config, new: &Config) -> impl Iterator<Item = ConfigOption> {
    let staying = || {
        let before = |it: &Listener| running.listeners.iter().find(|before| before.listen == it.listen);
        new.listeners.iter().filter_map(move |it| Some((before(it)?.socket_access, it.socket_access)))
    };
    let owner = |access: SocketAccess| (access.user, access.group);
    let user = |config: &Config| config.run_as.as_ref().map(|user| user.uid);
    let group = |config: &Config| config.run_as.as_ref().map(|user| user.gid);
    let differs = [
        (ConfigOption::SocketMode, staying().any(|(before, it)| before.mode != it.mode)),
        (ConfigOption::SocketOwner, staying().any(|(before, it)| owner(before) != owner(it))),
        (ConfigOption::Workers, running.workers != new.workers),
        (ConfigOption::User, user(running) != user(new)),
        (ConfigOption::Group, group(running) != group(new)),
        (ConfigOption::Confine, running.confine != new.confine),
        (ConfigOption::PinWorkers, running.pin_workers != new.pin_workers),
    ];
    differs.into_iter().filter_map(|(option, differs)| differs.then_some(option))
}

/// What does not keep the configuration from being put in force.
pub(super) fn warn(lines: &[String]) {
    lines.iter().for_each(|line| tracing::warn!("{line}"));
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use super::super::pools::now;
    use super::*;
    use crate::config::{ConfigOption, Mode, Raw};
    use crate::sys::socket::Address;
    use crate::tls::Tickets;
    use crate::tls::ticket_keys::KeyRing;
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

    fn reloader(running: &Config) -> Reloader {
        let tickets = Arc::new(Tickets::generate(1, 0).unwrap());
        let control = Control::new(1, tickets).unwrap();
        let reread: Reread = Box::new(|_| panic!("nothing is read here"));
        Reloader::new(running.clone(), reread, control, AdminAddresses::default(), None)
    }

    fn apply(reloader: &mut Reloader, new: Config) -> Result<String, String> {
        let origins = new.origins.clone();
        let said = reloader.apply(new).map_err(|error| error.at(&origins).to_string());
        said.map(|(said, warnings)| [vec![said], warnings].concat().join("\n"))
    }

    #[test]
    fn what_can_change_does_and_what_cannot_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let config = |offload, tickets, workers| config(dir.path(), offload, tickets, workers);
        let mut reloader = reloader(&config("never", "on", "1"));
        let done = apply(&mut reloader, config("auto", "off", "1")).unwrap();
        assert!(done.contains("records tx: ") && !done.contains("restart"), "{done}");
        assert_eq!(reloader.running, config("auto", "off", "1"));
        let done = apply(&mut reloader, config("never", "off", "2")).unwrap();
        assert!(
            done.contains("offload = never") && done.contains("until an upgrade or a restart: workers"),
            "{done}"
        );
        assert_eq!(reloader.running, config("never", "off", "1"), "what is not in force is not remembered");
    }

    #[test]
    fn a_certificate_that_is_not_there_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut reloader = reloader(&config(dir.path(), "never", "on", "1"));
        let mut new = config(dir.path(), "auto", "on", "1");
        std::fs::remove_file(dir.path().join("c.pem")).unwrap();
        let gone = dir.path().join("c.pem");
        new.listeners[0].identities[0].certificate.clone_from(&gone);
        let why = apply(&mut reloader, new).unwrap_err();
        assert!(why.starts_with(&format!("--cert: {}: cannot be read", gone.display())), "{why}");
        assert!(reloader.control.mailboxes[0].take().is_empty());
    }

    #[test]
    fn reload_adds_removes_and_keeps_listener_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let first_config = config(dir.path(), "never", "on", "1");
        let mut reloader = reloader(&first_config);
        let mailbox = Arc::clone(&reloader.control.mailboxes[0]);
        let posted = || -> Vec<Command> {
            let limit = |command: &Command| !matches!(command, Command::MaxConnections(_));
            mailbox.take().into_iter().filter(limit).collect()
        };
        apply(&mut reloader, first_config.clone()).unwrap();
        let [Command::Add(first)] = &*posted() else { panic!("one was added") };
        let mut two = first_config;
        two.listeners
            .push(Listener { listen: Address::Tcp("[::1]:0".parse().unwrap()), ..two.listeners[0].clone() });
        apply(&mut reloader, two.clone()).unwrap();
        let [Command::Update { id, .. }, Command::Add(second)] = &*posted() else { panic!("one stays") };
        assert!(*id == first.id && second.id != first.id && second.route.listen.tcp().unwrap().is_ipv6());
        assert_eq!(reloader.running, two);
        let other = Listener { mode: Mode::Plain, keepalive: false, ..two.listeners.remove(1) };
        two.listeners[0] = other;
        apply(&mut reloader, two.clone()).unwrap();
        let [Command::Remove(gone), Command::Update { id, policy, route }] = &*posted() else {
            panic!("one goes, the other changes its mode")
        };
        assert!(*gone == first.id && *id == second.id && policy.near.tls().is_none() && !route.keepalive);
        let taken = second.route.listen.clone();
        let mut third = two.clone();
        third.listeners[0].listen = taken;
        let why = apply(&mut reloader, third).unwrap_err();
        assert!(why.contains("is in use") && posted().is_empty(), "{why}");
        assert_eq!(reloader.running, two, "what was in force stays");
    }

    #[test]
    fn limit_of_connections_is_posted_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path(), "never", "on", "1");
        let mut reloader = reloader(&config);
        let mailbox = Arc::clone(&reloader.control.mailboxes[0]);
        let most = || {
            let most = |command| if let Command::MaxConnections(most) = command { Some(most) } else { None };
            mailbox.take().into_iter().find_map(most)
        };
        for (asked, expected) in [(7, Some(7)), (7, None), (9, Some(9))] {
            config.max_connections = asked;
            let done = apply(&mut reloader, config.clone()).unwrap();
            assert!(most() == expected && !done.contains("restart"), "{done}");
        }
        config.max_connections = 0;
        let why = apply(&mut reloader, config).unwrap_err();
        assert!(why.contains("allowed is 1 or more") && most().is_none(), "{why}");
    }

    /// With a host name.
    fn named(dir: &Path, key: PathBuf) -> Config {
        let mut raw = Raw::default();
        raw.give_flag(ConfigOption::Listen, "127.0.0.1:0".to_owned());
        raw.give_flag(ConfigOption::Backend, "localhost:1".to_owned());
        raw.give_identities(&[dir.join("c.pem")], &[key]).unwrap();
        raw.check().unwrap()
    }

    #[test]
    fn names_without_an_address_are_resolved_later() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), "never", "on", "1");
        let mut reloader = reloader(&config);
        let pools = reloader.control.services.lock().pools();
        let asked = AtomicBool::new(false);
        pools.lock().resolve_with(Arc::new(move |name| match asked.swap(true, Ordering::SeqCst) {
            false => Err(std::io::Error::other("not yet")),
            true => Ok(vec![([127, 0, 0, 1], name.port).into()]),
        }));
        apply(&mut reloader, named(dir.path(), dir.path().join("k.pem"))).unwrap();
        let (later, end) = (now() + Duration::from_secs(3600), now() + Duration::from_secs(60));
        while !pools.lock().round(later, Vec::new()).is_elsewhere {
            assert!(now() < end, "nobody asks for it again");
            std::thread::yield_now();
        }
    }

    #[test]
    fn names_of_a_refused_configuration_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path(), "never", "on", "1");
        let mut reloader = reloader(&config);
        let key = config.listeners[0].identities[0].key.clone();
        let named = named(dir.path(), key);
        let pool = Arc::clone(named.listeners[0].routes.pools().next().unwrap());
        let (pools, timeouts) = (reloader.control.services.lock().pools(), named.timeouts);
        let known = || pools.lock().endpoints(&pool, timeouts).len();
        config.listeners = named.listeners.clone();
        config.listeners[0].identities[0].key = dir.path().join("none.pem");
        apply(&mut reloader, config).unwrap_err();
        assert_eq!(known(), 0, "nothing resolves them");
        apply(&mut reloader, named).unwrap();
        assert!(known() > 0);
    }

    #[test]
    fn ticket_keys_and_session_lifetime_change() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path(), "never", "on", "1");
        let mut reloader = reloader(&config);
        let tickets = Arc::clone(&reloader.control.tickets);
        let names = || tickets.keys().into_iter().map(|key| key.id).collect::<Vec<_>>();
        let own = names();
        let file = dir.path().join("ticket.keys");
        config.ticket_keys = Some(file.clone());
        let why = apply(&mut reloader, config.clone()).unwrap_err();
        assert!(why.contains("ticket.keys: cannot be read"), "{why}");
        assert_eq!((names(), tickets.file()), (own.clone(), None), "nothing has changed");
        KeyRing::generate(ticket_clock::now()).unwrap().create(&file).unwrap();
        config.session_lifetime = Duration::from_secs(7);
        let done = apply(&mut reloader, config.clone()).unwrap();
        assert!(!done.contains("restart"), "{done}");
        let shared = names();
        assert!(shared != own && tickets.file() == Some(file));
        config.ticket_keys = None;
        apply(&mut reloader, config).unwrap();
        assert!(names() != shared && tickets.file().is_none());
    }
}
