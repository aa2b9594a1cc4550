//! seccomp: the system calls that the process needs once its listeners are bound and its keys are read.
//!
//! The list was taken from what the wire tests and the adversary's use, traced with strace(1), and what the C
//! library takes on other kernels in place of these. Whatever is not on it fails with EPERM, and the kernel's
//! audit log has a line (`type=1326`) with its number. A call of `ENOSYS` fails as on a kernel that does not have it,
//! so that the C library takes the older one which the filter can read.
//!
//! Operations of a ring are no system calls: see `ring/src/operations.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use libc::{c_int, c_long};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Is, SeccompCondition as Condition,
    SeccompFilter, SeccompRule,
};

use crate::sys::errno;
use crate::sys::seccomp::{self, Refusals, Threads};

/// What is allowed with any arguments, by what needs it.
const ALLOWED: &[(&str, &[c_long])] = &[
    (
        "rings: of the workers, and the ones that the admin address makes when a reload moves it",
        &[libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_io_uring_setup],
    ),
    (
        "waiting: signals, ticks and the admin address; getaddrinfo(3)",
        &[
            libc::SYS_epoll_create1,
            libc::SYS_epoll_ctl,
            libc::SYS_epoll_pwait,
            libc::SYS_eventfd2,
            libc::SYS_ppoll,
            libc::SYS_timerfd_create,
            libc::SYS_timerfd_settime,
        ],
    ),
    (
        "sockets: listeners of a reload, connections, probes, the resolver; the service manager",
        &[
            libc::SYS_accept4,
            libc::SYS_bind,
            libc::SYS_connect,
            libc::SYS_getpeername,
            libc::SYS_getsockname,
            libc::SYS_getsockopt,
            libc::SYS_listen,
            libc::SYS_recvfrom,
            libc::SYS_recvmsg,
            libc::SYS_sendmmsg,
            libc::SYS_sendmsg,
            libc::SYS_sendto,
            libc::SYS_setsockopt,
            libc::SYS_shutdown,
        ],
    ),
    (
        "files, as far as Landlock and their modes allow: keys, configuration, /proc, the log",
        &[
            libc::SYS_close,
            libc::SYS_faccessat,
            libc::SYS_fcntl,
            libc::SYS_fstat,
            libc::SYS_getcwd,
            libc::SYS_getdents64,
            libc::SYS_lseek,
            libc::SYS_newfstatat,
            libc::SYS_openat,
            libc::SYS_pread64,
            libc::SYS_read,
            libc::SYS_readlinkat,
            libc::SYS_readv,
            libc::SYS_statx,
            libc::SYS_write,
            libc::SYS_writev,
        ],
    ),
    (
        "files of Unix sockets: owner, mode, end",
        &[libc::SYS_fchmodat, libc::SYS_fchownat, libc::SYS_unlinkat],
    ),
    ("memory", &[libc::SYS_brk, libc::SYS_madvise, libc::SYS_mremap, libc::SYS_munmap]),
    (
        "threads: their start and end, locks, CPUs",
        &[
            libc::SYS_exit,
            libc::SYS_exit_group,
            libc::SYS_futex,
            libc::SYS_getpid,
            libc::SYS_gettid,
            libc::SYS_membarrier,
            libc::SYS_rseq,
            libc::SYS_sched_getaffinity,
            libc::SYS_sched_setaffinity,
            libc::SYS_sched_yield,
            libc::SYS_set_robust_list,
        ],
    ),
    (
        "signals",
        &[
            libc::SYS_restart_syscall,
            libc::SYS_rt_sigaction,
            libc::SYS_rt_sigprocmask,
            libc::SYS_rt_sigreturn,
            libc::SYS_sigaltstack,
        ],
    ),
    (
        "time, where the kernel does not answer in userspace",
        &[
            libc::SYS_clock_getres,
            libc::SYS_clock_gettime,
            libc::SYS_clock_nanosleep,
            libc::SYS_gettimeofday,
            libc::SYS_nanosleep,
        ],
    ),
    (
        "the process and its host: users, limits, random bytes",
        &[
            libc::SYS_getegid,
            libc::SYS_geteuid,
            libc::SYS_getgid,
            libc::SYS_getgroups,
            libc::SYS_getrandom,
            libc::SYS_getuid,
            libc::SYS_sysinfo,
            libc::SYS_uname,
        ],
    ),
];

