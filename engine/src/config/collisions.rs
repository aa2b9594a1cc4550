//! Addresses of one configuration that cannot be bound beside each other.

use std::net::SocketAddr;

use offramp_ring::socket::Address;

use super::{Config, ConfigOption, Origin};

/// An address, as an error names it.
struct Bound {
    key: ConfigOption,
    address: Address,
    origin: Option<Origin>,
}

impl Config {
    /// A line for each two addresses of listeners, or of one and an admin address, of which the kernel gives
    /// only one: the same address, or that of all interfaces and another with the same port; or the same Unix
    /// socket.
    #[must_use]
    pub fn collisions(&self) -> Vec<String> {
        let all = self.bound();
        let mut lines = Vec::new();
        for (nth, second) in all.iter().enumerate() {
            for first in all[..nth].iter().filter(|first| collide(&first.address, &second.address)) {
                let give = if second.address.is_unix() {
                    "another path"
                } else {
                    "another port, or both an address of their own"
                };
                let place = second.origin.as_ref().map(|origin| format!("{origin}: ")).unwrap_or_default();
                let earlier = first.origin.as_ref().map(|origin| format!(" ({origin})")).unwrap_or_default();
                lines.push(format!(
                    "{place}{} {} collides with {} {}{earlier}, and cannot be listened on; give it {give}",
                    second.key, second.address, first.key, first.address
                ));
            }
        }
        lines
    }

    /// Every address of a listener, and behind them those of admin.
    fn bound(&self) -> Vec<Bound> {
        let listens = self.origins.of_each(ConfigOption::Listen);
        // A configuration that was not read from anywhere has no origins.
        let is_known = listens.len() == self.listeners.len();
        let listeners = self.listeners.iter().enumerate().map(|(nth, listener)| Bound {
            key: ConfigOption::Listen,
            address: listener.listen.clone(),
            origin: listens.get(nth).filter(|_| is_known).map(|origin| (*origin).clone()),
        });
        let admin = self.admin_addresses().into_iter().map(|address| {
            let key = if address.is_unix() { ConfigOption::AdminSocket } else { ConfigOption::Admin };
            let origin = self.origins.of_each(key).first().map(|origin| (*origin).clone());
            Bound { key, address, origin }
        });
        listeners.chain(admin).collect()
    }
}

fn collide(one: &Address, other: &Address) -> bool {
    match (one.tcp(), other.tcp()) {
        (Some(one), Some(other)) => collide_in_tcp(one, other),
        _ => one == other,
    }
}

/// IPv4 and IPv6 have ports of their own.
fn collide_in_tcp(one: SocketAddr, other: SocketAddr) -> bool {
    let (ip, other_ip) = (one.ip(), other.ip());
    let overlap = ip == other_ip || ip.is_unspecified() || other_ip.is_unspecified();
    one.port() != 0 && one.port() == other.port() && one.is_ipv4() == other.is_ipv4() && overlap
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Raw, file};
    use super::*;

    #[test]
    fn collisions_name_both_lines() {
        let text = "listen = [\"0.0.0.0:1\", \"unix:/run/s\"]\nbackend = \"127.0.0.1:3\"\n\
                    mode = \"passthrough\"\n\
                    admin = \"127.0.0.1:1\"\n\
                    [[listener]]\nlisten = \"127.0.0.1:2\"\nbackend = \"[::1]:5\"\n\
                    [[listener]]\nlisten = \"unix:/run/s\"\nbackend = \"[::1]:5\"\n";
        let config = file::parse(Path::new("o.toml"), text).and_then(Raw::check).unwrap();
        let lines = config.collisions();
        let starts = [
            "o.toml:9: listen unix:/run/s collides with listen unix:/run/s (o.toml:1), and cannot",
            "o.toml:4: admin 127.0.0.1:1 collides with listen 0.0.0.0:1 (o.toml:1), and cannot",
        ];
        assert!(
            lines.len() == 2 && lines.iter().zip(starts).all(|(line, it)| line.starts_with(it)),
            "{lines:?}"
        );
    }

    #[test]
    fn addresses_collide_by_port_and_interface() {
        let collides = |one: &str, other: &str| {
            let address = |text: &str| match text.strip_prefix("unix:") {
                Some(path) => Address::Unix(path.into()),
                None => Address::Tcp(text.parse().unwrap()),
            };
            let (one, other) = (address(one), address(other));
            assert_eq!(collide(&one, &other), collide(&other, &one), "{one} {other}");
            collide(&one, &other)
        };
        assert!(collides("127.0.0.1:1", "127.0.0.1:1") && collides("0.0.0.0:1", "0.0.0.0:1"));
        assert!(collides("0.0.0.0:1", "127.0.0.1:1") && collides("[::]:1", "[::1]:1"));
        assert!(!collides("127.0.0.1:0", "127.0.0.1:0") && !collides("127.0.0.1:1", "127.0.0.1:2"));
        assert!(!collides("127.0.0.1:1", "127.0.0.2:1") && !collides("[::]:1", "0.0.0.0:1"));
        assert!(collides("unix:/run/s", "unix:/run/s") && collides("unix:/run/s", "unix:/run/./s"));
        assert!(!collides("unix:/run/s", "unix:/run/t") && !collides("unix:@s", "unix:s"));
        assert!(!collides("unix:/run/s", "0.0.0.0:1"));
    }
}
