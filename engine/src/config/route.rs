//! Routes: which pool gets a connection, by what its client has asked for.

use std::path::PathBuf;
use std::sync::Arc;

use offramp_ring::socket::Address;

use super::limits::{ALPN_BYTES, ROUTES};
use super::option::Scope;
use super::pool::{NamedPool, find, known};
use super::{ConfigError, ConfigOption, Given, Mode, Origin, Pool, Raw, RawListener, health};

/// In front of the name of a pool, in place of the address of a backend.
const POOL: &str = "pool:";

/// Where the connections of a listener go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    /// The first one that matches decides.
    pub rules: Vec<Route>,
    /// The pool of what no rule matches; without one it is refused.
    pub default: Option<Arc<Pool>>,
}

/// A rule: it matches if everything does that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Names in lower case that a client may have asked for; `*.` in front stands for one label or more. None
    /// matches any client.
    pub server_names: Vec<String>,
    /// Application protocols that may have been negotiated. None matches any.
    pub alpn: Vec<String>,
    /// Where they go.
    pub pool: Arc<Pool>,
}

/// A `[[listener.route]]` of the file, not yet checked.
#[derive(Clone, Debug)]
pub struct RawRoute {
    /// Where it begins.
    pub path: PathBuf,
    /// 1-based.
    pub line: usize,
    /// As written.
    pub server_names: Vec<Given>,
    /// As written.
    pub alpn: Vec<Given>,
    /// The name of one.
    pub pool: Given,
}

impl RawRoute {
    /// A rule for one of `pools`, of a listener whose clients may say what it asks for.
    fn check(self, pools: &[NamedPool], heard: &Heard<'_>) -> Result<Route, ConfigError> {
        let Self { path, line, server_names, alpn, pool } = self;
        let refused = |key: &'static str, given: &Given, allowed: &str| ConfigError::Route {
            origin: given.origin.clone(),
            key,
            value: given.value.clone(),
            allowed: allowed.to_owned(),
        };
        if server_names.is_empty() && alpn.is_empty() {
            let none = Given { value: String::new(), origin: Origin::File { path, line } };
            let allowed = "one or more names; or give alpn; what no route matches goes to the backend or \
                           pool of the listener";
            return Err(refused("sni", &none, allowed));
        }
        for name in &server_names {
            let dns_name = name.value.strip_prefix("*.").unwrap_or(&name.value);
            if !offramp_core::tls::is_dns_name(&dns_name.to_ascii_lowercase()) {
                return Err(refused("sni", name, "a DNS name, or *. and a DNS name for all names below it"));
            }
        }
        if let Some(name) = alpn.iter().find(|name| !ALPN_BYTES.contains(&name.value.len())) {
            return Err(refused("alpn", name, "names of application protocols, each of 1 to 255 bytes"));
        }
        if let Some((key, given, allowed)) = heard.never(&server_names, &alpn) {
            return Err(refused(key, given, &allowed));
        }
        let named = find(pools, &pool.value).ok_or_else(|| ConfigError::NoSuchPool {
            origin: pool.origin.clone(),
            key: "pool",
            name: pool.value.clone(),
            known: known(pools),
        })?;
        let pool = heard.taken(named)?;
        let server_names = server_names.into_iter().map(|name| name.value.to_ascii_lowercase()).collect();
        let alpn = alpn.into_iter().map(|name| name.value).collect();
        Ok(Route { server_names, alpn, pool })
    }
}

/// What a listener hears of its clients before it chooses a pool.
pub(super) struct Heard<'a> {
    pub(super) mode: &'a Mode,
    /// The protocols that may be negotiated.
    pub(super) alpn: &'a [String],
}

