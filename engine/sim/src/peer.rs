//! The peer of the world: a rustls client or server, driven by bytes; hostile if the plan says so.

use offramp_proto::record::{ALERT, APPLICATION_DATA};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, HandshakeKind, ServerConfig, ServerConnection};

use super::hostile::{Hostile, PeerAction, talkative, talkative_server};
use super::schedule::Secrets;

/// The role of the peer, and what it does in it.
#[derive(Clone, Debug)]
pub enum Role {
    /// We are the server.
    Client(Arc<ClientConfig>),
    /// We are the client.
    Server(Arc<ServerConfig>),
}

impl From<Arc<ClientConfig>> for Role {
    fn from(config: Arc<ClientConfig>) -> Self {
        Self::Client(config)
    }
}

impl From<Arc<ServerConfig>> for Role {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self::Server(config)
    }
}

/// What the peer does once the handshake is complete.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// What it sends.
    pub sends: Vec<u8>,
    /// Whether its first data shares a flight with its Finished; that of a server of TLS 1.3 then comes
    /// before the client's Finished (RFC 8446 §4.4.4), if its configuration allows.
    pub sends_at_once: bool,
    /// How many KeyUpdates it sends, spread over its data (TLS 1.3).
    pub key_updates: usize,
    /// Whether it sends close_notify behind its data; otherwise it does so when it has read the peer's.
    pub closes_first: bool,
    /// Once it has received this many bytes it reads no more.
    pub deaf_after: Option<usize>,
    /// What it says instead of all that, if anything, in records of its own.
    pub says: Vec<PeerAction>,
    /// When it has sent so many bytes, these come next, whatever they cut in two.
    pub interrupts: Option<(usize, Vec<u8>)>,
}

/// A peer in progress.
#[derive(Debug)]
pub struct Peer {
    tls: Option<Connection>,
    hostile: Option<Hostile>,
    /// Its TLS is passed through: behind its hello come bytes as they are, and they end with FIN.
    is_passed_through: bool,
    secrets: Arc<Secrets>,
    kind: Option<HandshakeKind>,
    script: Script,
    sent: usize,
    key_updates: usize,
    said_close: bool,
    /// Bytes that it has sent.
    on_wire: usize,
    /// It was interrupted in the handshake.
    pub(super) was_interrupted: bool,
    /// The front of a record.
    partial: Vec<u8>,
    /// What it received.
    pub received: Vec<u8>,
    /// It has read our close_notify.
    pub saw_close: bool,
    /// What its TLS implementation objected to.
    pub error: Option<rustls::Error>,
    /// Records other than application data that a hostile peer has read.
    pub heard: Vec<(u8, Vec<u8>)>,
}

impl Peer {
    /// In this role; a client asks for `localhost`.
    ///
    /// # Panics
    /// If rustls refuses the configuration.
    #[must_use]
    pub fn new(role: &Role, script: Script) -> Self {
        let (tls, secrets) = match role {
            Role::Client(config) => {
                let name = ServerName::try_from("localhost").expect("a DNS name");
                let (config, secrets) = talkative(config);
                let client = ClientConnection::new(Arc::new(config), name).expect("a valid configuration");
                (Connection::Client(client), secrets)
            }
            Role::Server(config) => {
                let (config, secrets) = talkative_server(config);
                let server = ServerConnection::new(Arc::new(config)).expect("a valid configuration");
                (Connection::Server(server), secrets)
            }
        };
        Self {
            tls: Some(tls),
            hostile: None,
            is_passed_through: false,
            secrets,
            kind: None,
            script,
            sent: 0,
            key_updates: 0,
            said_close: false,
            on_wire: 0,
            was_interrupted: false,
            partial: Vec::new(),
            received: Vec::new(),
            saw_close: false,
            error: None,
            heard: Vec::new(),
        }
    }

    /// A client whose TLS is passed through. It sends its hello and then the script's bytes as they are: what
    /// follows a hello is no business of whoever passes it on.
    pub(super) fn passed_through(role: &Role, script: Script) -> Self {
        let mut peer = Self::new(role, script);
        let mut sends = Vec::new();
        if let Some(tls) = &mut peer.tls {
            while tls.wants_write() && tls.write_tls(&mut sends).is_ok() {}
        }
        sends.append(&mut peer.script.sends);
        peer.script.sends = sends;
        (peer.tls, peer.is_passed_through) = (None, true);
        peer
    }

    /// Whether its TLS is passed through.
    #[must_use]
    pub fn is_passed_through(&self) -> bool {
        self.is_passed_through
    }

    /// All that it is to send.
    #[must_use]
    pub fn sends(&self) -> &[u8] {
        &self.script.sends
    }

    /// It has read our FIN, if that is an end to it.
    pub(super) fn hears_end(&mut self) {
        self.saw_close |= self.is_passed_through;
    }

    /// What it tells of its secrets.
    pub(super) fn secrets(&self) -> Arc<Secrets> {
        Arc::clone(&self.secrets)
    }

