//! What was given, in the file and on the command line, and the check that makes a `Config` of it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::addresses::{Place, count_listeners};
use super::limits::{
    ALPN_BYTES, IDENTITIES, MAX_CONNECTIONS, MAX_CONNECTIONS_DEFAULT, SESSION_LIFETIME_DEFAULT, Span,
    TCP_USER_TIMEOUT_DEFAULT, Timeouts, WORKERS,
};
use super::option::Scope;
use super::pinning::default_workers;
use super::pool::NamedPool;
use super::{
    Config, ConfigError, ConfigOption, Given, IdentityFiles, Listener, Mode, Origin, Origins, Pinning,
    PostQuantum, RawRoute, Truncation, UnknownName, health, route, trust,
};

/// What was given, not yet checked.
#[derive(Clone, Debug, Default)]
pub struct Raw {
    pub(super) given: BTreeMap<ConfigOption, Given>,
    /// Certificate chains with their keys, in the order given.
    pub identities: Vec<IdentityFiles>,
    /// Directories of more.
    pub identity_directories: Vec<PathBuf>,
    /// What backends are shown with TLS on both legs.
    pub backend_identity: Option<IdentityFiles>,
    /// The listeners of the file beside the one that `listen` at its top makes.
    pub listeners: Vec<RawListener>,
    /// The pools of the file.
    pub pools: Vec<RawPool>,
    /// Where identities were given; of options it is beside their value.
    pub(super) origins: Origins,
}

/// A `[[listener]]` of the file. What it does not say, the top of the file and the command line say for it.
#[derive(Clone, Debug)]
pub struct RawListener {
    /// Where it begins.
    pub path: PathBuf,
    /// 1-based.
    pub line: usize,
    /// What is given for it alone.
    pub given: BTreeMap<ConfigOption, Given>,
    /// If it has none, those of the top.
    pub identities: Vec<IdentityFiles>,
    /// The same.
    pub identity_directories: Vec<PathBuf>,
    /// If it has none, that of the top.
    pub backend_identity: Option<IdentityFiles>,
    /// What of its connections goes elsewhere.
    pub routes: Vec<RawRoute>,
}

/// A `[[pool]]` of the file. What it does not say, the top of the file says for it, but for the endpoints.
#[derive(Clone, Debug)]
pub struct RawPool {
    /// Where it begins.
    pub path: PathBuf,
    /// 1-based.
    pub line: usize,
    /// As written.
    pub name: Given,
    /// What is given for it alone.
    pub given: BTreeMap<ConfigOption, Given>,
}

impl Raw {
    /// Takes a value; one that was given before is forgotten.
    pub fn give(&mut self, key: ConfigOption, given: Given) {
        self.given.insert(key, given);
    }

    /// Takes a value from the command line.
    pub fn give_flag(&mut self, key: ConfigOption, value: String) {
        self.give(key, Given { value, origin: Origin::Flag(key.flag()) });
    }

    /// Takes the certificates and keys of the command line, paired in the order given.
    ///
    /// # Errors
    /// [`ConfigError::Unpaired`] if there are not as many of the ones as of the others.
    pub fn give_identities(&mut self, certificates: &[PathBuf], keys: &[PathBuf]) -> Result<(), ConfigError> {
        if certificates.len() != keys.len() {
            return Err(ConfigError::Unpaired { certificates: certificates.len(), keys: keys.len() });
        }
        for (key, flag, paths) in [("certificate", "--cert", certificates), ("key", "--key", keys)] {
            for path in paths {
                let value = path.to_string_lossy().into_owned();
                self.origins.note(key, Given { value, origin: Origin::Flag(flag) });
            }
        }
        let pairs = certificates.iter().cloned().zip(keys.iter().cloned());
        self.identities =
            pairs.map(|(certificate, key)| IdentityFiles { certificate, key, ocsp: None }).collect();
        Ok(())
    }

