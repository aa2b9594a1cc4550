//! What an m= line and its section say of the side that sent them.

use std::net::SocketAddr;

use crate::attribute::{ConnectionUse, E2ae, Setup, TlsId};
use crate::document::{Document, Section};
use crate::error::{Problem, SdpError};
use crate::fingerprints::FingerprintSet;
use crate::line::Line;
use crate::media::{Transport, read_address};
use crate::path::MsrpUri;

/// The port of whoever does not accept connections (RFC 4145 §4.1).
pub(crate) const DISCARD_PORT: u16 = 9;

/// What a media section is to the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Learnt {
    /// Media of another protocol: its lines pass (rule 1).
    Foreign,
    /// Port 0: the stream was rejected or is released (rule 7).
    Released,
    /// A stream of the gateway.
    Stream(Box<Remote>),
}

/// One side of a stream, as its own SDP describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The protocol of the m= line.
    pub transport: Transport,
    /// The address of the c= line and the port of the m= line. Port 9 is nobody's.
    pub address: SocketAddr,
    /// a=setup of the media, or else of the session.
    pub setup: Option<Setup>,
    /// a=connection of the media, or else of the session.
    pub connection: Option<ConnectionUse>,
    /// With TLS, the fingerprints of the media, or else of the session (rule 5).
    pub fingerprints: Option<FingerprintSet>,
    /// With TLS, a=tls-id.
    pub tls_id: Option<TlsId>,
    /// a=3ge2ae.
    pub e2ae: Option<E2ae>,
    /// Whether a=msrp-cema is there (RFC 6714 §4).
    pub cema: bool,
    /// With MSRP, the URIs of a=path, the next hop first; empty where the media has none.
    pub path: Vec<MsrpUri>,
}

impl Document {
    /// What the section at `index` says; one that does not exist is foreign.
    ///
    /// # Errors
    /// A line of a stream of the gateway that is malformed, missing or there twice.
    pub fn learn(&self, index: usize) -> Result<Learnt, SdpError> {
        let Some(section) = self.sections.get(index) else { return Ok(Learnt::Foreign) };
        let Some(transport) = section.media.transport() else { return Ok(Learnt::Foreign) };
        if section.media.port() == 0 {
            return Ok(Learnt::Released);
        }
        if section.media.count().is_some_and(|count| count > 1) {
            return Err(section.fault(Problem::PortCount));
        }
        let levels = [&section.lines[..], &self.session];
        let has_tls = transport.has_tls();
        let is_msrp = transport.is_tcp();
        let path = match attribute(&section.lines, "path", "a=path")?.filter(|_| is_msrp) {
            Some((line, value)) => MsrpUri::read_path(value).map_err(|problem| line.fault(problem))?,
            None => Vec::new(),
        };
        Ok(Learnt::Stream(Box::new(Remote {
            transport,
            address: self.address(section)?,
            setup: first_of(levels, Setup::NAME, "a=setup", Setup::read)?,
            connection: first_of(levels, ConnectionUse::NAME, "a=connection", ConnectionUse::read)?,
            fingerprints: if has_tls { fingerprints(levels)? } else { None },
            tls_id: match has_tls {
                true => first_of(levels[..1].iter().copied(), TlsId::NAME, "a=tls-id", TlsId::read)?,
                false => None,
            },
            e2ae: attribute(&section.lines, E2ae::NAME, "a=3ge2ae")?.and_then(|(_, value)| E2ae::read(value)),
            cema: section.lines.iter().any(|line| line.attribute("msrp-cema").is_some()),
            path,
        })))
    }

    fn address(&self, section: &Section) -> Result<SocketAddr, SdpError> {
        for lines in [&section.lines, &self.session] {
            let mut found = lines.iter().filter(|line| line.value_of(b'c').is_some());
            if let Some(line) = found.next() {
                if let Some(second) = found.next() {
                    return Err(second.fault(Problem::Repeated("c= line")));
                }
                return Ok(SocketAddr::new(read_address(line)?, section.media.port()));
            }
        }
        Err(section.fault(Problem::MissingConnection))
    }
}

fn fingerprints(levels: [&[Line]; 2]) -> Result<Option<FingerprintSet>, SdpError> {
    match FingerprintSet::read(levels[0])? {
        Some(set) => Ok(Some(set)),
        None => FingerprintSet::read(levels[1]),
    }
}

/// The value of an attribute that a level can have once.
fn attribute<'a>(
    lines: &'a [Line],
    name: &str,
    shown: &'static str,
) -> Result<Option<(&'a Line, &'a str)>, SdpError> {
    let mut found = lines.iter().filter_map(|line| line.attribute(name).map(|value| (line, value)));
    let Some((line, value)) = found.next() else { return Ok(None) };
    match found.next() {
        Some((second, _)) => Err(second.fault(Problem::Repeated(shown))),
        None => Ok(Some((line, line.utf8(value)?))),
    }
}

/// The value at the first level that has one.
fn first_of<'a, T>(
    levels: impl IntoIterator<Item = &'a [Line]>,
    name: &str,
    shown: &'static str,
    read: fn(&str) -> Result<T, Problem>,
) -> Result<Option<T>, SdpError> {
    for lines in levels {
        if let Some((line, value)) = attribute(lines, name, shown)? {
            return read(value).map(Some).map_err(|problem| line.fault(problem));
        }
    }
    Ok(None)
}
