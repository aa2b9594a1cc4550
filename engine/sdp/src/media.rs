//! m= and c= lines.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::{Problem, SdpError, shown};
use crate::line::Line;

/// The protocols of m= lines that are the gateway's (rule 1). Their names are compared without regard to
/// case: both `udptl` and `UDPTL` are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `TCP/MSRP` (RFC 4975).
    TcpMsrp,
    /// `TCP/TLS/MSRP` (RFC 4975).
    TcpTlsMsrp,
    /// `udptl` (T.38).
    Udptl,
    /// `UDP/TLS/UDPTL` (RFC 7345).
    UdpTlsUdptl,
}

impl Transport {
    const ALL: [Self; 4] = [Self::TcpMsrp, Self::TcpTlsMsrp, Self::Udptl, Self::UdpTlsUdptl];

    /// The transport of this name, if it is one of the gateway's.
    #[must_use]
    pub fn by_name(proto: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|transport| transport.name().eq_ignore_ascii_case(proto))
    }

    /// How an m= line writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TcpMsrp => "TCP/MSRP",
            Self::TcpTlsMsrp => "TCP/TLS/MSRP",
            Self::Udptl => "udptl",
            Self::UdpTlsUdptl => "UDP/TLS/UDPTL",
        }
    }

    /// Whether it has TLS or DTLS.
    #[must_use]
    pub fn has_tls(self) -> bool {
        matches!(self, Self::TcpTlsMsrp | Self::UdpTlsUdptl)
    }

    /// Whether it runs on TCP.
    #[must_use]
    pub fn is_tcp(self) -> bool {
        matches!(self, Self::TcpMsrp | Self::TcpTlsMsrp)
    }

    /// The same media with or without TLS.
    #[must_use]
    pub fn with_tls(self, tls: bool) -> Self {
        match (self.is_tcp(), tls) {
            (true, false) => Self::TcpMsrp,
            (true, true) => Self::TcpTlsMsrp,
            (false, false) => Self::Udptl,
            (false, true) => Self::UdpTlsUdptl,
        }
    }
}

/// An m= line (RFC 8866 §5.14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaLine {
    media: String,
    port: u16,
    count: Option<u16>,
    proto: String,
    formats: String,
}

impl MediaLine {
    pub(crate) fn read(line: &Line) -> Result<Self, SdpError> {
        let text = line.utf8(line.value_of(b'm').unwrap_or_default())?;
        let mut parts = text.splitn(4, ' ');
        let mut part = |name| {
            let found = parts.next().filter(|part| !part.trim().is_empty());
            found.ok_or_else(|| line.fault(Problem::MediaPart(name)))
        };
        let (media, port, proto, formats) = (part("media")?, part("port")?, part("proto")?, part("format")?);
        let bad_port = || line.fault(Problem::MediaPort(shown(port)));
        let (number, count) = match port.split_once('/') {
            Some((number, count)) => {
                let count = decimal(count).filter(|count| *count > 0).ok_or_else(bad_port)?;
                (number, Some(count))
            }
            None => (port, None),
        };
        Ok(Self {
            media: media.to_owned(),
            port: decimal(number).ok_or_else(bad_port)?,
            count,
            proto: proto.to_owned(),
            formats: formats.to_owned(),
        })
    }

    /// The type of media, such as `message`.
    #[must_use]
    pub fn media(&self) -> &str {
        &self.media
    }

    /// The port; 0 for media that was rejected or ended.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The number of ports, where one is given.
    #[must_use]
    pub fn count(&self) -> Option<u16> {
        self.count
    }

    /// The protocol as it is written.
    #[must_use]
    pub fn proto(&self) -> &str {
        &self.proto
    }

    /// The protocol, if it is one of the gateway's.
    #[must_use]
    pub fn transport(&self) -> Option<Transport> {
        Transport::by_name(&self.proto)
    }

    /// The formats, at least one.
    pub fn formats(&self) -> impl Iterator<Item = &str> {
        self.formats.split(' ').filter(|format| !format.is_empty())
    }

    /// The line with another port and transport; a transport that is the same stays as it is written.
    pub(crate) fn rewrite(&mut self, port: u16, transport: Transport) -> String {
        if self.transport() != Some(transport) {
            self.proto = transport.name().to_owned();
        }
        (self.port, self.count) = (port, None);
        format!("m={} {port} {} {}", self.media, self.proto, self.formats)
    }
}

/// Digits alone, where `parse` would take a sign.
pub(crate) fn decimal(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The address of a c= line (RFC 8866 §5.7).
pub(crate) fn read_address(line: &Line) -> Result<IpAddr, SdpError> {
    let text = line.utf8(line.value_of(b'c').unwrap_or_default())?;
    let parts: Vec<&str> = text.split(' ').collect();
    let ["IN", family, address] = parts[..] else { return Err(line.fault(Problem::Address(shown(text)))) };
    if address.contains('/') {
        return Err(line.fault(Problem::Multicast(shown(text))));
    }
    let read = match family {
        "IP4" => address.parse().ok().map(|address: Ipv4Addr| IpAddr::V4(address)),
        "IP6" => address.parse().ok().map(|address: Ipv6Addr| IpAddr::V6(address)),
        _ => None,
    };
    match read {
        Some(address) if address.is_multicast() => Err(line.fault(Problem::Multicast(shown(text)))),
        Some(address) => Ok(address),
        None => Err(line.fault(Problem::Address(shown(text)))),
    }
}

/// A c= line for an address.
pub(crate) fn address_line(address: IpAddr) -> String {
    format!("c=IN {} {address}", if address.is_ipv4() { "IP4" } else { "IP6" })
}
