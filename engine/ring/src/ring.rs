//! One io_uring: operations in, completions out, every buffer by ownership.
//!
//! An operation owns whatever the kernel may touch (a `Buf`, a message header, an address) in the table
//! `operations` until its completion was taken; that is the one invariant on which the soundness of this file
//! rests. Set up with SINGLE_ISSUER and DEFER_TASKRUN (Linux 6.1): completions are made only inside
//! [`Ring::wait`], on its thread.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use slab::Slab;
use socket2::SockAddr;

mod hint;

pub use hint::hint;

use super::message::Message;
use super::pool::{Pool, Size};
use completion::accepted;
use offramp_proto::buf::{Buf, Bufs, SMALL_BYTES};
use set_up::set_up;
use unread::{Class, UNWATCHED, Unread};

mod completion;
mod set_up;
mod unread;

pub use completion::{Completion, Outcome};

/// Names an operation that was started, for as long as it is under way: no later one has the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started(u64);

/// How often a wait runs what the kernel has deferred while something waits to be taken: since Linux 6.13 it
/// runs 20 of it in one system call.
const HARVESTS: usize = 256;
/// How often `drop` waits for cancelled operations, 10 ms each, before it leaks what the kernel may still
/// touch.
const DROP_WAITS: usize = 100;

/// An io_uring and the memory that the kernel may touch through it. Stays on the thread that made it.
///
/// Each operation carries a value of the caller's type `T`, which its completions return.
pub struct Ring<T: Copy> {
    uring: IoUring,
    /// By [`Size`]; taken away when they must outlive the ring.
    pools: Option<[Pool; 2]>,
    operations: Slab<Operation<T>>,
    /// The number of the next operation.
    next_number: u64,
    unread: Unread,
}

struct Operation<T> {
    user_data: T,
    held: Held,
}

