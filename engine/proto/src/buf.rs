//! `Buf`: owned bytes with a window, and `Bufs`: the free list they come from.
//!
//! Bytes travel by ownership. A `Buf` moves from the ring to the connection and back, so a completion
//! interface, in which the kernel writes into memory long after the call, is sound without `unsafe` outside
//! `sys`. Nobody shares a `Buf`; a connection that waits for bytes holds none.

use std::fmt;

/// Bytes in every `Buf` that a [`Bufs`] hands out: three full TLS records (RFC 8446 §5.2: 2^14 plaintext
/// bytes) and most of a fourth, with header, explicit nonce, inner content type and tag. The allocator has a
/// size class for it: one byte more would cost as much again.
pub const BUF_BYTES: usize = 64 * 1024;
/// Bytes in the small buffers that a handshake is received in: a ClientHello, or a client's last flight
/// without a long certificate.
pub const SMALL_BYTES: usize = 4096;
/// Unused bytes that a buffer may keep while it waits for its peer; see [`Bufs::fit`].
const SLACK_BYTES: usize = 1024;

/// Owned bytes and a window `start..end` on them: what was filled and not yet consumed.
pub struct Buf {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    origin: Origin,
}

/// Who counts a buffer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Nobody: it is of the allocator.
    Uncounted,
    /// A [`Bufs`], as one of its free list.
    FreeList,
    /// A [`Bufs`], by its bytes: it was made to fit.
    Fitted,
}

impl Buf {
    /// An empty buffer of `capacity` bytes, zeroed.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        let bytes = vec![0; capacity].into_boxed_slice();
        Self { bytes, start: 0, end: 0, origin: Origin::Uncounted }
    }

    /// A buffer that holds `front` and behind it `back`, and has no room for more.
    #[must_use]
    pub fn joined(front: &[u8], back: &[u8]) -> Self {
        let bytes = [front, back].concat().into_boxed_slice();
        Self { end: bytes.len(), bytes, start: 0, origin: Origin::Uncounted }
    }

    /// All the bytes it can ever hold, whatever the window.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// How many bytes are in the window.
    #[must_use]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether the window is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The bytes in the window.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The bytes in the window, to be changed in place.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// The room behind the window.
    pub fn spare_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// How many bytes of room there are behind the window.
    #[must_use]
    pub fn spare_len(&self) -> usize {
        self.bytes.len() - self.end
    }

    /// Takes `count` bytes, just written behind the window, into it.
    ///
    /// # Panics
    /// If `count` is more than the room: the writer claims bytes that it cannot have written.
    pub fn commit(&mut self, count: usize) {
        assert!(count <= self.spare_len(), "commit of more bytes than the room behind the window");
        self.end += count;
    }

    /// Drops `count` bytes from the front of the window.
    ///
    /// # Panics
    /// If `count` is more than the window holds.
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "consume of more bytes than the window holds");
        self.start += count;
        if self.is_empty() {
            self.clear();
        }
    }

    /// Shortens the window to its first `len` bytes; nothing happens if it is no longer than that.
    pub fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start + len);
    }

    /// Empties the window and gives all the room back.
    pub fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// Moves the window to the front of the bytes, so that the room behind it is as large as it can be.
    pub fn compact(&mut self) {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// Puts `bytes` in front of the window, which moves back if there is no room before it.
    ///
    /// # Panics
    /// If the capacity is less than both together: the caller bounds what it receives behind `bytes`.
    pub fn prepend(&mut self, bytes: &[u8]) {
        if self.start < bytes.len() {
            let (start, len) = (bytes.len(), self.len());
            self.bytes.copy_within(self.start..self.end, start);
            (self.start, self.end) = (start, start + len);
        }
        self.start -= bytes.len();
        self.bytes[self.start..self.start + bytes.len()].copy_from_slice(bytes);
    }

    /// Whether it is larger than what it holds by more than a buffer may be that waits for its peer.
    #[must_use]
    pub fn is_loose(&self) -> bool {
        self.capacity() > self.len() + SLACK_BYTES
    }

    /// Appends as many of `bytes` as there is room for and says how many that were.
    pub fn extend(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.spare_len());
        self.spare_mut()[..count].copy_from_slice(&bytes[..count]);
        self.commit(count);
        count
    }
}

