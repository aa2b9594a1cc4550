//! Looks into the ClientHello that goes out: whether it really offers to resume.
//!
//! A ticket that was handed to rustls need not be sent: one that has expired is left out without a word.

/// pre_shared_key (RFC 8446 §4.2.11).
const PRE_SHARED_KEY: u16 = 41;
/// key_share (RFC 8446 §4.2.8): every hello that may lead to TLS 1.3 has one.
const KEY_SHARE: u16 = 51;
/// What comes before the session identifier: the record's header, the message's, version and random.
const BEFORE_SESSION_ID: usize = 5 + 4 + 2 + 32;

/// Whether a ClientHello, in its record, offers a ticket or an identifier of an earlier session.
#[must_use]
pub fn offers_session(record: &[u8]) -> bool {
    parse(record).unwrap_or(false)
}

fn parse(record: &[u8]) -> Option<bool> {
    let mut rest = record.get(BEFORE_SESSION_ID..)?;
    let session_id = take(&mut rest, 1)?;
    let (_suites, _compressions) = (take(&mut rest, 2)?, take(&mut rest, 1)?);
    let mut extensions = take(&mut rest, 2)?;
    let (mut tls13, mut psk) = (false, false);
    while let Some((number, after)) = extensions.split_first_chunk::<2>() {
        extensions = after;
        take(&mut extensions, 2)?;
        match u16::from_be_bytes(*number) {
            KEY_SHARE => tls13 = true,
            PRE_SHARED_KEY => psk = true,
            _ => {}
        }
    }
    // In TLS 1.2 an identifier goes with every ticket (RFC 5077 §3.4); in 1.3 there always is one.
    Some(psk || (!tls13 && !session_id.is_empty()))
}

/// A vector with a length of so many bytes before it.
fn take<'a>(bytes: &mut &'a [u8], length_bytes: usize) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_at_checked(length_bytes)?;
    let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let (vector, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    Some(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(session_id: &[u8], extensions: &[u16]) -> Vec<u8> {
        let mut out = vec![0; BEFORE_SESSION_ID];
        out.push(session_id.len() as u8);
        out.extend(session_id);
        out.extend([0, 2, 0x13, 1, 1, 0]);
        out.extend((extensions.len() as u16 * 5).to_be_bytes());
        for extension in extensions {
            out.extend(extension.to_be_bytes());
            out.extend([0, 1, 7]);
        }
        out
    }

    #[test]
    fn what_is_offered_is_read_off_the_wire() {
        assert!(!offers_session(&hello(&[], &[10, 35])), "an empty offer to take a ticket is none");
        assert!(offers_session(&hello(&[1; 32], &[10, 35])), "TLS 1.2 resumes by the identifier");
        assert!(!offers_session(&hello(&[1; 32], &[KEY_SHARE])), "of TLS 1.3's compatibility mode");
        assert!(offers_session(&hello(&[1; 32], &[KEY_SHARE, PRE_SHARED_KEY])));
        assert!(!offers_session(&hello(&[1; 32], &[10])[..50]), "cut off");
    }
}
