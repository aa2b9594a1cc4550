//! What rustls does not look at in a hello, or too late for the right alert.
//!
//! - A renegotiation_info that is not empty in a hello that renegotiates nothing (RFC 5746 §3.4, §3.6):
//!   accepted, from clients and from servers. Of a ServerHello nothing else is looked at.
//! - No version in common (RFC 5246 Appendix E.1): a hello of TLS 1.1 has no signature_algorithms either, and
//!   that is what it would be told.
//! - What RFC 8446 §9.2 asks of a hello of TLS 1.3: refused, but not with missing_extension.
//!
//! A reader and no parser: it finds its way to the extensions by the lengths in front of them and keeps a few
//! numbers. So a hello may come in any number of records, costs no memory, and no more time than a step for
//! each byte of a length. A hello whose lengths do not add up is left to rustls, which refuses every one.

/// HandshakeType numbers (RFC 8446 §4).
const CLIENT_HELLO: usize = 1;
const SERVER_HELLO: usize = 2;
/// What a ServerHello has behind the session id: cipher suite and compression method.
const CHOICE_BYTES: usize = 2 + 1;
const RANDOM_BYTES: usize = 32;
const TLS12: usize = 0x0303;
const TLS13: usize = 0x0304;

/// Extension types (RFC 8446 §4.2, RFC 5746 §3.2).
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
    hello: usize,
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
}

