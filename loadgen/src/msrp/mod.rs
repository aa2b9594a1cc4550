//! The part of MSRP (RFC 4975) that a load generator and its backend need: SENDs, their heads, and responses.

use std::io::Write as _;

use anyhow::{Context, Result, bail, ensure};

mod response;

pub use response::{RESPONSE_BYTES_MAX, Response, ResponseReader};

/// The most bytes of a message in one SEND: media-plane clients chunk at 2 KiB.
pub const CHUNK_BYTES_MAX: usize = 2048;
/// The most bytes of a head that is read.
pub const HEAD_BYTES_MAX: usize = 1024;
/// The bytes of a transaction's identifier, in hexadecimal.
const ID_BYTES: usize = 16;

/// The To-Path of every SEND.
const SERVER: &str = "msrps://terminator.test:2855/s1;tcp";
/// The From-Path of every SEND.
const CLIENT: &str = "msrps://client.invalid:2855/c1;tcp";

/// One SEND: where its chunk lies in its message, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The transaction.
    pub id: u64,
    /// The message that it belongs to.
    pub message: u64,
    /// Its first byte.
    pub start: usize,
    /// Its bytes.
    pub len: usize,
    /// The message's bytes.
    pub total: usize,
}

impl Chunk {
    /// Appends the request with this body, which has the chunk's length.
    pub fn write(&self, out: &mut Vec<u8>, body: &[u8]) {
        let Self { id, message, start, len, total } = self;
        // Writing to a vector cannot fail.
        let _ = write!(
            out,
            "MSRP {id:016x} SEND\r\nTo-Path: {SERVER}\r\nFrom-Path: {CLIENT}\r\n\
             Message-ID: {message:016x}\r\n\
             Byte-Range: {}-{}/{total}\r\nContent-Type: text/plain\r\n\r\n",
            start + 1,
            start + len,
        );
        out.extend_from_slice(body);
        let _ = write!(out, "\r\n-------{id:016x}{}\r\n", if start + len == *total { '$' } else { '+' });
    }
}

/// The comment of the answer 400 of our own [`backend`](crate::backend): bytes were not the right ones.
const CHANGED: &str = "Changed";

/// Appends the answer to the transaction `id`: 200 OK, or 400 if its bytes were not the right ones.
pub fn write_answer(out: &mut Vec<u8>, id: &str, right: bool) {
    let status = if right { "200 OK".to_owned() } else { format!("400 {CHANGED}") };
    // Writing to a vector cannot fail.
    let _ = write!(out, "MSRP {id} {status}\r\nTo-Path: {CLIENT}\r\nFrom-Path: {SERVER}\r\n-------{id}$\r\n");
}

/// The identifier of a [`Chunk`]'s transaction, as it stands in its request and must in the response.
#[must_use]
pub fn transaction(id: u64) -> String {
    format!("{id:016x}")
}

/// What a server needs of a SEND's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The transaction.
    pub id: String,
    /// The bytes of the body.
    pub len: usize,
}

impl Head {
    /// Reads a head, its empty line included.
    ///
    /// # Errors
    /// It is no SEND with a closed byte range.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes).context("a head that is no text")?;
        let mut lines = text.lines();
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (Some("MSRP"), Some(id), Some("SEND")) = (words.next(), words.next(), words.next()) else {
            bail!("no SEND");
        };
        ensure!(id.len() == ID_BYTES, "an identifier of another length");
        let range = lines.find_map(|line| line.strip_prefix("Byte-Range: ")).context("no byte range")?;
        let (range, _) = range.split_once('/').context("no total")?;
        let (start, end) = range.split_once('-').context("no range")?;
        let (start, end): (usize, usize) = (start.parse()?, end.parse()?);
        let len = (end + 1).checked_sub(start).context("a range that ends before it starts")?;
        ensure!(len <= CHUNK_BYTES_MAX, "a chunk of more than {CHUNK_BYTES_MAX} bytes");
        Ok(Self { id: id.to_owned(), len })
    }

    /// How many bytes follow the body: its line end and the end line.
    #[must_use]
    pub const fn tail_len() -> usize {
        2 + 7 + ID_BYTES + 1 + 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_read_as_it_was_written() {
        let chunk = Chunk { id: 7, message: 1, start: 2048, len: 3, total: 2051 };
        let mut out = Vec::new();
        chunk.write(&mut out, b"abc");
        let at = out.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let head = Head::read(&out[..at]).unwrap();
        assert_eq!(head, Head { id: "0000000000000007".to_owned(), len: 3 });
        assert_eq!(out.len(), at + head.len + Head::tail_len());
        assert!(out.ends_with(b"abc\r\n-------0000000000000007$\r\n"));
        let mut first = Vec::new();
        Chunk { start: 0, len: 2048, ..chunk }.write(&mut first, &[b'x'; 2048]);
        assert!(first.ends_with(b"-------0000000000000007+\r\n"), "more is to come");
    }

    #[test]
    fn msrp_head_with_a_bad_range_or_method_is_refused() {
        for range in ["1-4000/4000", "9-3/9", "1-*/9", "x"] {
            let head = format!("MSRP 0000000000000007 SEND\r\nByte-Range: {range}\r\n\r\n");
            assert!(Head::read(head.as_bytes()).is_err(), "{range}");
        }
        assert!(Head::read(b"MSRP 0000000000000007 REPORT\r\n\r\n").is_err());
    }
}
