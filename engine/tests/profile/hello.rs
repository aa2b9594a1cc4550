//! A ClientHello made by hand, byte by byte, and what a server answers to it in the clear.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use aws_lc_rs::agreement::{Algorithm, ECDH_P256, ECDH_P384, EphemeralPrivateKey, X25519};
use aws_lc_rs::rand::SystemRandom;

use offramp_testing::peer::dial;
use offramp_testing::server::TestServer;

/// Extension types (RFC 8446 §4.2, RFC 6066, RFC 7627, RFC 5746).
pub(crate) mod extension {
    pub(crate) const SERVER_NAME: u16 = 0;
    pub(crate) const MAX_FRAGMENT_LENGTH: u16 = 1;
    pub(crate) const CLIENT_CERTIFICATE_URL: u16 = 2;
    pub(crate) const TRUSTED_CA_KEYS: u16 = 3;
    pub(crate) const TRUNCATED_HMAC: u16 = 4;
    pub(crate) const STATUS_REQUEST: u16 = 5;
    pub(crate) const SUPPORTED_GROUPS: u16 = 10;
    pub(crate) const SIGNATURE_ALGORITHMS: u16 = 13;
    pub(crate) const ALPN: u16 = 16;
    pub(crate) const PADDING: u16 = 21;
    pub(crate) const EXTENDED_MASTER_SECRET: u16 = 23;
    pub(crate) const SESSION_TICKET: u16 = 35;
    pub(crate) const PRE_SHARED_KEY: u16 = 41;
    pub(crate) const EARLY_DATA: u16 = 42;
    pub(crate) const SUPPORTED_VERSIONS: u16 = 43;
    pub(crate) const PSK_KEY_EXCHANGE_MODES: u16 = 45;
    pub(crate) const SIGNATURE_ALGORITHMS_CERT: u16 = 50;
    pub(crate) const KEY_SHARE: u16 = 51;
    pub(crate) const RENEGOTIATION_INFO: u16 = 0xff01;
}

pub(crate) const TLS12: u16 = 0x0303;
pub(crate) const TLS13: u16 = 0x0304;

pub(crate) const SECP256R1: u16 = 23;
pub(crate) const SECP384R1: u16 = 24;
pub(crate) const X25519_GROUP: u16 = 29;

pub(crate) const ECDSA_SECP256R1_SHA256: u16 = 0x0403;
pub(crate) const RSA_PKCS1_SHA256: u16 = 0x0401;
pub(crate) const RSA_PSS_RSAE_SHA256: u16 = 0x0804;

pub(crate) const ECDHE_ECDSA_AES_128_GCM: u16 = 0xc02b;
pub(crate) const ECDHE_RSA_AES_128_GCM: u16 = 0xc02f;

const HELLO_RETRY_REQUEST: [u8; 8] = [0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11];

/// What is said. Anything may be wrong with it.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    pub(crate) version: u16,
    pub(crate) suites: Vec<u16>,
    pub(crate) compressions: Vec<u8>,
    /// In this order.
    pub(crate) extensions: Vec<(u16, Vec<u8>)>,
}

/// A vector with its length in front, in as many bytes.
pub(crate) fn vector<const BYTES: usize>(body: &[u8]) -> Vec<u8> {
    let length = body.len().to_be_bytes();
    [&length[length.len() - BYTES..], body].concat()
}

/// Numbers of two bytes, with their length in front.
pub(crate) fn list(numbers: &[u16]) -> Vec<u8> {
    vector::<2>(&numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>())
}

impl Hello {
    /// What any TLS 1.2 client says that keeps to the profile.
    pub(crate) fn tls12() -> Self {
        let hello = Self {
            version: TLS12,
            suites: vec![ECDHE_ECDSA_AES_128_GCM, ECDHE_RSA_AES_128_GCM],
            compressions: vec![0],
            extensions: Vec::new(),
        };
        hello
            .groups(&[X25519_GROUP, SECP256R1, SECP384R1])
            .schemes(&[ECDSA_SECP256R1_SHA256, RSA_PSS_RSAE_SHA256, RSA_PKCS1_SHA256])
            .with(extension::EXTENDED_MASTER_SECRET, &[])
    }

    /// What any TLS 1.3 client says that keeps to the profile, with a share of P-256.
    pub(crate) fn tls13() -> Self {
        let mut hello = Self::tls12().with(extension::SUPPORTED_VERSIONS, &[2, 3, 4]);
        hello.suites = vec![0x1301, 0x1302, 0x1303];
        hello.with(extension::PSK_KEY_EXCHANGE_MODES, &[1, 1]).share(SECP256R1)
    }

