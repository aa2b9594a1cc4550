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
    /// Ours: neither stream is complete; the plain leg is reset, and the TLS leg gets the alert of the fault,
    /// or internal_error where that is close_notify and the stream is cut.
    Us,
    /// Nobody: both are closed in order, unless something is on its way that will not arrive.
    Nobody,
}

macro_rules! faults {
    ($($(#[doc = $doc:literal])+
       $name:ident = $label:literal, $blame:ident, $level:ident, $alert:expr, $remedy:literal;)+) => {
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

            /// What it means, and what an operator can do about it; in Markdown.
            #[must_use]
            pub fn explanation(self) -> (&'static str, &'static str) {
                match self { $(Self::$name => (concat!($($doc),+).trim_ascii(), $remedy),)+ }
            }
        }
    };
}

faults! {
    /// The peer closed or reset without having sent a byte.
    ClosedBeforeHello = "closed_before_hello", Tls, Debug, None,
        "A port check, or the health check of a balancer; nothing to do.";
    /// No PROXY header precedes the connection, and `accept_proxy` wants one.
    ProxyHeaderMissing = "proxy_header_missing", Tls, Warn, None,
        "Have the balancer send one, or remove `accept_proxy`; the log line has the first bytes.";
    /// The PROXY header is not one, has a wrong checksum, or is longer than 4096 bytes.
    ProxyHeaderMalformed = "proxy_header_malformed", Tls, Warn, None,
        "Look at the balancer; it may send fewer TLVs.";
    /// The PROXY header did not come in time.
    ProxyHeaderTimeout = "proxy_header_timeout", Tls, Info, None,
        "A balancer's health check that sends nothing; `timeouts.handshake` is the limit.";
    /// A peer connected that may not say who its client is: it is in no network of `accept_proxy`.
    ProxyUntrusted = "proxy_untrusted", Tls, Warn, None,
        "Add the network of the balancer to `accept_proxy`; for others open another listener.";
    /// The first bytes are no TLS handshake record.
    NotTls = "not_tls", Tls, Info, None,
        "A client that speaks plain text, or scans: look at `client`.";
    /// The handshake was not complete in time.
    HandshakeTimeout = "handshake_timeout", Tls, Info, None,
        "A slow network or an idle scanner; `timeouts.handshake` if real peers are concerned.";
    /// The peer closed or reset in the middle of the handshake.
    ClosedInHandshake = "closed_in_handshake", Tls, Info, None,
        "Often a peer that does not accept our certificate and sends no alert.";
    /// The peer ended the handshake with an alert.
    AlertInHandshake = "alert_in_handshake", Tls, Info, None,
        "Read the alert in the log line: `unknown_ca` and `certificate_expired` concern our certificate.";
    /// A handshake message cannot be parsed.
    HandshakeMalformed = "handshake_malformed", Tls, Info, None,
        "A broken or hostile peer.";
    /// A handshake message is not allowed where it came.
    HandshakeUnexpected = "handshake_unexpected", Tls, Info, None,
        "A broken or hostile peer.";
    /// A handshake message of the peer, or ours, does not fit into one buffer.
    HandshakeTooLong = "handshake_too_long", Tls, Info, None,
        "Shorten the certificate chain of the side that sent it.";
    /// No TLS version in common.
    NoCommonVersion = "no_common_version", Tls, Info, None,
        "The peer has neither TLS 1.2 nor 1.3: update it.";
    /// No suite, group, signature algorithm or application protocol in common.
    NothingInCommon = "nothing_in_common", Tls, Info, None,
        "Compare the peer's offer with `offramp conformance`; a second identity serves peers without \
         ECDSA or RSA; `alpn`.";
    /// The client asks for a name that no certificate has, and `unknown_name` refuses it.
    UnknownName = "unknown_name", Tls, Info, None,
        "Add an identity with the name, or correct the client.";
    /// TLS 1.2 without extended_master_secret (RFC 7627).
    NoExtendedMasterSecret = "no_extended_master_secret", Tls, Info, None,
        "Update the peer: the profile requires it.";
    /// A first hello with a renegotiation_info that is not empty (RFC 5746 §3.4, §3.6).
    RenegotiationInfo = "renegotiation_info", Tls, Info, None,
        "A peer that renegotiates with another server, and an attacker between the two.";
    /// A TLS 1.3 ClientHello without an extension that is mandatory (RFC 8446 §9.2).
    MissingExtension = "missing_extension", Tls, Info, None,
        "A broken peer.";
    /// The peer has shown no certificate, and one is required.
    PeerCertificateMissing = "peer_certificate_missing", Tls, Info, Some(alert::BAD_CERTIFICATE),
        "Give the peer a certificate, or change `client_auth`.";
    /// The peer's certificate is not accepted here, or the peer has not proved that it has the key.
    PeerCertificateRefused = "peer_certificate_refused", Tls, Info, Some(alert::BAD_CERTIFICATE),
        "The log line has the reason; `client_ca`, `server_ca`, `fingerprints`, `server_name`.";
    /// The peer has shown more than 10 certificates, or more than two issuers of one name.
    PeerChainTooLong = "peer_chain_too_long", Tls, Info, Some(alert::BAD_CERTIFICATE),
        "Shorten the peer's chain.";
    /// A record cannot be decrypted: forged, damaged, replayed.
    BadRecord = "bad_record", Tls, Info, Some(alert::BAD_RECORD_MAC),
        "Rare ones are attacks or broken networks; many are a defect of the peer.";
    /// A record is longer than allowed.
    RecordTooLong = "record_too_long", Tls, Info, Some(alert::RECORD_OVERFLOW),
        "A broken or hostile peer.";
    /// Bytes that are no record, or a message in one that cannot be parsed.
    Malformed = "malformed", Tls, Info, Some(alert::DECODE_ERROR),
        "A broken or hostile peer.";
    /// A record type, or a message, that is not allowed at this point.
    UnexpectedRecord = "unexpected_record", Tls, Info, Some(alert::UNEXPECTED_MESSAGE),
        "A broken or hostile peer.";
    /// The rest of a record that the peer had begun did not come in time.
    RecordTimeout = "record_timeout", Tls, Info, Some(alert::INTERNAL_ERROR),
        "A slow network or a hostile peer; `timeouts.handshake` is the limit.";
    /// The peer sent a fatal alert after the handshake.
    AlertReceived = "alert_received", Tls, Info, None,
        "The log line has the alert; look at the peer's log.";
    /// The peer insisted on renegotiation after no_renegotiation.
    Renegotiation = "renegotiation", Tls, Info, Some(alert::UNEXPECTED_MESSAGE),
        "Switch renegotiation off in the peer: the profile forbids it.";
    /// The peer updated its keys more often than any use of them explains.
    KeyUpdateFlood = "key_update_flood", Tls, Info, Some(alert::UNEXPECTED_MESSAGE),
        "A hostile peer.";
    /// A KeyUpdate whose request_update is neither 0 nor 1 (RFC 8446 §4.6.3).
    KeyUpdateValue = "key_update_value", Tls, Info, Some(alert::ILLEGAL_PARAMETER),
        "A broken or hostile peer.";
    /// The peer updated its keys and this kernel cannot follow.
    RekeyRefused = "rekey_refused", Tls, Warn, Some(alert::INTERNAL_ERROR),
        "Linux 6.14 or later, or `keyupdate = \"userspace\"`.";
    /// FIN without close_notify: the stream may have been cut by anyone.
    Truncated = "truncated", Tls, Info, None,
        "Many peers end so; `truncation = \"fin\"` accepts it.";
    /// The peer of a TLS leg reset the connection or cannot be reached any more.
    TlsPeerReset = "tls_peer_reset", Tls, Info, None,
        "Everyday on mobile networks.";
    /// The kernel reports an error on a TLS leg that has no name here.
    TlsLegFailed = "tls_leg_failed", Tls, Warn, None,
        "Report the `error` of the log line.";
    /// No endpoint of the route may be connected to: each is down, or has as many connections as it may.
    NoEndpoint = "no_endpoint", Plain, Warn, Some(alert::INTERNAL_ERROR),
        "Look at the log for endpoints that are down; `max_connections` of the endpoints.";
    /// The far leg was not open in time.
    ConnectTimeout = "connect_timeout", Plain, Warn, Some(alert::INTERNAL_ERROR),
        "Is the backend up and reachable? `timeouts.connect`; firewalls that drop.";
    /// The backend refused the connection.
    BackendRefused = "backend_refused", Plain, Warn, Some(alert::INTERNAL_ERROR),
        "Start the backend, or correct `backend`.";
    /// The backend cannot be reached.
    BackendUnreachable = "backend_unreachable", Plain, Warn, Some(alert::INTERNAL_ERROR),
        "Routes and firewall; the log line has the `error`.";
    /// No descriptor is left for the far leg.
    NoDescriptor = "no_descriptor", Plain, Warn, Some(alert::INTERNAL_ERROR),
        "Raise LimitNOFILE, or lower `max_connections`.";
    /// No local port is left for the far leg.
    NoLocalPort = "no_local_port", Plain, Warn, Some(alert::INTERNAL_ERROR),
        "Widen net.ipv4.ip_local_port_range, or use a Unix socket.";
    /// The peer of a plain leg reset the connection: the backend, or the client in `mode = "originate"`.
    PlainPeerReset = "plain_peer_reset", Plain, Info, Some(alert::INTERNAL_ERROR),
        "Look at that peer's log.";
    /// No byte moved in either direction for the idle time.
    IdleTimeout = "idle_timeout", Nobody, Debug, Some(alert::CLOSE_NOTIFY),
        "Nothing, or `timeouts.idle`.";
    /// Still open when the drain was over.
    DrainTimeout = "drain_timeout", Us, Debug, Some(alert::CLOSE_NOTIFY),
        "Nothing, or a longer `timeouts.drain`.";
    /// The connection has lasted for `timeouts.lifetime`.
    LifetimeOver = "lifetime_over", Us, Debug, Some(alert::CLOSE_NOTIFY),
        "Nothing, or a longer `timeouts.lifetime`.";
    /// An operator has ended it, with `DELETE /v1/connections/ID`.
    EndedByOperator = "ended_by_operator", Us, Info, Some(alert::CLOSE_NOTIFY),
        "Nothing.";
    /// More full handshakes come per second than `limits.full_handshake_rate` allows.
    FullHandshakeLimit = "full_handshake_limit", Tls, Info, None,
        "A flood of clients without a session, or a limit below what real clients need after a restart.";
    /// The source of the connection has as many open as `limits.source_connections` allows.
    SourceConnections = "source_connections", Tls, Info, None,
        "One client opens too many, or many share an address (NAT): raise the limit.";
    /// The source opens more connections per second than `limits.source_rate` allows.
    SourceRate = "source_rate", Tls, Info, None,
        "One client reconnects too fast, or many share an address (NAT): raise the limit.";
    /// Buffers take as much memory as `limits.buffer_memory` allows, and those of this connection have waited
    /// longest for a peer that does not read, or that has not sent the rest of a record.
    BufferMemory = "buffer_memory", Us, Info, None,
        "Slow peers, or an attack by peers that do not read: raise the limit, or lower `timeouts.idle`.";
    /// A key has protected as many records as it may, and there is no next one. In the middle of a stream a
    /// close_notify would make it look whole.
    RecordLimit = "record_limit", Us, Info, Some(alert::INTERNAL_ERROR),
        "TLS 1.2: use TLS 1.3 for such peers. TLS 1.3 with kernel records before Linux 6.14: `keyupdate = \
         \"userspace\"`. Or raise the key `record_limit`.";
    /// An invariant of ours does not hold.
    Internal = "internal", Us, Warn, Some(alert::INTERNAL_ERROR),
        "A defect: report it with the log lines around it.";
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

    /// Whether a connection that is in order ends with it, because it has had its time.
    #[must_use]
    pub fn is_for_want_of_time(self) -> bool {
        matches!(self, Self::DrainTimeout | Self::LifetimeOver | Self::EndedByOperator)
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
    use std::collections::HashSet;
    use std::fmt::Write as _;
    use std::path::Path;

    use offramp_testing::docs::assert_generated;

    use super::*;

    /// The table of the operator's documentation.
    fn table() -> String {
        let mut text =
            "| fault | logged as | alert behind the handshake | meaning | what to do |\n".to_owned();
        text.push_str("| --- | --- | --- | --- | --- |\n");
        for fault in Fault::ALL {
            let (label, (meaning, remedy)) = (fault.label(), fault.explanation());
            let level = format!("{:?}", fault.level()).to_lowercase();
            let alert = fault
                .alert()
                .map_or_else(|| "–".to_owned(), |number| format!("{} ({number})", alert::name(number)));
            writeln!(text, "| `{label}` | {level} | {alert} | {meaning} | {remedy} |").unwrap();
        }
        text
    }

    #[test]
    fn fault_table_of_the_documentation_matches_the_code() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operate/metrics-and-faults.md");
        assert_generated(&page, "faults", &table());
    }

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
