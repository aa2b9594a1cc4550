//! The record header and boundary arithmetic (RFC 8446 §5.1, RFC 5246 §6.2.1).

/// Bytes of a record header: type, version, length.
pub const HEADER_BYTES: usize = 5;
/// Most plaintext bytes in one record.
pub const MAX_PLAINTEXT_BYTES: usize = 1 << 14;
/// Most bytes behind the header of a protected record: RFC 5246 §6.2.3 allows 2048 more than the plaintext,
/// RFC 8446 §5.2 only 256; the AEADs of the profile add at most 8 + 1 + 16 and padding counts as plaintext.
pub const MAX_PAYLOAD_BYTES: usize = MAX_PLAINTEXT_BYTES + 256;

/// The number of [`RecordType::ChangeCipherSpec`].
pub const CHANGE_CIPHER_SPEC: u8 = 20;
/// The number of [`RecordType::Alert`].
pub const ALERT: u8 = 21;
/// The number of [`RecordType::Handshake`].
pub const HANDSHAKE: u8 = 22;
/// The number of [`RecordType::ApplicationData`].
pub const APPLICATION_DATA: u8 = 23;

/// The record types (RFC 8446 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordType {
    /// 20, of no use after the handshake.
    ChangeCipherSpec = CHANGE_CIPHER_SPEC,
    /// 21.
    Alert = ALERT,
    /// 22.
    Handshake = HANDSHAKE,
    /// 23.
    ApplicationData = APPLICATION_DATA,
}

impl RecordType {
    /// The type with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            CHANGE_CIPHER_SPEC => Some(Self::ChangeCipherSpec),
            ALERT => Some(Self::Alert),
            HANDSHAKE => Some(Self::Handshake),
            APPLICATION_DATA => Some(Self::ApplicationData),
            _ => None,
        }
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// What is wrong with a record header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A type that no TLS record has, or a version that is not 3.x.
    NotARecord,
    /// Longer than any record may be (`record_overflow`).
    TooLong,
}

/// A record header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The outer type.
    pub record_type: RecordType,
    /// Bytes behind the header.
    pub payload_bytes: usize,
}

impl Header {
    /// Reads the header at the front of `bytes`; `None` if there are too few to tell.
    ///
    /// # Errors
    /// [`Malformed`], as soon as the bytes that are there show it.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let record_type = RecordType::from_number(first).ok_or(Malformed::NotARecord)?;
        if bytes.get(1).is_some_and(|&major| major != 3) {
            return Err(Malformed::NotARecord);
        }
        let Some(&[_, _, _, high, low]) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let payload_bytes = usize::from(u16::from_be_bytes([high, low]));
        if payload_bytes > MAX_PAYLOAD_BYTES {
            return Err(Malformed::TooLong);
        }
        Ok(Some(Self { record_type, payload_bytes }))
    }

    /// Bytes of the whole record.
    #[must_use]
    pub fn record_bytes(self) -> usize {
        HEADER_BYTES + self.payload_bytes
    }
}

/// How many more bytes are known to be needed until the record at the front of `bytes` is whole: to the end
/// of the header if that is not there yet, then to the end of the record; 0 if `bytes` is empty or starts
/// with a whole record.
///
/// # Errors
/// [`Malformed`], from the header.
pub fn missing_bytes(bytes: &[u8]) -> Result<usize, Malformed> {
    Ok(match Header::read(bytes)? {
        None if bytes.is_empty() => 0,
        None => HEADER_BYTES - bytes.len(),
        Some(header) => header.record_bytes().saturating_sub(bytes.len()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_once_it_is_whole() {
        let bytes = [23, 3, 3, 0x01, 0x02];
        for cut in 0..5 {
            assert_eq!(Header::read(&bytes[..cut]), Ok(None));
        }
        let header = Header { record_type: RecordType::ApplicationData, payload_bytes: 0x102 };
        assert_eq!(Header::read(&bytes), Ok(Some(header)));
        assert_eq!(header.record_bytes(), 0x107);
    }

    #[test]
    fn malformed_record_is_detected_at_its_first_bad_byte() {
        assert_eq!(Header::read(b"G"), Err(Malformed::NotARecord));
        assert_eq!(Header::read(&[22, 0x45]), Err(Malformed::NotARecord));
        assert_eq!(Header::read(&[0; 16]), Err(Malformed::NotARecord));
        assert_eq!(Header::read(&[23, 3, 3, 0x41, 0x01]), Err(Malformed::TooLong));
        assert!(Header::read(&[23, 3, 3, 0x41, 0x00]).is_ok());
    }

    #[test]
    fn the_missing_tail_is_counted_to_the_boundary() {
        assert_eq!(missing_bytes(&[]), Ok(0));
        assert_eq!(missing_bytes(&[23, 3]), Ok(3));
        assert_eq!(missing_bytes(&[23, 3, 3, 0, 4]), Ok(4));
        assert_eq!(missing_bytes(&[23, 3, 3, 0, 4, 9, 9, 9]), Ok(1));
        assert_eq!(missing_bytes(&[23, 3, 3, 0, 1, 9]), Ok(0));
    }
}
