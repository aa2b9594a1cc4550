//! What the backend says on one connection, without sockets: bytes in, bytes out.

use std::collections::VecDeque;

use anyhow::{Result, bail, ensure};
use offramp_proto::buf::Buf;

use super::{CHANGED, ECHO, HOLD, MESSAGE, MSRP, PROXY, SINK, SOURCE};
use crate::msrp::{self, Head};
use crate::pattern;

/// Signature, version, family and length of a PROXY header of version 2.
const PROXY_HEAD_BYTES: usize = 16;

/// One connection's service.
#[derive(Debug, Default)]
pub(super) struct Service {
    state: State,
    /// A header of which not all has come.
    partial: Vec<u8>,
    /// How many bytes of the pattern have come, and how many were promised.
    received: u64,
    promised: u64,
    /// Whether all of them were right so far.
    right: bool,
    out: VecDeque<Out>,
}

#[derive(Debug, Default)]
enum State {
    /// Nothing has come: the first byte says what is asked.
    #[default]
    New,
    Echo,
    Held,
    /// The length of what is to be sunk, or of what is to be sourced.
    Length(u8),
    /// So many bytes of the pattern are to come, and then this is due.
    Body(u64, Due),
    /// The first bytes of a PROXY header.
    ProxyHead,
    /// So many bytes of it are to come.
    ProxyTail(usize),
    /// The head of a SEND.
    MsrpHead,
    /// So many bytes behind the body of a SEND are to come.
    MsrpTail(usize, String),
}

#[derive(Debug)]
enum Due {
    /// The length back.
    Length(u64),
    /// A verdict and so many bytes.
    Answer(u64),
    /// The end of a SEND.
    Tail(String),
}

#[derive(Debug)]
enum Out {
    Bytes(Vec<u8>),
    /// So many bytes of the pattern from an offset on.
    Pattern(u64, u64),
}

