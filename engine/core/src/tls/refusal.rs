//! Why a handshake ended, in words of our own: what rustls's errors mean.

use offramp_proto::alert;
use rustls::{AlertDescription, Error, PeerIncompatible, PeerMisbehaved};

use super::authorities::CHAIN_TOO_LONG;

/// Why a handshake ended. The alert for the peer, if one is due, is in the output already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The peer sent this alert (RFC 8446 §6).
    AlertReceived(u8),
    /// A record failed to open.
    BadRecord,
    /// A record is longer than allowed.
    RecordTooLong,
    /// A message cannot be parsed.
    Malformed,
    /// A message is well-formed but not allowed here.
    Unexpected,
    /// No protocol version in common.
    NoCommonVersion,
    /// No cipher suite, group, signature algorithm or application protocol in common.
    NothingInCommon,
    /// The client asks for a name that no identity has (RFC 6066 §3).
    UnknownName,
    /// A TLS 1.2 peer without extended_master_secret (RFC 7627), which the profile requires.
    NoExtendedMasterSecret,
    /// A first hello that claims to renegotiate (RFC 5746 §3.4, §3.6).
    RenegotiationInfo,
    /// A TLS 1.3 ClientHello without an extension that it cannot do without (RFC 8446 §9.2).
    MissingExtension,
    /// The peer's certificate, or its proof that it has the key, does not hold.
    PeerCertificate,
    /// The peer has shown more certificates than are looked at.
    PeerChainTooLong,
    /// The peer closed before the handshake was complete.
    Closed,
    /// Our flight does not fit into one buffer.
    FlightTooLong,
    /// The fault is ours.
    Internal,
    /// A full handshake was due, and none may be begun now.
    FullHandshakeLimit,
}

/// What rustls 0.23 says, by text alone, when there is no identity for a hello; its access_denied is left
/// unsent for the alert that RFC 6066 §3 asks for. Nothing is encrypted yet.
pub(super) fn is_unknown_name(error: &Error) -> bool {
    matches!(error, Error::General(text) if text == "no server certificate chain resolved")
}

/// A name that is not one by its form either: rustls refuses it in any case, with illegal_parameter, which is
/// left unsent likewise. RFC 6066 §3 has an alert for a name that is not recognized.
pub(super) fn is_no_name(error: &Error) -> bool {
    matches!(error, Error::PeerMisbehaved(PeerMisbehaved::ServerNameMustContainOneHostName))
}

/// In TLS 1.2 rustls 0.23 names this by text alone, and sends no alert for it.
pub(super) fn is_incompatible_key(error: &Error) -> bool {
    matches!(error, Error::General(text) if text == "incompatible signing key")
}

/// A record with a fatal alert, as it is before anything is encrypted (RFC 5246 §7.2.2, RFC 8446 §6).
#[must_use]
pub fn alert_in_the_clear(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

/// The description of such an alert at the end of these bytes.
#[must_use]
pub fn description_in_the_clear(bytes: &[u8]) -> Option<u8> {
    match bytes.last_chunk()? {
        [21, 3, _, 0, 2, _, description] => Some(*description),
        _ => None,
    }
}

/// The description of the alert that rustls sends for an error, where it is sealed and does not depend on
/// more than the error.
pub(super) fn alert_of(error: &Error) -> Option<u8> {
    Some(match error {
        error if *error == CHAIN_TOO_LONG => alert::BAD_CERTIFICATE,
        Error::InvalidCertificate(error) => AlertDescription::from(error.clone()).into(),
        Error::InvalidMessage(error) => AlertDescription::from(*error).into(),
        Error::NoCertificatesPresented => AlertDescription::CertificateRequired.into(),
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            alert::UNEXPECTED_MESSAGE
        }
        Error::DecryptError => alert::BAD_RECORD_MAC,
        Error::PeerSentOversizedRecord => alert::RECORD_OVERFLOW,
        Error::NoApplicationProtocol => AlertDescription::NoApplicationProtocol.into(),
        _ => return None,
    })
}

impl From<&Error> for Refusal {
    fn from(error: &Error) -> Self {
        use PeerIncompatible as P;
        match error {
            Error::AlertReceived(description) => Self::AlertReceived((*description).into()),
            Error::DecryptError => Self::BadRecord,
            Error::PeerSentOversizedRecord => Self::RecordTooLong,
            Error::InvalidMessage(_) => Self::Malformed,
            Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. }
            | Error::PeerMisbehaved(_) => Self::Unexpected,
            error if *error == CHAIN_TOO_LONG => Self::PeerChainTooLong,
            Error::InvalidCertificate(_) | Error::NoCertificatesPresented => Self::PeerCertificate,
            Error::PeerIncompatible(P::ExtendedMasterSecretExtensionRequired) => Self::NoExtendedMasterSecret,
            Error::PeerIncompatible(
                P::Tls12NotOffered
                | P::Tls12NotOfferedOrEnabled
                | P::SupportedVersionsExtensionRequired
                | P::ServerDoesNotSupportTls12Or13
                | P::ServerTlsVersionIsDisabledByOurConfig,
            ) => Self::NoCommonVersion,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Self::NothingInCommon,
            error if is_incompatible_key(error) => Self::NothingInCommon,
            _ => Self::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::{CertificateError, InvalidMessage};

    use super::*;

    #[test]
    fn alert_description_is_read_from_bytes_or_error() {
        let said = [&[22, 3, 3, 0, 0][..], &alert_in_the_clear(alert::HANDSHAKE_FAILURE)].concat();
        assert_eq!(description_in_the_clear(&said), Some(alert::HANDSHAKE_FAILURE));
        for sealed in [&[][..], &[2, 40], &[23, 3, 3, 0, 2, 2, 40]] {
            assert_eq!(description_in_the_clear(sealed), None, "{sealed:?}");
        }
        for (error, description) in [
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), Some(48)),
            (Error::InvalidCertificate(CertificateError::Expired), Some(45)),
            (Error::InvalidMessage(InvalidMessage::InvalidCcs), Some(alert::DECODE_ERROR)),
            (Error::NoCertificatesPresented, Some(116)),
            (Error::FailedToGetRandomBytes, None),
        ] {
            assert_eq!(alert_of(&error), description, "{error:?}");
        }
    }
}
