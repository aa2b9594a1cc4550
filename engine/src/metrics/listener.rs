//! What is counted of the connections of a listener: one [`ListenerCounters`] per worker and listener.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::counters::bump;
use super::histogram::{Histogram, LONG, SHORT};
use crate::conn::alerts::AlertDirection;
use crate::conn::event::Leg;
use crate::conn::fault::Fault;
use crate::conn::fault::alert::PLACES as ALERTS;
use crate::tls::secrets::Version;
use crate::tls::{GROUPS, SUITES, TlsInfo};

/// What is counted of the connections of a listener. Every variant has a metric name and labels in one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Connections accepted.
    Accepted,
    /// Connections whose slot was freed.
    Closed,
    /// Times that the listener paused because of `limits.listener_connections`.
    ListenerLimits,
    /// Handshakes ended before their time because no slot was free for a newcomer.
    HandshakesEvicted,
    /// Connections whose transmit direction the kernel carries.
    OffloadedTx,
    /// Connections whose receive direction the kernel carries.
    OffloadedRx,
    /// Connections whose transmit direction userspace carries by policy (or for want of a kernel that can).
    UserspaceTx,
    /// The same, receive.
    UserspaceRx,
    /// Connections whose transmit direction the kernel was asked to carry and refused.
    FellBackTx,
    /// The same, receive.
    FellBackRx,
    /// Why the kernel refused keys: not ESTABLISHED any more.
    RefusedTxEnotconn,
    /// The same, receive.
    RefusedRxEnotconn,
    /// Why the kernel refused keys: no memory.
    RefusedTxEnomem,
    /// The same, receive.
    RefusedRxEnomem,
    /// Why the kernel refused keys: it has some, or another upper-layer protocol.
    RefusedTxEbusy,
    /// The same, receive.
    RefusedRxEbusy,
    /// Why the kernel refused keys: the protocol or the algorithm is not there (any more).
    RefusedTxEnoent,
    /// The same, receive.
    RefusedRxEnoent,
    /// Why the kernel refused keys: anything else.
    RefusedTxOther,
    /// The same, receive.
    RefusedRxOther,
    /// Plaintext bytes received from near legs.
    BytesFromNear,
    /// Plaintext bytes received from far legs.
    BytesFromFar,
    /// Records received that are not application data: close_notify.
    ControlCloseNotify,
    /// The same: any other alert.
    ControlAlert,
    /// The same: KeyUpdate.
    ControlKeyUpdate,
    /// The same: attempts to renegotiate.
    ControlRenegotiation,
    /// The same: tickets, in the client's role.
    ControlTickets,
    /// The same: what does not belong there.
    ControlUnexpected,
    /// KeyUpdate messages sent.
    KeyUpdatesSent,
}

pub(super) const COUNTERS: usize = Counter::KeyUpdatesSent as usize + 1;

/// By leg, full or resumed, suite and group; the last suite and the last group are those without a name.
type Handshakes = [[[[AtomicU64; GROUPS.len() + 1]; SUITES.len() + 1]; 2]; 2];

/// One worker's counters of a listener: written by that worker alone (relaxed load + store, no locked
/// instruction), read by anyone.
///
/// Aligned to two cache lines, as those of workers are.
#[repr(align(128))]
pub struct ListenerCounters {
    counters: [AtomicU64; COUNTERS],
    /// Connections that are open, as the worker counts.
    open: AtomicU64,
    /// The same at the end of its last turn.
    open_published: AtomicU64,
    faults: [AtomicU64; Fault::ALL.len()],
    handshakes: Handshakes,
    /// By leg and direction.
    alerts: [[[AtomicU64; ALERTS]; 2]; 2],
    times: Times,
}

/// How long the phases of connections took.
#[derive(Debug)]
pub struct Times {
    /// From accept to the first bytes of the client.
    pub accept_to_hello: Histogram,
    /// By leg, full or resumed.
    handshakes: [[Histogram; 2]; 2],
    /// From the moment at which both legs are ready to the first byte of the backend.
    pub first_byte: Histogram,
    /// From accept to close.
    pub connection: Histogram,
}

/// A kind of handshake and how many of it were completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeCount {
    /// Where.
    pub leg: Leg,
    /// Protocol version: `1.2` or `1.3`.
    pub version: &'static str,
    /// Name of IANA.
    pub suite: &'static str,
    /// Name of IANA; `none` in a resumption of TLS 1.2.
    pub group: &'static str,
    /// Abbreviated rather than full.
    pub resumed: bool,
    /// How many.
    pub count: u64,
}

