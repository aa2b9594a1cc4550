//! io_uring: the set-up flags and each operation that the engine uses, tried on a ring of its own.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use socket2::SockAddr;

use super::{Check, Verdict};
use crate::errno;
use crate::operations::{ACCEPT_MULTISHOT, OPERATIONS};
use crate::socket::{self, Address};

const GROUP: &str = "io_uring";

/// How long an operation that has all it needs may take. Milliseconds.
const PATIENCE_MS: u64 = 1000;

/// Bytes that the operations move.
const WORD: &[u8; 4] = b"ring";

/// The group of the provided buffer ring.
const BUFFER_GROUP: u16 = 7;

/// What is tried, in this order: each operation of the list, after the wait, and buffers for the last of
/// those that transfer.
const TRIED: [&str; 11] = {
    let [accept, connect, send, recv, sendmsg, recvmsg, read, cancel, close] = OPERATIONS;
    let provided = "provided buffer ring";
    [
        "EXT_ARG wait",
        accept.0,
        connect.0,
        send.0,
        recv.0,
        sendmsg.0,
        recvmsg.0,
        read.0,
        provided,
        cancel.0,
        close.0,
    ]
};

pub(super) fn checks() -> Vec<Check> {
    let setup = "setup SINGLE_ISSUER|DEFER_TASKRUN";
    let mut ring = IoUring::builder();
    let ring = match ring.setup_single_issuer().setup_defer_taskrun().build(8) {
        Ok(ring) => ring,
        Err(error) => {
            let mut checks = vec![Check::bad(
                Verdict::Missing,
                (GROUP, setup.into()),
                errno::name(&error),
                remedy(&error),
            )];
            checks.extend(untried(&TRIED));
            return checks;
        }
    };
    let mut checks = vec![Check::ok(GROUP, setup, "")];
    if !ring.params().is_feature_ext_arg() {
        let at = (GROUP, TRIED[0].to_owned());
        checks.push(Check::bad(Verdict::Missing, at, "no such feature", "a kernel of 6.1 or later"));
        checks.extend(untried(&TRIED[1..]));
        return checks;
    }
    checks.extend(operations(&mut Trial { ring, made: 0, early: Vec::new() }, Operation::AcceptMulti));
    checks
}

/// What makes a ring fail to start, by the error.
fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "sysctl -w kernel.io_uring_disabled=0; in a container: a seccomp profile that allows it"
        }
        Some(libc::ENOSYS) => {
            "a kernel with CONFIG_IO_URING; in a container: a seccomp profile that allows it"
        }
        Some(libc::ENOMEM) => "LimitMEMLOCK=infinity in the systemd unit, or: ulimit -l unlimited (as root)",
        Some(libc::EINVAL) => "a kernel of 6.1 or later",
        Some(libc::EMFILE) => "ulimit -n 65536",
        _ => "",
    }
}

fn untried(names: &'static [&'static str]) -> impl Iterator<Item = Check> {
    names
        .iter()
        .map(|name| Check::bad(Verdict::Untried, (GROUP, (*name).to_owned()), "what it needs is missing", ""))
}

fn operations(trial: &mut Trial, accept: fn(RawFd) -> Operation) -> Vec<Check> {
    let mut results: Vec<io::Result<()>> = vec![trial.wait_for_nothing()];
    if let Err(error) = Sockets::try_with(trial, accept, &mut results) {
        // What could not be had counts against the operation that it was for.
        results.push(Err(error));
    }
    let mut checks: Vec<Check> = Vec::new();
    for (name, result) in TRIED.iter().zip(&results) {
        checks.push(match result {
            Ok(()) => Check::ok(GROUP, *name, ""),
            Err(error) if *name == ACCEPT_MULTISHOT => Check::bad(
                Verdict::Degraded,
                (GROUP, (*name).into()),
                format!("{}: connections are accepted one by one", errno::name(error)),
                "a kernel of 6.1 or later, but for 6.6 to 6.8",
            ),
            Err(error) => Check::bad(
                Verdict::Missing,
                (GROUP, (*name).into()),
                errno::name(error),
                "a kernel of 6.1 or later",
            ),
        });
    }
    checks.extend(untried(&TRIED[results.len().min(TRIED.len())..]));
    checks
}

