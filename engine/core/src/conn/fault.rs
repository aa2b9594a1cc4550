//! Why a connection ended otherwise than by both sides closing it: one table for alert, metric label and log
//! level.

pub use offramp_proto::alert;

use crate::tls::cipher::OpenError;
use crate::tls::record::Malformed;

/// How loudly a fault is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Everyday on an open port.
    Debug,
    /// Worth a look when it piles up.
    Info,
    /// The operator's side is at fault.
    Warn,
}

/// Whose doing it was, which decides how the other leg ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The TLS leg: the plain leg is reset, for its stream is not complete.
    Tls,
    /// The plain leg: the TLS leg gets a fatal alert and no close_notify.
    Plain,
    /// Ours: neither stream is complete; the plain leg is reset, and the TLS leg gets the alert.
    Us,
    /// Nobody: both are closed in order, unless something is on its way that will not arrive.
    Nobody,
}

macro_rules! faults {
    ($($(#[doc = $doc:literal])+
       $name:ident = $label:literal, $blame:ident, $level:ident, $alert:expr;)+) => {
        /// Why a connection ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Fault { $($(#[doc = $doc])+ $name,)+ }

        impl Fault {
            /// Every fault, in the order of [`Fault::index`].
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];
            /// The metric label of every fault, in the order of [`Fault::index`].
            pub const LABELS: &'static [&'static str] = &[$($label,)+];

            fn row(self) -> (Blame, Level, Option<u8>) {
                match self { $(Self::$name => (Blame::$blame, Level::$level, $alert),)+ }
            }
        }
    };
}

faults! {
    /// The client closed or reset without having sent a byte: a port check, or a balancer's.
    ClosedBeforeHello = "closed_before_hello", Tls, Debug, None;
    /// The first bytes are no TLS handshake record.
    NotTls = "not_tls", Tls, Info, None;
    /// The handshake was not complete in time.
    HandshakeTimeout = "handshake_timeout", Tls, Info, None;
    /// The client closed or reset in the middle of the handshake.
    ClosedInHandshake = "closed_in_handshake", Tls, Info, None;
    /// The client ended the handshake with an alert.
    AlertInHandshake = "alert_in_handshake", Tls, Info, None;
    /// A handshake message cannot be parsed.
    HandshakeMalformed = "handshake_malformed", Tls, Info, None;
    /// A handshake message is not allowed where it came.
    HandshakeUnexpected = "handshake_unexpected", Tls, Info, None;
    /// A handshake message, or ours, does not fit into one buffer.
    HandshakeTooLong = "handshake_too_long", Tls, Info, None;
    /// No TLS version in common.
    NoCommonVersion = "no_common_version", Tls, Info, None;
    /// No suite, group, signature algorithm or application protocol in common.
    NothingInCommon = "nothing_in_common", Tls, Info, None;
    /// The client asks for a name that no certificate has, and is to be refused.
    UnknownName = "unknown_name", Tls, Info, None;
    /// TLS 1.2 without extended_master_secret.
    NoExtendedMasterSecret = "no_extended_master_secret", Tls, Info, None;
    /// A first hello with a renegotiation_info that is not empty: a peer that renegotiates with somebody
    /// else, and an attacker between (RFC 5746 §3.4, §3.6).
    RenegotiationInfo = "renegotiation_info", Tls, Info, None;
    /// A TLS 1.3 ClientHello without an extension that is mandatory (RFC 8446 §9.2).
    MissingExtension = "missing_extension", Tls, Info, None;
    /// The client has shown no certificate, and the listener requires one.
    PeerCertificateMissing = "peer_certificate_missing", Tls, Info, Some(alert::BAD_CERTIFICATE);
    /// The client's certificate is not one that holds here, or it has not proved that it has the key.
    PeerCertificateRefused = "peer_certificate_refused", Tls, Info, Some(alert::BAD_CERTIFICATE);
    /// The peer has shown more than 10 certificates, or more than two issuers of one name.
    PeerChainTooLong = "peer_chain_too_long", Tls, Info, Some(alert::BAD_CERTIFICATE);
    /// A record that cannot be opened: forged, damaged, replayed.
    BadRecord = "bad_record", Tls, Info, Some(alert::BAD_RECORD_MAC);
    /// A record longer than allowed.
    RecordTooLong = "record_too_long", Tls, Info, Some(alert::RECORD_OVERFLOW);
    /// Bytes that are no record, or a message in one that cannot be parsed.
    Malformed = "malformed", Tls, Info, Some(alert::DECODE_ERROR);
    /// A record of a type, or a message, that does not belong here.
    UnexpectedRecord = "unexpected_record", Tls, Info, Some(alert::UNEXPECTED_MESSAGE);
    /// The rest of a record that the client had begun did not come in time.
    RecordTimeout = "record_timeout", Tls, Info, Some(alert::INTERNAL_ERROR);
    /// The client sent a fatal alert.
    AlertReceived = "alert_received", Tls, Info, None;
    /// The peer insisted on renegotiation after it was told no_renegotiation.
    Renegotiation = "renegotiation", Tls, Info, Some(alert::UNEXPECTED_MESSAGE);
    /// The client updated its keys more often than any use of them explains.
    KeyUpdateFlood = "key_update_flood", Tls, Info, Some(alert::UNEXPECTED_MESSAGE);
    /// A KeyUpdate whose request_update is neither 0 nor 1 (RFC 8446 §4.6.3).
    KeyUpdateValue = "key_update_value", Tls, Info, Some(alert::ILLEGAL_PARAMETER);
    /// The client updated its keys and this kernel cannot follow.
    RekeyRefused = "rekey_refused", Tls, Warn, Some(alert::INTERNAL_ERROR);
    /// FIN without close_notify: the stream may have been cut by anyone.
    Truncated = "truncated", Tls, Info, None;
    /// The client reset the connection or cannot be reached any more.
    TlsPeerReset = "tls_peer_reset", Tls, Info, None;
    /// The kernel reports an error on the TLS leg that has no name here.
    TlsLegFailed = "tls_leg_failed", Tls, Warn, None;
    /// The far leg was not open in time.
    ConnectTimeout = "connect_timeout", Plain, Warn, Some(alert::INTERNAL_ERROR);
    /// The backend refused the connection.
    BackendRefused = "backend_refused", Plain, Warn, Some(alert::INTERNAL_ERROR);
    /// The backend cannot be reached.
    BackendUnreachable = "backend_unreachable", Plain, Warn, Some(alert::INTERNAL_ERROR);
    /// No descriptor is left for the far leg: raise LimitNOFILE, or lower max_connections.
    NoDescriptor = "no_descriptor", Plain, Warn, Some(alert::INTERNAL_ERROR);
    /// No local port is left for the far leg: widen net.ipv4.ip_local_port_range.
    NoLocalPort = "no_local_port", Plain, Warn, Some(alert::INTERNAL_ERROR);
    /// The backend reset the connection.
    PlainPeerReset = "plain_peer_reset", Plain, Info, Some(alert::INTERNAL_ERROR);
    /// No byte moved in either direction for the idle time.
    IdleTimeout = "idle_timeout", Nobody, Debug, Some(alert::CLOSE_NOTIFY);
    /// Still open when the drain was over.
    DrainTimeout = "drain_timeout", Us, Debug, Some(alert::CLOSE_NOTIFY);
    /// The key has protected as many records as it may, and there is no next one. In the middle of a stream:
    /// a close_notify would make it look whole.
    RecordLimit = "record_limit", Us, Info, Some(alert::INTERNAL_ERROR);
    /// Our own invariant does not hold.
    Internal = "internal", Us, Warn, Some(alert::INTERNAL_ERROR);
}

