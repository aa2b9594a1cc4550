//! A connection just before the client's last flight, and the hand-over of its records that follows.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use offramp_core::conn::action::Outbox;
use offramp_core::conn::event::{Event, Leg};
use offramp_core::conn::record_path::Offer;
use offramp_loadgen::plan::Version;
use offramp_proto::CipherSet;
use rustls::{ClientConfig, HandshakeKind};

use crate::scenario::{Core, Fixture, outbox};

/// What the client's last flight brings with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// Nothing: the keys go to the kernel at once.
    Nothing,
    /// A whole record, which userspace has to open.
    Record,
    /// Half a record, whose tail comes later.
    HalfARecord,
}

/// What all connections of a bench share: resumed ones, in which the client is the last to speak.
pub struct Handover {
    lab: Fixture,
    client: Arc<ClientConfig>,
    out: Outbox,
}

/// A connection that waits for the client's last flight.
pub struct Ready<'a> {
    core: Core<'a>,
    flight: Vec<u8>,
    tail: Vec<u8>,
}

impl Handover {
    /// Everything to the kernel, which takes it.
    ///
    /// # Errors
    /// No identity can be made, or the first handshake failed.
    pub fn new(version: Version) -> Result<Self> {
        let lab = Fixture::new(version)?;
        let (client, mut out) = (lab.client(true)?, outbox());
        lab.connection(&client, HandshakeKind::Full, &mut out)?.end();
        let offer = Offer { tx: CipherSet::ALL, rx: CipherSet::ALL, after_bytes: 0, rekeys: false };
        Ok(Self { lab: lab.offering(offer), client, out })
    }

    /// The handshake up to its last flight.
    ///
    /// # Errors
    /// It failed, or was not a resumption.
    pub fn prepare(&mut self, behind: Behind) -> Result<Ready<'_>> {
        let mut core = self.lab.open(&self.client, &mut self.out)?;
        while core.client.established().is_none() {
            core.pump()?;
        }
        let kind = core.client.established().map(|it| it.kind);
        ensure!(kind == Some(HandshakeKind::Resumed), "the handshake was {kind:?}");
        let finished = core.client_says(b"")?;
        let data = if behind == Behind::Nothing { Vec::new() } else { core.client_says(&[5; 1024])? };
        let whole = if behind == Behind::HalfARecord { data.len() / 2 } else { data.len() };
        let flight = [&finished, &data[..whole]].concat();
        Ok(Ready { core, flight, tail: data[whole..].to_vec() })
    }
}

impl Ready<'_> {
    /// The last flight arrives. Whether both directions are then the kernel's.
    ///
    /// # Errors
    /// The connection did something else.
    pub fn finish(&mut self) -> Result<bool> {
        for bytes in [&self.flight, &self.tail] {
            if bytes.is_empty() {
                continue;
            }
            let (mut buf, max) = self.core.receives.tls.take().context("a receive is under way")?;
            ensure!(bytes.len() <= max, "no more is asked for than the record's tail");
            let count = buf.extend(bytes);
            self.core.take(Event::Received { leg: Leg::Near, buf, count, more: false })?;
        }
        Ok(self.core.keyed == 2)
    }

    /// The client reads what it was sent: the ticket for the next connection among it.
    ///
    /// # Errors
    /// What it was sent is not TLS.
    pub fn end(mut self) -> Result<()> {
        self.core.client_reads()?;
        self.core.end();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_hand_over_with_data_after_finished() {
        for version in [Version::Tls12, Version::Tls13] {
            let mut handover = Handover::new(version).unwrap();
            for behind in [Behind::Nothing, Behind::Record, Behind::HalfARecord] {
                let mut ready = handover.prepare(behind).unwrap();
                assert!(ready.finish().unwrap(), "{version:?} {behind:?}");
                ready.end().unwrap();
            }
        }
    }
}