    pub(crate) fn suites(mut self, suites: &[u16]) -> Self {
        self.suites = suites.to_vec();
        self
    }

    pub(crate) fn groups(self, groups: &[u16]) -> Self {
        self.with(extension::SUPPORTED_GROUPS, &list(groups))
    }

    pub(crate) fn schemes(self, schemes: &[u16]) -> Self {
        self.with(extension::SIGNATURE_ALGORITHMS, &list(schemes))
    }

    /// The only group, with a share of it where it is one of the profile, and else with any bytes.
    pub(crate) fn share(self, group: u16) -> Self {
        let algorithm: Option<&'static Algorithm> = match group {
            SECP256R1 => Some(&ECDH_P256),
            SECP384R1 => Some(&ECDH_P384),
            X25519_GROUP => Some(&X25519),
            _ => None,
        };
        let public = algorithm.map_or(vec![4; 133], |algorithm| {
            let key = EphemeralPrivateKey::generate(algorithm, &SystemRandom::new()).unwrap();
            key.compute_public_key().unwrap().as_ref().to_vec()
        });
        let entry = [group.to_be_bytes().to_vec(), vector::<2>(&public)].concat();
        self.groups(&[group]).with(extension::KEY_SHARE, &vector::<2>(&entry))
    }

    /// With this extension, in the place of one of its type or behind the others.
    pub(crate) fn with(mut self, kind: u16, body: &[u8]) -> Self {
        match self.extensions.iter_mut().find(|(has, _)| *has == kind) {
            Some(place) => place.1 = body.to_vec(),
            None => self.extensions.push((kind, body.to_vec())),
        }
        self
    }

    pub(crate) fn without(mut self, kind: u16) -> Self {
        self.extensions.retain(|(has, _)| *has != kind);
        self
    }

    /// What somebody else said: a whole message, with its header.
    pub(crate) fn parse(message: &[u8]) -> Self {
        let mut rest = message;
        let mut take = |count: usize| {
            let (taken, later) = rest.split_at(count);
            rest = later;
            taken
        };
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
        let two = |bytes: &[u8]| u16::try_from(number(bytes)).unwrap();
        assert_eq!((take(1), number(take(3))), (&[1][..], message.len() - 4), "one ClientHello");
        let version = two(take(2));
        take(32);
        let session = number(take(1));
        take(session);
        let suites = number(take(2));
        let suites = take(suites).chunks(2).map(two).collect();
        let compressions = number(take(1));
        let compressions = take(compressions).to_vec();
        let mut left = number(take(2));
        let mut extensions = Vec::new();
        while left > 0 {
            let (kind, length) = (two(take(2)), number(take(2)));
            extensions.push((kind, take(length).to_vec()));
            left -= 4 + length;
        }
        assert!(rest.is_empty(), "behind the extensions: {rest:x?}");
        Self { version, suites, compressions, extensions }
    }

    /// The body of an extension, if it is there.
    pub(crate) fn extension(&self, kind: u16) -> Option<&[u8]> {
        self.extensions.iter().find(|(has, _)| *has == kind).map(|(_, body)| &body[..])
    }

    /// An extension that is one list of numbers of two bytes, with a length in so many bytes in front.
    pub(crate) fn numbers(&self, kind: u16, length_bytes: usize) -> Vec<u16> {
        let body = self.extension(kind).unwrap_or_else(|| panic!("no extension {kind} in {self:x?}"));
        body[length_bytes..].chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
    }

    /// The message, with its header.
    pub(crate) fn message(&self) -> Vec<u8> {
        let extensions = self.extensions.iter();
        let extensions =
            extensions.flat_map(|(kind, body)| [&kind.to_be_bytes()[..], &vector::<2>(body)].concat());
        let body = [
            self.version.to_be_bytes().to_vec(),
            vec![0x5a; 32],
            vector::<1>(&[]),
            list(&self.suites),
            vector::<1>(&self.compressions),
            vector::<2>(&extensions.collect::<Vec<u8>>()),
        ];
        [&[1][..], &vector::<3>(&body.concat())].concat()
    }

    /// In records of at most this much each.
    pub(crate) fn records(&self, most: usize) -> Vec<u8> {
        records(&self.message(), most)
    }
}

/// A handshake message in records of at most this much each.
pub(crate) fn records(message: &[u8], most: usize) -> Vec<u8> {
    message.chunks(most).flat_map(|part| [&[22, 3, 1][..], &vector::<2>(part)].concat()).collect()
}

/// What came back.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A fatal alert in the clear: its description.
    Alert(u8),
    /// A ServerHello, and the whole flight behind it.
    Accepted(Accepted),
    /// A HelloRetryRequest.
    Retry,
    /// The end, and nothing said.
    Closed,
}

