//! The PROXY header of a balancer that stands before the accepted leg (the PROXY protocol's specification,
//! haproxy.org, versions 1 and 2).

use std::net::SocketAddr;

use super::dice::Choices;

/// One of a few, whole or damaged.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) bytes: Vec<u8>,
    /// It is as the specification has it.
    pub(super) is_whole: bool,
    /// The client that it names, if it names one.
    pub(super) client: Option<SocketAddr>,
}

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// 192.0.2.7:4711 and 192.0.2.1:443.
const ADDRESSES: &[u8] = &[192, 0, 2, 7, 192, 0, 2, 1, 0x12, 0x67, 1, 0xbb];
/// PP2_TYPE_UNIQUE_ID.
const UNIQUE_ID: &[u8] = &[5, 0, 3, b'a', b'b', b'c'];

impl Header {
    /// As the dice have it.
    pub(super) fn of(dice: &mut Choices) -> Self {
        let v2 = |front: [u8; 2], body: &[u8]| [V2, &front, &[0, body.len() as u8], body].concat();
        let (bytes, client) = match dice.below(5) {
            0 => (b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n".to_vec(), Some("192.0.2.7:4711")),
            1 => (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n".to_vec(), Some("[2001:db8::7]:4711")),
            2 => (b"PROXY UNKNOWN\r\n".to_vec(), None),
            3 => (v2([0x20, 0], &[]), None),
            _ => (v2([0x21, 0x11], &[ADDRESSES, UNIQUE_ID].concat()), Some("192.0.2.7:4711")),
        };
        let client = client.and_then(|text| text.parse().ok());
        let mut header = Self { bytes, is_whole: true, client };
        match dice.below(12) {
            0 => header.bytes[dice.below(14)] ^= 1 << dice.below(8),
            1 => header.bytes.truncate(dice.below(header.bytes.len())),
            _ => return header,
        }
        header.is_whole = false;
        header
    }
}
