//! The query of `/v1/connections`.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::limits::{ADMIN_PAGE_DEFAULT, ADMIN_PAGE_MAX};
use crate::sys::socket::Address;
use crate::worker::{ConnectionFilter, ConnectionName};

/// A page that is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) filter: ConnectionFilter,
    pub(super) most: usize,
    /// The last connection of the page before.
    pub(super) after: Option<ConnectionName>,
}

impl Page {
    /// Reads a query.
    ///
    /// # Errors
    /// What of it is wrong, and what is allowed.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut page = Self { filter: ConnectionFilter::default(), most: ADMIN_PAGE_DEFAULT, after: None };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let refused = |allowed: &str| Err(format!("{key}={value} is refused: allowed is {allowed}"));
            match &*key {
                "listener" => match address(&value) {
                    Some(address) => page.filter.listener = Some(address),
                    None => return refused("an address as /v1/state shows it, or unix:PATH"),
                },
                "pool" => page.filter.pool = Some(value.into_owned()),
                "stage" => page.filter.stage = Some(value.into_owned()),
                "source" => match network(&value) {
                    Some(network) => page.filter.source = Some(network),
                    None => return refused("an IP address or a network, such as 192.0.2.0/24"),
                },
                "limit" => match value.parse() {
                    Ok(most) if (1..=ADMIN_PAGE_MAX).contains(&most) => page.most = most,
                    _ => return refused(&format!("1 to {ADMIN_PAGE_MAX}")),
                },
                "after" => match value.parse() {
                    Ok(name) => page.after = Some(name),
                    Err(_) => return refused("the id of a connection, such as next of the page before"),
                },
                _ => {
                    let known = "listener, pool, source, stage, limit, after";
                    return Err(format!("{key} is unknown: allowed are {known}"));
                }
            }
        }
        Ok(page)
    }
}

fn address(text: &str) -> Option<Address> {
    match text.strip_prefix("unix:") {
        Some(path) => Some(Address::Unix(path.into())),
        None => text.parse().ok().map(Address::Tcp),
    }
}

fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_is_read_from_a_query() {
        let page = Page::parse("").unwrap();
        assert_eq!((page.most, page.after, &page.filter), (ADMIN_PAGE_DEFAULT, None, &Default::default()));
        let query = "listener=%5B%3A%3A1%5D:443&pool=a+b&source=10.0.0.0/8&stage=relay&limit=7&after=1-2-3";
        let page = Page::parse(query).unwrap();
        assert_eq!(page.filter.listener, Some(Address::Tcp("[::1]:443".parse().unwrap())));
        assert_eq!((page.filter.pool.as_deref(), page.filter.stage.as_deref()), (Some("a b"), Some("relay")));
        assert_eq!(page.filter.source, Some("10.0.0.0/8".parse().unwrap()));
        let after = ConnectionName { worker: 1, slot: 2, serial: 3 };
        assert_eq!((page.most, page.after), (7, Some(after)));
        assert_eq!(Page::parse("source=::1").unwrap().filter.source, Some("::1/128".parse().unwrap()));
        for (query, what) in [
            ("limit=0", "1 to 1000"),
            ("limit=1001", "1 to 1000"),
            ("after=x", "the id of a connection"),
            ("source=host", "an IP address"),
            ("listener=nowhere", "an address"),
            ("colour=red", "colour is unknown"),
        ] {
            assert!(Page::parse(query).unwrap_err().contains(what), "{query}");
        }
    }
}
