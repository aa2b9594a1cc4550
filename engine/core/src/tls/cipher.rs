//! Records sealed and opened in userspace: the record path that is equal to the kernel.
//!
//! rustls hands out keys and sequence numbers when the handshake is complete, to the kernel and to this
//! module alike, so both record paths start from the same state and either can take over from the other at a
//! record boundary. Records are sealed and opened from one buffer into another, several in a row, with no
//! allocation and no copy beside the cipher's own pass over the bytes.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::record::{HEADER_BYTES, Header, MAX_PLAINTEXT_BYTES, Malformed, RecordType};
use super::secrets::{Aead, TrafficKeys, Version};
use crate::buf::Buf;

const TAG_BYTES: usize = 16;
const EXPLICIT_NONCE_BYTES: usize = 8;
/// Most bytes that a record adds to its plaintext: header, explicit nonce or inner type, tag.
pub const MAX_OVERHEAD_BYTES: usize = HEADER_BYTES + EXPLICIT_NONCE_BYTES + TAG_BYTES;

/// Bytes of a full record under these keys, as a peer sends bulk.
#[must_use]
pub fn full_record_bytes(keys: &TrafficKeys) -> usize {
    let added = match keys.version() {
        Version::Tls13 => 1,
        Version::Tls12 if keys.has_explicit_nonce() => EXPLICIT_NONCE_BYTES,
        Version::Tls12 => 0,
    };
    HEADER_BYTES + MAX_PLAINTEXT_BYTES + added + TAG_BYTES
}

/// Why a record cannot be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealError {
    /// The key has protected as many records as it may (RFC 8446 §5.5).
    LimitReached,
    /// The output has no room for the records.
    NoRoom,
}

/// Why a record cannot be opened. Each is fatal to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Forged, damaged, replayed or out of order (`bad_record_mac`).
    BadRecord,
    /// No record at all (`decode_error`), or one longer than allowed (`record_overflow`).
    Malformed(Malformed),
    /// An outer or inner type that does not belong here (`unexpected_message`).
    UnexpectedType,
}

/// Seals the records of one direction.
#[derive(Debug)]
pub struct Sealer {
    keys: TrafficKeys,
    cipher: LessSafeKey,
}

impl Sealer {
    /// Continues at the sequence number of `keys`.
    #[must_use]
    pub fn new(keys: TrafficKeys) -> Self {
        Self { cipher: cipher(&keys), keys }
    }

    /// The keys at their present sequence number, to be handed to the kernel or replaced.
    #[must_use]
    pub fn keys(&self) -> &TrafficKeys {
        &self.keys
    }

    /// Bytes that `plaintext_bytes` of one type take as records.
    #[must_use]
    pub fn sealed_bytes(&self, plaintext_bytes: usize) -> usize {
        let records = plaintext_bytes.div_ceil(MAX_PLAINTEXT_BYTES).max(1);
        plaintext_bytes + records * MAX_OVERHEAD_BYTES
    }

    /// Appends `plaintext` to `sealed`, as many records as it takes; none if it is empty.
    ///
    /// # Errors
    /// [`SealError`]; what was appended before stays.
    pub fn seal(
        &mut self,
        record_type: RecordType,
        plaintext: &[u8],
        sealed: &mut Buf,
    ) -> Result<(), SealError> {
        for fragment in plaintext.chunks(MAX_PLAINTEXT_BYTES) {
            if self.keys.sequence() >= self.keys.aead().record_limit() {
                return Err(SealError::LimitReached);
            }
            let bytes = self.seal_record(record_type, fragment, sealed.spare_mut())?;
            sealed.commit(bytes);
            self.keys.advance();
        }
        Ok(())
    }

