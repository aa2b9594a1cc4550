//! What a ClientHello asks for, of a connection whose TLS is not ours: of any version of TLS, since only the
//! server has to know it.

use rustls::pki_types::DnsName;

use super::evidence::Reader;
use super::record::{HEADER_BYTES, Header, Malformed, RecordType};
use super::session::Refusal;
use offramp_proto::handshake::CLIENT_HELLO;

/// Extension types (RFC 6066 §3, RFC 7301 §3.1).
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
/// NameType of RFC 6066 §3.
const HOST_NAME: u16 = 0;
/// Most application protocols of a client, which are kept until the route is found: clients have a few.
const PROTOCOLS_MAX: usize = 64;
/// HandshakeType and length (RFC 8446 §4).
const MESSAGE_HEADER_BYTES: usize = 4;

/// What a client asks for in the clear; with Encrypted Client Hello that is what its outer hello says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The name (RFC 6066 §3), in lower case; none if it is no DNS name.
    pub server_name: Option<Box<str>>,
    /// The application protocols (RFC 7301), in the client's order.
    pub alpn: Vec<Box<[u8]>>,
}

impl Asked {
    /// Reads the ClientHello, in any number of records, with which a connection begins; `received` is all
    /// that came. None while the hello is not complete.
    ///
    /// # Errors
    /// Why it is no hello: [`Refusal::Malformed`], [`Refusal::RecordTooLong`] or [`Refusal::Unexpected`].
    pub fn read(received: &[u8]) -> Result<Option<Self>, Refusal> {
        if !may_be_whole(received) {
            return Ok(None);
        }
        let (mut rest, mut message) = (received, Vec::new());
        while let Some(header) = Header::read(rest).map_err(refusal)? {
            if header.record_type != RecordType::Handshake {
                return Err(Refusal::Unexpected);
            }
            if header.payload_bytes == 0 {
                return Err(Refusal::Malformed);
            }
            let (record, behind) = rest.split_at(header.record_bytes().min(rest.len()));
            message.extend_from_slice(&record[HEADER_BYTES.min(record.len())..]);
            if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
                return Err(Refusal::Unexpected);
            }
            if let Some((header, body)) = message.split_at_checked(MESSAGE_HEADER_BYTES) {
                let length = header[1..].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
                if let Some(body) = body.get(..length) {
                    return Self::of_hello(body).map(Some).ok_or(Refusal::Malformed);
                }
            }
            rest = behind;
        }
        Ok(None)
    }

    /// None if its lengths do not add up, or if an extension comes twice: two readers could take another one.
    /// Nor if an application protocol has no name (RFC 7301 §3.1), or there are more than [`PROTOCOLS_MAX`].
    fn of_hello(body: &[u8]) -> Option<Self> {
        let mut hello = Reader(body);
        let _version_and_random = hello.take(2 + 32)?;
        for length_bytes in [1, 2, 1] {
            let _session_id_suites_compression = hello.vector(length_bytes)?;
        }
        let mut this = Self::default();
        if hello.0.is_empty() {
            return Some(this);
        }
        let (mut extensions, mut seen) = (Reader(hello.vector(2)?), Vec::new());
        while !extensions.0.is_empty() {
            let kind = extensions.number(2)?;
            let mut extension = Reader(extensions.vector(2)?);
            if seen.contains(&kind) {
                return None;
            }
            match kind {
                SERVER_NAME => {
                    seen.push(kind);
                    this.server_name = server_name(extension.vector(2)?)?;
                }
                ALPN => {
                    seen.push(kind);
                    let mut names = Reader(extension.vector(2)?);
                    while !names.0.is_empty() {
                        let name = names.vector(1).filter(|name| !name.is_empty())?;
                        if this.alpn.len() == PROTOCOLS_MAX {
                            return None;
                        }
                        this.alpn.push(name.into());
                    }
                }
                _ => continue,
            }
            if !extension.0.is_empty() {
                return None;
            }
        }
        hello.0.is_empty().then_some(this)
    }
}

/// Whether there are as many bytes as the message says that it has, if it says so in the first record: then
/// nothing is read before. What is wrong with the rest is found once it is there.
fn may_be_whole(received: &[u8]) -> bool {
    let message = received.get(HEADER_BYTES..).unwrap_or_default();
    let Some(header) = message.get(..MESSAGE_HEADER_BYTES) else { return true };
    let length = header[1..].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let says_so = matches!(Header::read(received), Ok(Some(record))
        if record.record_type == RecordType::Handshake && record.payload_bytes >= MESSAGE_HEADER_BYTES);
    !says_so || header[0] != CLIENT_HELLO || message.len() >= MESSAGE_HEADER_BYTES + length
}

/// The first host name of a list; the outer `None` if its lengths do not add up.
fn server_name(names: &[u8]) -> Option<Option<Box<str>>> {
    let (mut names, mut found) = (Reader(names), None);
    while !names.0.is_empty() {
        let is_host = names.number(1)? == HOST_NAME;
        let name = names.vector(2)?;
        found = found.or(is_host.then_some(name));
    }
    let text = found.and_then(|name| std::str::from_utf8(name).ok());
    let text = text.filter(|text| DnsName::try_from(*text).is_ok());
    Some(text.map(|text| text.to_ascii_lowercase().into()))
}

