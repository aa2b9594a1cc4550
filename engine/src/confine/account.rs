//! The user: a process that was started as root becomes another one, for good.

use std::ffi::CString;

use nix::unistd::{self, Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_keep_capabilities};

use crate::config::RunAs;

/// What a reload needs that adds a listener below port 1024, and that nothing else gives.
const KEPT: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;

pub(super) fn is_root() -> bool {
    Uid::effective().is_root()
}

/// All threads become the user, with its group and supplementary groups. The calling one, and those that it
/// starts, keep CAP_NET_BIND_SERVICE if the process had it, and no other capability.
///
/// # Errors
/// The call that was refused, and its error.
pub(super) fn become_user(user: &RunAs) -> Result<String, String> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let groups = groups(user, gid)?;
    let kept = capabilities(None).map_err(|error| format!("capget: {error}"))?.permitted & KEPT;
    set_keep_capabilities(true).map_err(|error| format!("PR_SET_KEEPCAPS: {error}"))?;
    // The C library does these in every thread.
    unistd::setgroups(&groups).map_err(|error| format!("setgroups: {error}"))?;
    unistd::setresgid(gid, gid, gid).map_err(|error| format!("setresgid: {error}"))?;
    unistd::setresuid(uid, uid, uid).map_err(|error| format!("setresuid: {error}"))?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(|error| format!("capset: {error}"))?;
    set_keep_capabilities(false).map_err(|error| format!("PR_SET_KEEPCAPS: {error}"))?;
    let root = Uid::from_raw(0);
    if unistd::setresuid(root, root, root).is_ok() || Uid::current() != uid || Uid::effective() != uid {
        return Err("it could become root again".to_owned());
    }
    let rest = if kept.is_empty() { "" } else { ", with CAP_NET_BIND_SERVICE" };
    Ok(format!("{} (uid {uid}, gid {gid}{rest})", user.user))
}

fn groups(user: &RunAs, gid: Gid) -> Result<Vec<Gid>, String> {
    if !user.has_account {
        return Ok(vec![gid]);
    }
    let account =
        unistd::User::from_uid(Uid::from_raw(user.uid)).map_err(|error| format!("getpwuid: {error}"))?;
    let Some(account) = account else { return Ok(vec![gid]) };
    let name = CString::new(account.name).map_err(|_| "its name has a NUL".to_owned())?;
    unistd::getgrouplist(&name, gid).map_err(|error| format!("getgrouplist: {error}"))
}

/// The layer of a process that stays who it is.
///
/// # Errors
/// Why that is not what is best, or not what was asked for, and what to try.
pub(super) fn as_started(user: Option<&RunAs>) -> Result<String, String> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    match user {
        None if uid.is_root() => {
            Err("runs as root; try: user = \"NAME\" with a user that owns the keys".to_owned())
        }
        Some(user) if user.uid != uid.as_raw() || user.gid != gid.as_raw() => Err(format!(
            "runs as the user and group {uid}:{gid} that started it, who cannot become {}; try: a start as root, or \
             no user",
            user.user
        )),
        _ => Ok(format!("{uid}, as it was started")),
    }
}