/// What the kernel may touch until the operation is complete.
enum Held {
    Accept,
    Receive(Size),
    ReceiveInto(Buf),
    Record(Box<Message>),
    Send(Buf),
    SendRecord(Box<Message>),
    /// Never read again by us: held for the kernel.
    Connect(#[expect(dead_code, reason = "the kernel reads the address")] Box<SockAddr>),
    Event(#[expect(dead_code, reason = "the kernel writes the count")] Box<u64>),
}

impl<T: Copy> Ring<T> {
    /// Sets the ring up on the calling thread, which must be the one that uses it.
    ///
    /// # Errors
    /// What io_uring_setup(2) says: ENOSYS (no io_uring), EPERM (forbidden by kernel.io_uring_disabled or
    /// seccomp), ENOMEM (RLIMIT_MEMLOCK), EINVAL (kernel before 6.1).
    pub fn new() -> io::Result<Self> {
        Self::set_up(false)
    }

    /// The same; the kernel refuses any operation that is not on the list in `operations.rs`, with EACCES.
    ///
    /// # Errors
    /// As for [`Ring::new`], and what io_uring_register(2) says of the restrictions.
    pub fn restricted() -> io::Result<Self> {
        Self::set_up(true)
    }

    fn set_up(is_restricted: bool) -> io::Result<Self> {
        let (uring, pools) = set_up(is_restricted)?;
        let (pools, operations) = (Some(pools), Slab::with_capacity(1024));
        Ok(Self { uring, pools, operations, next_number: 0, unread: Unread::default() })
    }

    /// Accepts connections, one completion each, until one comes without `more`.
    pub fn accept(&mut self, listener: BorrowedFd<'_>, user_data: T) {
        let entry = opcode::AcceptMulti::new(fd(listener)).flags(libc::SOCK_CLOEXEC).build();
        self.start(user_data, Held::Accept, entry);
    }

    /// Accepts one connection: for kernels whose multishot accept cannot be trusted.
    pub fn accept_one(&mut self, listener: BorrowedFd<'_>, user_data: T) {
        let entry = opcode::Accept::new(fd(listener), std::ptr::null_mut(), std::ptr::null_mut())
            .flags(libc::SOCK_CLOEXEC)
            .build();
        self.start(user_data, Held::Accept, entry);
    }

    /// Receives at most `max` bytes into a provided buffer, taken when they arrive. ENOBUFS means that none
    /// was left: start it again when there is [`Ring::room`]. `expect_empty` skips the first attempt, which
    /// would find nothing.
    pub fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        max: usize,
        expect_empty: bool,
        user_data: T,
    ) -> Started {
        self.start(user_data, Held::Receive(Size::Large), select(socket, max, expect_empty, Size::Large))
    }

    /// The same for a handshake, at most [`SMALL_BYTES`] into a small buffer. Its completion waits apart from
    /// those of transfers ([`Ring::next_handshake`]), and keeps the buffer from being replaced as long.
    pub fn receive_small(&mut self, socket: BorrowedFd<'_>, expect_empty: bool, user_data: T) -> Started {
        let entry = select(socket, SMALL_BYTES, expect_empty, Size::Small);
        self.start(user_data, Held::Receive(Size::Small), entry)
    }

    /// Receives at most `max` bytes behind the window of `buf`.
    pub fn receive_into(
        &mut self,
        socket: BorrowedFd<'_>,
        mut buf: Buf,
        max: usize,
        user_data: T,
    ) -> Started {
        let room = buf.spare_mut();
        let (address, room) = (room.as_mut_ptr(), room.len().min(max));
        let entry = opcode::Recv::new(fd(socket), address, length(room)).build();
        self.start(user_data, Held::ReceiveInto(buf), entry)
    }

    /// Receives one record of any type from a socket whose receive direction the kernel carries.
    pub fn receive_record(&mut self, socket: BorrowedFd<'_>, buf: Buf, user_data: T) -> Started {
        let mut message = Message::to_receive(buf);
        let entry = opcode::RecvMsg::new(fd(socket), message.header()).build();
        self.start(user_data, Held::Record(message), entry)
    }

    /// Sends the window of `buf`; may send only its front.
    pub fn send(&mut self, socket: BorrowedFd<'_>, buf: Buf, user_data: T) -> Started {
        let window = buf.filled();
        let entry = opcode::Send::new(fd(socket), window.as_ptr(), length(window.len()))
            .flags(libc::MSG_NOSIGNAL)
            .build();
        self.start(user_data, Held::Send(buf), entry)
    }

    /// Sends the window of `buf` as one record of `record_type` on a socket whose transmit direction the
    /// kernel carries.
    pub fn send_record(
        &mut self,
        socket: BorrowedFd<'_>,
        record_type: u8,
        buf: Buf,
        user_data: T,
    ) -> Started {
        let mut message = Message::to_send(buf, record_type);
        let entry =
            opcode::SendMsg::new(fd(socket), message.header()).flags(libc::MSG_NOSIGNAL as u32).build();
        self.start(user_data, Held::SendRecord(message), entry)
    }

    /// Connects the socket.
    pub fn connect(&mut self, socket: BorrowedFd<'_>, address: SockAddr, user_data: T) -> Started {
        let address = Box::new(address);
        let entry = opcode::Connect::new(fd(socket), address.as_ptr().cast(), address.len()).build();
        self.start(user_data, Held::Connect(address), entry)
    }

    /// Waits for the eventfd to be signalled and resets it.
    pub fn await_event(&mut self, event: BorrowedFd<'_>, user_data: T) {
        let mut count = Box::new(0_u64);
        let entry = opcode::Read::new(fd(event), (&raw mut *count).cast(), size_of::<u64>() as u32).build();
        self.start(user_data, Held::Event(count), entry);
    }

    /// Cancels an operation, which still gets its completion: ECANCELED, or its own if it was faster.
    pub fn cancel(&mut self, operation: Started) {
        let entry = opcode::AsyncCancel::new(operation.0).build();
        self.push(&entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(UNWATCHED));
    }

    /// Cancels all that is in flight on the socket; each operation still gets its completion (ECANCELED, or
    /// its own). The kernel looks through all that is in flight on the ring for it.
    pub fn cancel_all(&mut self, socket: BorrowedFd<'_>) {
        let which = types::CancelBuilder::fd(fd(socket)).all();
        let entry = opcode::AsyncCancel2::new(which).build();
        self.push(&entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(UNWATCHED));
    }

    /// Closes the descriptor after what was started before, without a completion.
    pub fn close(&mut self, descriptor: OwnedFd) {
        let entry = opcode::Close::new(types::Fd(descriptor.into_raw_fd())).build();
        self.push(&entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(UNWATCHED));
    }

    /// How many operations are in flight, not counting cancellations and closes.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.operations.len()
    }

    /// How many buffers of the free list are with the kernel, waiting for bytes.
    #[must_use]
    pub fn provided(&self) -> usize {
        self.pools.as_ref().map_or(0, |[large, _]| large.lent())
    }

    /// How many receives find a buffer after the next [`Ring::wait`] has filled more: of any kind, and of
    /// handshakes, whose buffers are not replaced before their completions were taken.
    #[must_use]
    pub fn room(&self) -> (usize, usize) {
        let Some([large, small]) = &self.pools else { return (0, 0) };
        (large.room(), small.room().saturating_sub(self.unread.handshakes.len()))
    }

