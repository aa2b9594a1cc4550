//! The check of addresses: where connections are accepted, and from whom.

use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use offramp_ring::socket::Address;

use super::limits::{LISTENERS, UNIX_PATH_BYTES};
use super::pool::is_unix_address;
use super::{ConfigError, ConfigOption, Listener, Mode, OffloadPolicy, Origin, Raw, SocketAccess};

/// In front of the path of a Unix socket; alone, all of a listener's Unix sockets.
const UNIX: &str = "unix:";

/// Who says in a PROXY header who the client is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AcceptProxy {
    /// Nobody: no header is expected.
    #[default]
    Off,
    /// Who connects from these networks; others are refused.
    From(Vec<IpNet>),
    /// Everybody who may connect to a Unix socket.
    All,
}

impl AcceptProxy {
    /// Whether a header is expected.
    #[must_use]
    pub fn is_on(&self) -> bool {
        *self != Self::Off
    }

    /// Whether somebody may say who the client is who connects from this address; on a Unix socket, and after
    /// a reset, there is none.
    #[must_use]
    pub fn believes(&self, address: Option<IpAddr>) -> bool {
        match self {
            Self::Off => false,
            Self::From(networks) => {
                address.is_some_and(|address| networks.iter().any(|network| network.contains(&address)))
            }
            Self::All => true,
        }
    }
}

/// An address of a listener, and what holds there alone.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) listen: Address,
    pub(super) socket_access: SocketAccess,
    pub(super) accept_proxy: AcceptProxy,
}

impl Place {
    /// The same listener here.
    pub(super) fn of(self, listener: &Listener) -> Listener {
        let Self { listen, socket_access, accept_proxy } = self;
        Listener { listen, socket_access, accept_proxy, ..listener.clone() }
    }
}

/// No more than there may be, one per address; `origin` is that of the last ones.
pub(super) fn count_listeners(listeners: &[Listener], origin: Option<&Origin>) -> Result<(), ConfigError> {
    if LISTENERS.contains(&listeners.len()) {
        return Ok(());
    }
    Err(ConfigError::Listeners.at_line(origin))
}

impl Raw {
    /// The places of a listener, at least one, if any are given.
    pub(super) fn places(&mut self, mode: &Mode) -> Result<Option<Vec<Place>>, ConfigError> {
        let Some(all) = self.listen()? else { return Ok(None) };
        self.refuse_offload_over_unix(&all, mode)?;
        let socket_access = self.socket_access(&all)?;
        let proxies = self.accept_proxy(&all)?;
        let accept_proxy = |listen: &Address| match &proxies {
            None => AcceptProxy::Off,
            Some(_) if listen.is_unix() => AcceptProxy::All,
            Some(networks) => AcceptProxy::From(networks.clone()),
        };
        let place = |listen| Place { accept_proxy: accept_proxy(&listen), listen, socket_access };
        Ok(Some(all.into_iter().map(place).collect()))
    }

    /// At least one, each another unless the kernel chooses the port.
    fn listen(&mut self) -> Result<Option<Vec<Address>>, ConfigError> {
        let allowed = format!(
            "one or more of these, each another: an IP address and a port, such as 127.0.0.1:8443 or \
             [::1]:8443; unix:PATH, or unix:@NAME for an abstract socket, of {} to {} bytes behind the colon \
             and no NUL",
            UNIX_PATH_BYTES.start(),
            UNIX_PATH_BYTES.end()
        );
        self.parsed(ConfigOption::Listen, allowed, |value| {
            let address = |text: &str| match text.strip_prefix(UNIX) {
                Some(path) => is_unix_address(path).then(|| Address::Unix(path.into())),
                None => text.parse().ok().map(Address::Tcp),
            };
            let all: Vec<Address> =
                value.split(',').map(|text| address(text.trim())).collect::<Option<_>>()?;
            let is_new = |nth: usize| all[nth].port() == Some(0) || !all[..nth].contains(&all[nth]);
            (0..all.len()).all(is_new).then_some(all)
        })
    }

    pub(super) fn address(&mut self, key: ConfigOption) -> Result<Option<SocketAddr>, ConfigError> {
        let allowed = "an IP address and a port, such as 127.0.0.1:8443 or [::1]:8443";
        self.parsed(key, allowed, |value| value.parse().ok())
    }

    /// Kernel TLS is a part of TCP: on a Unix socket it can only be left out.
    fn refuse_offload_over_unix(&self, all: &[Address], mode: &Mode) -> Result<(), ConfigError> {
        let always = OffloadPolicy::Always.to_string();
        let given = self.given.get(&ConfigOption::Offload).filter(|given| given.value == always);
        match all.iter().find(|address| address.is_unix()).zip(given) {
            Some((address, given)) if mode.is_server() => {
                let allowed = format!(
                    "auto, never or after-bytes(N) for a listener on {address}: clients' TLS stays in \
                     userspace there, because kernel TLS is a part of TCP"
                );
                Err(given.clone().refused(ConfigOption::Offload, allowed))
            }
            _ => Ok(()),
        }
    }

