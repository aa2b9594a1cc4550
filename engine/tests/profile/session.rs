//! A session as OpenSSL stores it, opened up: its fields can be looked at and replaced, so that a real client
//! presents what no client would.

use std::path::{Path, PathBuf};
use std::process::Command;

use offramp_testing::tools::text;

/// Of SSL_SESSION_ASN1, the context-specific fields that the tests replace.
pub(crate) mod field {
    pub(crate) const TIMEOUT: u8 = 2;
    pub(crate) const LIFETIME_HINT: u8 = 9;
    pub(crate) const TICKET: u8 = 10;
    pub(crate) const MAX_EARLY_DATA: u8 = 15;
}

/// INTEGER and OCTET STRING.
const INTEGER: u8 = 2;
const OCTETS: u8 = 4;
/// Context-specific and constructed; the field's number is added.
const FIELD: u8 = 0xa0;

/// The elements of the outer SEQUENCE, tags and bodies.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    elements: Vec<(u8, Vec<u8>)>,
}

impl Session {
    /// What `s_client -sess_out` wrote.
    pub(crate) fn read(pem: &Path) -> Self {
        let der = pem.with_extension("der");
        sess_id(&["-in", path(pem), "-outform", "DER", "-out", path(&der)]);
        let bytes = std::fs::read(&der).unwrap();
        let outer = elements(&bytes);
        assert_eq!((outer.len(), outer[0].0), (1, 0x30), "one SEQUENCE");
        Self { elements: elements(&outer[0].1) }
    }

    /// As `s_client -sess_in` reads it.
    pub(crate) fn write(&self, pem: &Path) {
        let der = pem.with_extension("der");
        let body: Vec<u8> = self.elements.iter().flat_map(|(tag, body)| element(*tag, body)).collect();
        std::fs::write(&der, element(0x30, &body)).unwrap();
        sess_id(&["-inform", "DER", "-in", path(&der), "-out", path(pem)]);
    }

    pub(crate) fn ticket(&self) -> Vec<u8> {
        let found = self.elements.iter().find(|(tag, _)| *tag == FIELD + field::TICKET);
        elements(&found.expect("a session with a ticket").1).remove(0).1
    }

    pub(crate) fn with_ticket(self, ticket: &[u8]) -> Self {
        self.with(field::TICKET, element(OCTETS, ticket))
    }

    pub(crate) fn with_number(self, field: u8, number: u32) -> Self {
        // As short as it can be, and one byte of zero in front of what would be negative.
        let bytes: Vec<u8> = number.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
        let sign = if bytes.first().is_none_or(|byte| *byte >= 0x80) { &[0][..] } else { &[] };
        self.with(field, element(INTEGER, &[sign, &bytes].concat()))
    }

    fn with(mut self, field: u8, body: Vec<u8>) -> Self {
        let tag = FIELD + field;
        self.elements.retain(|(has, _)| *has != tag);
        let at = self.elements.iter().position(|(has, _)| *has > tag).unwrap_or(self.elements.len());
        self.elements.insert(at, (tag, body));
        self
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("scratch paths are UTF-8")
}

fn sess_id(words: &[&str]) {
    let output = Command::new("openssl").arg("sess_id").args(words).output().unwrap();
    assert!(output.status.success(), "sess_id {words:?}: {}", text(&output));
}

fn elements(mut der: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let [tag, short, rest @ ..] = der {
        // A length above 127 says in how many bytes it stands.
        let bytes = if *short < 0x80 { 0 } else { usize::from(short - 0x80) };
        let (long, rest) = rest.split_at(bytes);
        let length = long.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        let length = if bytes == 0 { usize::from(*short) } else { length };
        let (body, later) = rest.split_at(length);
        found.push((*tag, body.to_vec()));
        der = later;
    }
    found
}

fn element(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("a session is short");
    let length = match length {
        0..0x80 => vec![length.to_be_bytes()[1]],
        0x80..0x100 => vec![0x81, length.to_be_bytes()[1]],
        _ => [&[0x82][..], &length.to_be_bytes()].concat(),
    };
    [&[tag][..], &length, body].concat()
}

/// Where a test's sessions go.
pub(crate) fn file(directory: &Path, name: &str) -> PathBuf {
    directory.join(name).with_extension("pem")
}

#[test]
fn elements_are_read_as_they_were_written() {
    for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 70] {
        let body = vec![7; length];
        let twice = [element(0xaa, &body), element(OCTETS, b"behind")].concat();
        assert_eq!(elements(&twice), [(0xaa, body), (OCTETS, b"behind".to_vec())], "{length}");
    }
}