    /// What `flags` gives wins over what is here; its identities, if it has any, replace all of ours.
    #[must_use]
    pub fn overridden_by(mut self, flags: Self) -> Self {
        trust::override_with(&mut self.given, flags.given);
        self.origins = self.origins.behind(flags.origins);
        if !flags.identities.is_empty() {
            self.identities = flags.identities;
            self.identity_directories.clear();
        }
        self
    }

    /// Checks every value and fills in the defaults.
    ///
    /// # Errors
    /// The first [`ConfigError`] that there is.
    pub fn check(self) -> Result<Config, ConfigError> {
        let file = self.origins.file.clone();
        self.checked().map_err(|error| match file {
            Some(file) => error.at(file.display()),
            None => error,
        })
    }

    fn checked(mut self) -> Result<Config, ConfigError> {
        let origins = self.all_origins();
        let workers = self.number(ConfigOption::Workers, WORKERS)?.unwrap_or_else(default_workers);
        let pin_workers =
            self.parsed(ConfigOption::PinWorkers, Pinning::ALLOWED, Pinning::parse)?.unwrap_or_default();
        let (run_as, confine) = (self.run_as()?, self.confine()?);
        let (admin, admin_socket) = (self.address(ConfigOption::Admin)?, self.admin_socket()?);
        let (timeouts, max_connections) = (self.timeouts()?, self.max_connections(workers)?);
        let ticket_keys = self.path(ConfigOption::TicketKeys)?;
        let session_lifetime =
            self.duration(ConfigOption::SessionLifetime, Span::SESSION)?.unwrap_or(SESSION_LIFETIME_DEFAULT);
        let limits = self.limits(workers)?;
        let (pools, top) = (self.all_pools()?, self.given.clone());
        let listeners = self.all_listeners(&pools)?;
        let of_listeners = listeners.iter().filter_map(|listener| listener.routes.default.as_deref());
        let all = pools.iter().map(|named| &*named.pool).chain(of_listeners);
        Self::check_inherited(&top, all)?;
        Ok(Config {
            listeners,
            workers,
            pin_workers,
            run_as,
            confine,
            admin,
            admin_socket,
            key_log: None,
            timeouts,
            max_connections,
            limits,
            ticket_keys,
            session_lifetime,
            origins,
        })
    }

    fn all_origins(&self) -> Origins {
        let mut origins = self.origins.clone();
        let below = self.listeners.iter().map(|it| &it.given).chain(self.pools.iter().map(|it| &it.given));
        for (key, given) in std::iter::once(&self.given).chain(below).flatten() {
            origins.note(key.name(), given.clone());
        }
        origins
    }

    /// The one at the top, unless it is all defaults for others; then those.
    fn all_listeners(mut self, pools: &[NamedPool]) -> Result<Vec<Listener>, ConfigError> {
        let others = std::mem::take(&mut self.listeners);
        let mut listeners = Vec::new();
        if others.is_empty() || self.given.contains_key(&ConfigOption::Listen) {
            let origin = self.given.get(&ConfigOption::Listen).map(|listen| listen.origin.clone());
            let made =
                self.clone().listener(Vec::new(), pools).map_err(|error| error.at_line(origin.as_ref()))?;
            listeners.extend(made);
            count_listeners(&listeners, origin.as_ref())?;
        } else {
            self.refuse_socket_options(&[])?;
        }
        self.given.retain(|key, _| key.description().scope != Scope::Own);
        for other in others {
            route::check_own(&other)?;
            let mut raw = self.clone();
            trust::override_with(&mut raw.given, other.given.clone());
            let is_plain = raw.given.get(&ConfigOption::Mode).is_some_and(|mode| {
                [Mode::Plain.name(), Mode::Passthrough.name()].contains(&mode.value.as_str())
            });
            // What others show is of no use without TLS; its own would be a contradiction.
            if is_plain || !other.identities.is_empty() || !other.identity_directories.is_empty() {
                raw.identities = other.identities;
                raw.identity_directories = other.identity_directories;
            }
            if raw.given.get(&ConfigOption::Mode).is_none_or(|mode| mode.value != "reencrypt") {
                raw.backend_identity = None;
            }
            raw.backend_identity = other.backend_identity.or(raw.backend_identity);
            let made = raw.listener(other.routes, pools).map_err(|error| match error {
                ConfigError::Missing { key } => {
                    ConfigError::MissingInListener { path: other.path, line: other.line, key }
                }
                error => error.at(Origin::File { path: other.path.clone(), line: other.line }),
            })?;
            let own = made.first().and_then(|listener| listener.routes.default.as_deref());
            own.map_or(Ok(()), |own| health::check_own(&other.given, own))?;
            listeners.extend(made);
            let origin = other.given.get(&ConfigOption::Listen).map(|listen| &listen.origin);
            count_listeners(&listeners, origin)?;
        }
        Ok(listeners)
    }