impl Default for ListenerCounters {
    fn default() -> Self {
        Self {
            counters: [const { AtomicU64::new(0) }; COUNTERS],
            open: AtomicU64::new(0),
            open_published: AtomicU64::new(0),
            faults: [const { AtomicU64::new(0) }; Fault::ALL.len()],
            handshakes: Handshakes::default(),
            alerts: [const { [const { [const { AtomicU64::new(0) }; ALERTS] }; 2] }; 2],
            times: Times {
                accept_to_hello: Histogram::new(&SHORT),
                handshakes: [const { [const { Histogram::new(&SHORT) }; 2] }; 2],
                first_byte: Histogram::new(&SHORT),
                connection: Histogram::new(&LONG),
            },
        }
    }
}

/// Only the worker that the counters belong to may call what takes part in counting.
impl ListenerCounters {
    /// Adds.
    pub fn add(&self, counter: Counter, count: u64) {
        bump(&self.counters[counter as usize], count);
    }

    /// A connection got a slot.
    pub fn opened(&self) {
        bump(&self.open, 1);
    }

    /// Its slot is free again, so long after it was accepted.
    pub fn closed(&self, fault: Option<Fault>, lasted: Duration) {
        self.open.store(self.open.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
        self.ended(fault);
        self.times.connection.observe(lasted);
    }

    /// A connection is over, whether or not it had a slot.
    pub fn ended(&self, fault: Option<Fault>) {
        self.add(Counter::Closed, 1);
        if let Some(fault) = fault {
            bump(&self.faults[fault.index()], 1);
        }
    }

    /// Publishes how many connections are open. Whoever sees the number sees all that was counted before.
    pub fn publish(&self) {
        let open = self.open.load(Ordering::Relaxed);
        if self.open_published.load(Ordering::Relaxed) != open {
            self.open_published.store(open, Ordering::Release);
        }
    }

    /// A handshake is complete, for so long if that is known.
    pub fn handshake(&self, leg: Leg, info: &TlsInfo, took: Option<Duration>) {
        let kind = usize::from(info.resumed);
        let (suite, group) = (info.suite_place(), info.group_place());
        bump(&self.handshakes[leg as usize][kind][suite][group], 1);
        took.into_iter().for_each(|took| self.times.handshakes[leg as usize][kind].observe(took));
    }

    /// Whether a connection is open now.
    #[must_use]
    pub fn has_open(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// Alerts with one description, by its place in the table of descriptions.
    pub fn alerts(&self, leg: Leg, direction: AlertDirection, place: usize, count: u64) {
        if let Some(alerts) = self.alerts[leg as usize][direction as usize].get(place) {
            bump(alerts, count);
        }
    }

    /// How long phases took.
    pub fn times(&self) -> &Times {
        &self.times
    }
}

/// For readers.
impl ListenerCounters {
    /// How many were added.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].load(Ordering::Relaxed)
    }

    /// Connections open.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open_published.load(Ordering::Acquire)
    }

    /// Connections that ended with this fault.
    #[must_use]
    pub fn faults(&self, fault: Fault) -> u64 {
        self.faults[fault.index()].load(Ordering::Relaxed)
    }

    /// Alerts with the description at this place.
    #[must_use]
    pub fn alerts_of(&self, leg: Leg, direction: AlertDirection, place: usize) -> u64 {
        self.alerts[leg as usize][direction as usize][place].load(Ordering::Relaxed)
    }

    fn handshakes_of(&self, leg: Leg, resumed: bool, suite: usize, group: usize) -> u64 {
        self.handshakes[leg as usize][usize::from(resumed)][suite][group].load(Ordering::Relaxed)
    }
}

impl Times {
    /// Of the handshakes of this kind.
    #[must_use]
    pub fn handshake(&self, leg: Leg, resumed: bool) -> &Histogram {
        &self.handshakes[leg as usize][usize::from(resumed)]
    }
}

impl HandshakeCount {
    /// Every kind of handshake that was completed, over all workers.
    pub(super) fn all(workers: &[Arc<ListenerCounters>]) -> Vec<Self> {
        let mut all = Vec::new();
        for leg in Leg::BOTH {
            for (resumed, suite, group) in kinds() {
                let count =
                    workers.iter().map(|worker| worker.handshakes_of(leg, resumed, suite, group)).sum();
                let (version, suite) = SUITES.get(suite).map_or(("unknown", "unknown"), |suite| {
                    let version = if suite.version() == Version::Tls13 { "1.3" } else { "1.2" };
                    (version, suite.iana)
                });
                let group = GROUPS.get(group).copied().unwrap_or("none");
                if count > 0 {
                    all.push(Self { leg, version, suite, group, resumed, count });
                }
            }
        }
        all
    }
}

/// Whether resumed, the place of the suite and that of the group.
fn kinds() -> impl Iterator<Item = (bool, usize, usize)> {
    let suites = |resumed| (0..=SUITES.len()).map(move |suite| (resumed, suite));
    let all = [false, true].into_iter().flat_map(suites);
    all.flat_map(|(resumed, suite)| (0..=GROUPS.len()).map(move |group| (resumed, suite, group)))
}

impl fmt::Debug for ListenerCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ListenerCounters({} open)", self.open())
    }
}
