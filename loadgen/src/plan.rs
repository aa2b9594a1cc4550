//! What is asked of a terminator.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustls::{SupportedProtocolVersion, version};
use serde::{Deserialize, Serialize};

use crate::schedule::{Rate, Spacing};

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// RFC 5246.
    #[serde(rename = "TLS 1.2")]
    Tls12,
    /// RFC 8446.
    #[serde(rename = "TLS 1.3")]
    Tls13,
}

impl Version {
    /// Both, the older one first.
    pub const BOTH: [Self; 2] = [Self::Tls12, Self::Tls13];

    /// As people write it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Tls12 => "TLS 1.2",
            Self::Tls13 => "TLS 1.3",
        }
    }

    /// As rustls knows it.
    #[must_use]
    pub fn protocol(self) -> &'static SupportedProtocolVersion {
        match self {
            Self::Tls12 => &version::TLS12,
            Self::Tls13 => &version::TLS13,
        }
    }
}

/// What is said on a connection whose handshake is what counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Nothing: the connection ends with its handshake.
    None,
    /// One byte, which a [`backend`](crate::backend) sends back.
    Echo,
    /// An HTTP/1.1 request for this path; the status of its answer, which must be 2xx or 3xx, ends the
    /// connection.
    Http(String),
}

/// What a connection is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Handshake, the request and the first byte of its answer; then the next one.
    Handshake(Request),
    /// Bulk data from the backend to the client.
    ToClient,
    /// Bulk data from the client to the backend.
    FromClient,
    /// Bulk data to an echo and back, both ways at once.
    BothWays,
    /// Requests and answers of these sizes, one at a time.
    Message {
        /// Bytes of a request.
        request: u32,
        /// Bytes of an answer.
        answer: u32,
        /// How they follow one another.
        pace: Pace,
    },
    /// Messages in chunks of at most 2 KiB, each acknowledged, as MSRP has them (RFC 4975).
    Msrp {
        /// How messages follow one another.
        pace: Pace,
    },
}

/// How the messages of one connection follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The next one as soon as the last one was answered.
    AtOnce,
    /// One is due every so often, answered or not; its latency counts from when it was due.
    Every(Duration),
    /// The same, with gaps left to chance that are this long on average (exponentially distributed): as
    /// people write.
    Around(Duration),
}

impl Pace {
    /// The gap between two messages, on average, where messages have a schedule.
    #[must_use]
    pub fn gap(self) -> Option<Duration> {
        match self {
            Self::AtOnce => None,
            Self::Every(gap) | Self::Around(gap) => Some(gap),
        }
    }
}

impl Work {
    /// As in a report.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Handshake(_) => "handshakes",
            Self::ToClient => "bulk to the client",
            Self::FromClient => "bulk from the client",
            Self::BothWays => "bulk both ways",
            Self::Message { .. } => "messages",
            Self::Msrp { .. } => "MSRP-like messages",
        }
    }

    /// Whether it is about bytes a second.
    #[must_use]
    pub fn is_bulk(&self) -> bool {
        matches!(self, Self::ToClient | Self::FromClient | Self::BothWays)
    }

    /// The gap between two messages of a connection, on average, where they have a schedule.
    #[must_use]
    pub fn gap(&self) -> Option<Duration> {
        match self {
            Self::Message { pace, .. } | Self::Msrp { pace } => pace.gap(),
            _ => None,
        }
    }

    /// Whether one connection serves for the whole run.
    #[must_use]
    pub fn lasts(&self) -> bool {
        !matches!(self, Self::Handshake(_))
    }
}

/// When connections begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// So many at once on all threads together, each followed by the next.
    Closed {
        /// At least as many as there are threads.
        connections: usize,
    },
    /// At planned times, whether or not earlier ones are done.
    Open {
        /// On all threads together.
        rate: Rate,
        /// How they are spread.
        spacing: Spacing,
        /// So many at once, on all threads together, at most; what is planned beyond that waits, and its
        /// latency grows.
        connections_max: usize,
    },
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// close_notify and FIN; then the peer's end is waited for.
    Orderly,
    /// A TCP reset: no port stays in TIME_WAIT.
    Reset,
}

/// Where client threads run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Pin {
    /// Each on a CPU of its own, if this process may use as many as there are threads.
    Auto,
    /// Wherever the kernel puts them.
    Off,
}

/// When a run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// When so much time was counted.
    Elapsed(Duration),
    /// When so many connections were counted, on all threads together; in a closed loop only.
    Counted(u64),
}

/// Everything a run is asked for, apart from its TLS ([`crate::profiles`]) and its target.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What connections are for.
    pub work: Work,
    /// When they begin.
    pub load: Load,
    /// The share of them, 0 to 1, that shall be resumed.
    pub resume: f64,
    /// How they end.
    pub ending: Ending,
    /// Local addresses to connect from, in turn; any if there is none.
    pub sources: Vec<IpAddr>,
    /// Client threads, at least one.
    pub threads: usize,
    /// Where they run.
    pub pin: Pin,
    /// Load before anything counts.
    pub warm_up: Duration,
    /// Load that counts.
    pub until: Until,
    /// How long each part of a connection (see [`crate::failure::Moment`]) may take.
    pub patience: Duration,
    /// So many failures in a row, on one thread, end the run.
    pub give_up_after: u64,
    /// Decides what is left to chance.
    pub seed: u64,
}

/// The longest time that can be asked for: a run by count ends with its count.
pub const FOR_EVER: Duration = Duration::from_secs(86_400 * 7);

impl Plan {
    /// How long the time that counts is at most.
    #[must_use]
    pub fn measured(&self) -> Duration {
        match self.until {
            Until::Elapsed(measured) => measured,
            Until::Counted(_) => FOR_EVER,
        }
    }

    /// Connections at once on thread `index`: what all have, divided as evenly as may be.
    #[must_use]
    pub fn places(&self, index: usize) -> usize {
        let all = match self.load {
            Load::Closed { connections } => connections,
            Load::Open { connections_max, .. } => connections_max,
        };
        all / self.threads + usize::from(index < all % self.threads)
    }
}

/// A target by its name and address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As it was written: a host name or an address, without the port.
    pub host: String,
    /// Where it is.
    pub address: SocketAddr,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_divided_without_loss() {
        let plan = Plan {
            work: Work::ToClient,
            load: Load::Closed { connections: 7 },
            resume: 0.0,
            ending: Ending::Reset,
            sources: Vec::new(),
            threads: 3,
            pin: Pin::Off,
            warm_up: Duration::ZERO,
            until: Until::Counted(1),
            patience: Duration::from_secs(1),
            give_up_after: 1,
            seed: 0,
        };
        assert_eq!([0, 1, 2].map(|index| plan.places(index)), [3, 2, 2]);
    }
}
