//! The check of addresses: where connections are accepted, and from whom.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::{ConfigError, ConfigOption, Raw};

impl Raw {
    /// At least one, each another unless the kernel chooses the port.
    pub(super) fn listen(&mut self) -> Result<Option<Vec<SocketAddr>>, ConfigError> {
        let allowed = "one or more of these, each another: an IP address and a port, such as 127.0.0.1:8443 \
                       or [::1]:8443";
        self.parsed(ConfigOption::Listen, allowed, |value| {
            let all: Vec<SocketAddr> =
                value.split(',').map(|text| text.trim().parse().ok()).collect::<Option<_>>()?;
            let is_new = |nth: usize| all[nth].port() == 0 || !all[..nth].contains(&all[nth]);
            (0..all.len()).all(is_new).then_some(all)
        })
    }

    pub(super) fn address(&mut self, key: ConfigOption) -> Result<Option<SocketAddr>, ConfigError> {
        let allowed = "an IP address and a port, such as 127.0.0.1:8443 or [::1]:8443";
        self.parsed(key, allowed, |value| value.parse().ok())
    }

    pub(super) fn accept_proxy(&mut self) -> Result<Vec<IpNet>, ConfigError> {
        let allowed = "IP addresses and networks, such as \"10.0.0.0/8\" or \"2001:db8::1\"";
        let network = |text: &str| text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        let networks = self.parsed(ConfigOption::AcceptProxy, allowed, |value| {
            value.split(',').map(|text| network(text.trim())).collect::<Option<Vec<_>>>()
        })?;
        Ok(networks.unwrap_or_default())
    }
}