    fn seal_record(
        &self,
        record_type: RecordType,
        fragment: &[u8],
        room: &mut [u8],
    ) -> Result<usize, SealError> {
        let nonce = self.keys.nonce();
        let inner_type = [record_type.number()];
        let (explicit_nonce, inner_type) = match self.keys.version() {
            Version::Tls13 => (None, &inner_type[..]),
            Version::Tls12 if self.keys.has_explicit_nonce() => {
                (nonce.last_chunk::<EXPLICIT_NONCE_BYTES>(), &[][..])
            }
            Version::Tls12 => (None, &[][..]),
        };
        let prefix_bytes = explicit_nonce.map_or(0, |bytes| bytes.len());
        let payload_bytes = prefix_bytes + fragment.len() + inner_type.len() + TAG_BYTES;
        let record_bytes = HEADER_BYTES + payload_bytes;
        let room = room.get_mut(..record_bytes).ok_or(SealError::NoRoom)?;
        let outer_type = match self.keys.version() {
            Version::Tls13 => RecordType::ApplicationData,
            Version::Tls12 => record_type,
        };
        let header = header(outer_type, payload_bytes);
        let (head, rest) = room.split_at_mut(HEADER_BYTES);
        head.copy_from_slice(&header);
        let (prefix, rest) = rest.split_at_mut(prefix_bytes);
        if let Some(explicit_nonce) = explicit_nonce {
            prefix.copy_from_slice(explicit_nonce);
        }
        let (body, tail) = rest.split_at_mut(fragment.len());
        let aad = aad(&self.keys, record_type, fragment.len(), header);
        self.cipher
            .seal_out_of_place_scatter(nonce_of(nonce), aad, fragment, body, inner_type, tail)
            .map_err(|_| SealError::NoRoom)?;
        Ok(record_bytes)
    }
}

/// Opens the records of one direction.
#[derive(Debug)]
pub struct Opener {
    keys: TrafficKeys,
    cipher: LessSafeKey,
}

impl Opener {
    /// Continues at the sequence number of `keys`.
    #[must_use]
    pub fn new(keys: TrafficKeys) -> Self {
        Self { cipher: cipher(&keys), keys }
    }

    /// The keys at their present sequence number, to be handed to the kernel or replaced.
    #[must_use]
    pub fn keys(&self) -> &TrafficKeys {
        &self.keys
    }

    /// Opens the record that is exactly `record`, appends its plaintext to `opened` and says its (inner)
    /// type. Nothing is appended on an error.
    ///
    /// # Errors
    /// [`OpenError`].
    ///
    /// # Panics
    /// If `opened` has less room than `record` has bytes, or `record` is not a whole record: the caller's
    /// arithmetic.
    pub fn open(&mut self, header: Header, record: &[u8], opened: &mut Buf) -> Result<RecordType, OpenError> {
        assert_eq!(record.len(), header.record_bytes(), "the caller passes exactly one record");
        let payload = &record[HEADER_BYTES..];
        let (nonce, body) = self.nonce_and_body(payload)?;
        let (ciphertext, tag) = body.split_at(body.len() - TAG_BYTES);
        let plaintext_limit = match self.keys.version() {
            Version::Tls12 => MAX_PLAINTEXT_BYTES,
            Version::Tls13 if header.record_type != RecordType::ApplicationData => {
                return Err(OpenError::UnexpectedType);
            }
            Version::Tls13 => MAX_PLAINTEXT_BYTES + 1,
        };
        if ciphertext.len() > plaintext_limit {
            return Err(OpenError::Malformed(Malformed::TooLong));
        }
        let outer = *record.first_chunk().expect("a record has a header");
        let aad = aad(&self.keys, header.record_type, ciphertext.len(), outer);
        let room = &mut opened.spare_mut()[..ciphertext.len()];
        self.cipher
            .open_separate_gather(nonce_of(nonce), aad, ciphertext, tag, room)
            .map_err(|_| OpenError::BadRecord)?;
        self.keys.advance();
        let (record_type, plaintext_bytes) = match self.keys.version() {
            Version::Tls12 => (header.record_type, room.len()),
            Version::Tls13 => inner_type(room)?,
        };
        opened.commit(plaintext_bytes);
        Ok(record_type)
    }

