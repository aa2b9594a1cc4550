//! a=path: MSRP URIs (RFC 4975 §9).

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use crate::error::{Problem, shown};
use crate::media::decimal;

/// The port of a URI that names none (RFC 4975 §6).
const DEFAULT_PORT: u16 = 2855;

/// An MSRP URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsrpUri {
    text: String,
    authority: Range<usize>,
    host: String,
    port: Option<u16>,
    session_id: Option<String>,
}

impl MsrpUri {
    /// Reads a URI.
    ///
    /// # Errors
    /// One of its parts is missing or malformed.
    pub fn read(text: &str) -> Result<Self, Problem> {
        let problem = |part| Problem::MsrpUri { uri: shown(text), part };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| problem("scheme"))?;
        if !["msrp", "msrps"].iter().any(|known| known.eq_ignore_ascii_case(scheme)) {
            return Err(problem("scheme"));
        }
        let start = text.len() - rest.len();
        let authority = &rest[..rest.find(['/', ';']).unwrap_or(rest.len())];
        let (host, port) = read_authority(authority).map_err(problem)?;
        let behind = &rest[authority.len()..];
        let (session, parameters) = behind.split_once(';').ok_or_else(|| problem("transport"))?;
        let session_id = match session.strip_prefix('/') {
            Some(id) if !id.is_empty() && id.bytes().all(is_session_id) => Some(id.to_owned()),
            Some(_) => return Err(problem("session-id")),
            None => None,
        };
        let mut parameters = parameters.split(';');
        let transport = parameters.next().unwrap_or_default();
        if transport.is_empty() || !transport.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(problem("transport"));
        }
        if !parameters.all(is_parameter) {
            return Err(problem("parameter"));
        }
        let (host, authority) = (host.to_owned(), start..start + authority.len());
        Ok(Self { text: text.to_owned(), authority, host, port, session_id })
    }

    /// The URIs of an a=path, at least one.
    pub(crate) fn read_path(value: &str) -> Result<Vec<Self>, Problem> {
        value.split(' ').map(Self::read).collect()
    }

    /// The URI as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host, an IPv6 address in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The session-id, which the peers compare.
    #[must_use]
    pub fn session_id(&self) -> Option<&str> {
        self.session_id.as_deref()
    }

    /// Address and port, if the host is an address.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let address: IpAddr = host.parse().ok()?;
        Some(SocketAddr::new(address, self.port.unwrap_or(DEFAULT_PORT)))
    }

    /// The same URI at another address, with the scheme that fits the transport there.
    pub(crate) fn at(&self, address: SocketAddr, tls: bool) -> String {
        let scheme = if tls { "msrps" } else { "msrp" };
        format!("{scheme}://{address}{}", &self.text[self.authority.end..])
    }
}

/// Host and port; who the user is does not matter.
fn read_authority(authority: &str) -> Result<(&str, Option<u16>), &'static str> {
    let (user, host_port) = authority.rsplit_once('@').unwrap_or(("", authority));
    let is_user = |byte: u8| is_name(byte) || byte == b':';
    if !user.bytes().all(is_user) {
        return Err("user");
    }
    let (host, port) = match host_port.find(']') {
        Some(end) => host_port.split_at(end + 1),
        None => host_port.split_at(host_port.find(':').unwrap_or(host_port.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(port) if !port.is_empty() => Some(decimal(port).ok_or("port")?),
        _ if port.is_empty() => None,
        _ => return Err("port"),
    };
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match inner {
        Some(inner) => matches!(inner.parse(), Ok(IpAddr::V6(_))),
        None => !host.is_empty() && host.bytes().all(is_name),
    };
    if is_host { Ok((host, port)) } else { Err("host") }
}

/// unreserved, pct-encoded and sub-delims (RFC 3986) without those that end an authority here.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,=".contains(&byte)
}

fn is_session_id(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+=/".contains(&byte)
}

/// token ["=" token] (RFC 4975 §9).
fn is_parameter(text: &str) -> bool {
    let is_token = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`{|}~".contains(&byte))
    };
    let (name, value) = text.split_once('=').unwrap_or((text, "x"));
    is_token(name) && is_token(value)
}