/// What was negotiated, as far as it is in the clear.
#[derive(Debug, Default)]
pub(crate) struct Accepted {
    pub(crate) version: u16,
    pub(crate) suite: u16,
    pub(crate) compression: u8,
    /// Of the ServerHello.
    pub(crate) extensions: BTreeMap<u16, Vec<u8>>,
    pub(crate) group: u16,
    /// The signature scheme of the ServerKeyExchange; TLS 1.2.
    pub(crate) scheme: u16,
}

impl Answer {
    pub(crate) fn accepted(self) -> Accepted {
        match self {
            Self::Accepted(accepted) => accepted,
            other => panic!("not accepted: {other:?}"),
        }
    }

    pub(crate) fn alert(&self) -> Option<u8> {
        match self {
            Self::Alert(description) => Some(*description),
            _ => None,
        }
    }
}

/// Says this and listens for the answer.
pub(crate) fn say(addr: SocketAddr, bytes: &[u8]) -> Answer {
    let mut tcp = dial(addr);
    // The server may have refused the front of it already.
    let _ = tcp.write_all(bytes);
    listen(&mut tcp)
}

/// Says a hello that is to be refused: the alert, and the fault that was counted.
pub(crate) fn refusal(server: &TestServer, bytes: &[u8]) -> (Option<u8>, String) {
    let before = server.settled();
    let answer = say(server.addr, bytes);
    (answer.alert(), server.faulted(&before, 1).join(" and "))
}

/// Listens for one answer.
pub(crate) fn listen(tcp: &mut TcpStream) -> Answer {
    let mut flight = Flight::default();
    loop {
        let mut header = [0; 5];
        if tcp.read_exact(&mut header).is_err() {
            return Answer::Closed;
        }
        let mut payload = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        tcp.read_exact(&mut payload).expect("a whole record");
        match header[0] {
            21 => {
                assert_eq!((payload.len(), payload[0]), (2, 2), "an alert in the clear, and fatal");
                return Answer::Alert(payload[1]);
            }
            22 => flight.messages.extend(payload),
            20 => continue,
            23 if flight.accepted.version == TLS13 => return Answer::Accepted(flight.accepted),
            other => panic!("a record of type {other} in a handshake"),
        }
        if let Some(answer) = flight.read() {
            return answer;
        }
    }
}

/// The messages of the server so far.
#[derive(Default)]
struct Flight {
    messages: Vec<u8>,
    accepted: Accepted,
}

impl Flight {
    fn read(&mut self) -> Option<Answer> {
        while self.messages.len() >= 4 {
            let length = u32::from_be_bytes([0, self.messages[1], self.messages[2], self.messages[3]]);
            let end = 4 + usize::try_from(length).unwrap();
            if self.messages.len() < end {
                return None;
            }
            let rest = self.messages.split_off(end);
            let message = std::mem::replace(&mut self.messages, rest);
            match message[0] {
                2 if message[6..].starts_with(&HELLO_RETRY_REQUEST) => return Some(Answer::Retry),
                2 => self.server_hello(&message[4..]),
                12 => self.server_key_exchange(&message[4..]),
                14 => return Some(Answer::Accepted(std::mem::take(&mut self.accepted))),
                _ => {}
            }
        }
        None
    }

    fn server_hello(&mut self, body: &[u8]) {
        let accepted = &mut self.accepted;
        let number = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
        let at = 35 + usize::from(body[34]);
        (accepted.suite, accepted.compression) = (number(at), body[at + 2]);
        let mut rest = body.get(at + 5..).unwrap_or_default();
        while let [high, low, long, short, behind @ ..] = rest {
            let (extension, later) = behind.split_at(usize::from(u16::from_be_bytes([*long, *short])));
            accepted.extensions.insert(u16::from_be_bytes([*high, *low]), extension.to_vec());
            rest = later;
        }
        let of = |kind: u16| accepted.extensions.get(&kind).and_then(|body| body.first_chunk::<2>());
        accepted.version = of(extension::SUPPORTED_VERSIONS).map_or(number(0), |v| u16::from_be_bytes(*v));
        accepted.group = of(extension::KEY_SHARE).map_or(0, |group| u16::from_be_bytes(*group));
    }

    /// RFC 8422 §5.4: a named curve, the public key, the signature.
    fn server_key_exchange(&mut self, body: &[u8]) {
        assert_eq!(body[0], 3, "a named curve");
        self.accepted.group = u16::from_be_bytes([body[1], body[2]]);
        let at = 4 + usize::from(body[3]);
        self.accepted.scheme = u16::from_be_bytes([body[at], body[at + 1]]);
    }
}