impl Number {
    fn bytes(self) -> usize {
        match self {
            Self::MessageType | Self::SessionIdLength | Self::CompressionLength => 1,
            Self::ConnectionLength { .. } | Self::VersionsLength { .. } => 1,
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

    fn of(hello: usize) -> Self {
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
            Number::MessageType if value == self.hello => self.go_on(0, Number::MessageLength),
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
            Number::ExtensionLength { .. } => self.go_on_or_end(value, Number::ExtensionType),
            Number::ConnectionLength { .. } if value > 0 => Some(Finding::RenegotiationInfo),
            Number::ConnectionLength { behind } => self.go_on_or_end(behind, Number::ExtensionType),
            Number::VersionsLength { behind } => self.next_version(behind),
            Number::Version { behind } => {
                self.offer.sees_version(value);
                self.next_version(behind)
            }
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
mod tests {
    use super::*;
    use rustls::server::Acceptor;

    type Extension<'a> = (u16, &'a [u8]);

    /// A record header, and a hello that rustls accepts, with these extensions behind the needed ones.
    fn record(extensions: &[Extension<'_>]) -> Vec<u8> {
        let needed: [Extension<'_>; 2] = [(13, &[0, 2, 4, 3]), (10, &[0, 2, 0, 23])];
        hello([3, 3], &[&needed, extensions].concat())
    }

    fn hello(version: [u8; 2], extensions: &[Extension<'_>]) -> Vec<u8> {
        let mut list = Vec::new();
        for (kind, body) in extensions {
            list.extend(kind.to_be_bytes());
            list.extend(u16::try_from(body.len()).expect("short").to_be_bytes());
            list.extend(*body);
        }
        let mut message = version.to_vec();
        message.extend([7; 32]);
        message.extend([4, 1, 2, 3, 4]);
        message.extend([0, 2, 0xc0, 0x2b]);
        message.extend([1, 0]);
        message.extend(u16::try_from(list.len()).expect("short").to_be_bytes());
        message.extend(list);
        let length = u16::try_from(message.len()).expect("short");
        let mut record = vec![22, 3, 1];
        record.extend((length + 4).to_be_bytes());
        record.extend([1, 0]);
        record.extend(length.to_be_bytes());
        record.extend(message);
        record
    }

    fn rustls_accepts(record: &[u8]) -> bool {
        let mut acceptor = Acceptor::default();
        acceptor.read_tls(&mut &*record).expect("a slice can be read");
        matches!(acceptor.accept(), Ok(Some(_)))
    }

    fn finding(pieces: &[&[u8]]) -> Finding {
        let mut reader = HelloReader::of_client();
        pieces.iter().map(|piece| reader.read(piece)).last().expect("at least one piece")
    }

    const EMPTY: Extension<'_> = (0xff01, &[0]);
    const FULL: Extension<'_> = (0xff01, &[12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    const OTHER: Extension<'_> = (0x1234, &[0xff, 1, 0, 1, 1]);

    #[test]
    fn only_a_renegotiated_connection_that_is_not_empty_is_found() {
        let cases: [(&[Extension<'_>], Finding); 7] = [
            (&[], Finding::Nothing),
            (&[EMPTY], Finding::Nothing),
            (&[OTHER, EMPTY, OTHER], Finding::Nothing),
            (&[FULL], Finding::RenegotiationInfo),
            (&[OTHER, FULL], Finding::RenegotiationInfo),
            (&[FULL, OTHER], Finding::RenegotiationInfo),
            // Its only byte is missing: rustls says decode_error.
            (&[(0xff01, &[]), OTHER], Finding::Nothing),
        ];
        for (extensions, expected) in cases {
            let record = record(extensions);
            assert_eq!(finding(&[&record[5..]]), expected, "{extensions:?}");
        }
        assert!(rustls_accepts(&record(&[FULL])), "the reason why this file exists");
    }

    #[test]
    fn it_is_found_wherever_the_records_are_cut() {
        let record = record(&[OTHER, FULL, OTHER]);
        let message = &record[5..];
        for cut in 0..=message.len() {
            let (front, back) = message.split_at(cut);
            assert_eq!(finding(&[front, back]), Finding::RenegotiationInfo, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = message.chunks(1).collect();
        assert_eq!(finding(&bytes), Finding::RenegotiationInfo);
        assert_eq!(finding(&[&message[..40]]), Finding::Unfinished);
    }

    #[test]
    fn what_rustls_accepts_hides_nothing() {
        // The unknown one comes last: in front, it could be made to swallow the one in question.
        let good = record(&[FULL, OTHER]);
        let kind_at = good.len() - OTHER.1.len() - 4 - FULL.1.len() - 4;
        let mut accepted = 0;
        for at in (5..good.len()).filter(|at| !(kind_at..kind_at + 2).contains(at)) {
            for value in (0..=u8::MAX).filter(|value| *value != good[at]) {
                let mut changed = good.clone();
                changed[at] = value;
                if rustls_accepts(&changed) {
                    accepted += 1;
                    assert_eq!(finding(&[&changed[5..]]), Finding::RenegotiationInfo, "{value} at {at}");
                }
            }
        }
        assert!(accepted > 10_000, "most of a hello is free to change, but only {accepted} were accepted");
    }

    #[test]
    fn versions_count_as_listed_and_else_by_the_version_of_the_hello() {
        let needed: [Extension<'_>; 3] = [(13, &[0, 2, 4, 3]), (10, &[0, 2, 0, 23]), (51, &[0, 0])];
        let versions = |version, list: &[u8]| {
            let versions = (43, list);
            finding(&[&hello(version, &[&needed[..], &[versions]].concat())[5..]])
        };
        for version in [[2, 0], [3, 0], [3, 1], [3, 2]] {
            assert_eq!(finding(&[&hello(version, &[])[5..]]), Finding::NoCommonVersion, "{version:?}");
            assert_eq!(finding(&[&hello(version, &[OTHER])[5..]]), Finding::NoCommonVersion, "{version:?}");
            assert_eq!(versions(version, &[2, 3, 3]), Finding::Nothing, "{version:?}");
        }
        assert_eq!(finding(&[&hello([3, 3], &[])[5..]]), Finding::Nothing);
        assert_eq!(versions([3, 3], &[4, 3, 2, 3, 1]), Finding::NoCommonVersion);
        assert_eq!(versions([3, 3], &[6, 0x0a, 0x0a, 3, 2, 3, 4]), Finding::Nothing);
    }

    #[test]
    fn tls_1_3_has_what_rfc_8446_section_9_2_asks_for() {
        const GROUPS: Extension<'_> = (10, &[0, 2, 0, 23]);
        const SCHEMES: Extension<'_> = (13, &[0, 2, 4, 3]);
        const SHARES: Extension<'_> = (51, &[0, 0]);
        const PSK: Extension<'_> = (41, &[0, 0]);
        let of = |extensions: &[Extension<'_>]| {
            let versions: Extension<'_> = (43, &[2, 3, 4]);
            finding(&[&hello([3, 3], &[&[versions], extensions].concat())[5..]])
        };
        for good in [&[GROUPS, SCHEMES, SHARES][..], &[GROUPS, SHARES, PSK], &[PSK], &[SCHEMES, PSK]] {
            assert_eq!(of(good), Finding::Nothing, "{good:?}");
        }
        for bad in [&[][..], &[GROUPS, SCHEMES], &[SCHEMES, SHARES], &[GROUPS, SHARES], &[GROUPS, PSK]] {
            assert_eq!(of(bad), Finding::MissingExtension, "{bad:?}");
        }
    }

    #[test]
    fn a_server_hello_is_read_for_renegotiation_info_alone() {
        let server_hello = |extensions: &[u8]| {
            let mut message = vec![2, 0, 0, 0, 3, 3];
            message.extend([7; 32]);
            message.extend([2, 9, 9, 0xc0, 0x2b, 0]);
            message.extend(extensions);
            message[3] = u8::try_from(message.len() - 4).expect("short");
            message
        };
        let cases: [(&[u8], Finding); 4] = [
            (&[], Finding::Nothing),
            (&[0, 5, 0xff, 1, 0, 1, 0], Finding::Nothing),
            (&[0, 10, 0, 43, 0, 2, 3, 4, 0, 51, 0, 0], Finding::Nothing),
            (&[0, 10, 0, 23, 0, 0, 0xff, 1, 0, 2, 1, 9], Finding::RenegotiationInfo),
        ];
        for (extensions, expected) in cases {
            assert_eq!(HelloReader::of_server().read(&server_hello(extensions)), expected, "{extensions:?}");
        }
        assert_eq!(finding(&[&server_hello(&[])]), Finding::Nothing, "of a client it would be no hello");
    }

    #[test]
    fn what_is_no_hello_is_left_to_rustls() {
        for message in [&[0, 0, 0, 0][..], &[16, 0, 0, 1, 0], &[1, 0, 0, 2, 3, 3], &[1, 0, 0, 0]] {
            assert_eq!(finding(&[message]), Finding::Nothing, "{message:?}");
        }
        assert_eq!(finding(&[&[]]), Finding::Unfinished);
    }
}
