//! A TLS server on a thread, rustls, that sends everything back: what the client's role connects to where the
//! version or the suite is to be this one and no other.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CipherSuite, ServerConfig, ServerConnection};

use crate::identity::Identity;
use crate::peer::Version;

/// Listens for so many connections.
pub(crate) fn echo(version: Version, suite: CipherSuite, connections: usize) -> SocketAddr {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|has| has.suite() == suite);
    let version = match version {
        Version::Tls12 => &rustls::version::TLS12,
        Version::Tls13 => &rustls::version::TLS13,
    };
    let identity = Identity::ecdsa();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("its key is PEM");
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .expect("the suite fits the version")
        .with_no_client_auth()
        .with_single_cert(vec![identity.der.clone()], key)
        .expect("an identity");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("a bound listener has an address");
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten().take(connections) {
            let tls = ServerConnection::new(Arc::clone(&config)).expect("a server");
            std::thread::spawn(|| send_back(tls, tcp));
        }
    });
    addr
}

fn send_back(tls: ServerConnection, tcp: TcpStream) {
    let mut stream = rustls::StreamOwned::new(tls, tcp);
    let mut block = vec![0; 1 << 16];
    // After an error there is nobody to tell; who sent the bytes misses them.
    while let Ok(count @ 1..) = stream.read(&mut block) {
        if stream.write_all(&block[..count]).is_err() {
            return;
        }
    }
    stream.conn.send_close_notify();
    let _ = stream.flush();
}
