//! What rustls does not look at in a hello, or too late for the right alert.
//!
//! - A renegotiation_info that is not empty in a hello that renegotiates nothing (RFC 5746 §3.4, §3.6):
//!   accepted, from clients and from servers. Of a ServerHello nothing else is looked at.
//! - No version in common (RFC 5246 Appendix E.1): a hello of TLS 1.1 has no signature_algorithms either, and
//!   that is what it would be told.
//! - What RFC 8446 §9.2 asks of a hello of TLS 1.3: refused, but not with missing_extension.
//! - An IP address in server_name (RFC 6066 §3 forbids it): rustls takes the client for one that asks for no
//!   name.
//!
//! A reader and no parser: it finds its way to the extensions by the lengths in front of them and keeps a few
//! numbers. So a hello may come in any number of records, costs no memory, and no more time than a step for
//! each byte of a length. A hello whose lengths do not add up is left to rustls, which refuses every one.

use offramp_proto::handshake::{CLIENT_HELLO, SERVER_HELLO};
/// What a ServerHello has behind the session id: cipher suite and compression method.
const CHOICE_BYTES: usize = 2 + 1;
const RANDOM_BYTES: usize = 32;
const TLS12: usize = 0x0303;
const TLS13: usize = 0x0304;

/// Most bytes of an IP address as text: an IPv6 address that ends as an IPv4 one (`INET6_ADDRSTRLEN` less its
/// NUL). Of a longer name no byte is read.
const ADDRESS_BYTES_MAX: usize = 45;
/// NameType of RFC 6066 §3.
const HOST_NAME: usize = 0;

/// Extension types (RFC 8446 §4.2, RFC 6066 §3, RFC 5746 §3.2).
const SERVER_NAME: usize = 0;
const SUPPORTED_GROUPS: usize = 10;
const SIGNATURE_ALGORITHMS: usize = 13;
const PRE_SHARED_KEY: usize = 41;
const SUPPORTED_VERSIONS: usize = 43;
const KEY_SHARE: usize = 51;
const RENEGOTIATION_INFO: usize = 0xff01;

/// What is known of a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Nothing yet: there is more to come.
    Unfinished,
    /// Nothing that rustls would not see itself.
    Nothing,
    /// A renegotiated_connection that is not empty, in a hello that renegotiates nothing.
    RenegotiationInfo,
    /// Neither TLS 1.2 nor TLS 1.3 is offered.
    NoCommonVersion,
    /// TLS 1.3 is offered without an extension that it cannot do without.
    MissingExtension,
    /// The name that is asked for is an IP address, or looks like one: it is no host name. Nothing else is
    /// wrong.
    AddressAsName,
}

/// Reads one hello.
#[derive(Debug)]
pub(super) struct HelloReader {
    /// The number that is being read.
    next: Number,
    /// Its value so far, and how many bytes of it.
    value: usize,
    read: usize,
    /// Bytes in front of it that mean nothing here.
    skip: usize,
    /// Bytes of the message behind what was read and is being skipped.
    left: usize,
    finding: Finding,
    /// Whose hello it is: the HandshakeType.
    hello: u8,
    offer: Offer,
}

/// The numbers on the way, in their order; `behind` is how much of the extension follows.
#[derive(Clone, Copy, Debug)]
enum Number {
    MessageType,
    MessageLength,
    ClientVersion,
    SessionIdLength,
    SuitesLength,
    CompressionLength,
    ExtensionsLength,
    ExtensionType,
    ExtensionLength {
        of: usize,
    },
    /// The length of the renegotiated_connection.
    ConnectionLength {
        behind: usize,
    },
    VersionsLength {
        behind: usize,
    },
    Version {
        behind: usize,
    },
    /// The length of the list of names.
    NamesLength {
        behind: usize,
    },
    NameType {
        behind: usize,
    },
    NameLength {
        behind: usize,
    },
    /// A byte of the name, of which `left` more follow.
    NameByte {
        left: usize,
        behind: usize,
    },
}