    /// The networks of balancers, if a PROXY header is expected. Each address of the listener must be one to
    /// which some balancer may connect.
    fn accept_proxy(&mut self, all: &[Address]) -> Result<Option<Vec<IpNet>>, ConfigError> {
        let key = ConfigOption::AcceptProxy;
        let Some(given) = self.given.get(&key).cloned() else { return Ok(None) };
        let allowed = "IP addresses and networks, such as \"10.0.0.0/8\" or \"2001:db8::1\"; and \"unix:\" \
                       for whoever may connect to the listener's Unix socket";
        let network = |text: &str| {
            let network = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
            network.map(canonical)
        };
        let entries = || given.value.split(',').map(str::trim);
        let has_unix = entries().any(|entry| entry == UNIX);
        let networks = self.parsed(key, allowed, |_| {
            entries().filter(|entry| *entry != UNIX).map(network).collect::<Option<Vec<_>>>()
        })?;
        let (unix, tcp) = (all.iter().find(|it| it.is_unix()), all.iter().find(|it| !it.is_unix()));
        let refused = |allowed: String| Err(given.clone().refused(key, allowed));
        match (unix, tcp) {
            (None, _) if has_unix => refused(
                "IP addresses and networks: \"unix:\" is for a listener on a Unix socket, and this one has \
                 none"
                    .to_owned(),
            ),
            (Some(unix), _) if !has_unix => refused(format!(
                "\"unix:\" too: the balancers that connect to {unix} have no address; or give {unix} a \
                 [[listener]] of its own"
            )),
            (_, Some(tcp)) if networks.as_ref().is_some_and(Vec::is_empty) => refused(format!(
                "the networks of the balancers that connect to {tcp} too; or give {tcp} a [[listener]] of \
                 its own"
            )),
            _ => Ok(networks),
        }
    }
}

/// A network of IPv4 addresses that is written in IPv6 form, in IPv4 form: so are the addresses of clients.
fn canonical(network: IpNet) -> IpNet {
    let mapped = |network: Ipv6Net| {
        let length = network.prefix_len().checked_sub(96)?;
        Ipv4Net::new(network.addr().to_ipv4_mapped()?, length).ok().map(IpNet::from)
    };
    match network {
        IpNet::V6(wide) => mapped(wide).unwrap_or(network),
        IpNet::V4(_) => network,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listeners(options: &[(ConfigOption, &str)]) -> Result<Vec<Listener>, ConfigError> {
        let mut raw = Raw::default();
        raw.give_identities(&["c".into()], &["k".into()])?;
        raw.give_flag(ConfigOption::Listen, "127.0.0.1:0".to_owned());
        raw.give_flag(ConfigOption::Backend, "127.0.0.1:80".to_owned());
        options.iter().for_each(|(key, value)| raw.give_flag(*key, (*value).to_owned()));
        raw.check().map(|config| config.listeners)
    }

    fn error(options: &[(ConfigOption, &str)]) -> String {
        listeners(options).unwrap_err().to_string()
    }

    #[test]
    fn listen_takes_unix_sockets_beside_addresses() {
        let value = "127.0.0.1:0, unix:/run/a b.sock,unix:@name";
        let all = listeners(&[(ConfigOption::Listen, value)]).unwrap();
        let listen: Vec<_> = all.iter().map(|one| one.listen.to_string()).collect();
        assert_eq!(listen, ["127.0.0.1:0", "unix:/run/a b.sock", "unix:@name"]);
        for bad in ["unix:", "unix:@", "unix:/a,unix:/a", "unix:/a\0b"] {
            let error = error(&[(ConfigOption::Listen, bad)]);
            assert!(error.contains("is refused: allowed is one or more of these"), "{error}");
        }
    }

    #[test]
    fn accept_proxy_is_for_each_address_of_a_listener() {
        use ConfigOption::{AcceptProxy as Key, Listen};

        let both = (Listen, "127.0.0.1:0,unix:/s");
        let all = listeners(&[both, (Key, "10.0.0.0/8, unix:")]).unwrap();
        assert_eq!(all[0].accept_proxy, AcceptProxy::From(vec!["10.0.0.0/8".parse().unwrap()]));
        assert_eq!(all[1].accept_proxy, AcceptProxy::All);
        let mapped =
            listeners(&[(Key, "::ffff:10.0.0.0/104, 2001:db8::/100")]).unwrap().remove(0).accept_proxy;
        let believes = |address: &str| mapped.believes(address.parse().ok());
        assert!(believes("10.1.2.3") && !believes("11.0.0.1") && believes("2001:db8::1"));
        assert!(!all[0].accept_proxy.believes(None) && all[1].accept_proxy.believes(None));
        for (options, part) in [
            (vec![both, (Key, "10.0.0.0/8")], "allowed is \"unix:\" too"),
            (vec![both, (Key, "unix:")], "that connect to 127.0.0.1:0 too"),
            (vec![(Key, "unix:")], "and this one has none"),
            (vec![(Key, "unix:/s")], "allowed is IP addresses and networks"),
        ] {
            let error = error(&options);
            assert!(error.starts_with("--accept-proxy: accept_proxy = ") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn offload_always_is_refused_on_unix_listeners() {
        use ConfigOption::{Listen, Offload};

        let error = error(&[(Listen, "127.0.0.1:0,unix:/s"), (Offload, "always")]);
        let expected = "--offload: offload = \"always\" is refused: allowed is auto, never or after-bytes(N) \
                        for a listener on unix:/s: clients' TLS stays in userspace";
        assert!(error.starts_with(expected), "{error}");
        assert!(listeners(&[(Listen, "unix:/s"), (Offload, "after-bytes(1)")]).is_ok());
    }
}
