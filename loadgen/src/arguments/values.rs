//! Values of arguments as people write them.

use std::net::{Ipv6Addr, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::plan::{Request, Target, Version};
use crate::schedule::Rate;

/// `10s`, `500ms`, `2m`, `50us`; a bare number is in seconds.
///
/// # Errors
/// It is something else, or longer than a day.
pub fn duration(text: &str) -> Result<Duration> {
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => bail!("a time is a number and us, ms, s, m or h: 500ms"),
    };
    let value: f64 = number.parse().context("a time is a number and us, ms, s, m or h: 500ms")?;
    let seconds = value * seconds;
    ensure!((0.0..=86_400.0).contains(&seconds), "a time is between 0 and a day");
    Ok(Duration::from_secs_f64(seconds))
}

/// A number of connections a second, or two for a ramp: `500`, `20k`, `100..20000`.
///
/// # Errors
/// It is something else, or not between 0.01 and 10 million.
pub fn rate(text: &str) -> Result<Rate> {
    let one = |text: &str| {
        let (number, unit) = text.strip_suffix('k').map_or((text, 1.0), |number| (number, 1000.0));
        let value: f64 = number.parse().context("a rate is connections a second: 500, 20k, 100..20000")?;
        let value = value * unit;
        ensure!((0.01..=1e7).contains(&value), "a rate is between 0.01 and 10 million a second");
        Ok(value)
    };
    match text.split_once("..") {
        Some((from, to)) => Ok(Rate { from: one(from)?, to: one(to)? }),
        None => Ok(Rate::steady(one(text)?)),
    }
}

/// A share from 0 to 1.
///
/// # Errors
/// It is something else.
pub fn share(text: &str) -> Result<f64> {
    let value: f64 = text.parse().context("a share is a number from 0 to 1")?;
    ensure!((0.0..=1.0).contains(&value), "a share is a number from 0 to 1");
    Ok(value)
}

/// `1.2` or `1.3`.
///
/// # Errors
/// It is something else.
pub fn version(text: &str) -> Result<Version> {
    match text.trim() {
        "1.2" => Ok(Version::Tls12),
        "1.3" => Ok(Version::Tls13),
        _ => bail!("a version of TLS is 1.2 or 1.3; both in turn: 1.2,1.3"),
    }
}

/// `none`, `echo`, `http` or `http:/path`.
///
/// # Errors
/// It is something else.
pub fn request(text: &str) -> Result<Request> {
    match text {
        "none" => Ok(Request::None),
        "echo" => Ok(Request::Echo),
        "http" => Ok(Request::Http("/".to_owned())),
        other => match other.strip_prefix("http:") {
            Some(path) if path.starts_with('/') => Ok(Request::Http(path.to_owned())),
            _ => bail!("a request is none, echo, http or http:/path"),
        },
    }
}

/// A number of bytes: `512`, `2k`, `8M` (in units of 1024).
///
/// # Errors
/// It is something else, or more than 64 MiB.
pub fn bytes(text: &str) -> Result<u32> {
    let (number, unit) = match text.chars().last() {
        Some('k' | 'K') => (&text[..text.len() - 1], 1024),
        Some('M') => (&text[..text.len() - 1], 1024 * 1024),
        _ => (text, 1),
    };
    let value: u32 = number.parse().context("a size is a number of bytes: 512, 2k, 8M")?;
    let value = value.checked_mul(unit).filter(|value| *value <= 64 * 1024 * 1024);
    value.context("a size is at most 64M")
}

/// The port of an IPv6 address that is given without one: behind its colons no port can be told from it.
const PORT_DEFAULT: u16 = 443;

/// A host name or address, and a port; an IPv6 address in brackets. Without a port one may stand alone, with
/// or without brackets: [`PORT_DEFAULT`].
///
/// # Errors
/// It is something else, or the name has no address.
pub fn target(text: &str) -> Result<Target> {
    let alone = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = alone.parse::<Ipv6Addr>() {
        return Ok(Target { host: alone.to_owned(), address: (address, PORT_DEFAULT).into() });
    }
    ensure!(!text.starts_with("unix:"), "a target is HOST:PORT: Unix sockets carry no TLS here");
    let (host, port) = text.rsplit_once(':').context("a target is HOST:PORT")?;
    ensure!(port.parse::<u16>().is_ok(), "a target is HOST:PORT, and a port is a number up to 65535");
    ensure!(
        !host.contains(':') || (host.starts_with('[') && host.ends_with(']')),
        "a target is HOST:PORT, and an IPv6 address stands in brackets there: [::1]:443"
    );
    let addresses = text.to_socket_addrs().with_context(|| format!("{host} has no address"))?;
    let address = addresses.into_iter().next().with_context(|| format!("{host} has no address"))?;
    Ok(Target { host: host.trim_matches(['[', ']']).to_owned(), address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_people_write_them() {
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("1.5").unwrap(), Duration::from_millis(1500));
        assert_eq!(rate("100..20k").unwrap(), Rate { from: 100.0, to: 20_000.0 });
        assert_eq!(version("1.3").unwrap(), Version::Tls13);
        assert_eq!(request("http:/a").unwrap(), Request::Http("/a".to_owned()));
        assert_eq!(bytes("2k").unwrap(), 2048);
    }

    #[test]
    fn an_ipv6_target_needs_neither_brackets_nor_port() {
        for (text, port) in [("::1", 443), ("[::1]", 443), ("[::1]:8443", 8443)] {
            let target = target(text).unwrap();
            assert_eq!((target.host.as_str(), target.address.port()), ("::1", port), "{text}");
            assert!(target.address.is_ipv6());
        }
        // All of it is an address.
        assert_eq!(target("::1:443").unwrap().address, "[::1:443]:443".parse().unwrap());
    }

    #[test]
    fn nonsense_is_refused_with_what_is_meant() {
        let refused = [
            duration("5 weeks").unwrap_err(),
            duration("-1s").unwrap_err(),
            rate("0").unwrap_err(),
            rate("fast").unwrap_err(),
            share("1.1").unwrap_err(),
            version("1.1").unwrap_err(),
            request("ftp").unwrap_err(),
            bytes("100M").unwrap_err(),
            target("localhost").unwrap_err(),
            target("localhost:99999").unwrap_err(),
            target("unix:@name").unwrap_err(),
            target("2001:db8::1::8443").unwrap_err(),
            target("[::1").unwrap_err(),
        ];
        assert!(refused.iter().all(|error| error.to_string().starts_with("a ")), "{refused:?}");
    }
}