impl Number {
    fn bytes(self) -> usize {
        match self {
            Self::MessageType | Self::SessionIdLength | Self::CompressionLength => 1,
            Self::ConnectionLength { .. } | Self::VersionsLength { .. } => 1,
            Self::NameType { .. } | Self::NameByte { .. } => 1,
            Self::NamesLength { .. } | Self::NameLength { .. } => 2,
            Self::ClientVersion | Self::SuitesLength | Self::ExtensionsLength => 2,
            Self::ExtensionType | Self::ExtensionLength { .. } | Self::Version { .. } => 2,
            Self::MessageLength => 3,
        }
    }
}

/// What the hello offers, as far as it matters here.
#[derive(Debug, Default)]
struct Offer {
    /// client_version is TLS 1.2 or above. If versions are listed, it means nothing (RFC 8446 §4.2.1).
    at_least_tls12: bool,
    lists_versions: bool,
    lists_tls12: bool,
    lists_tls13: bool,
    groups: bool,
    schemes: bool,
    shares: bool,
    psk: bool,
    name: Name,
}

/// What the bytes of a name have been so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Name {
    /// None has come.
    #[default]
    Absent,
    /// Digits and dots alone: no top-level domain is a number, so it is an IPv4 address or no name at all.
    Digits,
    /// It has a colon, which no host name has.
    Colon,
    Other,
}

impl Offer {
    fn sees(&mut self, extension: usize) {
        match extension {
            SUPPORTED_GROUPS => self.groups = true,
            SIGNATURE_ALGORITHMS => self.schemes = true,
            KEY_SHARE => self.shares = true,
            PRE_SHARED_KEY => self.psk = true,
            SUPPORTED_VERSIONS => self.lists_versions = true,
            _ => {}
        }
    }

    fn sees_name_byte(&mut self, byte: usize) {
        let byte = u8::try_from(byte).unwrap_or_default();
        self.name = match (self.name, byte) {
            (Name::Colon, _) | (_, b':') => Name::Colon,
            (Name::Absent | Name::Digits, b'0'..=b'9' | b'.') => Name::Digits,
            _ => Name::Other,
        };
    }

    fn sees_version(&mut self, version: usize) {
        self.lists_tls12 |= version == TLS12;
        self.lists_tls13 |= version == TLS13;
    }

    /// At the end of the hello.
    fn finding(&self) -> Finding {
        let tls12 = if self.lists_versions { self.lists_tls12 } else { self.at_least_tls12 };
        let complete = (self.psk || self.groups && self.schemes) && self.groups == self.shares;
        match (self.lists_tls13, tls12) {
            (false, false) => Finding::NoCommonVersion,
            (true, _) if !complete => Finding::MissingExtension,
            _ if matches!(self.name, Name::Digits | Name::Colon) => Finding::AddressAsName,
            _ => Finding::Nothing,
        }
    }
}

impl HelloReader {
    /// Reads a ClientHello.
    pub(super) fn of_client() -> Self {
        Self::of(CLIENT_HELLO)
    }

    /// Reads a ServerHello.
    pub(super) fn of_server() -> Self {
        Self::of(SERVER_HELLO)
    }

    /// Reads another one of the same side.
    pub(super) fn again(&self) -> Self {
        Self::of(self.hello)
    }

    fn of(hello: u8) -> Self {
        // The message says only later how long it is; until then that number is all that is left of it.
        let (next, left) = (Number::MessageType, Number::MessageLength.bytes());
        let (finding, offer) = (Finding::Unfinished, Offer::default());
        Self { next, value: 0, read: 0, skip: 0, left, finding, hello, offer }
    }