    fn listener(
        mut self,
        raw_routes: Vec<RawRoute>,
        pools: &[NamedPool],
    ) -> Result<Vec<Listener>, ConfigError> {
        let written = self.given.get(&ConfigOption::Mode).map(|mode| mode.origin.clone());
        let refused = |error: ConfigError| match written {
            Some(origin) => Err(error.at(origin)),
            None => Err(error),
        };
        let mode = self.mode()?;
        let (is_server, is_plain) = (mode.is_server(), mode.has_no_tls());
        let places = self.places(&mode)?.ok_or(ConfigError::Missing { key: ConfigOption::Listen })?;
        let (Place { listen, socket_access, accept_proxy }, alpn) = (places[0].clone(), self.alpn()?);
        let listener = Listener {
            routes: self.routes(&listen, raw_routes, pools, &route::Heard { mode: &mode, alpn: &alpn })?,
            listen,
            socket_access,
            accept_proxy,
            offload: self.offload()?,
            alpn,
            unknown_name: self
                .parsed(ConfigOption::UnknownName, UnknownName::ALLOWED, UnknownName::parse)?
                .unwrap_or_default(),
            truncation: self
                .parsed(ConfigOption::Truncation, Truncation::ALLOWED, Truncation::parse)?
                .unwrap_or_default(),
            post_quantum: self
                .parsed(ConfigOption::PostQuantum, PostQuantum::ALLOWED, PostQuantum::parse)?
                .unwrap_or_default(),
            backend_identity: self.backend_identity.take(),
            tickets: self.switch(ConfigOption::Tickets)?.unwrap_or(true),
            keepalive: self.switch(ConfigOption::Keepalive)?.unwrap_or(true),
            tcp_user_timeout: self
                .duration(ConfigOption::TcpUserTimeout, Span::TCP_USER)?
                .unwrap_or(TCP_USER_TIMEOUT_DEFAULT),
            peers: self.peers(&mode)?,
            mode,
            identities: self.identities,
            identity_directories: self.identity_directories,
        };
        let (least, most) = match (is_server, is_plain) {
            (true, _) => (*IDENTITIES.start(), *IDENTITIES.end()),
            (false, false) => (0, 1),
            (false, true) => (0, 0),
        };
        let directories = listener.identity_directories.len();
        let (count, mode) = (listener.identities.len() + directories, listener.mode.name());
        if directories > 0 && !is_server {
            return refused(ConfigError::Identities { count, mode, most: 0 });
        }
        if listener.backend_identity.is_some() && !matches!(listener.mode, Mode::Reencrypt(_)) {
            return refused(ConfigError::BackendIdentity { mode });
        }
        if count > most {
            return refused(ConfigError::Identities { count, mode, most });
        }
        if count < least {
            return refused(ConfigError::NoIdentity { mode });
        }
        Ok(places.into_iter().map(|place| place.of(&listener)).collect())
    }

    fn alpn(&mut self) -> Result<Vec<String>, ConfigError> {
        let allowed = format!(
            "names of application protocols, each of {} to {} bytes, such as \"msrp\"",
            ALPN_BYTES.start(),
            ALPN_BYTES.end()
        );
        let names = self.parsed(ConfigOption::Alpn, allowed, |value| {
            let names: Vec<String> = value.split(',').map(|name| name.trim().to_owned()).collect();
            names.iter().all(|name| ALPN_BYTES.contains(&name.len())).then_some(names)
        })?;
        Ok(names.unwrap_or_default())
    }

