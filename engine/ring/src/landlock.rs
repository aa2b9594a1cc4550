//! Landlock (`landlock(7)`): which version of it the kernel has.

use std::io;

/// `LANDLOCK_CREATE_RULESET_VERSION` (`landlock_create_ruleset(2)`).
const VERSION: u32 = 1;

/// The version of the kernel's Landlock ABI.
///
/// # Errors
/// ENOSYS: the kernel was built without Landlock, or a seccomp profile forbids it. EOPNOTSUPP: it is disabled
/// at boot (`lsm=`).
pub fn abi() -> io::Result<u32> {
    let nothing: *const libc::c_void = std::ptr::null();
    // SAFETY: with this flag the call reads and writes no memory: the attributes must be null and of size 0.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, VERSION) };
    u32::try_from(version).map_err(|_| io::Error::last_os_error())
}

/// What to do where there is none.
#[must_use]
pub fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "landlock in lsm= of the kernel's command line",
        Some(libc::EPERM | libc::EACCES) => {
            "SystemCallFilter=landlock_create_ruleset landlock_add_rule landlock_restrict_self in the systemd \
             unit; in a container: a seccomp profile that allows these"
        }
        _ => "a kernel with CONFIG_SECURITY_LANDLOCK",
    }
}
