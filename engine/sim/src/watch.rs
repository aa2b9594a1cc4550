//! Everything that we put on the wire, opened once more by somebody who saw both directions and was told the
//! peer's secrets: no key protects two records with one nonce, whoever sealed them.
//!
//! Each record has to open under the key of its turn at the next sequence number, Finished and alerts
//! included. So no sequence number is used twice, none is left out, and in TLS 1.3 and with
//! ChaCha20-Poly1305, where the nonce follows from it (RFC 8446 §5.3, RFC 7905 §2), no nonce is. In TLS 1.2
//! AES-GCM the sender chooses the nonce (RFC 5288 §3): it is read from the record.

use offramp_proto::handshake::{FINISHED, KEY_UPDATE};
use offramp_proto::record::{ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE};
use std::collections::HashSet;
use std::sync::Arc;

use super::kernel::Side;
use super::schedule::{Secrets, key_block, next_secret, traffic_keys};
use super::wire::{Hellos, messages, records};
use offramp_core::tls::secrets::{Aead, TrafficKeys, Version};

/// The names of the secrets, the client's first.
const HANDSHAKE_SECRETS: [&str; 2] = ["CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_HANDSHAKE_TRAFFIC_SECRET"];
const DATA_SECRETS: [&str; 2] = ["CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"];

/// Both directions of a wire, and what the peer told of its secrets.
#[derive(Debug)]
pub struct Wire {
    /// We are the client.
    pub originates: bool,
    /// What we sent.
    pub sent: Vec<u8>,
    /// What we received, as far as userspace did.
    pub received: Vec<u8>,
    /// The peer's.
    pub secrets: Arc<Secrets>,
}

/// What was found on a wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// Protected records that were opened.
    pub opened: usize,
    /// Those of which the peer has told no secret, because it never came to have it.
    pub unknown: usize,
}

/// What must not be on a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// A key protects two records with one nonce.
    NonceTwice {
        /// The second, counted from the first protected record.
        record: usize,
    },
    /// A record opens under no key at its place.
    OutOfPlace {
        /// Which, counted from the first protected record.
        record: usize,
    },
}

/// The key of one turn: the handshake's, the first of application data, and one for each KeyUpdate.
struct Turn {
    /// At the sequence number of the next record.
    side: Side,
    /// At that of its first.
    first: TrafficKeys,
    /// TLS 1.3: what the next key follows from.
    secret: Vec<u8>,
}

struct Watcher<'a> {
    wire: &'a Wire,
    aead: Aead,
    version: Version,
    turns: Vec<Turn>,
    /// What we said in the handshake of TLS 1.3, under its key.
    said: Vec<u8>,
    nonces: HashSet<[u8; 8]>,
    watched: Watched,
    /// Bytes of application data before the end.
    data: usize,
    /// An alert was opened.
    has_ended: bool,
}

impl Wire {
    /// Opens it all.
    ///
    /// # Errors
    /// The first [`Misuse`].
    pub fn watch(&self) -> Result<Watched, Misuse> {
        let (found, _) = self.open_all();
        found
    }

    /// And how many bytes of application data are in it before its end, or before the first misuse.
    fn open_all(&self) -> (Result<Watched, Misuse>, usize) {
        let (ours, theirs) = (&self.sent, &self.received);
        let (from_client, from_server) = if self.originates { (ours, theirs) } else { (theirs, ours) };
        let Some(hellos) = Hellos::read(from_client, from_server) else { return (Ok(Watched::default()), 0) };
        let (nonces, watched) = (HashSet::new(), Watched::default());
        let (version, aead) = (hellos.version, hellos.aead);
        let (turns, said) = (Vec::new(), Vec::new());
        let (data, has_ended) = (0, false);
        let mut watcher =
            Watcher { wire: self, aead, version, turns, said, nonces, watched, data, has_ended };
        watcher.begin(&hellos);
        let mut is_protected = false;
        for (record, is_whole) in records(&self.sent) {
            if is_protected || record[0] == APPLICATION_DATA {
                is_protected = true;
                if let Err(misuse) = watcher.take(record, is_whole) {
                    return (Err(misuse), watcher.data);
                }
            }
            is_protected |= version == Version::Tls12 && record[0] == CHANGE_CIPHER_SPEC;
        }
        (Ok(watcher.watched), watcher.data)
    }
}

