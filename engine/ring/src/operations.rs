//! The operations of io_uring that the engine uses: all of them, in this one place. The probe tries each, and
//! a worker's ring refuses any other.

use std::io;

use io_uring::opcode::{Accept, AsyncCancel, Close, Connect, Read, Recv, RecvMsg, Send, SendMsg};
use io_uring::register::Restriction;
use io_uring::{IoUring, squeue};

/// The one operation that the engine can do without: it then accepts connections one by one, which has the
/// same code.
pub(crate) const ACCEPT_MULTISHOT: &str = "accept multishot";

/// What an operation is called, and its code (`IORING_OP_…`, `io_uring_enter(2)`).
pub(crate) const OPERATIONS: [(&str, u8); 9] = [
    (ACCEPT_MULTISHOT, Accept::CODE),
    ("connect", Connect::CODE),
    ("send", Send::CODE),
    ("recv", Recv::CODE),
    ("sendmsg", SendMsg::CODE),
    ("recvmsg", RecvMsg::CODE),
    ("read", Read::CODE),
    ("async cancel", AsyncCancel::CODE),
    ("close", Close::CODE),
];

/// The flags that an entry may have.
const FLAGS: squeue::Flags = squeue::Flags::BUFFER_SELECT.union(squeue::Flags::SKIP_SUCCESS);

/// `IORING_REGISTER_PROBE`, which only reads. Kernels differ in what they allow where no registration is
/// named, so one is.
const REGISTER_PROBE: u8 = 8;

/// Restricts the ring to these operations, for good; it must be disabled (`IORING_SETUP_R_DISABLED`), and have
/// all registered that it needs. Then enables it for the calling thread.
///
/// # Errors
/// What io_uring_register(2) says: EBADFD if the ring is not disabled.
pub(crate) fn restrict(ring: &IoUring) -> io::Result<()> {
    let operations = OPERATIONS.iter().map(|(_, code)| Restriction::sqe_op(*code));
    let others = [Restriction::sqe_flags_allowed(FLAGS.bits()), Restriction::register_op(REGISTER_PROBE)];
    let mut all: Vec<Restriction> = operations.chain(others).collect();
    ring.submitter().register_restrictions(&mut all)?;
    ring.submitter().register_enable_rings()
}

/// Whether rings can be restricted here, found by trying.
///
/// # Errors
/// What io_uring_setup(2) or io_uring_register(2) say.
pub fn can_be_restricted() -> io::Result<()> {
    let mut ring = IoUring::builder();
    let ring = ring.setup_single_issuer().setup_defer_taskrun().setup_r_disabled().build(1)?;
    restrict(&ring)
}
