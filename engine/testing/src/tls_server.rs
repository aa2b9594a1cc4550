//! A TLS server on a thread, rustls: what the client's role connects to where the version or the suite is to
//! be this one and no other, or where the server shall end one direction and not the other.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CipherSuite, ServerConfig, ServerConnection, StreamOwned};

use crate::backend::{EARLY_ANSWER, LATE_ANSWER};
use crate::identity::Identity;
use crate::peer::Version;
use crate::rng::sha256_of;

/// What the server says.
#[derive(Clone, Copy, Debug)]
pub enum Talk {
    /// Everything back, and at the end close_notify.
    Echo,
    /// To the end nothing; then `LATE_ANSWER` and close_notify.
    AnswerAfterEnd,
    /// `EARLY_ANSWER` and close_notify at once; then it reads to the end.
    EndFirst,
}

/// SHA-256 and number of the bytes that came up to close_notify, if that is how they ended.
pub type Heard = Result<(String, u64), io::ErrorKind>;

/// Listens for so many connections that are echoed.
pub fn echo(version: Version, suite: CipherSuite, connections: usize) -> SocketAddr {
    start(version, suite, connections, Talk::Echo).0
}

/// Listens for so many connections; what each has heard is told, except where it was sent back.
pub fn start(
    version: Version,
    suite: CipherSuite,
    connections: usize,
    talk: Talk,
) -> (SocketAddr, Receiver<Heard>) {
    let config = config_of(version, Some(suite));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("a bound listener has an address");
    let (tell, heard) = channel();
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten().take(connections) {
            let tls = ServerConnection::new(Arc::clone(&config)).expect("a server");
            let (stream, tell) = (StreamOwned::new(tls, tcp), tell.clone());
            std::thread::spawn(move || match talk {
                Talk::Echo => send_back(stream),
                Talk::AnswerAfterEnd => drop(tell.send(answer_after_end(stream))),
                Talk::EndFirst => drop(tell.send(end_first(stream))),
            });
        }
    });
    (addr, heard)
}

/// What a server of this version takes.
pub fn config(version: Version) -> Arc<ServerConfig> {
    config_of(version, None)
}

fn config_of(version: Version, suite: Option<CipherSuite>) -> Arc<ServerConfig> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|has| suite.is_none_or(|suite| has.suite() == suite));
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
    Arc::new(config)
}

type Stream = StreamOwned<ServerConnection, TcpStream>;

fn send_back(mut stream: Stream) {
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

fn answer_after_end(mut stream: Stream) -> Heard {
    let heard = to_the_end(&mut stream)?;
    stream.write_all(LATE_ANSWER).map_err(|error| error.kind())?;
    end(&mut stream)?;
    Ok(heard)
}

fn end_first(mut stream: Stream) -> Heard {
    stream.write_all(EARLY_ANSWER).map_err(|error| error.kind())?;
    end(&mut stream)?;
    to_the_end(&mut stream)
}

fn end(stream: &mut Stream) -> Result<(), io::ErrorKind> {
    stream.conn.send_close_notify();
    stream.flush().map_err(|error| error.kind())
}

/// An end without close_notify is an error of rustls's.
fn to_the_end(stream: &mut Stream) -> Heard {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).map_err(|error| error.kind())?;
    Ok(sha256_of(&all[..]))
}