    /// Reads on in the payload of the next handshake record.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Finding {
        while self.finding == Finding::Unfinished {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if self.skip == 0 && self.read == self.next.bytes() {
                self.read = 0;
                let value = std::mem::take(&mut self.value);
                self.finding = self.step(value).unwrap_or(Finding::Nothing);
                continue;
            }
            let Some((&byte, behind)) = bytes.split_first() else { break };
            bytes = behind;
            self.value = self.value << 8 | usize::from(byte);
            self.read += 1;
        }
        self.finding
    }

    /// Takes a number and goes on to the next; `None` if there is none that rustls would accept.
    fn step(&mut self, value: usize) -> Option<Finding> {
        match self.next {
            Number::MessageType if value == usize::from(self.hello) => self.go_on(0, Number::MessageLength),
            Number::MessageType => None,
            Number::MessageLength => {
                self.left = value;
                self.go_on(0, Number::ClientVersion)
            }
            Number::ClientVersion => {
                self.offer.at_least_tls12 = value >= TLS12;
                self.go_on(RANDOM_BYTES, Number::SessionIdLength)
            }
            Number::SessionIdLength if self.hello == SERVER_HELLO => {
                self.go_on_or_end(value + CHOICE_BYTES, Number::ExtensionsLength)
            }
            Number::SessionIdLength => self.go_on(value, Number::SuitesLength),
            Number::SuitesLength => self.go_on(value, Number::CompressionLength),
            Number::CompressionLength => self.go_on_or_end(value, Number::ExtensionsLength),
            Number::ExtensionsLength if value == self.left => self.go_on_or_end(0, Number::ExtensionType),
            Number::ExtensionsLength => None,
            Number::ExtensionType => {
                self.offer.sees(value);
                self.go_on(0, Number::ExtensionLength { of: value })
            }
            Number::ExtensionLength { of: RENEGOTIATION_INFO } => {
                self.go_on(0, Number::ConnectionLength { behind: value.checked_sub(1)? })
            }
            // A ServerHello has one version there, and no list.
            Number::ExtensionLength { of: SUPPORTED_VERSIONS } if self.hello == CLIENT_HELLO => {
                self.go_on(0, Number::VersionsLength { behind: value.checked_sub(1)? })
            }
            Number::ExtensionLength { of: SERVER_NAME } if self.hello == CLIENT_HELLO => {
                self.go_on(0, Number::NamesLength { behind: value.checked_sub(2)? })
            }
            Number::ExtensionLength { .. } => self.go_on_or_end(value, Number::ExtensionType),
            Number::ConnectionLength { .. } if value > 0 => Some(Finding::RenegotiationInfo),
            Number::ConnectionLength { behind } => self.go_on_or_end(behind, Number::ExtensionType),
            Number::VersionsLength { behind } => self.next_version(behind),
            Number::Version { behind } => {
                self.offer.sees_version(value);
                self.next_version(behind)
            }
            Number::NamesLength { behind } => {
                self.go_on(0, Number::NameType { behind: behind.checked_sub(1)? })
            }
            Number::NameType { behind } if value == HOST_NAME => {
                self.go_on(0, Number::NameLength { behind: behind.checked_sub(2)? })
            }
            Number::NameType { behind } => self.go_on_or_end(behind, Number::ExtensionType),
            Number::NameLength { behind } => {
                let is_short = (1..=ADDRESS_BYTES_MAX).contains(&value);
                self.next_name_byte(if is_short { value } else { 0 }, behind)
            }
            Number::NameByte { left, behind } => {
                self.offer.sees_name_byte(value);
                self.next_name_byte(left, behind)
            }
        }
    }

    /// The next of `left` bytes of the name, or what is `behind` it: both counted from here.
    fn next_name_byte(&mut self, left: usize, behind: usize) -> Option<Finding> {
        match left.checked_sub(1) {
            Some(left) => self.go_on(0, Number::NameByte { left, behind: behind.checked_sub(1)? }),
            None => self.go_on_or_end(behind, Number::ExtensionType),
        }
    }

    fn next_version(&mut self, behind: usize) -> Option<Finding> {
        match behind.checked_sub(2) {
            Some(behind) => self.go_on(0, Number::Version { behind }),
            None => self.go_on_or_end(behind, Number::ExtensionType),
        }
    }

    /// Past `skip` bytes to a number, unless they are the last of the hello.
    fn go_on_or_end(&mut self, skip: usize, next: Number) -> Option<Finding> {
        match self.left == skip {
            true if self.hello == CLIENT_HELLO => Some(self.offer.finding()),
            true => Some(Finding::Nothing),
            false => self.go_on(skip, next),
        }
    }

    /// Past `skip` bytes to a number; `None` if the message ends before.
    fn go_on(&mut self, skip: usize, next: Number) -> Option<Finding> {
        self.left = self.left.checked_sub(skip)?.checked_sub(next.bytes())?;
        self.skip = skip;
        self.next = next;
        Some(Finding::Unfinished)
    }
}

#[cfg(test)]
mod tests;
