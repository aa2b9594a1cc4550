//! Addresses of one configuration that cannot be bound beside each other.

use std::net::SocketAddr;

use offramp_ring::socket::Address;

use super::{Config, ConfigOption};

impl Config {
    /// A line for each two addresses of listeners, or of one and an admin address, of which the kernel gives
    /// only one: the same address, or that of all interfaces and another with the same port; or the same Unix
    /// socket.
    #[must_use]
    pub fn collisions(&self) -> Vec<String> {
        let listeners = self.listeners.iter().map(|listener| (ConfigOption::Listen, listener.listen.clone()));
        let admin = self.admin_addresses().into_iter().map(|address| match address {
            Address::Tcp(_) => (ConfigOption::Admin, address),
            Address::Unix(_) => (ConfigOption::AdminSocket, address),
        });
        let all: Vec<_> = listeners.chain(admin).collect();
        let mut lines = Vec::new();
        for (nth, (key, address)) in all.iter().enumerate() {
            for (earlier_key, earlier) in all[..nth].iter().filter(|(_, earlier)| collide(earlier, address)) {
                let give = if address.is_unix() {
                    "another path"
                } else {
                    "another port, or both an address of their own"
                };
                lines.push(format!(
                    "{earlier_key} {earlier} and {key} {address} collide: the second cannot be listened on; \
                     give it {give}"
                ));
            }
        }
        lines
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
    use super::*;

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
