//! What others may see of this process (`prctl(2)`, `setrlimit(2)`).

use std::io;

/// Keeps the memory of the process, in which there are private keys, out of core dumps and from other
/// processes of the same user: no core is written, whatever handles them, and neither a debugger nor
/// `/proc/PID/mem` is for anybody but root. The files of `/proc/PID` belong to root from then on. Holds until
/// the next exec.
///
/// # Errors
/// Those of the two calls: none that happens, unless a filter of system calls forbids them.
pub fn forbid_dumps() -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `none` is initialised and readable for its whole size for the call, which keeps no pointer.
    let limited = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    if limited != 0 {
        return Err(io::Error::last_os_error());
    }
    let no: libc::c_ulong = 0;
    // SAFETY: PR_SET_DUMPABLE takes one argument, an unsigned long by value, and looks at none behind it; no
    // memory is passed.
    let set = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, no, no, no, no) };
    if set != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