    pub(super) fn switch(&mut self, key: ConfigOption) -> Result<Option<bool>, ConfigError> {
        self.parsed(key, "on or off", |value| match value {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        })
    }

    pub(super) fn path(&mut self, key: ConfigOption) -> Result<Option<PathBuf>, ConfigError> {
        self.parsed(key, "the path of a file", |value| (!value.is_empty()).then(|| PathBuf::from(value)))
    }

    fn timeouts(&mut self) -> Result<Timeouts, ConfigError> {
        let default = Timeouts::default();
        Ok(Timeouts {
            handshake: self.duration(ConfigOption::Handshake, Span::HANDSHAKE)?.unwrap_or(default.handshake),
            connect: self.duration(ConfigOption::Connect, Span::CONNECT)?.unwrap_or(default.connect),
            idle: self.duration(ConfigOption::Idle, Span::IDLE)?.unwrap_or(default.idle),
            linger: self.duration(ConfigOption::Linger, Span::LINGER)?.unwrap_or(default.linger),
            lifetime: self.duration(ConfigOption::Lifetime, Span::LIFETIME)?,
            drain: self.duration(ConfigOption::Drain, Span::DRAIN)?.unwrap_or(default.drain),
        })
    }

    /// Each worker gets a share, so that there must be at least one connection for each.
    fn max_connections(&mut self, workers: usize) -> Result<usize, ConfigError> {
        let given = self.given.get(&ConfigOption::MaxConnections).cloned();
        let count =
            self.number(ConfigOption::MaxConnections, MAX_CONNECTIONS)?.unwrap_or(MAX_CONNECTIONS_DEFAULT);
        if count >= workers {
            return Ok(count);
        }
        let default = Given { value: count.to_string(), origin: Origin::Default };
        let allowed = format!("{workers} or more: one per worker");
        Err(given.unwrap_or(default).refused(ConfigOption::MaxConnections, allowed))
    }

