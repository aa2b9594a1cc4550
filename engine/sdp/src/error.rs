//! What is wrong with a document, and where.

use thiserror::Error;

use crate::{MAX_BYTES, MAX_FINGERPRINTS, MAX_MEDIA};

/// Characters of a value that a message shows.
const SHOWN_CHARS: usize = 40;

/// A problem and the line that has it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("SDP line {line}: {problem}")]
pub struct SdpError {
    /// Counted from 1, in the document as it was received.
    pub line: usize,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a line or with the document that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// The document has more bytes than [`MAX_BYTES`].
    #[error("the document has {0} bytes; send at most {MAX_BYTES}")]
    TooLong(usize),
    /// The document has more media sections than [`MAX_MEDIA`].
    #[error("one m= line too many; send at most {MAX_MEDIA}")]
    TooManyMedia,
    /// A NUL byte.
    #[error("a NUL byte; remove it")]
    Nul,
    /// A carriage return without a line feed behind it.
    #[error("a carriage return without a line feed; end lines with CR LF or LF")]
    LoneCr,
    /// Not a letter, "=" and a value.
    #[error("not a line of SDP; write a letter, \"=\" and a value")]
    NotALine,
    /// The first line is another one than `v=0`.
    #[error("the first line is not v=0; begin the document with it")]
    Version,
    /// A line that is read is not UTF-8.
    #[error("the line is not UTF-8; write it in UTF-8")]
    NotUtf8,
    /// An m= line lacks one of its four parts.
    #[error("the m= line lacks its {0}; write \"m=MEDIA PORT PROTO FORMAT\", with one space between")]
    MediaPart(&'static str),
    /// A port that is not a number from 0 to 65535.
    #[error("the port {0:?} of the m= line is not a number from 0 to 65535")]
    MediaPort(String),
    /// A number of ports, where the protocol has one port.
    #[error("the m= line has a number of ports; write one port: the protocol has no second one")]
    PortCount,
    /// No c= line, neither for the media nor for the session.
    #[error("the m= line has no c= line and the session has none; add one")]
    MissingConnection,
    /// A c= line without an IP address of its type.
    #[error("the address {0:?} is not \"IN IP4\" or \"IN IP6\" and an IP address of that type")]
    Address(String),
    /// A c= line with a multicast address or a scope.
    #[error("the address {0:?} is multicast or has a scope; write the unicast address of one host")]
    Multicast(String),
    /// A line that a section can have once.
    #[error("a second {0} in one section; remove one of them")]
    Repeated(&'static str),
    /// A value that is none of those allowed.
    #[error("the value {value:?} of a={name} is not {allowed}")]
    Value {
        /// The attribute.
        name: &'static str,
        /// What it says, shortened.
        value: String,
        /// What it may say.
        allowed: &'static str,
    },
    /// A fingerprint by a function that is broken, and none by another.
    #[error("the fingerprint is by {0}, which is too weak; send one by sha-256, sha-384 or sha-512")]
    WeakFingerprint(&'static str),
    /// A fingerprint by a function that is not known, and none by another.
    #[error("the fingerprint is by {0:?}, which is not supported; send one by sha-256, sha-384 or sha-512")]
    UnknownHash(String),
    /// A fingerprint of another length than its function's, or not in hexadecimal.
    #[error("the {name} fingerprint is not {bytes} bytes in hexadecimal with colons between")]
    FingerprintForm {
        /// The hash function.
        name: &'static str,
        /// The length of its digests.
        bytes: usize,
    },
    /// More fingerprints than [`MAX_FINGERPRINTS`].
    #[error("one fingerprint too many; send at most {MAX_FINGERPRINTS}")]
    TooManyFingerprints,
    /// An a=path that has something else than MSRP URIs.
    #[error("the MSRP URI {uri:?} has no valid {part}; write \"msrp://HOST:PORT/SESSION;tcp\" (RFC 4975 §9)")]
    MsrpUri {
        /// The URI, shortened.
        uri: String,
        /// Which part of it.
        part: &'static str,
    },
    /// The gateway has no fingerprint of its own to write.
    #[error("no fingerprint to offer; give the leg with TLS an identity")]
    NoFingerprint,
}

impl Problem {
    /// The name in the API: what a program compares.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::TooLong(_) => "sdp_too_long",
            Self::TooManyMedia => "sdp_too_many_media",
            Self::Nul => "sdp_nul",
            Self::LoneCr => "sdp_lone_cr",
            Self::NotALine => "sdp_not_a_line",
            Self::Version => "sdp_version",
            Self::NotUtf8 => "sdp_not_utf8",
            Self::MediaPart(_) => "sdp_media_part",
            Self::MediaPort(_) => "sdp_media_port",
            Self::PortCount => "sdp_port_count",
            Self::MissingConnection => "sdp_missing_connection",
            Self::Address(_) => "sdp_address",
            Self::Multicast(_) => "sdp_multicast",
            Self::Repeated(_) => "sdp_repeated",
            Self::Value { .. } => "sdp_value",
            Self::WeakFingerprint(_) => "weak_fingerprint",
            Self::UnknownHash(_) => "unknown_hash",
            Self::FingerprintForm { .. } => "bad_fingerprint",
            Self::TooManyFingerprints => "too_many_fingerprints",
            Self::MsrpUri { .. } => "sdp_msrp_uri",
            Self::NoFingerprint => "no_fingerprint",
        }
    }

    pub(crate) fn at(self, line: usize) -> SdpError {
        SdpError { line, problem: self }
    }

    pub(crate) fn value(name: &'static str, value: &str, allowed: &'static str) -> Self {
        Self::Value { name, value: shown(value), allowed }
    }
}

/// As much of a value as a message may have.
pub(crate) fn shown(value: &str) -> String {
    let mut text: String = value.chars().take(SHOWN_CHARS).collect();
    if text.len() < value.len() {
        text.push('…');
    }
    text
}
