//! A peer that keeps to the record layer and to nothing else: it sends what the script says, in its own
//! records.
//!
//! It takes its keys from rustls after the handshake, as client or as server, and derives those that follow a
//! KeyUpdate by its own means.

use offramp_proto::handshake::KEY_UPDATE;
use offramp_proto::record::{ALERT, APPLICATION_DATA, HANDSHAKE};
use std::fmt;
use std::sync::Arc;

use rustls::{ClientConfig, Connection, ConnectionTrafficSecrets, KeyLog, ServerConfig};

use super::kernel::Side;
use super::schedule::{Secrets, next_secret, traffic_keys};
use offramp_core::tls::secrets::{Aead, Direction, TrafficKeys, Version};

/// Something to be said.
#[derive(Clone, Debug)]
pub enum PeerAction {
    /// A record of this type.
    Record {
        /// RFC 8446 §5.1.
        record_type: u8,
        /// Its payload.
        payload: Vec<u8>,
        /// Zeros behind its type (TLS 1.3).
        padding: usize,
    },
    /// A KeyUpdate; what follows is under the next key.
    KeyUpdate {
        /// It asks for one in return.
        requested: bool,
    },
    /// These bytes as they are.
    Raw(Vec<u8>),
}

impl PeerAction {
    /// A record without padding.
    #[must_use]
    pub fn record(record_type: u8, payload: &[u8]) -> Self {
        Self::Record { record_type, payload: payload.to_vec(), padding: 0 }
    }

    /// Application data.
    #[must_use]
    pub fn data(payload: &[u8]) -> Self {
        Self::record(APPLICATION_DATA, payload)
    }

    /// close_notify.
    #[must_use]
    pub fn close_notify() -> Self {
        Self::record(ALERT, &[1, 0])
    }
}

/// The peer after the handshake.
pub struct Hostile {
    version: Version,
    aead: Aead,
    tx: Way,
    rx: Way,
}

/// One direction.
struct Way {
    side: Side,
    /// TLS 1.3: what the next key follows from.
    secret: Vec<u8>,
}

impl Hostile {
    /// Takes the keys out of a peer that has nothing more to send or to read.
    ///
    /// # Panics
    /// If rustls does not part with its keys.
    pub fn take_over(tls: impl Into<Connection>, log: &Secrets) -> Self {
        let tls = tls.into();
        let labels = ["CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"];
        let [own, other] = match &tls {
            Connection::Client(_) => labels,
            Connection::Server(_) => [labels[1], labels[0]],
        };
        let version = match tls.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => Version::Tls13,
            _ => Version::Tls12,
        };
        let secrets = tls.dangerous_extract_secrets().expect("a peer between two messages");
        let way = |(sequence, secrets): (u64, ConnectionTrafficSecrets), direction, label| {
            let keys =
                TrafficKeys::from_rustls(version, (sequence, secrets)).expect("an AEAD of the profile");
            let secret = log.get(label).unwrap_or_default();
            (keys.aead(), Way { side: Side::new(&keys, keys.kernel_iv(direction)), secret })
        };
        let (aead, tx) = way(secrets.tx, Direction::Tx, own);
        let (_, rx) = way(secrets.rx, Direction::Rx, other);
        Self { version, aead, tx, rx }
    }

    /// As bytes for the wire.
    pub fn say(&mut self, say: &PeerAction) -> Vec<u8> {
        match say {
            PeerAction::Raw(bytes) => bytes.clone(),
            PeerAction::Record { record_type, payload, padding } => {
                self.tx.side.seal_padded(*record_type, payload, *padding)
            }
            PeerAction::KeyUpdate { requested } => {
                let message = [KEY_UPDATE, 0, 0, 1, u8::from(*requested)];
                let record = self.tx.side.seal_padded(HANDSHAKE, &message, 0);
                if self.version == Version::Tls13 {
                    self.tx.update(self.aead, Direction::Tx);
                }
                record
            }
        }
    }

    /// A record of ours: its type and payload; `None` if it cannot be opened.
    pub fn hear(&mut self, record: &[u8]) -> Option<(u8, Vec<u8>)> {
        let heard = self.rx.side.open(record)?;
        if heard.0 == HANDSHAKE && heard.1.first() == Some(&KEY_UPDATE) {
            self.rx.update(self.aead, Direction::Rx);
        }
        Some(heard)
    }
}

impl Way {
    fn update(&mut self, aead: Aead, direction: Direction) {
        self.secret = next_secret(aead, &self.secret);
        let keys = traffic_keys(aead, &self.secret);
        self.side = Side::new(&keys, keys.kernel_iv(direction));
    }
}

impl fmt::Debug for Hostile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hostile({:?} {:?})", self.version, self.aead)
    }
}

/// A client's configuration for one connection, which tells its secrets.
#[must_use]
pub fn talkative(config: &ClientConfig) -> (ClientConfig, Arc<Secrets>) {
    let secrets = Arc::new(Secrets::default());
    let mut config = config.clone();
    config.enable_secret_extraction = true;
    config.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
    (config, secrets)
}

/// A server's.
#[must_use]
pub fn talkative_server(config: &ServerConfig) -> (ServerConfig, Arc<Secrets>) {
    let secrets = Arc::new(Secrets::default());
    let mut config = config.clone();
    config.enable_secret_extraction = true;
    config.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
    (config, secrets)
}
