//! The allocator's memory back to the kernel.
//!
//! mimalloc returns what was freed some milliseconds later, but only when it is called again: a thread that
//! goes to sleep after a wave of connections would keep all of theirs.

/// Returns what the calling thread has freed. Where another allocator is in use nothing happens.
pub fn give_back() {
    // SAFETY: mimalloc's own function, callable at any time from any thread; it frees only what nobody uses.
    unsafe { libmimalloc_sys::mi_collect(false) };
}
