//! Who carries the records of each direction, with what it needs for that; and which ciphers the kernel may
//! be offered.

use super::action::RecordPath;
use super::event::Leg;
use super::fault::Fault;
use crate::buf::Buf;
use crate::tls::cipher::{Opener, Sealer};
use crate::tls::session::Rekey;
use offramp_proto::{Cipher, CipherSet};

/// What the kernel may be asked to carry and when, by policy and by what was found at the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Records from us.
    pub tx: CipherSet,
    /// Records from the peer.
    pub rx: CipherSet,
    /// Bytes of plaintext that a direction carries in userspace first; 0 offers it with the handshake.
    pub after_bytes: u64,
    /// Whether the kernel takes the next key of a direction after its first (RFC 8446 §4.6.3).
    pub rekeys: bool,
}

/// The record path of the records from us.
#[derive(Debug)]
pub(super) enum Transmitter {
    /// The kernel, with so many records under its key.
    Kernel(Count),
    /// This sealer.
    Userspace(Sealer),
}

/// How many records the kernel has sealed or opened under one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    /// No less than there were.
    pub(super) at_most: u64,
    /// The kernel said so itself, or cannot say.
    pub(super) settled: bool,
}

impl Count {
    pub(super) fn from(sequence: u64) -> Self {
        Self { at_most: sequence, settled: true }
    }

    pub(super) fn add(&mut self, records: u64) {
        self.at_most = self.at_most.saturating_add(records);
        self.settled = false;
    }

    pub(super) fn settle(&mut self, sequence: Option<u64>) {
        self.at_most = sequence.unwrap_or(self.at_most);
        self.settled = true;
    }
}

/// The record path of the records from the peer.
#[derive(Debug)]
pub(super) enum Receiver {
    /// The kernel, with so many records under its key.
    Kernel(Count),
    /// This opener.
    Userspace(Opener),
}

/// What a side with TLS begins with.
#[derive(Debug)]
pub(super) struct SecuredLeg {
    pub(super) cipher: Cipher,
    pub(super) tx: Transmitter,
    pub(super) rx: Receiver,
    /// Bytes until the kernel is offered what goes to the peer; `None` if that is settled.
    pub(super) tx_left: Option<u64>,
    /// The same for what comes from the peer; with 0 it is due at the next record boundary.
    pub(super) rx_left: Option<u64>,
    pub(super) rekey: Option<Rekey>,
    /// Records that are not opened yet, the last of which may not be whole; only if userspace carries what
    /// comes from the peer.
    pub(super) partial: Option<Buf>,
}

/// What the last stage gets.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) fault: Option<Fault>,
    /// The leg that the fault is of; none if it is of neither.
    pub(super) culprit: Option<Leg>,
    /// The description of the peer's fatal alert.
    pub(super) heard: Option<u8>,
    pub(super) near: LegEnd,
    pub(super) far: LegEnd,
}

/// How a leg ends.
#[derive(Debug)]
pub(super) enum LegEnd {
    /// It is not open, or says nothing more: it is closed.
    Closed,
    Plain(PlainEnd),
    Tls(TlsEnd),
}

/// How a leg with TLS ends.
#[derive(Debug)]
pub(super) struct TlsEnd {
    /// What came whole and authentic from the other side, as it is sent: sealed, or for the kernel to seal.
    pub(super) delivery: Option<Buf>,
    pub(super) farewell: LastRecord,
    /// What is sealed may not be with TCP yet.
    pub(super) flush: Flush,
    /// What the peer sent may lie in the socket and not be received: then the close is a reset.
    pub(super) is_deaf: bool,
}

/// What becomes of the plain leg.
#[derive(Debug)]
pub(super) enum PlainEnd {
    /// FIN behind what was sent.
    InOrder,
    /// RST at once.
    Reset,
    /// What came whole and authentic from the peer is delivered, then RST.
    DeliverThenReset(Delivery),
}

/// What is on its way to the plain leg.
#[derive(Debug)]
pub(super) struct Delivery {
    /// A send is under way.
    pub(super) sending: bool,
    /// What follows it.
    pub(super) held: Option<Buf>,
}

/// Whether FIN has to wait for what the kernel has sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flush {
    /// It has not: userspace seals, or all is with TCP.
    Needless,
    /// It has; the shell is to be asked.
    Due,
    /// The shell was asked and has not answered.
    Asked,
}

/// The last record to the peer.
#[derive(Debug)]
pub(super) enum LastRecord {
    /// None is due, or none can be sent any more.
    Silent,
    /// It was sent, or is being sent: our close_notify.
    Said,
    /// These bytes, a sealed (or, in the handshake, plain) alert of this description.
    Bytes(Buf, u8),
    /// This alert, for the kernel to seal.
    Record(Buf),
}

impl TlsEnd {
    /// With this to be sent, or nothing.
    pub(super) fn saying(farewell: LastRecord) -> Self {
        Self { delivery: None, farewell, flush: Flush::Needless, is_deaf: false }
    }
}

impl RecordPath {
    /// Userspace, by intention or because the kernel refused.
    pub(super) fn userspace(refused: Option<i32>) -> Self {
        refused.map_or(Self::Userspace, |errno| Self::Fallback { errno })
    }
}
