//! Two connections of rustls that talk in memory: the floor beside our own sessions and ciphers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use offramp_loadgen::identity::{Identity, SERVER_NAME};
use offramp_loadgen::session::{Tickets, client_config};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, ClientConnection, ConnectionCommon, ServerConfig, ServerConnection, SideData};

use crate::suite::Suite;

/// A client that offers this suite and uses the tickets that it gets.
///
/// # Errors
/// The certificate cannot be trusted.
pub fn client(identity: &Identity, suite: Suite) -> Result<Arc<ClientConfig>> {
    Ok(client_config(&identity.certificate, suite.rustls(), kx_group::X25519, Tickets::Use)?)
}

/// rustls's own server for every [`Suite`], with tickets by its own ticketer.
///
/// # Errors
/// The identity cannot be loaded.
pub fn server(identity: &Identity) -> Result<Arc<ServerConfig>> {
    let chain = vec![CertificateDer::from_pem_file(identity.certificate_file())?];
    let key = PrivateKeyDer::from_pem_file(identity.key_file())?;
    let provider = CryptoProvider {
        cipher_suites: Suite::all().into_iter().map(Suite::rustls).collect(),
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1],
        ..default_provider()
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// A connection that has its ClientHello to say.
///
/// # Errors
/// The configuration cannot be used.
pub fn begin(client: &Arc<ClientConfig>) -> Result<ClientConnection> {
    Ok(ClientConnection::new(Arc::clone(client), ServerName::try_from(SERVER_NAME)?)?)
}

/// Appends all that waits to be sent.
///
/// # Errors
/// None that a vector has.
pub fn say<T: SideData>(from: &mut ConnectionCommon<T>, bytes: &mut Vec<u8>) -> Result<()> {
    while from.wants_write() {
        from.write_tls(bytes)?;
    }
    Ok(())
}

/// Takes all of these bytes; what was in their records is to be read afterwards.
///
/// # Errors
/// The other end does not keep to the protocol.
pub fn hear<T: SideData>(by: &mut ConnectionCommon<T>, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        by.read_tls(&mut bytes)?;
        by.process_new_packets()?;
    }
    Ok(())
}

/// Both ends of a complete handshake, with nothing left to say; neither limits what waits to be sent.
///
/// # Errors
/// The handshake failed.
pub fn established(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection)> {
    let (mut client, mut server) = (begin(client)?, ServerConnection::new(Arc::clone(server))?);
    client.set_buffer_limit(None);
    server.set_buffer_limit(None);
    let mut bytes = Vec::new();
    while client.wants_write() || server.wants_write() {
        say(&mut client, &mut bytes)?;
        hear(&mut server, &bytes)?;
        bytes.clear();
        say(&mut server, &mut bytes)?;
        hear(&mut client, &bytes)?;
        bytes.clear();
    }
    Ok((client, server))
}

/// Adds to `total` how long the call took.
pub fn timed<T>(total: &mut Duration, call: impl FnOnce() -> T) -> T {
    #[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
    let begin = Instant::now();
    let result = call();
    *total += begin.elapsed();
    result
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn pair_of_each_suite_carries_bytes_both_ways() {
        let identity = Identity::generate().unwrap();
        let floor = server(&identity).unwrap();
        for suite in Suite::all() {
            let (mut client, mut server) = established(&client(&identity, suite).unwrap(), &floor).unwrap();
            assert_eq!(server.negotiated_cipher_suite(), Some(suite.rustls()), "{}", suite.label());
            let (mut records, mut opened) = (Vec::new(), [0; 4]);
            client.writer().write_all(b"ping").unwrap();
            say(&mut client, &mut records).unwrap();
            hear(&mut server, &records).unwrap();
            server.reader().read_exact(&mut opened).unwrap();
            assert_eq!(&opened, b"ping");
            records.clear();
            server.writer().write_all(b"pong").unwrap();
            say(&mut server, &mut records).unwrap();
            hear(&mut client, &records).unwrap();
            client.reader().read_exact(&mut opened).unwrap();
            assert_eq!(&opened, b"pong");
        }
    }
}
