//! Connections through the engine's core without a socket: what is counted in instructions.
//!
//! A [`Core`] is one connection, its client and a backend that echoes, driven in one fixed order, so that the
//! same work is done each time. Only [`counted_step`] is counted: what the client and the backend do is not
//! in it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use offramp_core::config::{IdentityFiles, PeerRules, PostQuantum, Timeouts, UnknownName};
use offramp_core::conn::Conn;
use offramp_core::conn::action::{Action, Outbox};
use offramp_core::conn::event::{Event, Leg};
use offramp_core::conn::policy::{Policy, Security, Turn};
use offramp_core::conn::record_path::Offer;
use offramp_core::tls::{Settings, Tickets, TlsPolicy, TlsRole};
use offramp_loadgen::identity::{Identity, SERVER_NAME};
use offramp_loadgen::plan::Version;
use offramp_loadgen::session::{self, Session};
use offramp_proto::CipherSet;
use offramp_proto::buf::{Buf, SMALL_BYTES};
use rustls::crypto::aws_lc_rs::kx_group::X25519;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};

use crate::suite::Suite;

/// How long a ticket may be used: longer than any run.
const SESSION_SECONDS: u64 = 24 * 3600;
/// Free buffers kept, as a worker does.
const FREE_BUFFERS: usize = 64;
/// More rounds than any exchange takes: past it the connection is stuck.
const MAX_ROUNDS: usize = 1_000_000;

/// One kind of work of the engine's core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// On which version of TLS; AES-128-GCM and X25519 in both.
    pub version: Version,
    /// What is done.
    pub part: Part,
}

/// A part of a connection's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// From the first byte to one byte to the backend and back.
    Connection {
        /// Whether the handshake is abbreviated.
        resumed: bool,
    },
    /// So many bytes to the backend and back, each time after the ones before have come back.
    Echo {
        /// Bytes each way.
        bytes: usize,
    },
}

impl Scenario {
    /// All of them, in the order of the table.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let parts = [
            Part::Connection { resumed: false },
            Part::Connection { resumed: true },
            Part::Echo { bytes: 1 << 10 },
            Part::Echo { bytes: 64 << 10 },
        ];
        let of_version = |version| parts.map(|part| Self { version, part });
        [Version::Tls12, Version::Tls13].into_iter().flat_map(of_version).collect()
    }

    /// As in the table, and on the command line.
    #[must_use]
    pub fn name(self) -> String {
        let version = match self.version {
            Version::Tls12 => "1.2",
            Version::Tls13 => "1.3",
        };
        match self.part {
            Part::Connection { resumed: false } => format!("{version}-full"),
            Part::Connection { resumed: true } => format!("{version}-resumed"),
            Part::Echo { bytes } => format!("{version}-echo-{}k", bytes >> 10),
        }
    }

    /// Does it `units` times; with `units` = 0 only what comes before the first.
    ///
    /// # Errors
    /// A connection did not do what was asked.
    pub fn run(self, units: u32) -> Result<()> {
        let lab = Fixture::new(self.version)?;
        // Buffers are used again, as in a worker: that they are made is no part of the work.
        let mut out = outbox();
        match self.part {
            Part::Connection { resumed } => {
                let client = lab.client(resumed)?;
                if resumed {
                    lab.connection(&client, HandshakeKind::Full, &mut out)?.end();
                }
                let wanted = if resumed { HandshakeKind::Resumed } else { HandshakeKind::Full };
                for _ in 0..units {
                    lab.connection(&client, wanted, &mut out)?.end();
                }
            }
            Part::Echo { bytes } => {
                let mut core = lab.connection(&lab.client(false)?, HandshakeKind::Full, &mut out)?;
                let sent: Vec<u8> = (0..bytes).map(|at| at as u8).collect();
                for _ in 0..units {
                    core.echo(&sent)?;
                }
            }
        }
        Ok(())
    }
}

/// What the connections of a scenario share.
pub(crate) struct Fixture {
    identity: Identity,
    version: Version,
    policy: Arc<Policy>,
}

