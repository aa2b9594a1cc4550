//! Filters of system calls (`seccomp(2)`).

use std::io;

/// Whether the kernel can filter system calls and report refused ones.
///
/// # Errors
/// ENOSYS, EINVAL: the kernel was built without CONFIG_SECCOMP_FILTER. EOPNOTSUPP: it cannot refuse with an
/// error.
pub fn is_available() -> io::Result<()> {
    let action = libc::SECCOMP_RET_ERRNO;
    let (what, none): (libc::c_long, libc::c_long) = (libc::SECCOMP_GET_ACTION_AVAIL.into(), 0);
    // SAFETY: `action` is initialised and readable for the call, which keeps no pointer.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, what, none, &raw const action) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whose system calls are filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// Those of all threads that there are.
    All,
    /// Those of the calling one.
    Own,
}

/// Whether the kernel's audit log reports what is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusals {
    /// With a line for each.
    Logged,
    /// Callers expect them.
    Silent,
}

/// Filters the system calls of these threads, and of those that they start, for good. The calling thread must
/// have no_new_privs, or CAP_SYS_ADMIN.
///
/// # Errors
/// EINVAL: the program is none that the kernel takes. EACCES: without no_new_privs. ENOSYS: no seccomp.
pub fn filter(program: &[libc::sock_filter], threads: Threads, refusals: Refusals) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // The kernel only reads what `filter` points at.
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let all = if threads == Threads::All { libc::SECCOMP_FILTER_FLAG_TSYNC } else { 0 };
    let logged = if refusals == Refusals::Logged { libc::SECCOMP_FILTER_FLAG_LOG } else { 0 };
    let (what, flags) = (libc::c_long::from(libc::SECCOMP_SET_MODE_FILTER), all | logged);
    // SAFETY: `program` and the `len` instructions that it points at are initialised and readable for the call,
    // which copies them and keeps no pointer. A filter can make later system calls fail, which is what callers
    // of each must expect, and nothing else.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, what, flags, &raw const program) };
    match answer {
        0 => Ok(()),
        // The thread that has a filter which this one does not have.
        thread @ 1.. => Err(io::Error::other(format!("thread {thread} has a filter of its own"))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What to do where there is none.
#[must_use]
pub fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "SystemCallFilter=seccomp in the systemd unit; in a container: a seccomp profile that allows seccomp"
        }
        _ => "a kernel with CONFIG_SECCOMP_FILTER",
    }
}
