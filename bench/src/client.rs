//! The TLS client: one suite, one group; blocking; every connection verified to be what was asked.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use offramp_loadgen::identity::SERVER_NAME;
use offramp_loadgen::plan::Version;
use offramp_loadgen::session::{Tickets, client_config};
use offramp_ring::socket;
use rustls::crypto::aws_lc_rs::kx_group::X25519;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, NamedGroup, StreamOwned};

use crate::suite::Suite;
use crate::terminator::Running;

/// How long any single read or write may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// One client with its own session store, for one thread.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
    address: SocketAddr,
    group: NamedGroup,
}

/// An established connection. Dropping it resets the TCP connection.
pub type Connection = StreamOwned<ClientConnection, TcpStream>;

impl Client {
    /// A client of a terminator, with the group that the terminator prefers. It asks for tickets in any case
    /// and uses them if `resume`, so that the terminator's work for a full connection includes the making of
    /// a ticket, as with any usual client.
    ///
    /// # Errors
    /// The certificate cannot be trusted.
    pub fn new(
        terminator: &Running,
        trusted: &CertificateDer<'static>,
        suite: Suite,
        resume: bool,
    ) -> Result<Self> {
        let tickets = if resume { Tickets::Use } else { Tickets::Forget };
        let group = match suite.version {
            Version::Tls12 => X25519,
            Version::Tls13 => terminator.group,
        };
        let config = client_config(trusted, suite.rustls(), group, tickets)?;
        Ok(Self { config, address: terminator.address, group: group.name() })
    }

    /// Connects, shakes hands, sends `mode` through to the backend and waits for its echo.
    ///
    /// # Errors
    /// Any of these failed, or the handshake was not of the kind that is `wanted`.
    pub fn open(&self, mode: u8, wanted: HandshakeKind) -> Result<Connection> {
        let mut tcp = TcpStream::connect(self.address).context("connecting to the terminator")?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_write_timeout(Some(PATIENCE))?;
        // Closing then resets: no TIME_WAIT, and no end-of-connection exchange in the figure.
        socket::abort_on_close(tcp.as_fd())?;
        let mut session =
            ClientConnection::new(Arc::clone(&self.config), ServerName::try_from(SERVER_NAME)?)?;
        while session.is_handshaking() {
            session.complete_io(&mut tcp).context("handshake")?;
        }
        let kind = session.handshake_kind();
        ensure!(kind == Some(wanted), "the handshake was {kind:?} and not {wanted:?}");
        // Absent where TLS 1.2 is resumed: nothing is exchanged.
        let group = session.negotiated_key_exchange_group().map(|group| group.name());
        ensure!(group.is_none_or(|group| group == self.group), "the key exchange was on {group:?}");
        let mut connection = StreamOwned::new(session, tcp);
        connection.write_all(&[mode])?;
        let mut echo = [0];
        connection.read_exact(&mut echo).context("waiting for the echo of one byte")?;
        ensure!(echo == [mode], "one byte came back changed");
        Ok(connection)
    }
}