/// The names of some of these before the kernel had the ones above; other architectures never had them.
#[cfg(target_arch = "x86_64")]
const ALLOWED_OLD: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_epoll_wait,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_OLD: &[c_long] = &[];

/// The same number everywhere; the library lacks it for some architectures.
const FCHMODAT2: c_long = 452;
/// New ones whose arguments a filter cannot read, or for which the list has an older one.
const ENOSYS: [c_long; 6] = [
    libc::SYS_clone3,
    libc::SYS_epoll_pwait2,
    libc::SYS_faccessat2,
    FCHMODAT2,
    libc::SYS_openat2,
    libc::SYS_futex_waitv,
];

/// Of the list, what a worker never does: it makes no other ring, whose operations would not be restricted, no
/// thread, no listener, and has nothing to do with files.
const WORKER_REFUSED: &[c_long] = &[
    libc::SYS_bind,
    libc::SYS_clone,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_getdents64,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_listen,
    libc::SYS_unlinkat,
];
#[cfg(target_arch = "x86_64")]
const WORKER_REFUSED_OLD: &[c_long] = &[libc::SYS_chmod, libc::SYS_chown, libc::SYS_unlink];
#[cfg(not(target_arch = "x86_64"))]
const WORKER_REFUSED_OLD: &[c_long] = &[];

/// Families of sockets; AF_NETLINK, with which the C library would sort addresses, is none of them.
const FAMILIES: [c_int; 3] = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX];
/// Types of sockets, behind `SOCK_CLOEXEC` and `SOCK_NONBLOCK`.
const TYPES: [c_int; 2] = [libc::SOCK_STREAM, libc::SOCK_DGRAM];
const TYPE_MASK: u64 = 0xf;
/// What a thread has that is none of another process, and no namespace of its own.
const THREAD: c_int = libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND;
const NAMESPACES: c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;
/// The name of a thread, and of memory.
const PRCTL: [c_int; 2] = [libc::PR_SET_NAME, libc::PR_SET_VMA];
/// What the standard library asks of descriptors.
const IOCTL: [libc::Ioctl; 4] = [libc::FIOCLEX, libc::FIONBIO, libc::FIONREAD, libc::TCGETS];

/// Filters the system calls of all threads, for good.
///
/// # Errors
/// Why they are not filtered, and what to try.
pub(super) fn filter() -> Result<String, String> {
    let (newer, (main, count)) = programs().map_err(|error| error.to_string())?;
    // Of two that refuse, the one that was installed last decides by which error: the second one must let pass
    // what the first one refuses.
    for (program, refusals) in [(newer, Refusals::Silent), (main, Refusals::Logged)] {
        seccomp::filter(&instructions(&program), Threads::All, refusals)
            .map_err(|error| format!("{}; try: {}", errno::name(&error), seccomp::remedy(&error)))?;
    }
    Ok(format!("{count} system calls"))
}

/// What a worker gives up beside that once it has its ring, which is all that it needs of these.
pub(super) fn of_worker() -> Result<Arc<[libc::sock_filter]>, seccompiler::BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    let refused = WORKER_REFUSED.iter().chain(WORKER_REFUSED_OLD).map(|call| (*call, Vec::new()));
    let refusal = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let program: BpfProgram =
        SeccompFilter::new(refused.collect(), SeccompAction::Allow, refusal, arch)?.try_into()?;
    Ok(instructions(&program).into())
}

fn instructions(program: &BpfProgram) -> Vec<libc::sock_filter> {
    program.iter().map(instruction).collect()
}

fn instruction(it: &seccompiler::sock_filter) -> libc::sock_filter {
    libc::sock_filter { code: it.code, jt: it.jt, jf: it.jf, k: it.k }
}

/// The one that answers ENOSYS, and the list with the number of its calls.
fn programs() -> Result<(BpfProgram, (BpfProgram, usize)), seccompiler::BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    let error = |errno: c_int| SeccompAction::Errno(errno.unsigned_abs());
    let newer = ENOSYS.into_iter().map(|call| (call, Vec::new())).collect();
    let newer = SeccompFilter::new(newer, SeccompAction::Allow, error(libc::ENOSYS), arch)?;
    let mut rules = rules()?;
    let count = rules.len();
    rules.extend(ENOSYS.into_iter().map(|call| (call, Vec::new())));
    let main = SeccompFilter::new(rules, error(libc::EPERM), SeccompAction::Allow, arch)?;
    Ok((newer.try_into()?, (main.try_into()?, count)))
}