impl fmt::Debug for Buf {
    /// The window, never the bytes: they may be somebody's plaintext.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({}..{} of {})", self.start, self.end, self.bytes.len())
    }
}

/// A free list of buffers of [`BUF_BYTES`] each; last in, first out, so that what is handed out is still in
/// the cache.
///
/// It makes new ones when it runs dry: what bounds their number is the bound on connections, each of which
/// holds at most two per direction (one waits to be sent, one is being sent) and, for the time of one step,
/// two more. Who fills buffers from a network asks first whether the ceiling is reached
/// ([`Bufs::is_full`]).
#[derive(Debug)]
pub struct Bufs {
    /// As many as it has room for.
    free: Vec<Buf>,
    /// How many there are of the free list, free ones and those that are out.
    made: usize,
    /// Bytes of those that were made to fit.
    fitted_bytes: usize,
    ceiling_bytes: usize,
    /// The fewest that were free since the last [`Bufs::trim`]: nobody needed those.
    unneeded: usize,
}

impl Bufs {
    /// An empty free list that will keep at most `keep` free buffers.
    #[must_use]
    pub fn new(keep: usize) -> Self {
        let free = Vec::with_capacity(keep);
        Self { free, made: 0, fitted_bytes: 0, ceiling_bytes: usize::MAX, unneeded: 0 }
    }

    /// An empty buffer.
    pub fn take(&mut self) -> Buf {
        let Some(buf) = self.free.pop() else { return self.make() };
        self.unneeded = self.unneeded.min(self.free.len());
        buf
    }

    #[cold]
    fn make(&mut self) -> Buf {
        self.made += 1;
        self.unneeded = 0;
        Buf { origin: Origin::FreeList, ..Buf::with_capacity(BUF_BYTES) }
    }

    /// Frees half of the buffers that nobody needed since the last call, for a caller that calls it at
    /// intervals. Returns whether it would free more if it was called again.
    pub fn trim(&mut self) -> bool {
        let lent = self.lent();
        let keep = self.free.len() - self.unneeded.div_ceil(2);
        self.free.truncate(keep);
        (self.made, self.unneeded) = (lent + keep, keep);
        keep > 0
    }

    /// A buffer that may wait for its peer: the same one, or one of the size of its window if that is much
    /// less, so that what waits costs what it holds.
    #[must_use]
    pub fn fit(&mut self, buf: Buf) -> Buf {
        if !buf.is_loose() {
            return buf;
        }
        let fitting = self.fitting(buf.filled(), &[]);
        self.give(buf);
        fitting
    }

    fn fitting(&mut self, front: &[u8], back: &[u8]) -> Buf {
        let buf = Buf { origin: Origin::Fitted, ..Buf::joined(front, back) };
        self.fitted_bytes += buf.capacity();
        buf
    }

    /// What came first, if anything did, and `back` behind it, as one buffer.
    #[must_use]
    pub fn join(&mut self, front: Option<Buf>, back: Buf) -> Buf {
        let Some(front) = front else { return back };
        let joined = self.fitting(front.filled(), back.filled());
        [front, back].into_iter().for_each(|buf| self.give(buf));
        joined
    }

    /// Gives a buffer back; one that is not of the free list, or one too many, goes to the allocator.
    pub fn give(&mut self, mut buf: Buf) {
        match buf.origin {
            Origin::FreeList if self.free.len() < self.free.capacity() => {
                buf.clear();
                self.free.push(buf);
            }
            Origin::FreeList => self.made = self.made.saturating_sub(1),
            Origin::Fitted => self.fitted_bytes = self.fitted_bytes.saturating_sub(buf.capacity()),
            Origin::Uncounted => {}
        }
    }