    /// Provides fewer buffers from now on if more were not needed since the last call. Returns whether it
    /// would go on if it was called again.
    pub fn shrink(&mut self) -> bool {
        self.pools.as_mut().is_some_and(|pools| pools.iter_mut().map(Pool::shrink).fold(false, |a, b| a | b))
    }

    /// Submits what was started and waits for a completion, no longer than `patience` (for ever if `None`).
    /// Does not wait while something other than an accept is to be taken, or without patience, but reads
    /// whatever else is complete by now. Who has room for an accept that is to be taken has no patience.
    /// Fills provided buffers first, from `bufs`.
    ///
    /// # Errors
    /// What io_uring_enter(2) says, other than that time ran out, a signal came or the completion queue was
    /// full.
    pub fn wait(&mut self, bufs: &mut Bufs, patience: Option<Duration>) -> io::Result<()> {
        for pool in self.pools.iter_mut().flatten() {
            pool.refill(bufs);
        }
        if !self.unread.has_only_accepts() || patience == Some(Duration::ZERO) {
            return self.harvest();
        }
        let result = match patience {
            None => self.uring.submit_and_wait(1),
            Some(patience) => {
                let limit = types::Timespec::from(patience);
                self.uring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&limit))
            }
        };
        self.collect();
        waited(result)
    }

    /// Submits, and runs all that the kernel has deferred until there is none left: with DEFER_TASKRUN,
    /// nothing completes by itself.
    fn harvest(&mut self) -> io::Result<()> {
        for _ in 0..HARVESTS {
            let result = self.uring.submit_and_wait(0);
            self.collect();
            waited(result)?;
            if !self.uring.submission().taskrun() {
                break;
            }
        }
        Ok(())
    }

    /// The next completion that [`Ring::wait`] brought; those of handshakes come behind transfers, those of
    /// accepts last.
    pub fn next_completion(&mut self) -> Option<Completion<T>> {
        self.next_transfer().or_else(|| self.next_handshake()).or_else(|| self.next_accept())
    }

    /// The next completion of anything but a receive of a handshake and an accept.
    pub fn next_transfer(&mut self) -> Option<Completion<T>> {
        loop {
            let entry = self.unread.transfers.pop_front()?;
            if let Some(completion) = self.complete(&entry) {
                return Some(completion);
            }
        }
    }

    /// The next completion of a receive of a handshake.
    pub fn next_handshake(&mut self) -> Option<Completion<T>> {
        let entry = self.unread.handshakes.pop_front()?;
        self.complete(&entry)
    }

    /// The next completion of an accept.
    pub fn next_accept(&mut self) -> Option<Completion<T>> {
        let entry = self.unread.accepts.pop_front()?;
        self.complete(&entry)
    }

    /// How many completions of receives of handshakes were not yet taken.
    #[must_use]
    pub fn handshakes_waiting(&self) -> usize {
        self.unread.handshakes.len()
    }

    /// How many completions of accepts were not yet taken.
    #[must_use]
    pub fn accepts_waiting(&self) -> usize {
        self.unread.accepts.len()
    }

    fn collect(&mut self) {
        for entry in self.uring.completion() {
            self.unread.put(entry);
        }
    }

    fn complete(&mut self, entry: &cqueue::Entry) -> Option<Completion<T>> {
        let key = unread::place(entry.user_data());
        let result = entry.result();
        let more = cqueue::more(entry.flags());
        let user_data = self.operations.get(key)?.user_data;
        if more && matches!(self.operations[key].held, Held::Accept) {
            let outcome = accepted(result, true);
            return Some(Completion { user_data, outcome });
        }
        let held = self.operations.remove(key).held;
        let outcome = match usize::try_from(result) {
            Ok(count) => self.succeeded(held, count, entry),
            Err(_) => self.failed(held, -result, entry),
        };
        Some(Completion { user_data, outcome })
    }

    fn succeeded(&mut self, held: Held, count: usize, entry: &cqueue::Entry) -> Outcome {
        match held {
            Held::Event(_) => Outcome::Signalled,
            Held::Accept => accepted(entry.result(), false),
            Held::Connect(_) => Outcome::Connected,
            Held::Receive(size) => {
                let drained = !cqueue::sock_nonempty(entry.flags());
                let taken = cqueue::buffer_select(entry.flags())
                    .and_then(|id| self.pool(size).and_then(|pool| pool.take(id, count)));
                match taken {
                    Some(buf) => Outcome::Received { buf, count, drained },
                    // The end of file may come without a buffer.
                    None if count == 0 => Outcome::Received { buf: Buf::with_capacity(0), count, drained },
                    None => Outcome::Failed { errno: libc::EFAULT, buf: None },
                }
            }
            Held::ReceiveInto(mut buf) => {
                buf.commit(count);
                Outcome::Received { buf, count, drained: !cqueue::sock_nonempty(entry.flags()) }
            }
            Held::Record(message) => {
                let record_type = message.record_type();
                let mut buf = message.into_buf();
                buf.commit(count);
                Outcome::Record { record_type, buf }
            }
            Held::Send(mut buf) => {
                buf.consume(count);
                Outcome::Sent { buf, count }
            }
            Held::SendRecord(message) => {
                let mut buf = message.into_buf();
                buf.consume(count);
                Outcome::Sent { buf, count }
            }
        }
    }

    fn failed(&mut self, held: Held, errno: i32, entry: &cqueue::Entry) -> Outcome {
        let buf = match held {
            Held::Accept => return accepted(-errno, false),
            Held::Event(_) | Held::Connect(_) => None,
            Held::Receive(size) => {
                let pool = self.pool(size);
                if errno == libc::ENOBUFS {
                    pool.map(Pool::grow);
                    None
                } else {
                    // A failed receive may still have taken a buffer.
                    cqueue::buffer_select(entry.flags()).and_then(|id| pool.and_then(|p| p.take(id, 0)))
                }
            }
            Held::ReceiveInto(buf) | Held::Send(buf) => Some(buf),
            Held::Record(message) | Held::SendRecord(message) => Some(message.into_buf()),
        };
        Outcome::Failed { errno, buf }
    }

    fn pool(&mut self, size: Size) -> Option<&mut Pool> {
        self.pools.as_mut().map(|pools| &mut pools[size as usize])
    }

    fn start(&mut self, user_data: T, held: Held, entry: squeue::Entry) -> Started {
        let class = match held {
            Held::Accept => Class::Accept,
            Held::Receive(Size::Small) => Class::Handshake,
            _ => Class::Transfer,
        };
        let place = self.operations.insert(Operation { user_data, held });
        let name = unread::name(place, self.next_number, class);
        self.next_number = self.next_number.wrapping_add(1);
        self.push(&entry.user_data(name));
        Started(name)
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: all that the entry points to is held in `operations` (or is a plain descriptor number)
            // and stays there, at the same heap address, until its completion was taken; `drop` upholds that
            // for the rest.
            if unsafe { self.uring.submission().push(entry) }.is_ok() {
                return;
            }
            // Full: hand over what is queued. A failure here (EBUSY: completions wait to be read) makes room
            // too.
            if self.uring.submit().is_err() {
                self.collect();
            }
        }
    }
}