    fn nonce_and_body<'a>(&self, payload: &'a [u8]) -> Result<([u8; 12], &'a [u8]), OpenError> {
        let mut nonce = self.keys.nonce();
        let body = if self.keys.has_explicit_nonce() {
            let (explicit, body) =
                payload.split_at_checked(EXPLICIT_NONCE_BYTES).ok_or(OpenError::BadRecord)?;
            nonce = *self.keys.iv();
            nonce[4..].copy_from_slice(explicit);
            body
        } else {
            payload
        };
        if body.len() < TAG_BYTES {
            return Err(OpenError::BadRecord);
        }
        Ok((nonce, body))
    }
}

/// The inner type and plaintext length of a TLSInnerPlaintext (RFC 8446 §5.2, §5.4): zeros behind the type
/// are padding.
fn inner_type(inner: &[u8]) -> Result<(RecordType, usize), OpenError> {
    let at = inner.iter().rposition(|&byte| byte != 0).ok_or(OpenError::UnexpectedType)?;
    let record_type = RecordType::from_number(inner[at]).ok_or(OpenError::UnexpectedType)?;
    Ok((record_type, at))
}

fn header(record_type: RecordType, payload_bytes: usize) -> [u8; HEADER_BYTES] {
    let [high, low] = (payload_bytes as u16).to_be_bytes();
    [record_type.number(), 3, 3, high, low]
}

/// The additional data: sequence number, type, version and length in TLS 1.2 (RFC 5246 §6.2.3.3), the outer
/// header in TLS 1.3 (RFC 8446 §5.2).
fn aad(
    keys: &TrafficKeys,
    record_type: RecordType,
    plaintext_bytes: usize,
    outer: [u8; HEADER_BYTES],
) -> Aad<AdditionalData> {
    let mut bytes = [0; 13];
    let used = match keys.version() {
        Version::Tls13 => {
            bytes[..HEADER_BYTES].copy_from_slice(&outer);
            HEADER_BYTES
        }
        Version::Tls12 => {
            bytes[..8].copy_from_slice(&keys.sequence().to_be_bytes());
            bytes[8..].copy_from_slice(&header(record_type, plaintext_bytes));
            bytes.len()
        }
    };
    Aad::from(AdditionalData { bytes, used })
}

struct AdditionalData {
    bytes: [u8; 13],
    used: usize,
}

impl AsRef<[u8]> for AdditionalData {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}

fn nonce_of(bytes: [u8; 12]) -> Nonce {
    Nonce::assume_unique_for_key(bytes)
}

