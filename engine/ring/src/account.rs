//! Users and groups of this host, by name (getpwnam(3), getgrnam(3)): whatever the host's name service knows,
//! so that a look-up may wait for a directory server.

use std::ffi::{CStr, CString};
use std::io;

/// Bytes of an entry: the first attempt, and the most.
const ENTRY_BYTES: usize = 1024;
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// The number of a user; none if there is no such user.
///
/// # Errors
/// EIO, EMFILE and others: the name service does not answer. ERANGE: the entry has more than 1 MiB.
pub fn user_id(name: &str) -> io::Result<Option<u32>> {
    entry(name, |name, room| {
        // SAFETY: zero is valid for every field of a passwd, as pointers that are null.
        let (mut entry, mut found) = (unsafe { std::mem::zeroed::<libc::passwd>() }, std::ptr::null_mut());
        let (at, len) = (room.as_mut_ptr().cast(), room.len());
        // SAFETY: `name` ends with NUL; `entry` and `found` are writable, and `at` for `len` bytes, for the
        // whole call; what `entry` points at lies in `room`, and only its number is read.
        let status = unsafe { libc::getpwnam_r(name.as_ptr(), &raw mut entry, at, len, &raw mut found) };
        (status, (!found.is_null()).then_some(entry.pw_uid))
    })
}

/// The number of a group; none if there is no such group.
///
/// # Errors
/// As for [`user_id`].
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    entry(name, |name, room| {
        // SAFETY: zero is valid for every field of a group, as pointers that are null.
        let (mut entry, mut found) = (unsafe { std::mem::zeroed::<libc::group>() }, std::ptr::null_mut());
        let (at, len) = (room.as_mut_ptr().cast(), room.len());
        // SAFETY: as in `user_id`.
        let status = unsafe { libc::getgrnam_r(name.as_ptr(), &raw mut entry, at, len, &raw mut found) };
        (status, (!found.is_null()).then_some(entry.gr_gid))
    })
}

/// Asks with more room as long as there is too little.
fn entry(
    name: &str,
    ask: impl Fn(&CStr, &mut [u8]) -> (libc::c_int, Option<u32>),
) -> io::Result<Option<u32>> {
    let Ok(name) = CString::new(name) else { return Ok(None) };
    let mut room = vec![0; ENTRY_BYTES];
    loop {
        match ask(&name, &mut room) {
            (0, id) => return Ok(id),
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
        for name in ["no-such-account", "", "with\0nul"] {
            assert_eq!((user_id(name).expect("none"), group_id(name).expect("none")), (None, None), "{name}");
        }
    }
}