/// A connection made by the ring, for the other operations to be tried on.
struct Sockets {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl Sockets {
    /// Tries the operations in their order and puts down what came of each; an error is a socket that could
    /// not be had.
    ///
    /// Where `accept` is not the multishot one that it should be, a single one is made in its place.
    fn try_with(
        trial: &mut Trial,
        accept: fn(RawFd) -> Operation,
        results: &mut Vec<io::Result<()>>,
    ) -> io::Result<()> {
        let listener = socket::listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), false, 8)?;
        let address = socket::local_addr(listener.as_fd())?;
        let ours = socket::outgoing(&Address::Tcp(address))?;
        let accepting = trial.start(accept(listener.as_raw_fd()))?;
        let connected = trial.complete(Operation::Connect(ours.as_raw_fd(), address.into()));
        let accepted = trial.wait_for(accepting);
        let goes_on = matches!(&accepted, Ok((_, flags)) if cqueue::more(*flags));
        results.push(match &accepted {
            Ok(_) if goes_on => Ok(()),
            Ok(_) => Err(io::Error::other("it ended after one connection")),
            Err(error) => Err(again(error)),
        });
        results.push(connected.map(drop));
        let (theirs, _) = match accepted {
            Err(_) => trial.complete(Operation::Accept(listener.as_raw_fd()))?,
            accepted => accepted?,
        };
        // SAFETY: the kernel made this descriptor for the accept that has just completed; nobody else knows
        // its number.
        let theirs = unsafe { OwnedFd::from_raw_fd(theirs) };
        let sockets = Self { ours, theirs };
        sockets.transfers(trial, results);
        let waiting = match goes_on {
            true => accepting,
            false => trial.start(Operation::Accept(listener.as_raw_fd()))?,
        };
        results.push(trial.complete(Operation::Cancel(waiting)).map(drop));
        results.push(trial.complete(Operation::Close(sockets.ours.into_raw_fd())).map(drop));
        Ok(())
    }

    fn transfers(&self, trial: &mut Trial, results: &mut Vec<io::Result<()>>) {
        let (ours, theirs) = (self.ours.as_raw_fd(), self.theirs.as_raw_fd());
        let pairs = [
            Operation::Send(ours),
            Operation::Receive(theirs),
            Operation::SendMessage(ours),
            Operation::ReceiveMessage(theirs),
        ];
        results.extend(pairs.map(|operation| whole_word(trial.complete(operation))));
        let event = socket::event().and_then(|event| socket::signal(event.as_fd()).map(|()| event));
        results.push(event.and_then(|event| trial.complete(Operation::Read(event.as_raw_fd()))).map(drop));
        let sent = whole_word(trial.complete(Operation::Send(ours)));
        results.push(sent.and_then(|()| trial.receive_into_provided(theirs)));
    }
}

fn whole_word(result: io::Result<(i32, u32)>) -> io::Result<()> {
    match result? {
        (count, _) if usize::try_from(count) == Ok(WORD.len()) => Ok(()),
        (count, _) => Err(io::Error::other(format!("{count} bytes instead of {}", WORD.len()))),
    }
}

fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

enum Operation {
    AcceptMulti(RawFd),
    Accept(RawFd),
    Connect(RawFd, SockAddr),
    Send(RawFd),
    Receive(RawFd),
    SendMessage(RawFd),
    ReceiveMessage(RawFd),
    Read(RawFd),
    ReceiveProvided(RawFd),
    Cancel(u64),
    Close(RawFd),
}

/// All that an operation may point into; on the heap, so that it stays where it is.
struct Memory {
    bytes: [u8; 8],
    vector: libc::iovec,
    message: libc::msghdr,
    address: Option<SockAddr>,
}

