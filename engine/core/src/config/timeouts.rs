//! The deadlines of a connection.

use std::time::Duration;

/// The deadlines of a connection. Each is counted from the moment that its heading names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Accept until the handshake is complete and the records are aligned.
    pub handshake: Duration,
    /// Start of the far leg's connect until it is open.
    pub connect: Duration,
    /// The last byte moved in either direction.
    pub idle: Duration,
    /// Our last byte sent until the peer closed too.
    pub linger: Duration,
    /// Accept until the connection is ended whatever it does; none for as long as it lasts.
    pub lifetime: Option<Duration>,
    /// Start of a drain until what is still open is ended.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            connect: Duration::from_secs(5),
            idle: Duration::from_secs(3600),
            linger: Duration::from_secs(2),
            lifetime: None,
            drain: Duration::from_secs(30),
        }
    }
}
