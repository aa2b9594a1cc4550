//! What a ClientHello asks for, of a connection whose TLS is not ours.

use std::io;

use rustls::server::Acceptor;

use super::session::Refusal;

/// What a client asks for in the clear; with Encrypted Client Hello that is what its outer hello says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The name (RFC 6066 §3), in lower case.
    pub server_name: Option<Box<str>>,
    /// The application protocols (RFC 7301), in the client's order.
    pub alpn: Vec<Box<[u8]>>,
}

/// Reads a ClientHello, in any number of records.
pub struct HelloPeek(Acceptor);

impl std::fmt::Debug for HelloPeek {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HelloPeek")
    }
}

impl HelloPeek {
    /// At the beginning of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self(Acceptor::default())
    }

    /// Reads the next bytes; none while the hello is not complete.
    ///
    /// # Errors
    /// Why it is no hello, and the alert that is due, as it is sent.
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<Option<Asked>, (Refusal, Vec<u8>)> {
        while !bytes.is_empty() {
            // It takes from a slice, which cannot fail; where it takes nothing, it has no room left.
            let taken: io::Result<usize> = self.0.read_tls(&mut bytes);
            if taken.unwrap_or(0) == 0 {
                return Err((Refusal::Malformed, Vec::new()));
            }
            match self.0.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let server_name = hello.server_name().map(|name| name.to_ascii_lowercase().into());
                    let alpn = hello.alpn().into_iter().flatten().map(Into::into).collect();
                    return Ok(Some(Asked { server_name, alpn }));
                }
                Err((error, mut alert)) => {
                    let mut said = Vec::new();
                    // A vector takes all.
                    let _ = alert.write_all(&mut said);
                    return Err((Refusal::from(&error), said));
                }
            }
        }
        Ok(None)
    }
}

impl Default for HelloPeek {
    fn default() -> Self {
        Self::new()
    }
}
