//! What admin asks a worker of its connections, and the answer. An inquiry comes by the mailbox, and who has
//! asked awaits an event: no lock is taken on the data path.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::reply::Reply;
use crate::sys::socket::Address;
use crate::tls::TlsInfo;

/// What is asked, and where the answer goes.
#[derive(Debug)]
pub struct Inquiry {
    /// What is asked.
    pub task: InquiryTask,
    /// Where the answer goes.
    pub reply: Reply<InquiryAnswer>,
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum InquiryTask {
    /// The connections in the slots from this one on.
    List {
        /// The first slot.
        from: u32,
        /// How many at most.
        most: usize,
        /// Which.
        filter: Arc<ConnectionFilter>,
    },
    /// To end a connection.
    End(ConnectionName),
}

/// The answer.
#[derive(Debug)]
pub enum InquiryAnswer {
    /// Connections by slot, and the slot to go on with, if there are more.
    Listed(Vec<ConnectionInfo>, Option<u32>),
    /// Whether the connection was there.
    Ended(bool),
}

/// Which connections. What is not given admits all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    /// Accepted there.
    pub listener: Option<Address>,
    /// Routed to the pool of this name.
    pub pool: Option<String>,
    /// From a client in this network.
    pub source: Option<IpNet>,
    /// In this stage ([`Conn::stage`](crate::conn::Conn::stage)).
    pub stage: Option<String>,
}

/// Names a connection as long as it is open; no later one has the same name, unless 2^32 were there since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionName {
    /// The index of its worker.
    pub worker: usize,
    /// Its slot there.
    pub slot: u32,
    /// Tells this tenant of the slot from others.
    pub serial: u32,
}

impl fmt::Display for ConnectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.worker, self.slot, self.serial)
    }
}

impl FromStr for ConnectionName {
    type Err = NoName;

    fn from_str(text: &str) -> Result<Self, NoName> {
        let mut parts = text.split('-');
        let mut next = || parts.next().filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
        let name = (|| {
            let worker = next()?.parse().ok()?;
            Some(Self { worker, slot: next()?.parse().ok()?, serial: next()?.parse().ok()? })
        })();
        name.filter(|_| parts.next().is_none()).ok_or(NoName)
    }
}

/// The text is not the name of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the id of a connection is three numbers, WORKER-SLOT-SERIAL, as GET /v1/connections shows it")]
pub struct NoName;

/// What is known of a connection. Some of it only of those that were accepted since admin shows them.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// Its name here.
    pub name: ConnectionName,
    /// Its name in the log and in PROXY headers.
    pub log_id: Option<String>,
    /// Where it was accepted.
    pub listener: Address,
    /// Who connected; none on a Unix socket.
    pub client: Option<SocketAddr>,
    /// The name that the client asks for.
    pub server_name: Option<String>,
    /// The handshakes of the near and the far leg, without certificates.
    pub tls: [Option<TlsInfo>; 2],
    /// Where it is routed to.
    pub pool: Option<Arc<str>>,
    /// The endpoint that was chosen last.
    pub endpoint: Option<Address>,
    /// By leg, who carries the records that are sent and received.
    pub paths: [[Option<&'static str>; 2]; 2],
    /// The part of its course in which it is.
    pub stage: &'static str,
    /// Since it was accepted.
    pub age: Option<Duration>,
    /// Bytes of plaintext that came from each leg.
    pub bytes: Option<[u64; 2]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_name_is_read_as_it_is_written() {
        let name = ConnectionName { worker: 3, slot: 17, serial: u32::MAX };
        assert_eq!(name.to_string().parse(), Ok(name));
        for text in ["", "1-2", "1-2-3-4", "-1-2-3", "1-2-+3", "1-2-4294967296", "a-b-c", "1--3"] {
            assert_eq!(text.parse::<ConnectionName>(), Err(NoName), "{text}");
        }
    }
}