    /// Whether its first flight is its last, so that data may follow at once: a server's in TLS 1.3.
    pub(super) fn begins_with_its_last_flight(&self) -> bool {
        let Some(Connection::Server(server)) = &self.tls else { return false };
        server.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3)
    }

    /// Full or resumed, once known.
    #[must_use]
    pub fn handshake_kind(&self) -> Option<HandshakeKind> {
        self.kind
    }

    /// The description of the last alert that a hostile peer has read.
    #[must_use]
    pub fn alert(&self) -> Option<u8> {
        self.heard.iter().rev().find(|(kind, _)| *kind == ALERT).and_then(|(_, alert)| alert.get(1).copied())
    }

    /// Takes bytes from the wire, and reads the whole records among them.
    pub fn read(&mut self, bytes: &[u8]) {
        if self.is_passed_through {
            return self.received.extend_from_slice(bytes);
        }
        self.partial.extend_from_slice(bytes);
        while let Some(header) = self.partial.first_chunk::<5>() {
            let record_bytes = 5 + usize::from(u16::from_be_bytes([header[3], header[4]]));
            if self.partial.len() < record_bytes {
                return;
            }
            let record: Vec<u8> = self.partial.drain(..record_bytes).collect();
            self.read_record(&record);
        }
    }

    fn read_record(&mut self, mut record: &[u8]) {
        if let Some(hostile) = &mut self.hostile {
            match hostile.hear(record) {
                None => self.error = Some(rustls::Error::DecryptError),
                Some((APPLICATION_DATA, payload)) => self.received.extend(payload),
                Some(other) => {
                    self.saw_close |= other.0 == ALERT && other.1.get(1) == Some(&0);
                    self.heard.push(other);
                }
            }
            return;
        }
        let Some(tls) = &mut self.tls else { return };
        while !record.is_empty() && self.error.is_none() {
            if tls.read_tls(&mut record).is_err() {
                return;
            }
            match tls.process_new_packets() {
                Err(error) => self.error = Some(error),
                Ok(state) => {
                    let mut chunk = vec![0; state.plaintext_bytes_to_read()];
                    if tls.reader().read_exact(&mut chunk).is_ok() {
                        self.received.extend(chunk);
                    }
                    self.saw_close |= state.peer_has_closed();
                }
            }
        }
        self.kind = self.kind.or(tls.handshake_kind());
    }

    /// Puts what it has to say on the wire; at most `most` bytes of its data.
    pub fn write(&mut self, most: usize, wire: &mut VecDeque<u8>) {
        let is_sociable = self.script.says.is_empty();
        let may_speak = self.may_speak();
        let has_flight = self.wants_write();
        let may_join_the_flight = self.script.sends_at_once || !has_flight;
        // A server's data may stand behind its Finished before the client's has come.
        let is_server = matches!(self.tls, Some(Connection::Server(_)));
        let is_early = is_server && has_flight && self.error.is_none();
        let mut bytes = Vec::new();
        if (may_speak || is_early) && is_sociable && may_join_the_flight && !self.said_close {
            self.say(most, &mut bytes);
        }
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                if tls.write_tls(&mut bytes).is_err() {
                    break;
                }
            }
        }
        if may_speak && !is_sociable {
            self.speak_out(most, &mut bytes);
        }
        let end = self.on_wire + bytes.len();
        if let Some((at, what)) = self.script.interrupts.take_if(|(at, _)| *at < end) {
            let at = at - self.on_wire;
            bytes.splice(at..at, what);
            self.was_interrupted = !may_speak;
        }
        self.on_wire = end;
        wire.extend(bytes);
    }

    /// Whether it reads what comes.
    #[must_use]
    pub fn listens(&self) -> bool {
        self.script.deaf_after.is_none_or(|most| self.received.len() < most)
    }

    /// How many bytes of its data it has sent.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.sent
    }

    /// Whether it has said all that it will say.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.said_close && !self.wants_write()
    }

    /// Whether it would say something now.
    #[must_use]
    pub fn has_something_to_say(&self) -> bool {
        if !self.script.says.is_empty() {
            return self.wants_write() || self.may_speak() && self.sent < self.script.says.len();
        }
        let has_data = self.sent < self.script.sends.len();
        let has_close = !self.said_close && (self.script.closes_first || self.saw_close);
        self.wants_write() || self.may_speak() && (has_data || has_close)
    }

    fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    fn may_speak(&self) -> bool {
        self.error.is_none() && !self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    fn say(&mut self, most: usize, in_clear: &mut Vec<u8>) {
        let rest = &self.script.sends[self.sent..];
        let count = rest.len().min(most);
        let Some(tls) = &mut self.tls else {
            in_clear.extend_from_slice(&rest[..count]);
            self.sent += count;
            let is_done = self.sent == self.script.sends.len();
            self.said_close = is_done && (self.script.closes_first || self.saw_close);
            return;
        };
        if count > 0 {
            // It takes no more than it has room for.
            self.sent += tls.writer().write(&rest[..count]).unwrap_or(0);
        }
        let due = self.script.key_updates * self.sent / self.script.sends.len().max(1);
        while self.key_updates < due && tls.refresh_traffic_keys().is_ok() {
            self.key_updates += 1;
        }
        let is_done = self.sent == self.script.sends.len() && !tls.is_handshaking();
        if is_done && !self.said_close && (self.script.closes_first || self.saw_close) {
            tls.send_close_notify();
            self.said_close = true;
        }
    }

    /// The hostile peer's next records: all of them at once, or as many as the dice say.
    fn speak_out(&mut self, most: usize, bytes: &mut Vec<u8>) {
        if let Some(tls) = self.tls.take() {
            self.hostile = Some(Hostile::take_over(tls, &self.secrets));
        }
        let Some(hostile) = &mut self.hostile else { return };
        let count = if self.script.sends_at_once { usize::MAX } else { 1 + most % 8 };
        for say in self.script.says.iter().skip(self.sent).take(count) {
            bytes.extend(hostile.say(say));
            self.sent += 1;
        }
        self.said_close = self.sent == self.script.says.len();
    }
}
