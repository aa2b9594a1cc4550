//! Provided buffers: the kernel takes one at the moment that bytes arrive, so a waiting receive holds none.
//!
//! One `io_uring` buffer ring (Linux 5.19, `io_uring_register_buf_ring(3)`) whose entries are `Buf`s that
//! this module owns while the kernel may write into them. A completion names the entry; the `Buf` then leaves
//! by ownership and another takes its place at the next refill.
//!
//! Few entries are filled at first: the kernel takes them in turn, and a short turn keeps bulk transfers in
//! the cache. Each time the kernel runs out (ENOBUFS) the number is doubled; each [`Pool::shrink`] without
//! that in between halves it, and what is filled beyond it is not replaced when the kernel has used it.
//!
//! A ring has two pools: large buffers for connections, small ones for their handshakes. So a flood of hellos
//! takes no buffer from established connections, and the number of small ones bounds how many hellos wait.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::{Submitter, types::BufRingEntry};

use offramp_proto::buf::{Buf, Bufs, SMALL_BYTES};

/// Entries in a buffer ring, a power of two: the most receives that can complete between two refills.
const ENTRIES: u16 = 64;
/// Entries filled at first.
const FILLED_AT_FIRST: usize = 8;

/// Which buffers a pool provides; its number is the buffer group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// Of [`BUF_BYTES`](offramp_proto::buf::BUF_BYTES), from the free list.
    Large = 0,
    /// Of [`SMALL_BYTES`](offramp_proto::buf::SMALL_BYTES), from the allocator.
    Small = 1,
}

/// One buffer ring of an io_uring.
pub(super) struct Pool {
    size: Size,
    /// The mapping shared with the kernel: `ENTRIES` entries of 16 bytes, page-aligned.
    entries: NonNull<BufRingEntry>,
    /// What the kernel may write into, by buffer id.
    lent: Vec<Option<Buf>>,
    /// Buffer ids that are not with the kernel.
    vacant: Vec<u16>,
    /// How many entries to keep filled.
    target: usize,
    /// The kernel ran out since the last [`Pool::shrink`].
    ran_out: bool,
    tail: u16,
}

const MAP_BYTES: usize = ENTRIES as usize * size_of::<BufRingEntry>();

impl Pool {
    /// Maps the ring and registers it.
    ///
    /// # Errors
    /// What mmap(2) or the registration say; EINVAL on kernels before 5.19.
    pub(super) fn register(size: Size, submitter: &Submitter<'_>) -> io::Result<Self> {
        // SAFETY: an anonymous private mapping at an address of the kernel's choice; no memory of ours is
        // involved.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                MAP_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_ANONYMOUS | libc::MAP_PRIVATE,
                -1,
                0,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let entries = NonNull::new(map.cast::<BufRingEntry>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let pool = Self {
            size,
            entries,
            lent: (0..ENTRIES).map(|_| None).collect(),
            vacant: (0..ENTRIES).rev().collect(),
            target: FILLED_AT_FIRST,
            ran_out: false,
            tail: 0,
        };
        // SAFETY: the mapping is ENTRIES entries long, page-aligned, and stays mapped until `Drop`, which the
        // owner (`Ring`) runs only after the io_uring was closed, or never.
        unsafe { submitter.register_buf_ring_with_flags(map as u64, ENTRIES, size as u16, 0) }?;
        Ok(pool)
    }

    /// Fills entries up to the present target, large ones from the free list unless that is at its ceiling.
    pub(super) fn refill(&mut self, bufs: &mut Bufs) {
        let before = self.tail;
        while self.lent() < self.target && !(self.size == Size::Large && bufs.is_full()) {
            let Some(id) = self.vacant.pop() else { break };
            let mut buf = match self.size {
                Size::Large => bufs.take(),
                Size::Small => Buf::with_capacity(SMALL_BYTES),
            };
            let spare = buf.spare_mut();
            let (address, len) = (spare.as_mut_ptr() as u64, spare.len());
            let at = usize::from(self.tail & (ENTRIES - 1));
            // SAFETY: `at` < ENTRIES, so the entry lies within the mapping, which is mapped while `self`
            // lives.
            let slot = unsafe { self.entries.add(at) };
            // SAFETY: `slot` is aligned and valid for writes; the kernel reads an entry only once the tail
            // has passed it, and it has not yet: nobody else accesses this entry now.
            let entry = unsafe { &mut *slot.as_ptr() };
            entry.set_addr(address);
            entry.set_len(len as u32);
            entry.set_bid(id);
            self.lent[usize::from(id)] = Some(buf);
            self.tail = self.tail.wrapping_add(1);
        }
        if self.tail != before {
            self.publish();
        }
    }

    /// The buffer that the kernel wrote `count` bytes into; `None` if the kernel names an entry that it was
    /// not lent.
    pub(super) fn take(&mut self, id: u16, count: usize) -> Option<Buf> {
        let mut buf = self.lent.get_mut(usize::from(id))?.take()?;
        self.vacant.push(id);
        buf.commit(count.min(buf.spare_len()));
        Some(buf)
    }

    /// The kernel found no entry: fill twice as many from now on.
    pub(super) fn grow(&mut self) {
        self.ran_out = true;
        self.target = (self.target * 2).min(usize::from(ENTRIES));
    }

    /// Fills half as many from now on, unless the kernel ran out since the last call. Returns whether it
    /// would go on if it was called again.
    pub(super) fn shrink(&mut self) -> bool {
        if !std::mem::take(&mut self.ran_out) {
            self.target = (self.target / 2).max(FILLED_AT_FIRST);
        }
        self.target > FILLED_AT_FIRST
    }

    /// How many receives find a buffer after the next refill.
    pub(super) fn room(&self) -> usize {
        self.target
    }

    /// How many buffers are lent to the kernel: they wait for bytes, or have some that were not yet taken.
    pub(super) fn lent(&self) -> usize {
        usize::from(ENTRIES) - self.vacant.len()
    }

    fn publish(&self) {
        // SAFETY: the base of a live, page-aligned mapping of a buffer ring, as `tail` demands.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: `tail` points at the ring's 16-bit tail inside the mapping: aligned, alive, written by us
        // alone and read by the kernel with acquire semantics.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: mapped by `register` with this length and unmapped nowhere else; the io_uring that used it
        // is closed.
        unsafe { libc::munmap(self.entries.as_ptr().cast(), MAP_BYTES) };
    }
}
