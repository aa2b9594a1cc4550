//! Why there is no ring to be had, in words that help.

use std::io;

/// The likely cause of what [`Ring::new`](super::Ring::new) failed of, and what to do.
#[must_use]
pub fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel has no io_uring; Linux 6.1 or later is needed (see uname -r)",
        Some(libc::EPERM) => {
            "it is forbidden: try `sysctl kernel.io_uring_disabled=0`, and allow io_uring_setup in the \
             container's seccomp profile"
        }
        Some(libc::ENOMEM) => "not enough locked memory: raise RLIMIT_MEMLOCK (LimitMEMLOCK=, `ulimit -l`)",
        Some(libc::EMFILE | libc::ENFILE) => {
            "no descriptor is left: raise RLIMIT_NOFILE (LimitNOFILE=, `ulimit -n`)"
        }
        Some(libc::EINVAL) => "this kernel is too old; Linux 6.1 or later is needed (see uname -r)",
        _ => "run `offramp probe` for what this host can do",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_remedy() {
        let hint = |errno| hint(&io::Error::from_raw_os_error(errno));
        assert!(hint(libc::EPERM).contains("seccomp") && hint(libc::ENOMEM).contains("ulimit -l"));
        assert!(hint(libc::ENOSYS).contains("no io_uring") && hint(libc::EIO).contains("offramp probe"));
    }
}
