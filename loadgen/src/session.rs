//! The TLS client without sockets: bytes in, bytes out.

use std::io::{self, Read, Write};
use std::sync::Arc;

use offramp_proto::buf::Buf;
use rustls::SupportedCipherSuite;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CipherSuite, ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore};

use crate::failure::Failure;
use crate::hello::offers_session;
use crate::tickets::Forgetful;

/// What a client does with the tickets that it gets. It asks for them in any case: making one is part of the
/// server's work for a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tickets {
    /// Resumes with them.
    Use,
    /// Makes a full handshake every time.
    Forget,
}

/// A client configuration on equal terms for every terminator: this suite and with it its version, this group
/// before X25519, and this one certificate trusted. It has its own store for sessions.
///
/// # Errors
/// The certificate cannot be trusted.
pub fn client_config(
    trusted: &CertificateDer<'static>,
    suite: SupportedCipherSuite,
    group: &'static dyn SupportedKxGroup,
    tickets: Tickets,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone())?;
    let mut provider = CryptoProvider { cipher_suites: vec![suite], ..equal_terms() };
    provider.kx_groups.retain(|other| other.name() != group.name());
    provider.kx_groups.insert(0, group);
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[suite.version()])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = match tickets {
        Tickets::Use => Resumption::in_memory_sessions(8),
        Tickets::Forget => Resumption::store(Arc::new(Forgetful)),
    };
    Ok(Arc::new(config))
}

/// One connection's TLS.
#[derive(Debug)]
pub struct Session {
    tls: ClientConnection,
    /// The ClientHello, as far as it was not sent.
    hello: Vec<u8>,
    offers_ticket: bool,
    peer_has_closed: bool,
}

/// What a handshake turned out to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Established {
    /// Full or resumed.
    pub kind: HandshakeKind,
    /// As negotiated.
    pub version: ProtocolVersion,
    /// As negotiated.
    pub suite: CipherSuite,
}

impl Session {
    /// A new one, with its ClientHello waiting to be sent.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn new(config: &Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, rustls::Error> {
        let mut tls = ClientConnection::new(Arc::clone(config), name)?;
        let mut hello = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut hello).map_err(|e| rustls::Error::General(e.to_string()))?;
        }
        let offers_ticket = offers_session(&hello);
        Ok(Self { tls, hello, offers_ticket, peer_has_closed: false })
    }

    /// Whether the ClientHello offers to resume: a ticket that has expired is not sent.
    #[must_use]
    pub fn offers_ticket(&self) -> bool {
        self.offers_ticket
    }

    /// Takes bytes from the network; what was in their records is appended to `plaintext`. Answers may then
    /// wait to be sent, even after an error.
    ///
    /// # Errors
    /// What arrived is not what TLS allows here.
    pub fn receive(&mut self, mut bytes: &[u8], plaintext: &mut Vec<u8>) -> Result<(), Failure> {
        let general = |e: io::Error| Failure::Tls(e.to_string());
        // What follows close_notify is to be ignored (RFC 8446 §6.1); rustls takes none of it.
        while !bytes.is_empty() && !self.peer_has_closed {
            self.tls.read_tls(&mut bytes).map_err(general)?;
            let state = self.tls.process_new_packets()?;
            self.peer_has_closed = state.peer_has_closed();
            let mut waiting = state.plaintext_bytes_to_read();
            while waiting > 0 {
                let start = plaintext.len();
                plaintext.resize(start + waiting, 0);
                let count = self.tls.reader().read(&mut plaintext[start..]).map_err(general)?;
                plaintext.truncate(start + count);
                waiting -= count;
            }
        }
        Ok(())
    }

    /// Takes as much of `plaintext` as it holds unsent and says how much that was.
    pub fn send(&mut self, plaintext: &[u8]) -> usize {
        // Its writer is a buffer and cannot fail.
        self.tls.writer().write(plaintext).unwrap_or(0)
    }

    /// Appends to `records` what waits to be sent, as far as there is room.
    ///
    /// # Errors
    /// None that a buffer has.
    pub fn records(&mut self, records: &mut Buf) -> io::Result<()> {
        let count = records.extend(&self.hello);
        self.hello.drain(..count);
        while self.tls.wants_write() && records.spare_len() > 0 {
            self.tls.write_tls(&mut Appended(records))?;
        }
        Ok(())
    }

    /// Whether anything waits to be sent.
    #[must_use]
    pub fn wants_to_send(&self) -> bool {
        !self.hello.is_empty() || self.tls.wants_write()
    }

    /// Whether the peer sent close_notify.
    #[must_use]
    pub fn peer_has_closed(&self) -> bool {
        self.peer_has_closed
    }

    /// Says that we send no more: close_notify waits to be sent, behind what waits already.
    pub fn close(&mut self) {
        self.tls.send_close_notify();
    }

    /// What the handshake was, once it is done.
    #[must_use]
    pub fn established(&self) -> Option<Established> {
        if self.tls.is_handshaking() {
            return None;
        }
        Some(Established {
            kind: self.tls.handshake_kind()?,
            version: self.tls.protocol_version()?,
            suite: self.tls.negotiated_cipher_suite()?.suite(),
        })
    }
}

struct Appended<'a>(&'a mut Buf);

impl Write for Appended<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.0.extend(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn equal_terms() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![
        aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
    ];
    // The second one is only there because in TLS 1.2 the list also says which certificates are welcome.
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];
    provider
}
