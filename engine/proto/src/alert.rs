//! The alert levels and descriptions (RFC 8446 §6).

/// The level of an alert after which the connection may go on.
pub const LEVEL_WARNING: u8 = 1;
/// The level of an alert that ends the connection.
pub const LEVEL_FATAL: u8 = 2;

/// The end of what we send.
pub const CLOSE_NOTIFY: u8 = 0;
/// A message that does not belong here.
pub const UNEXPECTED_MESSAGE: u8 = 10;
/// A record that cannot be opened.
pub const BAD_RECORD_MAC: u8 = 20;
/// A record longer than allowed.
pub const RECORD_OVERFLOW: u8 = 22;
/// Nothing that both sides can do.
pub const HANDSHAKE_FAILURE: u8 = 40;
/// A certificate that does not hold (RFC 8122 §6.2).
pub const BAD_CERTIFICATE: u8 = 42;
/// A field that is well formed and has a value that it must not have.
pub const ILLEGAL_PARAMETER: u8 = 47;
/// Something that cannot be parsed.
pub const DECODE_ERROR: u8 = 50;
/// A version that is not spoken here.
pub const PROTOCOL_VERSION: u8 = 70;
/// Our side cannot go on.
pub const INTERNAL_ERROR: u8 = 80;
/// An extension that must be there is not.
pub const MISSING_EXTENSION: u8 = 109;
/// A name that no certificate has.
pub const UNRECOGNIZED_NAME: u8 = 112;
/// The user has cancelled what is under way; close_notify follows.
pub const USER_CANCELED: u8 = 90;
/// No renegotiation (RFC 5246 §7.2.2), a warning.
pub const NO_RENEGOTIATION: u8 = 100;
/// Assigned to none: that of an alert whose description is not known.
pub const UNKNOWN: u8 = 255;

/// Every description that has a name in the RFCs.
const NAMES: [(u8, &str); 27] = [
    (CLOSE_NOTIFY, "close_notify"),
    (UNEXPECTED_MESSAGE, "unexpected_message"),
    (BAD_RECORD_MAC, "bad_record_mac"),
    (RECORD_OVERFLOW, "record_overflow"),
    (HANDSHAKE_FAILURE, "handshake_failure"),
    (BAD_CERTIFICATE, "bad_certificate"),
    (43, "unsupported_certificate"),
    (44, "certificate_revoked"),
    (45, "certificate_expired"),
    (46, "certificate_unknown"),
    (ILLEGAL_PARAMETER, "illegal_parameter"),
    (48, "unknown_ca"),
    (49, "access_denied"),
    (DECODE_ERROR, "decode_error"),
    (51, "decrypt_error"),
    (PROTOCOL_VERSION, "protocol_version"),
    (71, "insufficient_security"),
    (INTERNAL_ERROR, "internal_error"),
    (86, "inappropriate_fallback"),
    (USER_CANCELED, "user_canceled"),
    (NO_RENEGOTIATION, "no_renegotiation"),
    (MISSING_EXTENSION, "missing_extension"),
    (110, "unsupported_extension"),
    (UNRECOGNIZED_NAME, "unrecognized_name"),
    (113, "bad_certificate_status_response"),
    (116, "certificate_required"),
    (120, "no_application_protocol"),
];

/// Places of descriptions: those with a name, and one behind them for all others.
pub const PLACES: usize = NAMES.len() + 1;

/// What a description is called in the RFCs; its number is all there is of others.
#[must_use]
pub fn name(description: u8) -> &'static str {
    name_at(place(description))
}

/// The place of a description among [`PLACES`].
#[must_use]
pub fn place(description: u8) -> usize {
    NAMES.iter().position(|(number, _)| *number == description).unwrap_or(NAMES.len())
}

/// What the description at a place is called.
#[must_use]
pub fn name_at(place: usize) -> &'static str {
    NAMES.get(place).map_or("unknown", |(_, name)| name)
}
