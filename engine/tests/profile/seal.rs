//! The seal of our tickets, opened with the key of a file: real tickets whose content is not what it should
//! be. The form stands in `tls/tickets.rs`; a test that reads it as it is told here fails where it changes.

use std::path::Path;

use aws_lc_rs::cipher::{
    AES_128, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey,
    UnboundCipherKey,
};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;

/// A key that seals from long ago until long after any test.
pub(crate) struct Seal;

const NAME: [u8; 16] = [0xa5; 16];
const ENCRYPTION: [u8; 16] = *b"0123456789abcdef";
const AUTHENTICATION: [u8; 32] = *b"0123456789abcdefghijklmnopqrstuv";
const TAG_BYTES: usize = 32;

/// What stands in front of the session.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) form: u8,
    pub(crate) class: [u8; 16],
    /// When the session had its first full handshake, in seconds since 1970.
    pub(crate) origin: u64,
    pub(crate) session: Vec<u8>,
}

impl Seal {
    /// The file of ticket keys with this one alone.
    pub(crate) fn write(path: &Path) {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let times = "2001-01-01T00:00:00Z 9001-01-01T00:00:00Z";
        let (name, secret) = (hex(&NAME), hex(&[&ENCRYPTION[..], &AUTHENTICATION].concat()));
        std::fs::write(path, format!("key {name} {times} {secret}\n")).unwrap();
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }

    pub(crate) fn open(ticket: &[u8]) -> Content {
        let (covered, tag) = ticket.split_at(ticket.len() - TAG_BYTES);
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &AUTHENTICATION), covered, tag).unwrap();
        let (name, rest) = covered.split_first_chunk::<16>().unwrap();
        let (iv, ciphertext) = rest.split_first_chunk::<16>().unwrap();
        assert_eq!(*name, NAME);
        let key = UnboundCipherKey::new(&AES_128, &ENCRYPTION).unwrap();
        let mut body = ciphertext.to_vec();
        let context = DecryptionContext::Iv128(FixedLength::from(*iv));
        let plain = PaddedBlockDecryptingKey::cbc_pkcs7(key).unwrap().decrypt(&mut body, context).unwrap();
        let (class, rest) = plain[1..].split_first_chunk().unwrap();
        let (origin, session) = rest.split_first_chunk().unwrap();
        let origin = u64::from_be_bytes(*origin);
        Content { form: plain[0], class: *class, origin, session: session.to_vec() }
    }

    pub(crate) fn seal(content: &Content) -> Vec<u8> {
        let origin = content.origin.to_be_bytes();
        let mut body = [&[content.form][..], &content.class, &origin, &content.session].concat();
        let key = UnboundCipherKey::new(&AES_128, &ENCRYPTION).unwrap();
        let iv = [0x77; 16];
        let context = EncryptionContext::Iv128(FixedLength::from(iv));
        PaddedBlockEncryptingKey::cbc_pkcs7(key).unwrap().less_safe_encrypt(&mut body, context).unwrap();
        let covered = [&NAME[..], &iv, &body].concat();
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &AUTHENTICATION), &covered);
        [&covered[..], tag.as_ref()].concat()
    }
}
