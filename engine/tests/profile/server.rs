//! A server of rustls that cuts its records and segments as it is told, and one whose keys are taken from it,
//! so that it says what no server would.

use std::io::{Read, Result, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::aws_lc_rs::{Ticketer, cipher_suite, default_provider};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ConnectionTrafficSecrets, ServerConfig, ServerConnection, StreamOwned};

use offramp_testing::identity::Identity;
use offramp_testing::peer::Version;

pub(crate) const ALERT: u8 = 21;
pub(crate) const HANDSHAKE: u8 = 22;
pub(crate) const DATA: u8 = 23;

/// With tickets, AES-128-GCM, and records of at most so many bytes, their headers included.
pub(crate) fn config(version: Version, record: usize) -> Arc<ServerConfig> {
    let mut provider = default_provider();
    provider.cipher_suites =
        vec![cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
    let version = match version {
        Version::Tls12 => &rustls::version::TLS12,
        Version::Tls13 => &rustls::version::TLS13,
    };
    let identity = Identity::ecdsa();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[version]);
    let builder = builder.unwrap().with_no_client_auth();
    let mut config = builder.with_single_cert(vec![identity.der.clone()], key).unwrap();
    config.ticketer = Ticketer::new().unwrap();
    config.send_tls13_tickets = 1;
    config.max_fragment_size = Some(record);
    config.enable_secret_extraction = true;
    Arc::new(config)
}

/// Serves one connection: sends everything back, in segments of at most so many bytes. What went out.
pub(crate) fn echo(config: &Arc<ServerConfig>, tcp: TcpStream, segment: usize) -> Vec<u8> {
    tcp.set_nodelay(true).unwrap();
    let dripping = Dripping { tcp, segment, sent: Vec::new() };
    let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), dripping);
    let mut block = [0; 1024];
    while let Ok(count @ 1..) = stream.read(&mut block) {
        stream.write_all(&block[..count]).unwrap();
    }
    stream.conn.send_close_notify();
    // Whoever has closed both ways does not hear it.
    let _ = stream.flush();
    stream.sock.sent
}

struct Dripping {
    tcp: TcpStream,
    segment: usize,
    sent: Vec<u8>,
}

impl Read for Dripping {
    fn read(&mut self, block: &mut [u8]) -> Result<usize> {
        self.tcp.read(block)
    }
}

impl Write for Dripping {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let count = self.tcp.write(&bytes[..self.segment.min(bytes.len())])?;
        self.sent.extend_from_slice(&bytes[..count]);
        // Time to be read, or the kernel joins what was cut.
        std::thread::sleep(Duration::from_micros(500));
        Ok(count)
    }

    fn flush(&mut self) -> Result<()> {
        self.tcp.flush()
    }
}

/// The lengths of records, without their headers.
pub(crate) fn lengths(mut stream: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    while let [_, _, _, long, short, rest @ ..] = stream {
        let length = usize::from(u16::from_be_bytes([*long, *short]));
        lengths.push(length);
        stream = &rest[length..];
    }
    lengths
}

/// A server of TLS 1.2 after a full handshake, with its keys in hand.
pub(crate) struct Keyed {
    tcp: TcpStream,
    tx: Key,
    rx: Key,
}

/// Of one direction (RFC 5288).
struct Key {
    key: LessSafeKey,
    salt: [u8; 4],
    sequence: u64,
}

impl Keyed {
    /// The client sends no data before it has our Finished: all that comes is of the handshake.
    pub(crate) fn shake(mut tcp: TcpStream) -> Self {
        let mut server = ServerConnection::new(config(Version::Tls12, 1 << 14)).unwrap();
        while server.is_handshaking() {
            server.complete_io(&mut tcp).unwrap();
        }
        let secrets = server.dangerous_extract_secrets().unwrap();
        Self { tcp, tx: Key::of(secrets.tx), rx: Key::of(secrets.rx) }
    }

    /// One record.
    pub(crate) fn say(&mut self, record_type: u8, payload: &[u8]) {
        let explicit = self.tx.sequence.to_be_bytes();
        let (nonce, aad) = self.tx.next(explicit, record_type, payload.len());
        let mut sealed = payload.to_vec();
        self.tx.key.seal_in_place_append_tag(nonce, aad, &mut sealed).unwrap();
        let length = u16::try_from(explicit.len() + sealed.len()).unwrap().to_be_bytes();
        self.tcp.write_all(&[&[record_type, 3, 3], &length[..], &explicit, &sealed].concat()).unwrap();
    }

    /// One record, opened: its type and its content; `None` at the end of the stream.
    pub(crate) fn hear(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 5];
        self.tcp.read_exact(&mut header).ok()?;
        let mut record = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        self.tcp.read_exact(&mut record).unwrap();
        let (explicit, sealed) = record.split_first_chunk_mut::<8>().unwrap();
        let (nonce, aad) = self.rx.next(*explicit, header[0], sealed.len() - AES_128_GCM.tag_len());
        let opened = self.rx.key.open_in_place(nonce, aad, sealed).expect("sealed by the client");
        Some((header[0], opened.to_vec()))
    }
}

impl Key {
    fn of((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Self {
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else { panic!("another suite") };
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap());
        Self { key, salt: *iv.as_ref().first_chunk().unwrap(), sequence }
    }

    /// Nonce and additional data (RFC 5246 §6.2.3.3) of the next record.
    fn next(&mut self, explicit: [u8; 8], record_type: u8, length: usize) -> (Nonce, Aad<[u8; 13]>) {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.salt);
        nonce[4..].copy_from_slice(&explicit);
        let mut aad = [0; 13];
        aad[..8].copy_from_slice(&self.sequence.to_be_bytes());
        aad[8..11].copy_from_slice(&[record_type, 3, 3]);
        aad[11..].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        self.sequence += 1;
        (Nonce::assume_unique_for_key(nonce), Aad::from(aad))
    }
}