impl Wire {
    /// How many bytes of application data the peer sent in the whole records that userspace received, up to
    /// its end or the first record that does not open.
    pub(super) fn received_data(&self) -> usize {
        let theirs = Self {
            originates: !self.originates,
            sent: self.received.clone(),
            received: self.sent.clone(),
            secrets: Arc::clone(&self.secrets),
        };
        theirs.open_all().1
    }
}

impl Watcher<'_> {
    fn begin(&mut self, hellos: &Hellos) {
        if self.version == Version::Tls13 {
            let secret = self.secret_of(HANDSHAKE_SECRETS);
            self.turns.extend(secret.map(|secret| Turn::of(self.aead, secret)));
        } else if let Some(master) = self.wire.secrets.get("CLIENT_RANDOM") {
            let keys = key_block(self.aead, &master, &hellos.client_random, &hellos.server_random);
            let [client, server] = keys;
            let keys = if self.wire.originates { client } else { server };
            self.turns.push(Turn { side: Side::new(&keys, *keys.iv()), first: keys, secret: Vec::new() });
        }
    }

    fn secret_of(&self, [client, server]: [&str; 2]) -> Option<Vec<u8>> {
        self.wire.secrets.get(if self.wire.originates { client } else { server })
    }

    fn take(&mut self, record: &[u8], is_whole: bool) -> Result<(), Misuse> {
        let nth = self.watched.opened + self.watched.unknown;
        if self.version == Version::Tls12 && self.aead != Aead::ChaCha20Poly1305 {
            let explicit = record.get(5..13).and_then(|bytes| bytes.try_into().ok());
            let is_new = explicit.is_none_or(|nonce| self.nonces.insert(nonce));
            if !is_new {
                return Err(Misuse::NonceTwice { record: nth });
            }
        }
        if !is_whole {
            // The front of one that was cut off: its nonce is all that can be told of it.
            return Ok(());
        }
        let opened = self.turns.last_mut().and_then(|turn| turn.side.open(record));
        if let Some((record_type, payload)) = opened {
            self.watched.opened += 1;
            self.has_ended |= record_type == ALERT;
            self.data += if record_type == APPLICATION_DATA && !self.has_ended { payload.len() } else { 0 };
            if self.version == Version::Tls13 && record_type == HANDSHAKE {
                self.follow(&payload);
            }
            return Ok(());
        }
        if self.turns.iter().any(|turn| turn.has_sealed(record)) {
            return Err(Misuse::NonceTwice { record: nth });
        }
        if self.knows_all() {
            return Err(Misuse::OutOfPlace { record: nth });
        }
        self.watched.unknown += 1;
        Ok(())
    }

    /// The next key follows Finished, and each KeyUpdate.
    fn follow(&mut self, payload: &[u8]) {
        let next = if self.turns.len() == 1 {
            self.said.extend_from_slice(payload);
            let is_over = messages(&self.said).any(|message| message[0] == FINISHED);
            if is_over { self.secret_of(DATA_SECRETS) } else { None }
        } else if payload.first() == Some(&KEY_UPDATE) {
            self.turns.last().map(|turn| next_secret(self.aead, &turn.secret))
        } else {
            None
        };
        self.turns.extend(next.map(|secret| Turn::of(self.aead, secret)));
    }

    /// Whether the peer has told every secret that a record may be under.
    fn knows_all(&self) -> bool {
        !self.turns.is_empty() && (self.version == Version::Tls12 || self.secret_of(DATA_SECRETS).is_some())
    }
}

impl Turn {
    fn of(aead: Aead, secret: Vec<u8>) -> Self {
        let keys = traffic_keys(aead, &secret);
        Self { side: Side::new(&keys, *keys.iv()), first: keys, secret }
    }

    /// Whether the record opens at a place that was taken before.
    fn has_sealed(&self, record: &[u8]) -> bool {
        let mut side = Side::new(&self.first, *self.first.iv());
        (0..self.side.sequence()).any(|sequence| {
            side.go_to(sequence);
            side.open(record).is_some()
        })
    }
}