fn refusal(malformed: Malformed) -> Refusal {
    match malformed {
        Malformed::NotARecord => Refusal::Malformed,
        Malformed::TooLong => Refusal::RecordTooLong,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hello with these extensions, in records of at most so many bytes.
    fn hello(version: u8, extensions: &[u8], record_bytes: usize) -> Vec<u8> {
        let mut body = vec![3, version];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        if !extensions.is_empty() {
            body.extend(u16::try_from(extensions.len()).expect("short").to_be_bytes());
            body.extend(extensions);
        }
        let length = u8::try_from(body.len()).expect("short");
        let message = [&[CLIENT_HELLO, 0, 0, length][..], &body].concat();
        let record =
            |part: &[u8]| [&[22, 3, 1, 0, u8::try_from(part.len()).expect("short")][..], part].concat();
        message.chunks(record_bytes).flat_map(record).collect()
    }

    fn name(text: &str) -> Vec<u8> {
        let length = u8::try_from(text.len()).expect("short");
        [&[0, 0, 0, length + 5, 0, length + 3, 0, 0, length][..], text.as_bytes()].concat()
    }

    const ALPN_MSRP: &[u8] = b"\x00\x10\x00\x0a\x00\x08\x04msrp\x02h2";

    #[test]
    fn hello_is_read_from_any_version_and_cut() {
        for (version, record_bytes) in [(1, 200), (2, 7), (3, 1), (3, 50)] {
            let extensions = [&name("A.Example")[..], ALPN_MSRP].concat();
            let hello = hello(version, &extensions, record_bytes);
            for cut in 0..hello.len() {
                assert_eq!(Asked::read(&hello[..cut]), Ok(None), "{cut} of {}", hello.len());
            }
            let asked = Asked::read(&[&hello[..], b"more"].concat()).expect("a hello").expect("whole");
            assert_eq!(asked.server_name.as_deref(), Some("a.example"));
            assert_eq!(asked.alpn, [b"msrp"[..].into(), b"h2"[..].into()]);
        }
        assert_eq!(Asked::read(&hello(1, &[], 99)), Ok(Some(Asked::default())));
    }

    #[test]
    fn hello_with_what_is_no_host_name_asks_for_none() {
        for text in ["192.0.2.1", "a b", "a..b", "\u{e4}.example", ""] {
            let asked = Asked::read(&hello(3, &name(text), 99)).expect("a hello").expect("whole");
            assert_eq!(asked.server_name, None, "{text}");
        }
    }

    #[test]
    fn hello_with_any_byte_changed_is_read_or_refused() {
        let extensions = [&name("a.example")[..], ALPN_MSRP].concat();
        let hello = hello(3, &extensions, 40);
        let mut read = 0;
        for (at, value) in (0..hello.len()).flat_map(|at| [0, 1, 0x7f, 0xff].map(|value| (at, value))) {
            let mut changed = hello.clone();
            changed[at] = value;
            read += usize::from(matches!(Asked::read(&changed), Ok(Some(_))));
        }
        assert!(read > hello.len(), "most bytes mean nothing here: {read}");
    }

    #[test]
    fn hello_with_too_many_protocols_is_refused() {
        let alpn = |count: u8| {
            [&[0, 16, 0, 2 * count + 2, 0, 2 * count][..], &b"\x01p".repeat(count.into())].concat()
        };
        let count =
            |count| Asked::read(&hello(3, &alpn(count), 99)).map(|asked| asked.map(|it| it.alpn.len()));
        assert_eq!((count(64), count(65)), (Ok(Some(64)), Err(Refusal::Malformed)));
    }

    #[test]
    fn hello_that_does_not_add_up_is_refused() {
        let twice = [name("a.example"), name("b.example")].concat();
        assert_eq!(Asked::read(&hello(3, &twice, 99)), Err(Refusal::Malformed));
        let mut long = name("a.example");
        long[3] += 1;
        assert_eq!(Asked::read(&hello(3, &long, 99)), Err(Refusal::Malformed));
        assert_eq!(Asked::read(&hello(3, b"\0\x10\0\x03\0\x01\x05", 99)), Err(Refusal::Malformed));
        assert_eq!(Asked::read(&hello(3, b"\0\x10\0\x03\0\x01\0", 99)), Err(Refusal::Malformed));
        let no_hello = [22, 3, 1, 0, 1, 2];
        assert_eq!(Asked::read(&no_hello), Err(Refusal::Unexpected));
        assert_eq!(Asked::read(&[22, 3, 1, 0, 0]), Err(Refusal::Malformed));
        assert_eq!(Asked::read(&[21, 3, 1, 0, 2]), Err(Refusal::Unexpected));
        assert_eq!(Asked::read(b"GET / HTTP/1.1"), Err(Refusal::Malformed));
        assert_eq!(Asked::read(&[22, 3, 1, 0xff, 0xff]), Err(Refusal::RecordTooLong));
    }
}
