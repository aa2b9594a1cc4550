//! What a peer offered and why it was refused, in words for the log.
//!
//! All of it is bounded and printable ASCII, quotes and backslashes escaped: a peer can put neither a line
//! nor a control character into a log, nor grow one.

use offramp_proto::handshake::CLIENT_HELLO;
use std::cell::RefCell;
use std::fmt::Display;

/// Bytes of what is neither TLS nor the header awaited that the log shows.
const FIRST_BYTES: usize = 16;
/// Bytes of a peer that are quoted at most; each is at most four characters.
const QUOTED_BYTES_MAX: usize = 256;
/// Versions that are named at most.
const VERSIONS_MAX: usize = 4;

const SERVER_NAME: u16 = 0;
const SUPPORTED_VERSIONS: u16 = 43;

/// What was offending about a connection that ended with a fault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// What the system said (errno(3)).
    pub errno: Option<i32>,
    /// The name that the client asked for (RFC 6066 §3), as it is, valid or not.
    pub name: Option<Box<str>>,
    /// The TLS versions that the client offered.
    pub versions: Option<Box<str>>,
    /// Why it was refused, or the bytes that were.
    pub reason: Option<Box<str>>,
}

/// What of a ClientHello is kept until the handshake is complete: the name, and no more than a few versions.
#[derive(Debug, Default)]
pub struct Offered {
    name: Option<Box<[u8]>>,
    versions: [u16; VERSIONS_MAX],
}

impl Offered {
    /// Reads as far as it can: of a hello in several records, what is in the first one. `payload` is that of
    /// the record.
    pub(super) fn read(payload: &[u8]) -> Self {
        let mut this = Self::default();
        // What is missing stays unknown.
        let _ = this.find(payload);
        this
    }

    fn find(&mut self, payload: &[u8]) -> Option<()> {
        let mut hello = Reader(payload);
        if hello.take(4)?.first() != Some(&CLIENT_HELLO) {
            return None;
        }
        self.versions[0] = hello.number(2)?;
        hello.take(32)?;
        for length_bytes in [1, 2, 1] {
            hello.vector(length_bytes)?;
        }
        hello.number(2)?;
        loop {
            let kind = hello.number(2)?;
            let mut body = Reader(hello.vector(2)?);
            match kind {
                SERVER_NAME => {
                    body.take(3)?;
                    let name = body.vector(2)?;
                    self.name = Some(name[..name.len().min(QUOTED_BYTES_MAX)].into());
                }
                SUPPORTED_VERSIONS => {
                    let list = body.vector(1)?;
                    self.versions = [0; VERSIONS_MAX];
                    let known = list.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
                    let real = known.filter(|version| version & 0x0f0f != 0x0a0a);
                    self.versions.iter_mut().zip(real).for_each(|(place, version)| *place = version);
                }
                _ => {}
            }
        }
    }

    /// In words.
    #[must_use]
    pub fn evidence(&self, reason: Option<Box<str>>) -> Evidence {
        let versions: Vec<_> = self.versions.iter().filter(|version| **version != 0).map(version).collect();
        Evidence {
            errno: None,
            name: self.name.as_deref().map(quoted),
            versions: (!versions.is_empty()).then(|| versions.join(",").into()),
            reason,
        }
    }
}

fn version(number: &u16) -> String {
    match number {
        0x0300 => "SSLv3".to_owned(),
        0x0301..=0x0304 => format!("TLS1.{}", number - 0x0301),
        other => format!("{other:#06x}"),
    }
}

/// Takes numbers and vectors off the front of bytes; none where they end before.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// At most two bytes.
    pub(super) fn number(&mut self, bytes: usize) -> Option<u16> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | u16::from(*byte)))
    }

    pub(super) fn vector(&mut self, length_bytes: usize) -> Option<&'a [u8]> {
        let length = self.number(length_bytes)?;
        self.take(length.into())
    }
}

/// Bytes of a peer as they may stand in a log, with a mark where they were cut.
#[must_use]
pub fn quoted(bytes: &[u8]) -> Box<str> {
    let shown = &bytes[..bytes.len().min(QUOTED_BYTES_MAX)];
    let mark = if shown.len() < bytes.len() { "[...]" } else { "" };
    format!("{}{mark}", shown.escape_ascii()).into()
}

/// The beginning of what came in place of something else, as the log shows it.
pub fn first_bytes(bytes: &[u8]) -> Box<str> {
    quoted(&bytes[..bytes.len().min(FIRST_BYTES)])
}

thread_local! {
    /// The reason that the alert, which a verifier has to choose, does not show.
    static REASON: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// Notes why a certificate is refused, for who made the call in which it was; gives back what it is refused
/// with.
pub(super) fn note<E>(reason: &dyn Display, refusal: E) -> E {
    REASON.set(Some(quoted(reason.to_string().as_bytes())));
    refusal
}

/// Takes that, or else what the error says.
pub(super) fn reason(error: &dyn Display) -> Box<str> {
    REASON.take().unwrap_or_else(|| quoted(error.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = vec![CLIENT_HELLO, 0, 0, 0, 3, 1];
        message.extend([7; 32]);
        message.extend([1, 9, 0, 2, 0xc0, 0x2b, 1, 0, 0, 0]);
        for (kind, body) in extensions {
            message.extend(kind.to_be_bytes());
            message.extend((body.len() as u16).to_be_bytes());
            message.extend(*body);
        }
        message
    }

    fn name(name: &[u8]) -> Vec<u8> {
        let mut body = ((name.len() + 3) as u16).to_be_bytes().to_vec();
        body.push(0);
        body.extend((name.len() as u16).to_be_bytes());
        body.extend(name);
        body
    }

    #[test]
    fn the_name_and_the_versions_are_found() {
        let bytes =
            hello(&[(10, &[0, 2, 0, 23]), (0, &name(b"a.example")), (43, &[6, 0x1a, 0x1a, 3, 4, 3, 3])]);
        let found = Offered::read(&bytes).evidence(None);
        assert_eq!(found.name.as_deref(), Some("a.example"));
        assert_eq!(found.versions.as_deref(), Some("TLS1.3,TLS1.2"));
        let old = Offered::read(&hello(&[])).evidence(Some("too old".into()));
        assert_eq!((old.name, old.versions.as_deref()), (None, Some("TLS1.0")));
        assert_eq!(old.reason.as_deref(), Some("too old"));
    }

    #[test]
    fn what_a_peer_says_is_bounded_and_printable() {
        let evil = [b"a\r\n2026 ERROR \x1b[31m\"\\".as_slice(), &[0xff; 4000]].concat();
        let found = Offered::read(&hello(&[(0, &name(&evil))])).evidence(None).name.unwrap();
        assert!(found.starts_with(r#"a\r\n2026 ERROR \x1b[31m\"\\\xff"#), "{found}");
        assert!(
            found.len() <= 4 * QUOTED_BYTES_MAX && found.bytes().all(|byte| (0x20..0x7f).contains(&byte))
        );
        assert!(quoted(&evil).ends_with("[...]"));
    }

    #[test]
    fn any_cut_and_any_byte_are_read_without_a_panic() {
        let bytes = hello(&[(0, &name(b"a.example")), (43, &[4, 3, 4, 3, 3])]);
        for at in 0..bytes.len() {
            Offered::read(&bytes[..at]);
            let mut changed = bytes.clone();
            for value in 0..=u8::MAX {
                changed[at] = value;
                Offered::read(&changed);
            }
        }
    }
}