struct Trial {
    ring: IoUring,
    /// Operations made so far: the last one's number.
    made: u64,
    /// Completions that came while another operation's was waited for.
    early: Vec<cqueue::Entry>,
}

impl Trial {
    /// A wait of a millisecond for a completion that cannot come.
    fn wait_for_nothing(&self) -> io::Result<()> {
        match self.wait(1) {
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Err(io::Error::other("a completion of nothing")),
        }
    }

    /// Starts an operation that points at no memory and gives its number.
    fn start(&mut self, operation: Operation) -> io::Result<u64> {
        self.push(operation).map(|(number, _)| number)
    }

    /// Does an operation: its result and flags.
    fn complete(&mut self, operation: Operation) -> io::Result<(i32, u32)> {
        let (number, memory) = self.push(operation)?;
        let result = self.wait_for(number);
        if result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ETIME)) {
            // It may still be in flight: the kernel keeps the memory.
            mem::forget(memory);
        }
        result
    }

    /// The memory must outlive the operation.
    fn push(&mut self, operation: Operation) -> io::Result<(u64, Box<Memory>)> {
        self.made += 1;
        let mut memory = Memory::new();
        let entry = memory.entry(operation).user_data(self.made);
        let mut queue = self.ring.submission();
        // SAFETY: the entry points only into `memory`, which is on the heap and which `complete` frees after
        // the operation's completion, or never; `start` is called for operations that point nowhere.
        // Descriptors in it are open now; the kernel holds its own reference once the entry is submitted,
        // which the next wait does.
        let pushed = unsafe { queue.push(&entry) };
        pushed.map_err(|_| io::Error::from_raw_os_error(libc::EBUSY))?;
        Ok((self.made, memory))
    }

    /// Waits for the completion of one operation.
    fn wait_for(&mut self, number: u64) -> io::Result<(i32, u32)> {
        loop {
            self.early.extend(self.ring.completion());
            let Some(at) = self.early.iter().position(|completion| completion.user_data() == number) else {
                self.wait(PATIENCE_MS)?;
                continue;
            };
            let completion = self.early.swap_remove(at);
            return match completion.result() {
                result @ 0.. => Ok((result, completion.flags())),
                errno => Err(io::Error::from_raw_os_error(-errno)),
            };
        }
    }

    fn wait(&self, milliseconds: u64) -> io::Result<()> {
        let limit = types::Timespec::from(std::time::Duration::from_millis(milliseconds));
        let arguments = types::SubmitArgs::new().timespec(&limit);
        self.ring.submitter().submit_with_args(1, &arguments).map(drop)
    }

    /// Registers a ring of one buffer, receives into it and takes the ring away again.
    fn receive_into_provided(&mut self, socket: RawFd) -> io::Result<()> {
        let mut page = Box::new(Page([0; 4096]));
        page.provide();
        let at = (&raw mut page.0).expose_provenance() as u64;
        // SAFETY: `page` is page-aligned, holds one entry, and is freed only after the ring is unregistered,
        // or never.
        unsafe { self.ring.submitter().register_buf_ring_with_flags(at, 1, BUFFER_GROUP, 0) }?;
        let result = self.complete(Operation::ReceiveProvided(socket));
        if self.ring.submitter().unregister_buf_ring(BUFFER_GROUP).is_err() {
            mem::forget(page);
        }
        match result? {
            (count, flags) if cqueue::buffer_select(flags) == Some(0) => whole_word(Ok((count, flags))),
            _ => Err(io::Error::other("it received into no buffer of the ring")),
        }
    }
}

impl Memory {
    fn new() -> Box<Self> {
        let vector = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: all zeroes is a msghdr: null pointers and lengths of nothing.
        let message = unsafe { mem::zeroed() };
        let mut memory = Box::new(Self { bytes: [0; 8], vector, message, address: None });
        memory.bytes[..WORD.len()].copy_from_slice(WORD);
        memory
    }

