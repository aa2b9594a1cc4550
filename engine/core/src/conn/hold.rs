//! Between handshake and offload, where the fingerprints of the peer's certificate are not known yet: the
//! handshake overtakes the SDP answer that has them (RFC 8122 §6.2; TS 23.334 clause 5.11).
//!
//! Nothing is received from a held leg: what the peer sends waits in its socket, and what came with its last
//! flight is kept. Nothing was handed to the kernel, so that a mismatch is answered from userspace.

use super::action::Outbox;
use super::event::Leg;
use super::fault::Fault;
use super::handshake::{Failure, Handshaken, NOT_VOUCHED_FOR};
use crate::config::Fingerprint;
use crate::tls::PendingPeer;
use crate::tls::evidence::Offered;

const NOT_IN_TIME: &str = "no fingerprint became known in time";

/// A leg that is held.
#[derive(Debug)]
pub(super) struct Hold {
    leg: Leg,
    handshaken: Handshaken,
    peer: PendingPeer,
    /// For the log.
    offered: Offered,
}

impl Hold {
    pub(super) fn begin(leg: Leg, handshaken: Handshaken, peer: PendingPeer, offered: Offered) -> Self {
        Self { leg, handshaken, peer, offered }
    }

    pub(super) fn leg(&self) -> Leg {
        self.leg
    }

    /// The fingerprints are known.
    ///
    /// # Errors
    /// The certificate has none of them, and the peer gets an alert.
    pub(super) fn judge(self, pinned: &[Fingerprint], out: &mut Outbox) -> Result<Handshaken, Failure> {
        match self.peer.judge(pinned) {
            Ok(()) => Ok(self.handshaken),
            Err(_) => Err(self.end(NOT_VOUCHED_FOR, out)),
        }
    }

    /// They did not become known in time.
    pub(super) fn expire(self, out: &mut Outbox) -> Failure {
        self.end(NOT_IN_TIME, out)
    }

    /// Gives what it holds back to the free list.
    pub(super) fn release(self, out: &mut Outbox) {
        self.handshaken.release(out);
    }

    fn end(self, reason: &str, out: &mut Outbox) -> Failure {
        let evidence = self.offered.evidence(Some(reason.into()));
        self.handshaken.refuse(Fault::PeerCertificateRefused, evidence, out)
    }
}