impl Heard<'_> {
    /// A pool of the file for its connections.
    fn taken(&self, named: &NamedPool) -> Result<Arc<Pool>, ConfigError> {
        health::check_mode(named.health_check.as_ref(), &named.pool, self.mode)?;
        Ok(Arc::clone(&named.pool))
    }

    /// What of a route can never match: its key, its value, and what is allowed in place of it.
    fn never<'r>(&self, names: &'r [Given], alpn: &'r [Given]) -> Option<(&'static str, &'r Given, String)> {
        let mode = self.mode.name();
        match self.mode {
            Mode::Passthrough => None,
            Mode::Terminate | Mode::Reencrypt(_) => {
                let unheard = alpn.iter().find(|name| !self.alpn.contains(&name.value))?;
                let allowed = if self.alpn.is_empty() {
                    "a protocol of the alpn of the listener, which has none".to_owned()
                } else {
                    format!("a protocol of the alpn of the listener: {}", self.alpn.join(", "))
                };
                Some(("alpn", unheard, allowed))
            }
            Mode::Originate(_) | Mode::Plain => {
                let (key, value) =
                    names.first().map(|name| ("sni", name)).or_else(|| Some(("alpn", alpn.first()?)))?;
                Some((key, value, format!("no route with mode = \"{mode}\": its clients send no hello")))
            }
        }
    }
}

/// What a listener says of its own pool means nothing where its connections go to one of the file.
pub(super) fn check_own(listener: &RawListener) -> Result<(), ConfigError> {
    let names_pool = |given: &Given| given.value.starts_with(POOL);
    if !listener.given.get(&ConfigOption::Backend).is_some_and(names_pool) {
        return Ok(());
    }
    match listener.given.iter().find(|(key, _)| key.description().scope == Scope::Pool) {
        Some((key, given)) => {
            Err(given.clone().refused(*key, "nothing beside backend = \"pool:…\": give it to the [[pool]]"))
        }
        None => Ok(()),
    }
}

impl Raw {
    /// Where the connections go of a listener at this address.
    pub(super) fn routes(
        &mut self,
        listen: &Address,
        raw_routes: Vec<RawRoute>,
        pools: &[NamedPool],
        heard: &Heard<'_>,
    ) -> Result<Routes, ConfigError> {
        let named = self.given.get(&ConfigOption::Backend).and_then(|given| {
            let name = given.value.strip_prefix(POOL)?.to_owned();
            Some((name, given.origin.clone()))
        });
        let default = named.map(|(name, origin)| {
            self.given.remove(&ConfigOption::Backend);
            let missing =
                |name| ConfigError::NoSuchPool { origin, key: "backend", name, known: known(pools) };
            heard.taken(find(pools, &name).ok_or_else(|| missing(name))?)
        });
        let default = default.transpose()?;
        // What is given of a pool is checked, whether it is this listener's or not.
        let health_check = self.given.get(&ConfigOption::HealthCheck).cloned();
        let own = self.pool(listen.to_string())?.map(Arc::new);
        own.iter().try_for_each(|own| health::check_mode(health_check.as_ref(), own, heard.mode))?;
        let default = default.or(own);
        if default.is_none() && raw_routes.is_empty() {
            return Err(ConfigError::Missing { key: ConfigOption::Backend });
        }
        if let Some(RawRoute { path, line, .. }) = raw_routes.get(*ROUTES.end()) {
            let error = ConfigError::Routes { count: raw_routes.len(), listen: listen.clone() };
            return Err(error.at(format_args!("{}:{line}", path.display())));
        }
        let rules = raw_routes.into_iter().map(|raw| raw.check(pools, heard)).collect::<Result<_, _>>()?;
        Ok(Routes { rules, default })
    }
}

impl Routes {
    /// All connections go to one address.
    #[must_use]
    pub fn to(address: Address) -> Self {
        Self { rules: Vec::new(), default: Some(Arc::new(Pool::of(address))) }
    }

    /// All pools that connections may go to, each once.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        let all: Vec<&Arc<Pool>> = self.rules.iter().map(|rule| &rule.pool).chain(&self.default).collect();
        let is_first = |nth: usize| all[..nth].iter().all(|earlier| earlier.name != all[nth].name);
        let firsts: Vec<_> = (0..all.len()).filter(|nth| is_first(*nth)).map(|nth| all[nth]).collect();
        firsts.into_iter()
    }
}

impl Routes {
    /// A name that clients of this pool ask for, if a route leads to it that has one in full.
    #[must_use]
    pub fn server_name_of(&self, pool: &Pool) -> Option<&str> {
        let rules = self.rules.iter().filter(|rule| rule.pool.name == pool.name);
        let mut names = rules.flat_map(|rule| &rule.server_names);
        names.find(|name| !name.starts_with("*.")).map(String::as_str)
    }
}

