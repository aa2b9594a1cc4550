//! Names that a client's certificate may have.

use std::fmt;

use rustls_pki_types::DnsName;

/// A name among the subjectAltNames of a certificate (RFC 5280 §4.2.1.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerName {
    /// A DNS name in lower case; `*.` in front stands for exactly one label.
    Dns(String),
    /// A URI, such as a SPIFFE ID; `*` at its end stands for anything.
    Uri(String),
}

impl PeerName {
    /// How a configuration writes it.
    pub const ALLOWED: &'static str = "DNS names, such as \"phone.example\" or \"*.example\", and URIs, \
         such as \"spiffe://a.example/phone\" or \"spiffe://a.example/*\"";

    /// Reads it as a configuration writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.contains("://") {
            let stem = text.strip_suffix('*').unwrap_or(text);
            return (is_printable && !stem.contains('*')).then(|| Self::Uri(text.to_owned()));
        }
        let stem = text.strip_prefix("*.").unwrap_or(text);
        DnsName::try_from(stem).is_ok().then(|| Self::Dns(text.to_ascii_lowercase()))
    }

    /// Whether a DNS name of a certificate is this one.
    #[must_use]
    pub fn is_dns(&self, name: &str) -> bool {
        let Self::Dns(pattern) = self else { return false };
        match pattern.strip_prefix("*.") {
            Some(parent) => {
                let rest = name.split_once('.');
                rest.is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(parent))
            }
            None => name.eq_ignore_ascii_case(pattern),
        }
    }

    /// Whether a URI of a certificate is this one.
    #[must_use]
    pub fn is_uri(&self, uri: &str) -> bool {
        let Self::Uri(pattern) = self else { return false };
        match pattern.strip_suffix('*') {
            Some(stem) => uri.starts_with(stem),
            None => uri == pattern,
        }
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Dns(text) | Self::Uri(text)) = self;
        f.write_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_name_of_dns_matches_one_label() {
        let exact = PeerName::parse("Phone.example").expect("a name");
        assert!(
            exact.is_dns("phone.EXAMPLE")
                && !exact.is_dns("a.phone.example")
                && !exact.is_uri("phone.example")
        );
        let wild = PeerName::parse("*.example").expect("a name");
        assert!(wild.is_dns("a.example") && !wild.is_dns("a.b.example") && !wild.is_dns("example"));
        assert!(!wild.is_dns(".example"));
    }

    #[test]
    fn peer_name_of_uri_matches_whole_or_by_its_beginning() {
        let exact = PeerName::parse("spiffe://a.example/a").expect("a name");
        assert!(exact.is_uri("spiffe://a.example/a") && !exact.is_uri("spiffe://a.example/ab"));
        let stem = PeerName::parse("spiffe://a.example/*").expect("a name");
        assert!(stem.is_uri("spiffe://a.example/ab/c") && !stem.is_uri("spiffe://b.example/a"));
    }

    #[test]
    fn peer_name_that_means_nothing_is_refused() {
        for bad in ["", "*", "*.", "a..b", "a.*.b", "192.0.2.1", "spiffe://a/*/b", "spiffe://a b"] {
            assert_eq!(PeerName::parse(bad), None, "{bad}");
        }
    }
}
