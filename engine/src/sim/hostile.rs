//! A peer that keeps to the record layer and to nothing else: it says what it is told to, in its own records.
//!
//! It takes its keys from a rustls client after the handshake, and derives those that follow a KeyUpdate (RFC
//! 8446 §7.2) for itself.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::hkdf::{HKDF_SHA256, HKDF_SHA384, KeyType, Prk};
use rustls::{ClientConnection, ConnectionTrafficSecrets, KeyLog};

use super::kernel::Side;
use crate::tls::secrets::{Aead, Direction, TrafficKeys, Version};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const KEY_UPDATE: u8 = 24;

/// Something to be said.
#[derive(Clone, Debug)]
pub enum Say {
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

impl Say {
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

/// Secrets that rustls tells for debugging.
#[derive(Debug, Default)]
pub struct Secrets(Mutex<Vec<(String, Vec<u8>)>>);

impl KeyLog for Secrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        let mut secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.push((label.to_owned(), secret.to_vec()));
    }
}

impl Secrets {
    fn get(&self, label: &str) -> Vec<u8> {
        let secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.iter().find(|(name, _)| name == label).map(|(_, secret)| secret.clone()).unwrap_or_default()
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
    /// Takes the keys out of a client that has nothing more to send or to read.
    ///
    /// # Panics
    /// If rustls does not part with its keys.
    pub fn take_over(tls: ClientConnection, log: &Secrets) -> Self {
        let version = match tls.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => Version::Tls13,
            _ => Version::Tls12,
        };
        let secrets = tls.dangerous_extract_secrets().expect("a client between two messages");
        let way = |(sequence, secrets): (u64, ConnectionTrafficSecrets), direction, label| {
            let keys =
                TrafficKeys::from_rustls(version, (sequence, secrets)).expect("an AEAD of the profile");
            (keys.aead(), Way { side: Side::new(&keys, keys.kernel_iv(direction)), secret: log.get(label) })
        };
        let (aead, tx) = way(secrets.tx, Direction::Tx, "CLIENT_TRAFFIC_SECRET_0");
        let (_, rx) = way(secrets.rx, Direction::Rx, "SERVER_TRAFFIC_SECRET_0");
        Self { version, aead, tx, rx }
    }

    /// As bytes for the wire.
    pub fn say(&mut self, say: &Say) -> Vec<u8> {
        match say {
            Say::Raw(bytes) => bytes.clone(),
            Say::Record { record_type, payload, padding } => {
                self.tx.side.seal_padded(*record_type, payload, *padding)
            }
            Say::KeyUpdate { requested } => {
                let message = [KEY_UPDATE, 0, 0, 1, u8::from(*requested)];
                let record = self.tx.side.seal_padded(HANDSHAKE, &message, 0);
                self.tx.update(self.version, self.aead, Direction::Tx);
                record
            }
        }
    }

    /// A record of the server's: its type and payload; `None` if it cannot be opened.
    pub fn hear(&mut self, record: &[u8]) -> Option<(u8, Vec<u8>)> {
        let heard = self.rx.side.open(record)?;
        if heard.0 == HANDSHAKE && heard.1.first() == Some(&KEY_UPDATE) {
            self.rx.update(self.version, self.aead, Direction::Rx);
        }
        Some(heard)
    }
}

impl Way {
    fn update(&mut self, version: Version, aead: Aead, direction: Direction) {
        let hash_bytes = if aead == Aead::Aes256Gcm { 48 } else { 32 };
        self.secret = expand(aead, &self.secret, "traffic upd", hash_bytes);
        let key = expand(aead, &self.secret, "key", aead.key_bytes());
        let iv = expand(aead, &self.secret, "iv", 12).try_into().expect("12 bytes");
        let keys = TrafficKeys::new(version, aead, &key, iv, 0).expect("the AEAD's key length");
        self.side = Side::new(&keys, keys.kernel_iv(direction));
    }
}

impl fmt::Debug for Hostile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hostile({:?} {:?})", self.version, self.aead)
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446 §7.1).
fn expand(aead: Aead, secret: &[u8], label: &str, length: usize) -> Vec<u8> {
    let algorithm = if aead == Aead::Aes256Gcm { HKDF_SHA384 } else { HKDF_SHA256 };
    let label = [b"tls13 ", label.as_bytes()].concat();
    let info = [&(length as u16).to_be_bytes()[..], &[label.len() as u8], &label, &[0]];
    let mut output = vec![0; length];
    Prk::new_less_safe(algorithm, secret)
        .expand(&info, Length(length))
        .and_then(|okm| okm.fill(&mut output))
        .expect("a length that HKDF allows");
    output
}

/// Keys of its own for each connection, told to nobody else.
#[must_use]
pub fn talkative(config: &rustls::ClientConfig) -> (rustls::ClientConfig, Arc<Secrets>) {
    let secrets = Arc::new(Secrets::default());
    let mut config = config.clone();
    config.enable_secret_extraction = true;
    config.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
    (config, secrets)
}
