//! What can be told from the bytes of a wire alone.

use offramp_core::tls::secrets::{Aead, Version};
use offramp_proto::handshake::{CLIENT_HELLO, SERVER_HELLO};
use offramp_proto::record::{CHANGE_CIPHER_SPEC, HANDSHAKE, HEADER_BYTES};

/// The random of a HelloRetryRequest (RFC 8446 §4.1.3).
const RETRY: [u8; 4] = [0xcf, 0x21, 0xad, 0x74];

/// What the hellos of a connection settle.
#[derive(Debug)]
pub(super) struct Hellos {
    pub(super) version: Version,
    pub(super) aead: Aead,
    pub(super) client_random: [u8; 32],
    pub(super) server_random: [u8; 32],
}

impl Hellos {
    /// From both directions; `None` if there is no ServerHello.
    pub(super) fn read(from_client: &[u8], from_server: &[u8]) -> Option<Self> {
        let client_random = random(&message(from_client, CLIENT_HELLO, |_| true)?)?;
        let is_hello = |message: &[u8]| random(message).is_some_and(|random| random[..4] != RETRY);
        let hello = message(from_server, SERVER_HELLO, is_hello)?;
        let (version, aead) = version_and_aead(suite(&hello)?)?;
        Some(Self { version, aead, client_random, server_random: random(&hello)? })
    }
}

/// The records of a wire, headers included, each with whether it is whole.
pub(super) fn records(wire: &[u8]) -> impl Iterator<Item = (&[u8], bool)> {
    let mut rest = wire;
    std::iter::from_fn(move || {
        let length = rest
            .first_chunk()
            .map_or(0, |&[_, _, _, high, low]| HEADER_BYTES + usize::from(u16::from_be_bytes([high, low])));
        let is_whole = length > 0 && length <= rest.len();
        let (record, next) = rest.split_at(if is_whole { length } else { rest.len() });
        rest = next;
        (!record.is_empty()).then_some((record, is_whole))
    })
}

/// The first handshake message of this type in the clear, put together from its records.
fn message(wire: &[u8], message_type: u8, is_it: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    let in_clear =
        records(wire).take_while(|(record, _)| matches!(record[0], HANDSHAKE | CHANGE_CIPHER_SPEC));
    let payloads = in_clear.filter(|(record, is_whole)| *is_whole && record[0] == HANDSHAKE);
    let stream: Vec<u8> = payloads.flat_map(|(record, _)| record[HEADER_BYTES..].iter().copied()).collect();
    messages(&stream).find(|message| message[0] == message_type && is_it(message)).map(<[u8]>::to_vec)
}

/// The whole handshake messages at the front of a stream.
pub(super) fn messages(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = stream;
    std::iter::from_fn(move || {
        let &[_, high, middle, low] = rest.first_chunk()?;
        let (whole, next) = rest.split_at_checked(4 + u32::from_be_bytes([0, high, middle, low]) as usize)?;
        rest = next;
        Some(whole)
    })
}

/// Behind type, length and version, in either hello.
fn random(message: &[u8]) -> Option<[u8; 32]> {
    message.get(6..)?.first_chunk().copied()
}

/// The suite of a ServerHello: behind type, length, version, random and session identifier.
fn suite(hello: &[u8]) -> Option<[u8; 2]> {
    let session_id_bytes = usize::from(*hello.get(38)?);
    hello.get(39 + session_id_bytes..)?.first_chunk().copied()
}

/// Of the suites that the profile lists (RFC 5289 §3.2, RFC 7905 §3, RFC 8446 §B.4).
fn version_and_aead(suite: [u8; 2]) -> Option<(Version, Aead)> {
    match suite {
        [0xc0, 0x2b | 0x2f] => Some((Version::Tls12, Aead::Aes128Gcm)),
        [0xc0, 0x2c | 0x30] => Some((Version::Tls12, Aead::Aes256Gcm)),
        [0xcc, 0xa8 | 0xa9] => Some((Version::Tls12, Aead::ChaCha20Poly1305)),
        [0x13, 0x01] => Some((Version::Tls13, Aead::Aes128Gcm)),
        [0x13, 0x02] => Some((Version::Tls13, Aead::Aes256Gcm)),
        [0x13, 0x03] => Some((Version::Tls13, Aead::ChaCha20Poly1305)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(message_type: u8, random: u8, suite: [u8; 2]) -> Vec<u8> {
        let mut hello = vec![message_type, 0, 0, 37, 3, 3];
        hello.extend([random; 32]);
        hello.push(0);
        hello.extend(suite);
        hello
    }

    fn in_records(stream: &[u8], bytes: usize) -> Vec<u8> {
        stream.chunks(bytes).flat_map(|part| [&[22, 3, 3, 0, part.len() as u8], part].concat()).collect()
    }

    #[test]
    fn hellos_are_read_from_records_of_any_size() {
        let (client, server) = (hello(1, 7, [0, 0]), hello(2, 8, [0xc0, 0x2c]));
        for bytes in [1, 10, 41, 200] {
            let wire = in_records(&[&server[..], &[14, 0, 0, 0]].concat(), bytes);
            let hellos = Hellos::read(&in_records(&client, bytes), &wire).expect("both are whole");
            assert_eq!((hellos.version, hellos.aead), (Version::Tls12, Aead::Aes256Gcm));
            assert_eq!((hellos.client_random, hellos.server_random), ([7; 32], [8; 32]));
            assert!(Hellos::read(&in_records(&client, bytes), &wire[..40]).is_none(), "the front of one");
        }
    }

    #[test]
    fn records_end_with_what_is_not_whole() {
        let wire = [23, 3, 3, 0, 1, 9, 21, 3, 3, 0, 0, 23, 3, 3, 0, 2, 7];
        let found: Vec<_> = records(&wire).collect();
        assert_eq!(found, [(&wire[..6], true), (&wire[6..11], true), (&wire[11..], false)]);
    }
}
