//! Limits and settings, as they are read.

use super::{Check, Verdict, read_setting};
use crate::affinity;
use crate::errno;
use crate::socket::resource_limit;

const GROUP: &str = "limits";

/// Descriptors that the default of 10,000 connections needs, roughly.
const NOFILE_WANTED: u64 = 20_256;

/// Backlog that the listeners ask for.
const SOMAXCONN_WANTED: u64 = 4096;

pub(super) fn kernel_release() -> String {
    read_setting("/proc/sys/kernel/osrelease")
        .unwrap_or_else(|error| format!("unknown ({})", errno::name(&error)))
}

pub(super) fn checks() -> Vec<Check> {
    vec![nofile(), memlock(), io_uring_disabled(), somaxconn(), cpus()]
}

fn nofile() -> Check {
    let at = (GROUP, "RLIMIT_NOFILE".to_owned());
    match resource_limit(libc::RLIMIT_NOFILE) {
        Err(error) => Check::bad(Verdict::Degraded, at, errno::name(&error), ""),
        Ok(limit) => {
            let detail = format!("{} (soft), {} (hard)", amount(limit.rlim_cur), amount(limit.rlim_max));
            if limit.rlim_max >= NOFILE_WANTED {
                return Check::ok(at.0, at.1, detail);
            }
            let remedy = "LimitNOFILE=1048576 in the systemd unit, or: ulimit -Hn 1048576 (as root)";
            Check::bad(Verdict::Degraded, at, detail, remedy)
        }
    }
}

/// Kernels from 5.12 on account rings to the memory cgroup instead; older ones need some of it for each ring.
fn memlock() -> Check {
    let name = "RLIMIT_MEMLOCK".to_owned();
    match resource_limit(libc::RLIMIT_MEMLOCK) {
        Err(error) => Check::bad(Verdict::Degraded, (GROUP, name), errno::name(&error), ""),
        Ok(limit) => Check::ok(GROUP, name, format!("{} bytes", amount(limit.rlim_cur))),
    }
}

fn io_uring_disabled() -> Check {
    let name = "kernel.io_uring_disabled".to_owned();
    let remedy = "sysctl -w kernel.io_uring_disabled=0";
    match read_setting("/proc/sys/kernel/io_uring_disabled").as_deref() {
        Ok("0") => Check::ok(GROUP, name, "0 (allowed for everybody)"),
        Ok("1") => Check::bad(Verdict::Degraded, (GROUP, name), "1 (only for kernel.io_uring_group)", remedy),
        Ok(value) => Check::bad(Verdict::Missing, (GROUP, name), format!("{value} (for nobody)"), remedy),
        Err(_) => Check::ok(GROUP, name, "no such setting: allowed for everybody"),
    }
}

fn somaxconn() -> Check {
    let name = "net.core.somaxconn".to_owned();
    let remedy = "sysctl -w net.core.somaxconn=4096";
    match read_setting("/proc/sys/net/core/somaxconn") {
        Err(error) => Check::bad(Verdict::Degraded, (GROUP, name), errno::name(&error), ""),
        Ok(value) if value.parse().is_ok_and(|number: u64| number >= SOMAXCONN_WANTED) => {
            Check::ok(GROUP, name, value)
        }
        Ok(value) => Check::bad(Verdict::Degraded, (GROUP, name), value, remedy),
    }
}

fn cpus() -> Check {
    match affinity::allowed() {
        Ok(cpus) => Check::ok(GROUP, "CPUs for this process", cpus.len().to_string()),
        Err(error) => {
            Check::bad(Verdict::Degraded, (GROUP, "CPUs for this process".into()), errno::name(&error), "")
        }
    }
}

fn amount(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() }
}
