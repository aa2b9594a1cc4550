//! Why a connection failed, by name.

use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError};

/// What a connection was at when something happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The TCP connect.
    Connect,
    /// The TLS handshake.
    Handshake,
    /// Between the handshake and the first byte of application data.
    FirstByte,
    /// Application data.
    Data,
    /// The orderly end: close_notify and FIN, until the peer's.
    Close,
}

/// One kind of failure; its text is its name in every report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens there (ECONNREFUSED).
    Refused,
    /// Nobody listens there, and the kernel chose the target's own port: the socket is connected to itself.
    ToItself,
    /// The peer reset the connection, or broke it while we were sending.
    Reset(Moment),
    /// The peer closed it before its time.
    Closed(Moment),
    /// The plan's patience ran out.
    TimedOut(Moment),
    /// Its planned start passed while the most connections that the plan allows were open.
    NeverStarted,
    /// No local port is left for this target (EADDRNOTAVAIL).
    NoLocalPort,
    /// No descriptor is left (EMFILE, ENFILE).
    NoDescriptor,
    /// The peer sent this alert.
    Alert(AlertDescription),
    /// We do not accept the peer's certificate, for this reason.
    Certificate(String),
    /// What arrived is not what TLS allows there.
    Tls(String),
    /// A byte of application data was lost, added or changed: the worst of all.
    Changed(&'static str),
    /// An HTTP answer that is neither a success (2xx) nor a redirection (3xx).
    HttpStatus(u16),
    /// What came does not begin as an HTTP answer does.
    NotHttp,
    /// An MSRP response with another code than 200.
    MsrpStatus(u16),
    /// What came is no MSRP response.
    NotMsrp(&'static str),
    /// A well-formed MSRP response that belongs to none of our requests: this part of it is another one.
    MsrpMismatch(&'static str),
    /// An MSRP request, of this method. A REPORT says that a message failed: no reports of success are
    /// requested.
    MsrpRequest(&'static str),
    /// Anything else that the kernel says.
    System(Moment, i32),
}

/// errno(3), as far as it is told apart here.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const EPIPE: i32 = 32;
const EADDRNOTAVAIL: i32 = 99;
const ECONNRESET: i32 = 104;
const ETIMEDOUT: i32 = 110;
const ECONNREFUSED: i32 = 111;

impl Failure {
    /// What the kernel said.
    #[must_use]
    pub fn system(moment: Moment, errno: i32) -> Self {
        match errno {
            ECONNREFUSED => Self::Refused,
            ECONNRESET | EPIPE => Self::Reset(moment),
            ETIMEDOUT => Self::TimedOut(moment),
            EADDRNOTAVAIL => Self::NoLocalPort,
            EMFILE | ENFILE => Self::NoDescriptor,
            other => Self::System(moment, other),
        }
    }

    /// Whether a byte of application data was not the one that belongs there.
    #[must_use]
    pub fn is_of_integrity(&self) -> bool {
        matches!(self, Self::Changed(_))
    }
}

impl From<rustls::Error> for Failure {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::AlertReceived(alert) => Self::Alert(alert),
            rustls::Error::InvalidCertificate(CertificateError::Other(reason)) => {
                // Its own text is that of a type.
                Self::Certificate(reason.0.to_string())
            }
            rustls::Error::InvalidCertificate(reason) => Self::Certificate(reason.to_string()),
            other => Self::Tls(other.to_string()),
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Handshake => "handshake",
            Self::FirstByte => "first byte",
            Self::Data => "data",
            Self::Close => "close",
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::ToItself => f.write_str("connected to itself: nobody listens on the target's port"),
            Self::Reset(moment) => write!(f, "reset ({moment})"),
            Self::Closed(moment) => write!(f, "closed by the peer ({moment})"),
            Self::TimedOut(moment) => write!(f, "timeout ({moment})"),
            Self::NeverStarted => f.write_str("never started: as many open as --connections allows"),
            Self::NoLocalPort => f.write_str("no local port left: close with --rst, or give more --source"),
            Self::NoDescriptor => f.write_str("no descriptor left: raise the limit (ulimit -n)"),
            Self::Alert(alert) => write!(f, "alert {}", snake_case(*alert)),
            Self::Certificate(reason) => write!(f, "certificate: {reason}"),
            Self::Tls(reason) => write!(f, "tls: {reason}"),
            Self::Changed(what) => write!(f, "changed: {what}"),
            Self::HttpStatus(status) => write!(f, "http status {status}"),
            Self::NotHttp => f.write_str("not an HTTP answer"),
            Self::MsrpStatus(status) => write!(f, "msrp status {status}"),
            Self::NotMsrp(what) => write!(f, "not an MSRP response: {what}"),
            Self::MsrpMismatch(what) => write!(f, "msrp response to another request: {what}"),
            Self::MsrpRequest(method) => write!(f, "msrp request from the peer: {method}"),
            Self::System(moment, errno) => {
                write!(f, "{moment}: {}", io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

impl std::error::Error for Failure {}

/// As RFC 8446 §6 spells it.
fn snake_case(alert: AlertDescription) -> String {
    let mut out = String::new();
    for c in format!("{alert:?}").chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    // Three of them abbreviate.
    out.replace("c_a", "ca").replace("p_s_k", "psk").replace("e_c_h", "ech")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_and_tls_say_has_its_name() {
        let named = [
            (Failure::system(Moment::Connect, 111), "refused"),
            (Failure::system(Moment::Data, 32), "reset (data)"),
            (Failure::system(Moment::Connect, 110), "timeout (connect)"),
            (
                rustls::Error::AlertReceived(AlertDescription::HandshakeFailure).into(),
                "alert handshake_failure",
            ),
            (rustls::Error::AlertReceived(AlertDescription::UnknownCA).into(), "alert unknown_ca"),
            (rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer).into(), "certificate: "),
        ];
        for (failure, name) in named {
            assert!(failure.to_string().starts_with(name), "{failure}");
        }
        assert!(Failure::system(Moment::Connect, 99).to_string().contains("--source"));
        assert!(Failure::system(Moment::Connect, 24).to_string().contains("ulimit -n"));
    }
}