impl Fixture {
    pub(crate) fn new(version: Version) -> Result<Self> {
        let identity = Identity::generate()?;
        let offer = Offer { tx: CipherSet::NONE, rx: CipherSet::NONE, after_bytes: 0, rekeys: false };
        let tls_policy = Arc::new(tls_policy(&identity)?);
        let policy = Policy {
            near: Security::Tls(tls_policy),
            far: Security::Plain,
            timeouts: Timeouts::default(),
            offload: offer,
            record_limit: u64::MAX,
            accepts_proxy: false,
            passes_tls_through: false,
            takes_fin_for_the_end: false,
            expect_no_pad: false,
        };
        Ok(Self { identity, version, policy: Arc::new(policy) })
    }

    /// With this offer to the kernel.
    pub(crate) fn offering(mut self, offer: Offer) -> Self {
        self.policy = Arc::new(Policy { offload: offer, ..Policy::clone(&self.policy) });
        self
    }

    pub(crate) fn client(&self, resume: bool) -> Result<Arc<ClientConfig>> {
        let suite = Suite::usual(self.version);
        let tickets = if resume { session::Tickets::Use } else { session::Tickets::Forget };
        Ok(session::client_config(&self.identity.certificate, suite.rustls(), X25519, tickets)?)
    }

    pub(crate) fn open<'a>(&self, client: &Arc<ClientConfig>, out: &'a mut Outbox) -> Result<Core<'a>> {
        Core::open(Arc::clone(&self.policy), client, out)
    }

    /// A connection that has carried one byte each way.
    pub(crate) fn connection<'a>(
        &self,
        client: &Arc<ClientConfig>,
        wanted: HandshakeKind,
        out: &'a mut Outbox,
    ) -> Result<Core<'a>> {
        let mut core = self.open(client, out)?;
        core.echo(&[1])?;
        let kind = core.client.established().map(|it| it.kind);
        ensure!(kind == Some(wanted), "the handshake was {kind:?} and not {wanted:?}");
        Ok(core)
    }
}

/// A listener that has this identity and asks clients for none: what the benches are about.
///
/// # Errors
/// The identity cannot be loaded.
pub fn tls_policy(identity: &Identity) -> Result<TlsPolicy> {
    let files =
        IdentityFiles { certificate: identity.certificate_file(), key: identity.key_file(), ocsp: None };
    let settings = Settings {
        role: TlsRole::Server,
        identities: &[files],
        found: &[],
        unknown_name: UnknownName::First,
        alpn: &[],
        tickets: true,
        post_quantum: PostQuantum::Off,
        peers: &PeerRules::default(),
    };
    let tickets = Arc::new(Tickets::generate(SESSION_SECONDS, 0)?);
    Ok(TlsPolicy::load(settings, Some(&tickets))?)
}

/// One connection between a client and a backend that echoes.
pub(crate) struct Core<'a> {
    conn: Conn,
    out: &'a mut Outbox,
    now: Instant,
    pub(crate) client: Session,
    /// Bytes on the way, by where they go.
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    to_conn_from_backend: Vec<u8>,
    /// What the connection waits for.
    pub(crate) receives: Receives,
    received: Vec<u8>,
    /// Directions that the kernel was given the keys of.
    pub(crate) keyed: usize,
}

/// Buffers are kept as a worker keeps them.
pub(crate) fn outbox() -> Outbox {
    Outbox::new(FREE_BUFFERS, any_time())
}

#[expect(clippy::disallowed_methods, reason = "any instant will do: no time passes here")]
fn any_time() -> Instant {
    Instant::now()
}

#[derive(Default)]
pub(crate) struct Receives {
    pub(crate) tls: Option<(Buf, usize)>,
    plain: Option<usize>,
}

/// The engine's part of the work, and nothing else: what is counted.
#[inline(never)]
pub fn counted_step(conn: &mut Conn, event: Event, turn: Turn, out: &mut Outbox) {
    conn.step(event, turn, out);
}

impl<'a> Core<'a> {
    fn open(policy: Arc<Policy>, client: &Arc<ClientConfig>, out: &'a mut Outbox) -> Result<Self> {
        let mut core = Self {
            conn: Conn::new(policy),
            out,
            now: any_time(),
            client: Session::new(client, ServerName::try_from(SERVER_NAME)?)?,
            to_server: Vec::new(),
            to_client: Vec::new(),
            to_conn_from_backend: Vec::new(),
            receives: Receives::default(),
            received: Vec::new(),
            keyed: 0,
        };
        core.take(Event::Opened)?;
        Ok(core)
    }