impl<T: Copy> Drop for Ring<T> {
    /// The kernel may write into held memory until each operation is complete: cancel, wait, and leak if that
    /// fails.
    fn drop(&mut self) {
        let all = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build();
        self.push(&all.user_data(UNWATCHED));
        let limit = types::Timespec::new().nsec(10_000_000);
        for _ in 0..DROP_WAITS {
            while self.next_completion().is_some() {}
            if self.operations.is_empty() {
                return;
            }
            let args = types::SubmitArgs::new().timespec(&limit);
            let _ = self.uring.submitter().submit_with_args(1, &args);
            self.collect();
        }
        std::mem::forget(std::mem::take(&mut self.operations));
        std::mem::forget(self.pools.take());
    }
}

/// `IORING_RECVSEND_POLL_FIRST` (`io_uring_enter(2)`).
const POLL_FIRST: u16 = 1;

/// A receive that takes a provided buffer when bytes arrive.
fn select(socket: BorrowedFd<'_>, max: usize, expect_empty: bool, size: Size) -> squeue::Entry {
    let flags = if expect_empty { POLL_FIRST } else { 0 };
    opcode::Recv::new(fd(socket), std::ptr::null_mut(), length(max))
        .buf_group(size as u16)
        .ioprio(flags)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT)
}

/// What a wait came to: time ran out, a signal came, or completions have to be read first, is no error.
fn waited(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(e)
            if matches!(e.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) =>
        {
            Ok(())
        }
        Err(e) => Err(e),
    }
}

fn fd(descriptor: BorrowedFd<'_>) -> types::Fd {
    types::Fd(descriptor.as_raw_fd())
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
