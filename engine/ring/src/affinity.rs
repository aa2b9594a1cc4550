//! Which CPUs a thread may run on (`sched_setaffinity(2)`).

use std::io;

/// Lets the calling thread run on `cpu` (0-based, as in `/proc/cpuinfo`) and on no other.
///
/// # Errors
/// EINVAL: there is no such CPU, it is offline, or the cpuset of the process does not hold it.
pub fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= CPUS_MAX {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut set = empty();
    // SAFETY: `cpu` is below the set's capacity, so that the bit lies within `set`.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: `set` is initialised and readable for its whole size for the call; 0 is the calling thread.
    let status = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The CPUs that the calling thread may run on, in ascending order.
///
/// # Errors
/// EINVAL: the machine has more CPUs than the set that libc knows has room for.
pub fn allowed() -> io::Result<Vec<usize>> {
    let mut set = empty();
    // SAFETY: `set` is writable for its whole size for the call; 0 is the calling thread.
    let status = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    let is_in = |cpu: &usize| {
        // SAFETY: `cpu` is below the set's capacity, so that the bit lies within `set`.
        unsafe { libc::CPU_ISSET(*cpu, &set) }
    };
    Ok((0..CPUS_MAX).filter(is_in).collect())
}

/// A CPU for each of so many threads: the first of those that the calling thread may run on. None if there
/// are fewer: threads that must share are better moved about by the kernel.
///
/// # Errors
/// As [`allowed`].
pub fn one_each(threads: usize) -> io::Result<Vec<usize>> {
    let mut cpus = allowed()?;
    cpus.truncate(threads);
    Ok(if cpus.len() < threads { Vec::new() } else { cpus })
}

/// Bits in the set.
const CPUS_MAX: usize = size_of::<libc::cpu_set_t>() * 8;

fn empty() -> libc::cpu_set_t {
    // SAFETY: a cpu_set_t is an array of integers, for which all zeroes is a value: the empty set.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_may_run_on_that_cpu_alone() {
        let cpu = *allowed().unwrap().last().unwrap();
        let after = std::thread::spawn(move || pin(cpu).and_then(|()| allowed())).join().unwrap();
        assert_eq!(after.unwrap(), [cpu]);
    }

    #[test]
    fn each_thread_has_a_cpu_of_its_own_or_none_has() {
        let all = allowed().unwrap();
        assert_eq!(one_each(all.len()).unwrap(), all);
        assert_eq!(one_each(1).unwrap(), all[..1]);
        assert_eq!(one_each(all.len() + 1).unwrap(), [0; 0]);
    }

    #[test]
    fn a_cpu_that_cannot_exist_is_refused() {
        assert_eq!(pin(usize::MAX).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
