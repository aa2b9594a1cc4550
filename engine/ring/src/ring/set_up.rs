//! How a ring is set up.

use std::io;

use io_uring::IoUring;

use crate::operations;
use crate::pool::{Pool, Size};

/// Submission entries; the completion queue has four times as many.
const ENTRIES: u32 = 1024;

/// A ring of the calling thread, with its pools of buffers.
pub(super) fn set_up(is_restricted: bool) -> io::Result<(IoUring, [Pool; 2])> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(ENTRIES * 4);
    if is_restricted {
        builder.setup_r_disabled();
    }
    let uring = builder.build(ENTRIES)?;
    // Saves the look-up of the ring's descriptor in each system call; works without it.
    let _ = uring.submitter().register_ring_fd();
    let large = Pool::register(Size::Large, &uring.submitter())?;
    let small = Pool::register(Size::Small, &uring.submitter())?;
    if is_restricted {
        operations::restrict(&uring)?;
    }
    Ok((uring, [large, small]))
}
