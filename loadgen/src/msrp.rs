//! As much of MSRP (RFC 4975) as a load of it needs: SEND requests, their 200 OK, and their heads read back.

use std::io::Write as _;

use anyhow::{Context, Result, bail, ensure};

use crate::failure::Failure;

/// The most bytes of a message in one SEND: media-plane clients chunk at 2 KiB.
pub const CHUNK_BYTES_MAX: usize = 2048;
/// The most bytes of a head that is read.
pub const HEAD_BYTES_MAX: usize = 1024;
/// The most bytes of a response: it has no body, and of each path as many URIs as there are relays.
pub const RESPONSE_BYTES_MAX: usize = 4096;
/// The bytes of a transaction's identifier, in hexadecimal.
const ID_BYTES: usize = 16;

const SERVER: &str = "msrps://terminator.test:2855/s1;tcp";
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

/// A response of a server, any of those that RFC 4975 §9 allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The transaction's identifier.
    pub id: String,
    /// Of three digits; 200 is success.
    pub status: u16,
    /// Whether our own backend says with it that bytes were changed.
    pub is_of_integrity: bool,
}

/// Puts responses together, wherever they are cut; keeps [`RESPONSE_BYTES_MAX`] bytes at most.
#[derive(Debug, Default)]
pub struct ResponseReader {
    bytes: Vec<u8>,
}

impl ResponseReader {
    /// Takes from the front of `bytes` until a response is whole, or all.
    ///
    /// # Errors
    /// [`Failure::NotMsrp`].
    pub fn take(&mut self, bytes: &mut &[u8]) -> Result<Option<Response>, Failure> {
        // Line by line: only at the end of one can a response end.
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(at + 1);
            *bytes = rest;
            self.keep(line)?;
            if let Some(response) = self.whole()? {
                self.bytes.clear();
                return Ok(Some(response));
            }
        }
        self.keep(std::mem::take(bytes))?;
        Ok(None)
    }

    /// Whether nothing of a response has come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.bytes.len() + bytes.len() > RESPONSE_BYTES_MAX {
            return Err(Failure::NotMsrp("longer than 4096 bytes"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The response, if the line that has just ended is its end line: seven hyphens, the identifier, and a
    /// flag. Headers may stand in any order, and there may be others than the two paths.
    fn whole(&self) -> Result<Option<Response>, Failure> {
        let text = std::str::from_utf8(&self.bytes).map_err(|_| Failure::NotMsrp("no text"))?;
        let mut lines = text.split_inclusive('\n').map(|line| line.strip_suffix("\r\n"));
        let not = Failure::NotMsrp;
        let first = lines.next().flatten().ok_or(not("a line that does not end in CRLF"))?;
        let (id, status, comment) = status_line(first).ok_or(not("no line MSRP ID CODE"))?;
        let Some(last) = lines.next_back() else { return Ok(None) };
        let last = last.ok_or(not("a line that does not end in CRLF"))?;
        if let Some(ended) = last.strip_prefix("-------") {
            let is_its_own = ended.strip_prefix(id).is_some_and(|flag| ["$", "+", "#"].contains(&flag));
            let is_of_integrity = status == 400 && comment == Some(CHANGED);
            let response = Response { id: id.to_owned(), status, is_of_integrity };
            return if is_its_own { Ok(Some(response)) } else { Err(not("the end line of another")) };
        }
        if last.split_once(':').is_some_and(|(name, _)| !name.is_empty() && !name.contains(' ')) {
            return Ok(None);
        }
        Err(not("a header without a colon"))
    }
}

/// `MSRP ID CODE`, and a comment or none.
fn status_line(line: &str) -> Option<(&str, u16, Option<&str>)> {
    let (id, rest) = line.strip_prefix("MSRP ")?.split_once(' ')?;
    let (code, comment) = match rest.split_once(' ') {
        Some((code, comment)) => (code, Some(comment)),
        None => (rest, None),
    };
    let is_code = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    let code = code.parse().ok().filter(|_| is_code && !id.is_empty())?;
    Some((id, code, comment))
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

    /// What a reader makes of bytes that come in pieces of this size.
    fn read(bytes: &[u8], piece: usize) -> Result<Vec<Response>, Failure> {
        let (mut reader, mut found) = (ResponseReader::default(), Vec::new());
        for mut piece in bytes.chunks(piece) {
            while let Some(response) = reader.take(&mut piece)? {
                found.push(response);
            }
        }
        assert!(reader.is_empty(), "something is left");
        Ok(found)
    }

    #[test]
    fn rfc_4975_responses_are_read_at_any_cut() {
        let response = |id: &str, status| Response { id: id.to_owned(), status, is_of_integrity: false };
        let bytes = b"MSRP a786hjs2 200 OK\r\nTo-Path: msrp://a:1/x;tcp\r\nFrom-Path: msrp://b:2/y;tcp\r\n\
            -------a786hjs2$\r\n\
            MSRP 0001 200\r\nFrom-Path: msrp://b:2/y;tcp\r\nTo-Path: msrp://a:1/x;tcp\r\nX-Own:\r\n\
            -------0001$\r\n\
            MSRP 0002 413 Stop sending, please\r\nTo-Path: x\r\n-------0002#\r\n";
        let expected = [response("a786hjs2", 200), response("0001", 200), response("0002", 413)];
        for piece in [1, 7, 64, bytes.len()] {
            assert_eq!(read(bytes, piece).unwrap(), expected, "{piece}");
        }
        let mut ours = Vec::new();
        write_answer(&mut ours, "0003", false);
        assert!(read(&ours, ours.len()).unwrap()[0].is_of_integrity);
    }

    #[test]
    fn what_is_no_response_is_named_and_bounded() {
        let long = format!("MSRP 1 200 OK\r\nX: {}\r\n", "x".repeat(RESPONSE_BYTES_MAX));
        for bytes in [
            &b"HTTP/1.1 200 OK\r\n"[..],
            b"MSRP 1 SEND\r\n",
            b"MSRP 1 20 OK\r\n",
            b"MSRP 1 200 OK\n",
            b"MSRP 1 200 OK\r\nno header\r\n",
            b"MSRP 1 200 OK\r\nTo-Path: x\r\n-------2$\r\n",
            b"MSRP 1 200 OK\r\n-------1!\r\n",
            b"\xff\xfe\r\n",
            long.as_bytes(),
        ] {
            let failed = read(bytes, 64);
            assert!(matches!(failed, Err(Failure::NotMsrp(_))), "{failed:?}");
        }
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