fn cipher(keys: &TrafficKeys) -> LessSafeKey {
    let algorithm = match keys.aead() {
        Aead::Aes128Gcm => &AES_128_GCM,
        Aead::Aes256Gcm => &AES_256_GCM,
        Aead::ChaCha20Poly1305 => &CHACHA20_POLY1305,
    };
    LessSafeKey::new(
        UnboundKey::new(algorithm, keys.key()).expect("TrafficKeys has a key of its AEAD's length"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const AEADS: [Aead; 3] = [Aead::Aes128Gcm, Aead::Aes256Gcm, Aead::ChaCha20Poly1305];

    fn pair(version: Version, aead: Aead) -> (Sealer, Opener) {
        let keys = TrafficKeys::new(version, aead, &vec![7; aead.key_bytes()], [5; 12], 41)
            .expect("the right length");
        (Sealer::new(keys.clone()), Opener::new(keys))
    }

    fn open_all(opener: &mut Opener, sealed: &[u8]) -> Result<Vec<(RecordType, Vec<u8>)>, OpenError> {
        let mut rest = sealed;
        let mut records = Vec::new();
        while let Some(header) = Header::read(rest).map_err(OpenError::Malformed)? {
            let (record, next) = rest.split_at(header.record_bytes());
            let mut opened = Buf::with_capacity(20_000);
            let record_type = opener.open(header, record, &mut opened)?;
            records.push((record_type, opened.filled().to_vec()));
            rest = next;
        }
        Ok(records)
    }

    #[test]
    fn sealed_data_opens_in_records_of_at_most_16_kib() {
        for version in [Version::Tls12, Version::Tls13] {
            for aead in AEADS {
                let (mut sealer, mut opener) = pair(version, aead);
                let plaintext: Vec<u8> = (0..40_000_u32).map(|n| n as u8).collect();
                let mut sealed = Buf::with_capacity(sealer.sealed_bytes(plaintext.len()));
                sealer.seal(RecordType::ApplicationData, &plaintext, &mut sealed).expect("there is room");
                let records = open_all(&mut opener, sealed.filled()).expect("ours opens ours");
                let sizes: Vec<_> = records.iter().map(|(_, bytes)| bytes.len()).collect();
                assert_eq!(sizes, [16_384, 16_384, 7_232], "{version:?} {aead:?}");
                let header = Header::read(sealed.filled()).expect("a record").expect("whole");
                assert_eq!(header.record_bytes(), full_record_bytes(opener.keys()));
                assert_eq!(records.concat_bytes(), plaintext);
                assert_eq!((sealer.keys().sequence(), opener.keys().sequence()), (44, 44));
            }
        }
    }

    trait ConcatBytes {
        fn concat_bytes(&self) -> Vec<u8>;
    }
    impl ConcatBytes for Vec<(RecordType, Vec<u8>)> {
        fn concat_bytes(&self) -> Vec<u8> {
            self.iter().flat_map(|(_, bytes)| bytes.clone()).collect()
        }
    }

    #[test]
    fn inner_type_is_sealed_and_every_bit_flip_is_found() {
        for version in [Version::Tls12, Version::Tls13] {
            let (mut sealer, _) = pair(version, Aead::Aes128Gcm);
            let mut sealed = Buf::with_capacity(100);
            sealer.seal(RecordType::Alert, &[1, 0], &mut sealed).expect("there is room");
            let (_, mut opener) = pair(version, Aead::Aes128Gcm);
            assert_eq!(open_all(&mut opener, sealed.filled()), Ok(vec![(RecordType::Alert, vec![1, 0])]));
            for bit in HEADER_BYTES * 8..sealed.len() * 8 {
                let mut damaged = sealed.filled().to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let (_, mut opener) = pair(version, Aead::Aes128Gcm);
                assert_eq!(open_all(&mut opener, &damaged), Err(OpenError::BadRecord), "bit {bit}");
            }
        }
    }

    #[test]
    fn padding_is_stripped_and_padding_alone_is_refused() {
        assert_eq!(inner_type(&[1, 2, 23, 0, 0]), Ok((RecordType::ApplicationData, 2)));
        assert_eq!(inner_type(&[23]), Ok((RecordType::ApplicationData, 0)));
        assert_eq!(inner_type(&[0, 0]), Err(OpenError::UnexpectedType));
        assert_eq!(inner_type(&[9]), Err(OpenError::UnexpectedType));
    }

    #[test]
    fn short_payloads_are_bad_records() {
        for (version, payload_bytes) in [(Version::Tls12, 7), (Version::Tls12, 23), (Version::Tls13, 15)] {
            let (_, mut opener) = pair(version, Aead::Aes256Gcm);
            let mut record = header(RecordType::ApplicationData, payload_bytes).to_vec();
            record.resize(HEADER_BYTES + payload_bytes, 0);
            assert_eq!(open_all(&mut opener, &record), Err(OpenError::BadRecord));
        }
    }

    #[test]
    fn a_spent_key_seals_no_more() {
        let limit = Aead::Aes128Gcm.record_limit();
        let keys = TrafficKeys::new(Version::Tls13, Aead::Aes128Gcm, &[7; 16], [5; 12], limit - 1)
            .expect("the right length");
        let mut sealer = Sealer::new(keys);
        let mut sealed = Buf::with_capacity(100);
        assert_eq!(sealer.seal(RecordType::ApplicationData, b"x", &mut sealed), Ok(()));
        assert_eq!(sealer.seal(RecordType::ApplicationData, b"x", &mut sealed), Err(SealError::LimitReached));
    }

    #[test]
    fn no_room_is_said_and_spends_no_sequence_number() {
        let (mut sealer, _) = pair(Version::Tls13, Aead::Aes128Gcm);
        let mut sealed = Buf::with_capacity(10);
        assert_eq!(sealer.seal(RecordType::ApplicationData, b"x", &mut sealed), Err(SealError::NoRoom));
        assert_eq!((sealer.keys().sequence(), sealed.len()), (41, 0));
    }
}