    /// How many free buffers it keeps.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// How many buffers are out: taken and not yet given back.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.made.saturating_sub(self.free.len())
    }

    /// Bytes of all buffers that are out, those included that were made to fit.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.lent() * BUF_BYTES + self.fitted_bytes
    }

    /// From how many held bytes on nothing more is received; at the beginning there is no such number.
    pub fn set_ceiling(&mut self, bytes: usize) {
        self.ceiling_bytes = bytes;
    }

    /// Whether the ceiling is reached. Buffers can be had nevertheless: what was received is still to be
    /// sent.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.held_bytes() >= self.ceiling_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_moves_as_bytes_are_written_and_consumed() {
        let mut buf = Buf::with_capacity(8);
        assert_eq!(buf.extend(b"abcdefghij"), 8, "only as much as there is room for");
        buf.consume(6);
        assert_eq!((buf.filled(), buf.spare_len()), (&b"gh"[..], 0));
        buf.compact();
        assert_eq!((buf.filled(), buf.spare_len()), (&b"gh"[..], 6));
        buf.consume(2);
        assert_eq!((buf.is_empty(), buf.spare_len()), (true, 8));
    }

    #[test]
    fn buf_prepend_keeps_the_window_behind_it() {
        let mut buf = Buf::with_capacity(8);
        buf.extend(b"cdef");
        buf.prepend(b"ab");
        assert_eq!((buf.filled(), buf.spare_len()), (&b"abcdef"[..], 2), "moved back");
        buf.consume(3);
        buf.prepend(b"xyz");
        assert_eq!((buf.filled(), buf.spare_len()), (&b"xyzdef"[..], 2), "into the room in front");
        assert_eq!(Buf::joined(b"ab", b"c").filled(), b"abc");
    }

    #[test]
    fn buf_that_waits_costs_what_it_holds() {
        let mut bufs = Bufs::new(1);
        let mut buf = bufs.take();
        buf.extend(&[7; 9]);
        let fitting = bufs.fit(buf);
        assert_eq!((fitting.filled(), fitting.capacity()), (&[7; 9][..], 9));
        assert_eq!((bufs.lent(), bufs.free.len()), (0, 1), "the large one is free again");
        assert_eq!(bufs.held_bytes(), 9);
        bufs.give(fitting);
        assert_eq!(bufs.held_bytes(), 0);
        let mut full = bufs.take();
        full.extend(&[7; BUF_BYTES - SLACK_BYTES]);
        assert_eq!(bufs.fit(full).capacity(), BUF_BYTES, "a buffer that is full stays");
    }

    #[test]
    fn bufs_are_full_from_the_ceiling_on() {
        let mut bufs = Bufs::new(1);
        bufs.set_ceiling(BUF_BYTES + 10);
        let (large, mut small) = (bufs.take(), bufs.take());
        assert!(bufs.is_full());
        small.extend(&[7; 9]);
        let small = bufs.fit(small);
        assert!(!bufs.is_full(), "{}", bufs.held_bytes());
        let joined = bufs.join(Some(small), Buf::joined(b"x", &[]));
        assert!(bufs.is_full() && bufs.held_bytes() == BUF_BYTES + 10);
        [large, joined].into_iter().for_each(|buf| bufs.give(buf));
        assert_eq!(bufs.held_bytes(), 0);
    }

    #[test]
    fn bufs_trim_frees_what_nobody_needed() {
        let mut bufs = Bufs::new(8);
        let lent: Vec<_> = (0..8).map(|_| bufs.take()).collect();
        lent.into_iter().for_each(|buf| bufs.give(buf));
        assert!(bufs.trim(), "all of them were needed until now");
        assert_eq!(bufs.free.len(), 8);
        let (a, b) = (bufs.take(), bufs.take());
        bufs.give(a);
        bufs.give(b);
        assert!(bufs.trim());
        assert_eq!(bufs.free.len(), 5, "half of the six that nobody took");
        let rounds = (0..).take_while(|_| bufs.trim()).count();
        assert!(rounds <= 3 && bufs.free.is_empty(), "{rounds}");
    }

    #[test]
    fn debug_shows_no_byte() {
        let mut buf = Buf::with_capacity(16);
        buf.extend(b"secret");
        assert_eq!(format!("{buf:?}"), "Buf(0..6 of 16)");
    }

    #[test]
    fn free_list_counts_lent_buffers_and_is_bounded() {
        let mut bufs = Bufs::new(1);
        let (a, b) = (bufs.take(), bufs.take());
        assert_eq!(bufs.lent(), 2);
        bufs.give(a);
        bufs.give(b);
        assert_eq!((bufs.lent(), bufs.free.len()), (0, 1));
        bufs.give(Buf::with_capacity(4));
        assert_eq!(bufs.free.len(), 1, "a stranger is not kept");
    }
}