/// By call, of which one of the rules must hold; none where any arguments will do.
fn rules() -> Result<BTreeMap<c_long, Vec<SeccompRule>>, seccompiler::BackendError> {
    let any = ALLOWED.iter().flat_map(|(_, calls)| *calls).chain(ALLOWED_OLD);
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = any.map(|call| (*call, Vec::new())).collect();
    let rule = |conditions: Vec<Condition>| SeccompRule::new(conditions);
    let sockets = FAMILIES.iter().flat_map(|family| TYPES.iter().map(move |kind| (*family, *kind)));
    let sockets = sockets.map(|(family, kind)| rule(vec![is(0, family)?, masked(1, TYPE_MASK, kind)?]));
    rules.insert(libc::SYS_socket, sockets.collect::<Result<_, _>>()?);
    rules.insert(libc::SYS_socketpair, vec![rule(vec![is(0, libc::AF_UNIX)?])?]);
    let thread = masked(0, bits(THREAD | NAMESPACES), THREAD)?;
    rules.insert(libc::SYS_clone, vec![rule(vec![thread])?]);
    // Memory is not both written and run, and only what a file has is run: the modules of the name service.
    let (write, exec) = (libc::PROT_WRITE, libc::PROT_EXEC);
    let data = rule(vec![masked(2, bits(exec), 0)?])?;
    let code = [masked(2, bits(exec | write), exec)?, masked(3, bits(libc::MAP_ANONYMOUS), 0)?];
    rules.insert(libc::SYS_mmap, vec![data.clone(), rule(code.into())?]);
    rules.insert(libc::SYS_mprotect, vec![data]);
    let prctl = PRCTL.iter().map(|what| rule(vec![is(0, *what)?]));
    rules.insert(libc::SYS_prctl, prctl.collect::<Result<_, _>>()?);
    let ioctl = IOCTL.iter().map(|what| rule(vec![Condition::new(1, Len::Dword, Is::Eq, *what)?]));
    rules.insert(libc::SYS_ioctl, ioctl.collect::<Result<_, _>>()?);
    // Of this process alone: abort(3) and limits.
    let ours = c_int::try_from(std::process::id()).unwrap_or_default();
    rules.insert(libc::SYS_tgkill, vec![rule(vec![is(0, ours)?])?]);
    rules.insert(libc::SYS_prlimit64, vec![rule(vec![is(0, 0)?])?]);
    // One more filter can only refuse more.
    let set = is(0, libc::SECCOMP_SET_MODE_FILTER.cast_signed())?;
    let logged = Condition::new(1, Len::Qword, Is::Eq, libc::SECCOMP_FILTER_FLAG_LOG)?;
    rules.insert(libc::SYS_seccomp, vec![rule(vec![set, logged])?]);
    Ok(rules)
}

fn is(argument: u8, value: c_int) -> Result<Condition, seccompiler::BackendError> {
    Condition::new(argument, Len::Dword, Is::Eq, bits(value))
}

fn masked(argument: u8, mask: u64, value: c_int) -> Result<Condition, seccompiler::BackendError> {
    Condition::new(argument, Len::Qword, Is::MaskedEq(mask), bits(value))
}

fn bits(value: c_int) -> u64 {
    u64::from(value.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_lists_each_call_once_and_fits_a_program() {
        let mut all: Vec<c_long> =
            ALLOWED.iter().flat_map(|(_, calls)| *calls).chain(ALLOWED_OLD).chain(&ENOSYS).copied().collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        let (_, (main, calls)) = programs().expect("a program");
        assert!(main.len() < 4096, "{}", main.len());
        assert_eq!(calls, count - ENOSYS.len() + 9 + 1);
        let listed: Vec<c_long> = rules().expect("rules").into_keys().collect();
        assert!(WORKER_REFUSED.iter().chain(WORKER_REFUSED_OLD).all(|call| listed.contains(call)));
        assert!(!of_worker().expect("a program").is_empty());
    }
}
