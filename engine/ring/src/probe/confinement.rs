//! What the kernel has to confine a process.

use std::io;

use super::{Check, Verdict};
use crate::{errno, landlock, operations, seccomp};

const GROUP: &str = "confinement";

pub(super) fn checks() -> Vec<Check> {
    let landlock = landlock::abi().map(|abi| format!("ABI {abi}"));
    let landlock_remedy = landlock.as_ref().err().map_or("", landlock::remedy);
    let seccomp = seccomp::is_available();
    let seccomp_remedy = seccomp.as_ref().err().map_or("", seccomp::remedy);
    let nothing = |result: io::Result<()>| result.map(|()| String::new());
    vec![
        check("Landlock", landlock, landlock_remedy),
        check("seccomp filter", nothing(seccomp), seccomp_remedy),
        check("io_uring restrictions", nothing(operations::can_be_restricted()), "a kernel of 6.1 or later"),
    ]
}

fn check(name: &'static str, found: io::Result<String>, remedy: &str) -> Check {
    match found {
        Ok(detail) => Check::ok(GROUP, name, detail),
        Err(error) => Check::bad(Verdict::Degraded, (GROUP, name.to_owned()), errno::name(&error), remedy),
    }
}