    pub(super) fn number(
        &mut self,
        key: ConfigOption,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>, ConfigError> {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        self.parsed(key, allowed, |value| value.parse().ok().filter(|number| range.contains(number)))
    }

    pub(super) fn duration(
        &mut self,
        key: ConfigOption,
        span: Span,
    ) -> Result<Option<Duration>, ConfigError> {
        let allowed = format!("a whole number with ms, s, m or h behind it, from {span}");
        self.parsed(key, allowed, |value| duration(value).filter(|duration| span.contains(*duration)))
    }

    pub(super) fn parsed<T>(
        &mut self,
        key: ConfigOption,
        allowed: impl fmt::Display,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(given) = self.given.remove(&key) else { return Ok(None) };
        match parse(&given.value) {
            Some(value) => Ok(Some(value)),
            None => Err(given.refused(key, allowed)),
        }
    }
}

/// "10s", "500ms", "5m", "1h".
fn duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (count, unit) = text.split_at(unit_at);
    let count: u64 = count.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(count)),
        "s" => Some(Duration::from_secs(count)),
        "m" => count.checked_mul(60).map(Duration::from_secs),
        "h" => count.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::OffloadRules;

    pub(in crate::config) fn minimal() -> Raw {
        let mut raw = Raw::default();
        raw.give_flag(ConfigOption::Listen, "127.0.0.1:0".into());
        raw.give_flag(ConfigOption::Backend, "127.0.0.1:80".into());
        raw.give_identities(&["c".into()], &["k".into()]).unwrap();
        raw
    }

    fn error_with(key: ConfigOption, value: &str) -> String {
        let mut raw = minimal();
        raw.give_flag(key, value.into());
        raw.check().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_filled_in() {
        let config = minimal().check().unwrap();
        let listener = &config.listeners[0];
        assert_eq!((listener.offload, listener.tickets, config.admin), (OffloadRules::default(), true, None));
        assert!(listener.keepalive);
        assert_eq!((config.max_connections, config.timeouts), (MAX_CONNECTIONS_DEFAULT, Timeouts::default()));
        assert!(config.workers >= 1 && config.pin_workers == Pinning::Off);
    }

    #[test]
    fn what_has_no_default_must_be_given() {
        let mut raw = minimal();
        raw.given.remove(&ConfigOption::Listen);
        let error = raw.check().unwrap_err().to_string();
        assert!(error.contains("listen is missing") && error.contains("--listen"), "{error}");
        let mut raw = minimal();
        raw.given.remove(&ConfigOption::Backend);
        assert!(matches!(raw.check(), Err(ConfigError::Missing { key: ConfigOption::Backend })));
        let mut raw = minimal();
        raw.identities.clear();
        let error = raw.check().unwrap_err().to_string();
        assert!(error.starts_with("there is no identity: mode = \"terminate\" needs"), "{error}");
    }

    #[test]
    fn a_refusal_names_flag_value_and_what_is_allowed() {
        let error = error_with(ConfigOption::Listen, "localhost:1");
        let start = "--listen: listen = \"localhost:1\" is refused: allowed is one or more of these";
        assert!(error.starts_with(start), "{error}");
        for value in
            ["", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "unix:", &format!("unix:{}", "x".repeat(108))]
                .into_iter()
                .chain(["unix:@", "unix:\0name", "unix:/run/b\0.sock"])
        {
            assert!(
                error_with(ConfigOption::Backend, value)
                    .contains("allowed is 1 to 64 of these, each another: an IP address"),
                "{value}"
            );
        }
    }

    #[test]
    fn a_backend_may_be_a_unix_socket() {
        let mut raw = minimal();
        raw.give_flag(ConfigOption::Backend, "unix:/run/b.sock".into());
        assert_eq!(raw.check().unwrap().listeners[0].routes.to_string(), "unix:/run/b.sock");
        let mut raw = minimal();
        raw.give_flag(ConfigOption::Backend, "unix:@msrp".into());
        assert_eq!(raw.check().unwrap().listeners[0].routes.to_string(), "unix:@msrp");
    }

    #[test]
    fn every_worker_has_room_for_a_connection() {
        let mut raw = minimal();
        raw.give_flag(ConfigOption::Workers, "8".into());
        raw.give_flag(ConfigOption::MaxConnections, "7".into());
        let error = raw.check().unwrap_err().to_string();
        let start =
            "--max-connections: max_connections = \"7\" is refused: allowed is 8 or more: one per worker";
        assert!(error.starts_with(start), "{error}");
    }

    #[test]
    fn flags_win_over_the_file() {
        let mut file = minimal();
        file.give_flag(ConfigOption::Workers, "2".into());
        file.give_flag(ConfigOption::Tickets, "off".into());
        let mut flags = Raw::default();
        flags.give_flag(ConfigOption::Workers, "3".into());
        let kept = file.clone().overridden_by(flags.clone()).check().unwrap();
        assert_eq!(
            (kept.workers, kept.listeners[0].tickets, kept.listeners[0].identities[0].certificate.to_str()),
            (3, false, Some("c"))
        );
        flags.give_identities(&["d".into()], &["l".into()]).unwrap();
        let replaced = file.overridden_by(flags).check().unwrap();
        assert_eq!(
            replaced.listeners[0].identities,
            [IdentityFiles { certificate: "d".into(), key: "l".into(), ocsp: None }]
        );
    }

    #[test]
    fn certificates_and_keys_must_pair_up() {
        let error = Raw::default().give_identities(&["a".into(), "b".into()], &["k".into()]).unwrap_err();
        assert!(error.to_string().starts_with("2 certificate(s) (--cert) but 1 key(s) (--key)"), "{error}");
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("5m"), Some(Duration::from_secs(300)));
        assert_eq!(duration("1h"), Some(Duration::from_secs(3600)));
        for bad in
            ["", "5", "s", "-1s", "1.5s", "5 s", "5d", "99999999999999999999s", "18446744073709551615h"]
        {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