    /// Sends the bytes and waits for their echo.
    fn echo(&mut self, bytes: &[u8]) -> Result<()> {
        self.received.clear();
        let mut sent = 0;
        for _ in 0..MAX_ROUNDS {
            if self.client.established().is_some() && sent < bytes.len() {
                sent += self.client.send(&bytes[sent..]);
            }
            self.pump()?;
            if self.received.len() == bytes.len() {
                ensure!(self.received == bytes, "the echo is not what was sent");
                return Ok(());
            }
        }
        bail!("the connection is stuck after {} of {} bytes", self.received.len(), bytes.len())
    }

    /// The records in which the client says this, with whatever it had to say before.
    pub(crate) fn client_says(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        ensure!(self.client.send(bytes) == bytes.len(), "the client takes what fits into a record");
        let mut records = Buf::with_capacity(1 << 15);
        self.client.records(&mut records)?;
        Ok(records.filled().to_vec())
    }

    /// Gives the buffer of the receive under way back.
    pub(crate) fn end(self) {
        if let Some((buf, _)) = self.receives.tls {
            self.out.bufs.give(buf);
        }
    }

    /// What waits on either side is delivered once.
    pub(crate) fn pump(&mut self) -> Result<()> {
        let mut records = Buf::with_capacity(1 << 17);
        self.client.records(&mut records)?;
        self.to_server.extend_from_slice(records.filled());
        if !self.to_server.is_empty()
            && let Some((mut buf, max)) = self.receives.tls.take()
        {
            let count = buf.extend(&self.to_server[..self.to_server.len().min(max)]);
            self.to_server.drain(..count);
            let more = !self.to_server.is_empty();
            self.take(Event::Received { leg: Leg::Near, buf, count, more })?;
        }
        if !self.to_conn_from_backend.is_empty()
            && let Some(max) = self.receives.plain.take()
        {
            let mut buf = self.out.bufs.take();
            let most = self.to_conn_from_backend.len().min(max);
            let count = buf.extend(&self.to_conn_from_backend[..most]);
            self.to_conn_from_backend.drain(..count);
            let more = !self.to_conn_from_backend.is_empty();
            self.take(Event::Received { leg: Leg::Far, buf, count, more })?;
        }
        self.client_reads()
    }

    pub(crate) fn client_reads(&mut self) -> Result<()> {
        let bytes = std::mem::take(&mut self.to_client);
        if let Err(failure) = self.client.receive(&bytes, &mut self.received) {
            bail!("the client: {failure:?}");
        }
        Ok(())
    }

    /// One event in, and all that follows from it at once.
    pub(crate) fn take(&mut self, event: Event) -> Result<()> {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let turn = Turn { now: self.now, may_offload: true, may_begin_full: true };
            counted_step(&mut self.conn, event, turn, self.out);
            let actions: Vec<Action> = self.out.drain().collect();
            for action in actions {
                match action {
                    Action::Connect => events.push_back(Event::Connected { preamble: None }),
                    Action::ReceiveHandshake { .. } => {
                        self.receives.tls = Some((Buf::with_capacity(SMALL_BYTES), SMALL_BYTES));
                    }
                    Action::Receive { leg: Leg::Near, max } => {
                        self.receives.tls = Some((self.out.bufs.take(), max));
                    }
                    Action::ReceiveInto { buf, max, .. } => self.receives.tls = Some((buf, max)),
                    Action::Receive { leg: Leg::Far, max } => self.receives.plain = Some(max),
                    Action::Send { leg, mut buf } => {
                        let wire = if leg == Leg::Near {
                            &mut self.to_client
                        } else {
                            &mut self.to_conn_from_backend
                        };
                        wire.extend_from_slice(buf.filled());
                        buf.clear();
                        events.push_back(Event::Sent { leg, buf });
                    }
                    Action::InstallKeys { leg, direction, .. } => {
                        self.keyed += 1;
                        events.push_back(Event::Keyed { leg, direction });
                    }
                    Action::Note(_) | Action::Established { .. } => {}
                    other => bail!("nothing that is counted asks for {other:?}"),
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_scenario_does_what_it_says() {
        for scenario in Scenario::all() {
            scenario.run(2).unwrap_or_else(|error| panic!("{}: {error:#}", scenario.name()));
        }
    }

    #[test]
    fn names_are_distinct() {
        let names: HashSet<_> = Scenario::all().into_iter().map(Scenario::name).collect();
        assert_eq!(names.len(), Scenario::all().len());
    }
}
