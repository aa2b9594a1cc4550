//! What can be told from the bytes of a wire alone.

const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const SERVER_HELLO: u8 = 2;
/// TLS 1.2 suites of AES-GCM that the profile lists (RFC 5289 §3.2).
const AES_GCM_SUITES: [[u8; 2]; 4] = [[0xc0, 0x2b], [0xc0, 0x2c], [0xc0, 0x2f], [0xc0, 0x30]];

/// The explicit nonces that a server used, in order: the first 8 bytes of each protected record of TLS 1.2
/// AES-GCM; none if it negotiated anything else.
#[must_use]
pub fn explicit_nonces(wire: &[u8]) -> Vec<[u8; 8]> {
    let mut rest = wire;
    let (mut is_gcm, mut is_protected) = (false, false);
    let mut nonces = Vec::new();
    while let Some((header, behind)) = rest.split_first_chunk::<5>() {
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let Some((payload, next)) = behind.split_at_checked(length) else { break };
        is_gcm |= header[0] == HANDSHAKE && !is_protected && suite(payload).is_some_and(is_aes_gcm);
        if is_protected && is_gcm {
            nonces.extend(payload.first_chunk::<8>());
        }
        is_protected |= header[0] == CHANGE_CIPHER_SPEC;
        rest = next;
    }
    nonces
}

/// The suite of a ServerHello: behind type, length, version, random and session identifier.
fn suite(message: &[u8]) -> Option<[u8; 2]> {
    let session_id_bytes = usize::from(*message.get(38).filter(|_| message.first() == Some(&SERVER_HELLO))?);
    message.get(39 + session_id_bytes..)?.first_chunk::<2>().copied()
}

fn is_aes_gcm(suite: [u8; 2]) -> bool {
    AES_GCM_SUITES.contains(&suite)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_are_read_behind_change_cipher_spec() {
        let mut hello = vec![22, 3, 3, 0, 41, 2, 0, 0, 37, 3, 3];
        hello.extend([7; 32]);
        hello.extend([0, 0xc0, 0x2b]);
        let wire = [&hello[..], &[20, 3, 3, 0, 1, 1], &[22, 3, 3, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9], &[23, 3]];
        assert_eq!(explicit_nonces(&wire.concat()), [[1, 2, 3, 4, 5, 6, 7, 8]]);
        *hello.last_mut().expect("the suite") = 0xa9;
        let wire = [&hello[..], &[20, 3, 3, 0, 1, 1], &[22, 3, 3, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9]];
        assert!(explicit_nonces(&wire.concat()).is_empty(), "ChaCha20-Poly1305 has none");
    }
}