impl std::fmt::Display for Routes {
    /// Where connections go, for the ready line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.default {
            Some(pool) => write!(f, "{pool}")?,
            None => write!(f, "by route alone")?,
        }
        match self.rules.len() {
            0 => Ok(()),
            1 => write!(f, " (1 route)"),
            count => write!(f, " ({count} routes)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, file, limits};

    const POOLS: &str = "balance = \"hash-sni\"\n\
                         [[pool]]\nname = \"a\"\nbackend = [\"10.0.0.1:1\", \"h.example:2 weight=3\"]\n\
                         [[pool]]\nname = \"b\"\nbackend = \"unix:/b\"\nbalance = \"hash-client\"\n";

    fn read(listener: &str) -> Result<Config, String> {
        let text =
            format!("mode = \"passthrough\"\n{POOLS}[[listener]]\nlisten = \"127.0.0.1:1\"\n{listener}");
        file::parse(Path::new("o.toml"), &text).and_then(Raw::check).map_err(|error| error.to_string())
    }

    #[test]
    fn routes_name_pools_and_the_rest_goes_to_the_backend() {
        let route = "[[listener.route]]\nsni = [\"A.example\", \"*.b.example\"]\npool = \"b\"\n";
        let config = read(&format!("backend = \"pool:a\"\n{route}")).unwrap();
        let routes = &config.listeners[0].routes;
        assert_eq!(routes.to_string(), "10.0.0.1:1, h.example:2 (1 route)");
        assert_eq!(routes.rules[0].server_names, ["a.example", "*.b.example"], "in lower case");
        let names: Vec<_> = routes.pools().map(|pool| (pool.name.as_str(), pool.balance.name())).collect();
        assert_eq!(names, [("b", "hash-client"), ("a", "hash-sni")], "what a pool does not say it inherits");
        assert_eq!(read(route).unwrap().listeners[0].routes.default, None);
        let own = read("backend = \"10.0.0.9:9\"\n").unwrap();
        let pool = own.listeners[0].routes.default.clone().unwrap();
        assert_eq!((pool.name.as_str(), pool.balance.name()), ("127.0.0.1:1", "hash-sni"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_line() {
        let route = |rest: &str| format!("backend = \"pool:a\"\n[[listener.route]]\n{rest}");
        for (listener, expected) in [
            ("".to_owned(), "o.toml:10: this [[listener]] has no backend"),
            ("backend = \"pool:c\"\n".to_owned(), "o.toml:12: backend: there is no pool \"c\""),
            (
                "backend = \"pool:a\"\nsend_proxy = \"v1\"\n".to_owned(),
                "o.toml:13: send_proxy = \"v1\" is refused",
            ),
            (route("pool = \"c\"\nsni = \"x\"\n"), "o.toml:14: pool: there is no pool \"c\""),
            (route("pool = \"a\"\n"), "o.toml:13: [[listener.route]] sni = \"\" is refused"),
            (route("pool = \"a\"\nsni = \"*\"\n"), "o.toml:15: [[listener.route]] sni = \"*\" is refused"),
            (
                route("pool = \"a\"\nsni = [\"x\",\n\"192.0.2.1\"]\n"),
                "o.toml:16: [[listener.route]] sni = \"192.0.2.1\" is refused",
            ),
            (route("pool = \"a\"\nalpn = \"\"\n"), "o.toml:15: [[listener.route]] alpn = \"\" is refused"),
            (
                format!("mode = \"plain\"\n{}", route("pool = \"a\"\nsni = \"x\"\n")),
                "o.toml:16: [[listener.route]] sni = \"x\" is refused: allowed is no route",
            ),
            (
                format!("mode = \"terminate\"\nalpn = [\"h2\"]\n{}", route("pool = \"a\"\nalpn = \"x\"\n")),
                "alpn = \"x\" is refused: allowed is a protocol of the alpn of the listener: h2",
            ),
            (
                format!("mode = \"terminate\"\n{}", route("pool = \"a\"\nalpn = \"x\"\n")),
                "of the listener, which has none",
            ),
            (route("sni = \"x\"\n"), "o.toml:13: this [[listener.route]] has no pool"),
            (route("pool = 3\n"), "o.toml:14: pool must be a string, in quotes, not an integer"),
            (route("pol = \"a\"\n"), "o.toml:14: unknown key pol: allowed here are sni, alpn, pool"),
        ] {
            let error = read(&listener).unwrap_err();
            assert!(error.contains(expected), "{listener:?}: {error}");
        }
    }

    #[test]
    fn too_many_of_a_kind_are_refused_with_the_line() {
        let read = |text: &str| {
            file::parse(Path::new("o.toml"), text).and_then(Raw::check).map(|_| ()).unwrap_err().to_string()
        };
        let top = "mode = \"passthrough\"\nlisten = \"127.0.0.1:1\"\nbackend = \"pool:p0\"\n";
        let pool = |nth: usize| format!("[[pool]]\nname = \"p{nth}\"\nbackend = \"10.0.0.1:1\"\n");
        let pools: String = (0..=*limits::POOLS.end()).map(pool).collect();
        let line = 4 + 3 * limits::POOLS.end();
        assert_eq!(
            read(&format!("{top}{pools}")),
            format!("o.toml:{line}: [[pool]]: 257 pools are refused: allowed are up to 256")
        );
        let listener = "[[listener]]\nlisten = \"127.0.0.1:2\"\n";
        let route = "[[listener.route]]\nsni = \"x\"\npool = \"p0\"\n";
        let line = 4 + 3 + 2 + 3 * ROUTES.end();
        let error = read(&format!("{top}{}{listener}{}", pool(0), route.repeat(ROUTES.end() + 1)));
        let start = format!("o.toml:{line}: [[listener.route]]: 1025 routes of the listener 127.0.0.1:2 are");
        assert!(error.starts_with(&start), "{error}");
        let more = "[[listener]]\nlisten = \"127.0.0.1:0\"\nbackend = \"pool:p0\"\n";
        let line = 4 + 3 + 3 * (limits::LISTENERS.end() - 1) + 1;
        let error = read(&format!("{top}{}{}", pool(0), more.repeat(*limits::LISTENERS.end())));
        assert!(error.starts_with(&format!("o.toml:{line}: listen: this makes more than 64")), "{error}");
        let addresses = "\"127.0.0.1:0\", ".repeat(limits::LISTENERS.end() + 1);
        let many = top.replace("\"127.0.0.1:1\"", &format!("[{addresses}]"));
        let error = read(&format!("{many}{}", pool(0)));
        assert!(error.starts_with("o.toml:2: listen: this makes more than 64"), "{error}");
    }

    #[test]
    fn pools_are_refused_with_their_line() {
        let read = |pools: &str| {
            let text = format!("listen = \"127.0.0.1:1\"\nbackend = \"pool:a\"\n{pools}");
            file::parse(Path::new("o.toml"), &text).and_then(Raw::check).unwrap_err().to_string()
        };
        let good = "[[pool]]\nname = \"a\"\nbackend = \"10.0.0.1:1\"\n";
        for (pools, expected) in [
            ("[[pool]]\nbackend = \"10.0.0.1:1\"\n".to_owned(), "o.toml:3: this [[pool]] has no name"),
            ("[[pool]]\nname = \"a\"\n".to_owned(), "o.toml:3: this [[pool]] has no backend"),
            (good.replace("\"a\"", "\"a b\""), "o.toml:4: [[pool]] name = \"a b\" is refused"),
            (
                format!("{good}{good}"),
                "o.toml:7: [[pool]] name = \"a\" is refused: allowed is a name that no other",
            ),
            (good.replace("10.0.0.1:1", "10.0.0.1"), "o.toml:5: backend = \"10.0.0.1\" is refused"),
            (
                good.replace(":1\"", ":1, 10.0.0.1:1\""),
                "o.toml:5: backend = \"10.0.0.1:1, 10.0.0.1:1\" is refused",
            ),
            ("[[pool]]\nname = \"a\"\nbackend = []\n".to_owned(), "o.toml:5: backend = \"\" is refused"),
            (format!("{good}tickets = \"on\"\n"), "o.toml:6: unknown key tickets: allowed here are"),
            (format!("{good}balance = \"fair\"\n"), "o.toml:6: balance = \"fair\" is refused"),
        ] {
            assert!(read(&pools).contains(expected), "{pools:?}: {}", read(&pools));
        }
        assert!(
            read("").contains("o.toml:2: backend: there is no pool \"a\"")
                && read("").contains("there is none")
        );
    }
}
