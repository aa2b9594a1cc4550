//! Landlock (`landlock(7)`): the process reaches what its configuration names, and nothing else.
//!
//! TCP ports are left alone: a reload may bring listeners and backends at any port, and what Landlock has once
//! refused stays refused. Nor are signals scoped: the C library sends some from thread to thread, and the filter
//! of system calls allows no others.

use std::fs::File;
use std::io;

use landlock::{
    ABI, Access, AccessFs, BitFlags, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

use super::LOG_PATIENCE;
use super::paths::Paths;
use crate::log::Log;
use crate::sys::{errno, landlock as kernel};

/// The newest version whose rights were tried with Offramp. Older kernels have a part of them.
const TRIED: ABI = ABI::V6;

/// Restricts the calling thread, those that it starts, and that of the log. With what must stay open for that:
/// the directory of this process in /proc, which the kernel would forget and make again as another one.
///
/// # Errors
/// Why the whole process is not restricted, and what to try.
pub(super) fn restrict(paths: &Paths, log: &Log) -> Result<(String, Option<File>), String> {
    let kept = File::open("/proc/self").ok();
    kernel::abi().map_err(|error| format!("{}; try: {}", errno::name(&error), kernel::remedy(&error)))?;
    let ruleset = ruleset(paths).map_err(|error| error.to_string())?;
    let theirs = ruleset.try_clone().map_err(|error: io::Error| errno::name(&error))?;
    match log.on_thread(move || enforce(theirs), LOG_PATIENCE) {
        Some(done) => done?,
        None => return Err("the thread of the log does not answer; try: read stderr faster".to_owned()),
    };
    Ok((enforce(ruleset)?, kept))
}

fn enforce(ruleset: RulesetCreated) -> Result<String, String> {
    let RestrictionStatus { ruleset, landlock, .. } =
        ruleset.restrict_self().map_err(|error| error.to_string())?;
    match (ruleset, landlock) {
        (RulesetStatus::NotEnforced, _) => Err("the kernel enforced no rule".to_owned()),
        (_, LandlockStatus::Available { effective_abi, kernel_abi }) => {
            Ok(format!("ABI {}", kernel_abi.unwrap_or(effective_abi as i32)))
        }
        _ => Ok("ABI unknown".to_owned()),
    }
}

fn ruleset(paths: &Paths) -> Result<RulesetCreated, RulesetError> {
    let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(TRIED))?;
    if !paths.abstract_sockets {
        ruleset = ruleset.scope(Scope::AbstractUnixSocket)?;
    }
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let making: BitFlags<AccessFs> = AccessFs::MakeSock | AccessFs::RemoveFile;
    let mut ruleset = ruleset.create()?.add_rules(path_beneath_rules(&paths.read, reading))?;
    for directory in &paths.sockets {
        // One that is not there, the bind reports.
        if let Ok(directory) = PathFd::new(directory) {
            ruleset = ruleset.add_rule(PathBeneath::new(directory, making))?;
        }
    }
    Ok(ruleset)
}
