//! Users and groups of this host, by name (getpwnam(3), getgrnam(3)): whatever the host's name service knows,
//! so that a look-up may wait for a directory server.

use std::ffi::{CStr, CString};
use std::io;

/// Bytes of an entry: the first attempt, and the most.
const ENTRY_BYTES: usize = 1024;
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// A user of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user's number.
    pub uid: u32,
    /// The number of the user's own group.
    pub gid: u32,
}

/// The account of this name; none if there is no such user.
///
/// # Errors
/// EIO, EMFILE and others: the name service does not answer. ERANGE: the entry has more than 1 MiB.
pub fn by_name(name: &str) -> io::Result<Option<Account>> {
    entry(name, |name, room| {
        // SAFETY: zero is valid for every field of a passwd, as pointers that are null.
        let (mut entry, mut found) = (unsafe { std::mem::zeroed::<libc::passwd>() }, std::ptr::null_mut());
        let (at, len) = (room.as_mut_ptr().cast(), room.len());
        // SAFETY: `name` ends with NUL; `entry` and `found` are writable, and `at` for `len` bytes, for the
        // whole call; what `entry` points at lies in `room`, and only its numbers are read.
        let status = unsafe { libc::getpwnam_r(name.as_ptr(), &raw mut entry, at, len, &raw mut found) };
        (status, (!found.is_null()).then_some(Account { uid: entry.pw_uid, gid: entry.pw_gid }))
    })
}

/// The account of this number; none if no user has it.
///
/// # Errors
/// As for [`by_name`].
pub fn by_number(uid: u32) -> io::Result<Option<Account>> {
    entry("", |_, room| {
        // SAFETY: as in `by_name`.
        let (mut entry, mut found) = (unsafe { std::mem::zeroed::<libc::passwd>() }, std::ptr::null_mut());
        let (at, len) = (room.as_mut_ptr().cast(), room.len());
        // SAFETY: as in `by_name`, with a number in place of the name.
        let status = unsafe { libc::getpwuid_r(uid, &raw mut entry, at, len, &raw mut found) };
        (status, (!found.is_null()).then_some(Account { uid: entry.pw_uid, gid: entry.pw_gid }))
    })
}

/// The number of a user; none if there is no such user.
///
/// # Errors
/// As for [`by_name`].
pub fn user_id(name: &str) -> io::Result<Option<u32>> {
    Ok(by_name(name)?.map(|account| account.uid))
}

/// The number of a group; none if there is no such group.
///
/// # Errors
/// As for [`by_name`].
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    entry(name, |name, room| {
        // SAFETY: zero is valid for every field of a group, as pointers that are null.
        let (mut entry, mut found) = (unsafe { std::mem::zeroed::<libc::group>() }, std::ptr::null_mut());
        let (at, len) = (room.as_mut_ptr().cast(), room.len());
        // SAFETY: as in `by_name`.
        let status = unsafe { libc::getgrnam_r(name.as_ptr(), &raw mut entry, at, len, &raw mut found) };
        (status, (!found.is_null()).then_some(entry.gr_gid))
    })
}

/// Asks with more room as long as there is too little.
fn entry<T>(name: &str, ask: impl Fn(&CStr, &mut [u8]) -> (libc::c_int, Option<T>)) -> io::Result<Option<T>> {
    let Ok(name) = CString::new(name) else { return Ok(None) };
    let mut room = vec![0; ENTRY_BYTES];
    loop {
        match ask(&name, &mut room) {
            (0, found) => return Ok(found),
            // How some name services say that there is none (getpwnam(3)).
            (libc::ENOENT | libc::ESRCH, _) => return Ok(None),
            (libc::EINTR, _) => {}
            (libc::ERANGE, _) if room.len() < ENTRY_BYTES_MAX => room.resize(2 * room.len(), 0),
            (errno, _) => return Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_is_found_by_its_name() {
        assert_eq!(
            (user_id("root").expect("a user"), group_id("root").expect("a group")),
            (Some(0), Some(0))
        );
        let root = Some(Account { uid: 0, gid: 0 });
        assert_eq!(by_number(0).expect("a user"), root);
        for name in ["no-such-account", "", "with\0nul"] {
            assert_eq!((user_id(name).expect("none"), group_id(name).expect("none")), (None, None), "{name}");
        }
    }
}