impl Fault {
    /// Why a leg could not be connected, by errno(3).
    pub(super) fn of_connect(errno: i32) -> Self {
        match errno {
            libc::ECONNREFUSED => Self::BackendRefused,
            libc::EMFILE | libc::ENFILE => Self::NoDescriptor,
            libc::EADDRNOTAVAIL | libc::EADDRINUSE => Self::NoLocalPort,
            _ => Self::BackendUnreachable,
        }
    }

    /// Its place in [`Fault::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        Self::LABELS[self.index()]
    }

    /// Whose doing it was.
    #[must_use]
    pub fn blame(self) -> Blame {
        self.row().0
    }

    /// How loudly it is logged.
    #[must_use]
    pub fn level(self) -> Level {
        self.row().1
    }

    /// The alert that the client is sent after the handshake, if one is due (one in the handshake comes from
    /// rustls).
    #[must_use]
    pub fn alert(self) -> Option<u8> {
        self.row().2
    }
}

impl From<OpenError> for Fault {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::BadRecord => Self::BadRecord,
            OpenError::Malformed(malformed) => malformed.into(),
            OpenError::UnexpectedType => Self::UnexpectedRecord,
        }
    }
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::NotARecord => Self::Malformed,
            Malformed::TooLong => Self::RecordTooLong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_fault_has_its_own_label_and_place() {
        let labels: HashSet<_> = Fault::LABELS.iter().collect();
        assert_eq!(labels.len(), Fault::ALL.len());
        for (at, fault) in Fault::ALL.iter().enumerate() {
            assert_eq!(fault.index(), at);
        }
        assert_eq!(Fault::BadRecord.label(), "bad_record");
    }
}
