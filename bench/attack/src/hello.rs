//! Canned ClientHellos: the same bytes each time, and nobody has the keys for them.

/// What a server is made to do for a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// TLS 1.3, or else TLS 1.2.
    pub tls13: bool,
    /// Which key is to sign.
    pub key: Key,
}

/// The kind of key that the hello's signature algorithms and cipher suites ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// ECDSA on P-256.
    Ecdsa,
    /// RSA.
    Rsa,
}

/// Handshake record, TLS 1.0 as the version of a first hello's record (RFC 8446 §5.1).
const RECORD: [u8; 3] = [22, 3, 1];
const CLIENT_HELLO: u8 = 1;
const X25519: u16 = 29;
const P256: u16 = 23;
/// The base point of X25519: a share whose secret key is 1, which anybody may have.
const BASE_POINT: u8 = 9;

impl Hello {
    /// The whole hello in its record, some 130 bytes.
    #[must_use]
    pub fn record(self) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([0x5a; 32]);
        body.push(0);
        body.extend(numbers(self.suites()));
        body.extend([1, 0]);
        body.extend(vector(&self.extensions()));
        let mut message = vec![CLIENT_HELLO, 0];
        message.extend(vector(&body));
        let mut record = RECORD.to_vec();
        record.extend(vector(&message));
        record
    }

    fn suites(self) -> &'static [u16] {
        match (self.tls13, self.key) {
            (true, _) => &[0x1301],
            (false, Key::Ecdsa) => &[0xc02b],
            (false, Key::Rsa) => &[0xc02f],
        }
    }

    fn extensions(self) -> Vec<u8> {
        let schemes: &[u16] = match self.key {
            Key::Ecdsa => &[0x0403],
            Key::Rsa => &[0x0804, 0x0401],
        };
        let mut all = Vec::new();
        let mut add = |kind: u16, body: &[u8]| {
            all.extend(kind.to_be_bytes());
            all.extend(vector(body));
        };
        // In TLS 1.2 the groups are also the curves of certificates that are taken (RFC 8422 §5.1.1).
        add(10, &numbers(&[X25519, P256]));
        add(11, &[1, 0]);
        add(13, &numbers(schemes));
        add(23, &[]);
        if self.tls13 {
            let mut share = [BASE_POINT; 1].to_vec();
            share.resize(32, 0);
            let entry = [&X25519.to_be_bytes()[..], &vector(&share)].concat();
            add(43, &[2, 3, 4]);
            add(45, &[1, 1]);
            add(51, &vector(&entry));
        }
        all
    }

    /// Whether these bytes, all that have come, show that the server has done its work: in TLS 1.2 its flight
    /// to ServerHelloDone, in TLS 1.3, where most of it is sealed, its first records.
    #[must_use]
    pub fn is_answered(self, came: &[u8]) -> bool {
        const SERVER_HELLO_DONE: [u8; 4] = [14, 0, 0, 0];
        let handshake = came.first() == Some(&RECORD[0]);
        handshake && (self.tls13 || came.ends_with(&SERVER_HELLO_DONE))
    }
}

/// With a length of two bytes in front.
fn vector(body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("a hello is short");
    [&length.to_be_bytes()[..], body].concat()
}

fn numbers(list: &[u16]) -> Vec<u8> {
    vector(&list.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_lengths_agree_with_its_bytes() {
        for tls13 in [false, true] {
            for key in [Key::Ecdsa, Key::Rsa] {
                let record = Hello { tls13, key }.record();
                let length = |at: usize| usize::from(u16::from_be_bytes([record[at], record[at + 1]]));
                assert_eq!(length(3), record.len() - 5);
                assert_eq!(length(7), record.len() - 9);
            }
        }
    }

    #[test]
    fn hello_is_answered_by_a_flight_and_not_by_an_alert() {
        let hello = Hello { tls13: false, key: Key::Rsa };
        assert!(!hello.is_answered(&[]));
        assert!(!hello.is_answered(&[21, 3, 3, 0, 2, 2, 40]));
        assert!(!hello.is_answered(&[22, 3, 3, 0, 4, 2]));
        assert!(hello.is_answered(&[22, 3, 3, 0, 4, 14, 0, 0, 0]));
        assert!(Hello { tls13: true, ..hello }.is_answered(&[22, 3, 3, 0, 4, 2]));
    }
}