impl Service {
    /// Takes what came.
    ///
    /// # Errors
    /// It is nothing that can be served; what is owed is then not sent.
    pub(super) fn receive(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            bytes = match std::mem::take(&mut self.state) {
                State::New => self.greet(bytes)?,
                State::Echo => {
                    self.out.push_back(Out::Bytes(bytes.to_vec()));
                    self.state = State::Echo;
                    &[]
                }
                State::Held => {
                    self.state = State::Held;
                    &[]
                }
                State::Length(mode) => self.length(mode, bytes),
                State::Body(left, due) => self.body(left, due, bytes),
                State::ProxyHead => {
                    let (rest, head) = self.collect(PROXY_HEAD_BYTES, bytes);
                    let length = head.map(|head| u16::from_be_bytes([head[14], head[15]]).into());
                    self.state = length.map_or(State::ProxyHead, State::ProxyTail);
                    rest
                }
                State::ProxyTail(left) => {
                    let (skipped, rest) = bytes.split_at(bytes.len().min(left));
                    let left = left - skipped.len();
                    self.state = if left == 0 { State::New } else { State::ProxyTail(left) };
                    rest
                }
                State::MsrpHead => self.head(bytes)?,
                State::MsrpTail(left, id) => self.tail(left, id, bytes),
            };
        }
        Ok(())
    }

    /// Appends to `buf` what is owed, as far as there is room.
    pub(super) fn fill(&mut self, buf: &mut Buf) {
        while buf.spare_len() > 0
            && let Some(out) = self.out.front_mut()
        {
            let done = match out {
                Out::Bytes(bytes) => {
                    let count = buf.extend(bytes);
                    bytes.drain(..count);
                    bytes.is_empty()
                }
                Out::Pattern(offset, left) => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX);
                    let count = buf.extend(pattern::at(*offset, most)) as u64;
                    (*offset, *left) = (*offset + count, *left - count);
                    *left == 0
                }
            };
            if done {
                self.out.pop_front();
            }
        }
    }

    /// Whether anything is owed.
    pub(super) fn owes(&self) -> bool {
        !self.out.is_empty()
    }

    /// Whether the connection asked to be held.
    pub(super) fn is_held(&self) -> bool {
        matches!(self.state, State::Held)
    }

    fn greet<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8]> {
        self.right = true;
        self.state = match bytes[0] {
            ECHO => State::Echo,
            HOLD => State::Held,
            mode @ (SINK | SOURCE | MESSAGE) => State::Length(mode),
            MSRP => {
                self.state = State::MsrpHead;
                return Ok(bytes);
            }
            PROXY => {
                self.state = State::ProxyHead;
                return Ok(bytes);
            }
            other => bail!("nothing is done for a connection that begins with byte {other}"),
        };
        self.out.push_back(Out::Bytes(vec![bytes[0]]));
        Ok(&bytes[1..])
    }

    /// Collects `wanted` bytes of a header; what is left of `bytes`, and the header if it is whole.
    fn collect<'a>(&mut self, wanted: usize, bytes: &'a [u8]) -> (&'a [u8], Option<Vec<u8>>) {
        let (taken, rest) = bytes.split_at(bytes.len().min(wanted - self.partial.len()));
        self.partial.extend_from_slice(taken);
        let whole = (self.partial.len() == wanted).then(|| std::mem::take(&mut self.partial));
        (rest, whole)
    }

    fn length<'a>(&mut self, mode: u8, bytes: &'a [u8]) -> &'a [u8] {
        let (rest, header) = self.collect(8, bytes);
        let value = header.as_deref().and_then(<[u8]>::first_chunk).map(|bytes| u64::from_be_bytes(*bytes));
        self.state = match value {
            Some(len) if mode == SOURCE => {
                self.promise(len);
                State::Length(mode)
            }
            Some(len) if mode == SINK => self.expect(len, Due::Length(len)),
            Some(sizes) => self.expect(sizes >> 32, Due::Answer(sizes & 0xffff_ffff)),
            None => State::Length(mode),
        };
        rest
    }

    fn promise(&mut self, len: u64) {
        if len > 0 {
            self.out.push_back(Out::Pattern(self.promised, len));
        }
        self.promised += len;
    }

    fn expect(&mut self, len: u64, due: Due) -> State {
        if len == 0 { self.due(due) } else { State::Body(len, due) }
    }

    fn body<'a>(&mut self, left: u64, due: Due, bytes: &'a [u8]) -> &'a [u8] {
        let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let (body, rest) = bytes.split_at(count);
        self.right &= pattern::matches(self.received, body);
        self.received += count as u64;
        self.state = self.expect(left - count as u64, due);
        rest
    }

    /// All of a body has come.
    fn due(&mut self, due: Due) -> State {
        match due {
            Due::Length(len) => {
                let answer = if self.right { len } else { CHANGED };
                self.out.push_back(Out::Bytes(answer.to_be_bytes().to_vec()));
                State::Length(SINK)
            }
            Due::Answer(len) => {
                self.out.push_back(Out::Bytes(vec![if self.right { super::RIGHT } else { super::WRONG }]));
                self.promise(len);
                State::Length(MESSAGE)
            }
            Due::Tail(id) => State::MsrpTail(Head::tail_len(), id),
        }
    }

    fn head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8]> {
        let known = self.partial.len();
        self.partial.extend_from_slice(bytes);
        let from = known.saturating_sub(3);
        let found = self.partial[from..].windows(4).position(|window| window == b"\r\n\r\n");
        let Some(end) = found.map(|at| from + at + 4) else {
            ensure!(self.partial.len() <= msrp::HEAD_BYTES_MAX, "a head without an end");
            self.state = State::MsrpHead;
            return Ok(&[]);
        };
        let head = Head::read(&self.partial[..end])?;
        self.partial.clear();
        self.state = self.expect(head.len as u64, Due::Tail(head.id));
        Ok(&bytes[end - known..])
    }

    fn tail<'a>(&mut self, left: usize, id: String, bytes: &'a [u8]) -> &'a [u8] {
        let (tail, rest) = bytes.split_at(bytes.len().min(left));
        let left = left - tail.len();
        if left > 0 {
            self.state = State::MsrpTail(left, id);
            return rest;
        }
        let mut answer = Vec::new();
        msrp::write_answer(&mut answer, &id, self.right);
        self.out.push_back(Out::Bytes(answer));
        self.state = State::MsrpHead;
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msrp::Chunk;

    /// What is said to `bytes`, whole or byte by byte.
    fn said(bytes: &[u8], step: usize) -> Vec<u8> {
        let (mut service, mut out) = (Service::default(), Vec::new());
        for bytes in bytes.chunks(step) {
            service.receive(bytes).unwrap();
            while service.owes() {
                let mut buf = Buf::with_capacity(1000);
                service.fill(&mut buf);
                out.extend_from_slice(buf.filled());
            }
        }
        out
    }

    #[test]
    fn backend_serves_every_request_however_bytes_are_cut() {
        let len = |len: u64| len.to_be_bytes().to_vec();
        let sizes = |request: u64, answer: u64| (request << 32 | answer).to_be_bytes().to_vec();
        let data = |offset, len| pattern::at(offset, len).to_vec();
        let cases = [
            (b"eabc".to_vec(), b"eabc".to_vec()),
            (b"\r\n\r\n\0\r\nQUIT\n!\x11\0\x03xyzeabc".to_vec(), b"eabc".to_vec()),
            (b"\r\n\r\n\0\r\nQUIT\n \0\0\0eabc".to_vec(), b"eabc".to_vec()),
            (
                [b"s".to_vec(), len(3), data(0, 3), len(0), len(50), data(3, 50)].concat(),
                [b"s".to_vec(), len(3), len(0), len(50)].concat(),
            ),
            ([b"s".to_vec(), len(3), data(1, 3)].concat(), [b"s".to_vec(), len(CHANGED)].concat()),
            ([b"d".to_vec(), len(3), len(2000)].concat(), [b"d".to_vec(), data(0, 2003)].concat()),
            (
                [b"m".to_vec(), sizes(5, 7), data(0, 5), sizes(0, 1), sizes(4, 2), data(6, 4)].concat(),
                [b"m+".to_vec(), data(0, 7), b"+".to_vec(), data(7, 1), b"!".to_vec(), data(8, 2)].concat(),
            ),
        ];
        for (input, output) in cases {
            assert_eq!(said(&input, usize::MAX), output);
            assert_eq!(said(&input, 1), output);
        }
    }

    #[test]
    fn every_msrp_chunk_is_acknowledged_or_refused() {
        let (mut input, mut expected) = (Vec::new(), Vec::new());
        let chunk = Chunk { id: 1, message: 9, start: 0, len: 2048, total: 2060 };
        chunk.write(&mut input, pattern::at(0, 2048));
        Chunk { id: 2, start: 2048, len: 12, ..chunk }.write(&mut input, pattern::at(2048, 12));
        msrp::write_answer(&mut expected, &msrp::transaction(1), true);
        msrp::write_answer(&mut expected, &msrp::transaction(2), true);
        assert_eq!(said(&input, usize::MAX), expected);
        assert_eq!(said(&input, 1), expected);
        Chunk { id: 3, len: 12, total: 12, ..chunk }.write(&mut input, pattern::at(0, 12));
        msrp::write_answer(&mut expected, "0000000000000003", false);
        assert_eq!(said(&input, usize::MAX), expected, "bytes from another place");
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        assert!(Service::default().receive(b"?").is_err());
        assert!(Service::default().receive(&[b'M'; 2000]).is_err());
    }
}