    fn entry(self: &mut Box<Self>, operation: Operation) -> squeue::Entry {
        let bytes = self.bytes.as_mut_ptr();
        let len = WORD.len() as u32;
        self.vector = libc::iovec { iov_base: bytes.cast(), iov_len: WORD.len() };
        self.message.msg_iov = &raw mut self.vector;
        self.message.msg_iovlen = 1;
        match operation {
            Operation::AcceptMulti(fd) => {
                opcode::AcceptMulti::new(types::Fd(fd)).flags(libc::SOCK_CLOEXEC).build()
            }
            Operation::Accept(fd) => {
                let nobody = std::ptr::null_mut();
                opcode::Accept::new(types::Fd(fd), nobody, nobody.cast()).flags(libc::SOCK_CLOEXEC).build()
            }
            Operation::Connect(fd, address) => {
                let address = self.address.insert(address);
                opcode::Connect::new(types::Fd(fd), address.as_ptr().cast(), address.len()).build()
            }
            Operation::Send(fd) => opcode::Send::new(types::Fd(fd), bytes, len).build(),
            Operation::Receive(fd) => opcode::Recv::new(types::Fd(fd), bytes, len).build(),
            Operation::SendMessage(fd) => {
                opcode::SendMsg::new(types::Fd(fd), &raw const self.message).build()
            }
            Operation::ReceiveMessage(fd) => {
                opcode::RecvMsg::new(types::Fd(fd), &raw mut self.message).build()
            }
            Operation::Read(fd) => opcode::Read::new(types::Fd(fd), bytes, 8).build(),
            Operation::ReceiveProvided(fd) => {
                let receive = opcode::Recv::new(types::Fd(fd), std::ptr::null_mut(), len);
                receive.buf_group(BUFFER_GROUP).build().flags(squeue::Flags::BUFFER_SELECT)
            }
            Operation::Cancel(number) => opcode::AsyncCancel::new(number).build(),
            Operation::Close(fd) => opcode::Close::new(types::Fd(fd)).build(),
        }
    }
}

/// One page: the entry of a provided buffer ring (`struct io_uring_buf`) and, half-way through it, the
/// buffer.
#[repr(C, align(4096))]
struct Page([u8; 4096]);

impl Page {
    /// Writes entry 0: address (8 bytes), length (4), buffer id (2), and in its last two the tail of the
    /// ring: 1.
    fn provide(&mut self) {
        let buffer = (&raw mut self.0[2048]).expose_provenance() as u64;
        self.0[..8].copy_from_slice(&buffer.to_ne_bytes());
        self.0[8..12].copy_from_slice(&16_u32.to_ne_bytes());
        self.0[14..16].copy_from_slice(&1_u16.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_tried_once_and_in_order() {
        let checks = checks();
        let names: Vec<&str> = checks[1..].iter().map(|check| check.name.as_str()).collect();
        assert_eq!(names, TRIED);
        if checks[0].verdict == Verdict::Ok {
            let failed: Vec<&Check> = checks.iter().filter(|check| check.verdict != Verdict::Ok).collect();
            assert!(failed.is_empty(), "{failed:?}");
        }
    }

    fn trial() -> Trial {
        let mut ring = IoUring::builder();
        let ring = ring.setup_single_issuer().setup_defer_taskrun().build(8).unwrap();
        Trial { ring, made: 0, early: Vec::new() }
    }

    /// As on a kernel whose multishot accept ends at once, and on one that knows none.
    #[test]
    fn missing_multishot_accept_only_degrades_the_probe() {
        for accept in [Operation::Accept, |_| Operation::Accept(-1)] {
            let checks = operations(&mut trial(), accept);
            assert_eq!(checks.len(), TRIED.len());
            for check in checks {
                let expected = if check.name == ACCEPT_MULTISHOT { Verdict::Degraded } else { Verdict::Ok };
                assert_eq!(check.verdict, expected, "{check:?}");
            }
        }
    }

    #[test]
    fn an_operation_that_fails_says_so() {
        let mut trial = trial();
        let error = trial.complete(Operation::Send(-1)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        let error = trial.complete(Operation::Cancel(99)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
