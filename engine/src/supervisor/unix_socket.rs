//! Unix sockets that listen, one for all workers or that of admin, and their files.
//!
//! The file belongs to a socket as soon as that is bound, and connects are refused until it listens. In
//! between the file gets its owner and mode, so that nobody gets in who may not. Where a process was killed,
//! its file is left: who connects is refused too, and that is how it is known.

use std::fmt::Display;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::StartError;
use crate::config::limits::LISTEN_BACKLOG;
use crate::config::{Listener, SocketAccess};
use crate::sys::errno;
use crate::sys::socket::Address;
use crate::sys::unix;

/// What a listener was bound to.
pub(super) struct Bound {
    /// With the port that the kernel chose.
    pub(super) listen: Address,
    /// One for each worker in its order; those behind them are further ones of the first workers.
    pub(super) sockets: Vec<OwnedFd>,
    /// Of a Unix socket.
    pub(super) file: Option<SocketFile>,
    /// They are duplicates of one.
    pub(super) is_shared: bool,
}

/// Binds the listener. The kernel has no SO_REUSEPORT for Unix sockets: the workers accept on one.
pub(super) fn listening(listener: &Listener, workers: usize) -> Result<Bound, StartError> {
    bind(listener, workers).map_err(|problem| {
        let address = listener.listen.clone();
        StartError::Listen { key: "listen", address, problem }
    })
}

fn bind(listener: &Listener, workers: usize) -> Result<Bound, String> {
    let address = &listener.listen;
    let (socket, file) = listening_at(address, listener.socket_access)?;
    let mut sockets = vec![socket];
    while sockets.len() < workers {
        sockets.push(sockets[0].try_clone().map_err(|error| unlistened(&error))?);
    }
    Ok(Bound { listen: address.clone(), sockets, file, is_shared: true })
}

/// A socket that listens, and its file, if it has one. A file that a process has left is replaced.
///
/// # Errors
/// What is wrong with the address, and what to try.
pub(super) fn listening_at(
    address: &Address,
    access: SocketAccess,
) -> Result<(OwnedFd, Option<SocketFile>), String> {
    let path = address.file();
    if let Some(path) = path {
        make_way(address, path)?;
    }
    let socket = unix::bind(address).map_err(|error| unbound(address, &error))?;
    let file = path.map(SocketFile::of).transpose().map_err(|error| unopened(&error))?;
    if let Some(file) = &file {
        file.give(access)?;
    }
    unix::listen(socket.as_fd(), LISTEN_BACKLOG).map_err(|error| unlistened(&error))?;
    if file.as_ref().is_some_and(|file| !file.is_in_place()) {
        return Err(taken());
    }
    Ok((socket, file))
}

fn unlistened(error: &io::Error) -> String {
    format!("cannot be listened on: {}", errno::name(error))
}

/// Removes a socket that nobody listens on, and nothing else.
fn make_way(address: &Address, path: &Path) -> Result<(), String> {
    // Whatever else is wrong with the path, the bind says.
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    let shown = path.display();
    if !found.file_type().is_socket() {
        return Err(format!(
            "is there already and is no socket, so that Offramp does not replace it; try: another path, or \
             ls -ld {shown}"
        ));
    }
    match unix::has_listener(address) {
        Ok(true) => Err(in_use(shown)),
        Ok(false) => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!(
                "is a socket on which nobody listens, and cannot be removed: {}; try: rm {shown} as a user \
                 who may",
                errno::name(&error)
            )),
            _ => {
                tracing::info!("{address}: a socket on which nobody listened is replaced");
                Ok(())
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!(
            "is a socket of which this user cannot find out whether somebody listens: {}; try: ss -xlp | \
             grep {shown}, and rm {shown} if nobody does",
            errno::name(&error)
        )),
    }
}

fn in_use(shown: impl Display) -> String {
    format!(
        "is in use: another process, or another listener of this one, listens there; try: ss -xlp | grep \
         {shown}"
    )
}

fn unopened(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::InvalidData => taken(),
        _ => format!("cannot be opened again: {}", errno::name(error)),
    }
}

fn taken() -> String {
    "was replaced by another process while it was bound; try: one start at a time".to_owned()
}

/// Why a socket could not be bound.
fn unbound(address: &Address, error: &io::Error) -> String {
    let (what, shown) = match address.file() {
        Some(path) => (path.parent().unwrap_or(path), path.display().to_string()),
        None => (Path::new(""), address.to_string().replace("unix:", "")),
    };
    let what = if what.as_os_str().is_empty() { Path::new(".") } else { what }.display();
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => in_use(shown),
        Some(libc::ENOENT | libc::ENOTDIR) => format!(
            "cannot be made: there is no directory {what}; try: mkdir -p {what}, or RuntimeDirectory= in the \
             systemd unit"
        ),
        Some(libc::EACCES | libc::EPERM) => format!(
            "cannot be made: this user may not write to the directory {what}; try: ls -ld {what}, or \
             RuntimeDirectory= in the systemd unit"
        ),
        Some(libc::EROFS) => format!(
            "cannot be made: {what} is on a read-only file system; try: a path below /run, or \
             RuntimeDirectory= in the systemd unit"
        ),
        _ => format!("cannot be listened on: {}", errno::name(error)),
    }
}

/// The file of a socket that this process has bound. Dropped, it is removed, unless another has its name.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Opened without access. While it is open, no other file gets the same number.
    opened: File,
    /// It is another process's too, and stays for that.
    is_left: AtomicBool,
    /// Of one that another process has made: what it gets once it is this process's.
    wanted: Option<SocketAccess>,
}

impl SocketFile {
    /// The file of a socket that another process has bound: that one's until [`SocketFiles::take_over`].
    pub(super) fn adopt(path: &Path, wanted: SocketAccess) -> Result<Self, String> {
        let mut file = Self::of(path).map_err(|error| unopened(&error))?;
        *file.is_left.get_mut() = true;
        file.wanted = Some(wanted);
        Ok(file)
    }

    /// One that this process has only to remove; none if it is gone, or cannot be removed.
    pub(super) fn adopt_left(path: &Path) -> Option<Self> {
        match Self::of(path) {
            Ok(mut file) => {
                *file.is_left.get_mut() = true;
                Some(file)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
                None
            }
            Err(error) => {
                stays(path, &error);
                None
            }
        }
    }

    /// Fails with `InvalidData` if it is no socket.
    fn of(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW);
        let opened = options.open(path)?;
        if !opened.metadata()?.file_type().is_socket() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self { path: path.to_owned(), opened, is_left: AtomicBool::new(false), wanted: None })
    }

    /// Sets owner and mode, of this very file, whatever has its name by now.
    fn give(&self, access: SocketAccess) -> Result<(), String> {
        let SocketAccess { mode, user, group } = access;
        let file = format!("/proc/self/fd/{}", self.opened.as_raw_fd());
        if user.is_some() || group.is_some() {
            chown(&file, user, group).map_err(|error| unowned(user, group, &error))?;
        }
        fs::set_permissions(&file, Permissions::from_mode(mode)).map_err(|error| {
            let hint = match error.raw_os_error() {
                Some(libc::EPERM) => "only its owner and root may do that",
                _ => "try: is /proc mounted?",
            };
            format!("cannot be given socket_mode {mode:04o}: {}; {hint}", errno::name(&error))
        })
    }

    /// Gives the file owner and mode as configured, if another process has made it otherwise.
    fn conform(&self) -> Result<(), String> {
        let (Some(wanted), Ok(found)) = (self.wanted, self.opened.metadata()) else { return Ok(()) };
        let user = wanted.user.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        let group = wanted.group.unwrap_or_else(|| self.default_group());
        let differing = SocketAccess {
            user: Some(user).filter(|user| *user != found.uid()),
            group: Some(group).filter(|group| *group != found.gid()),
            mode: wanted.mode,
        };
        let is_mode = found.mode() & 0o7777 == wanted.mode;
        if is_mode && differing.user.is_none() && differing.group.is_none() {
            return Ok(());
        }
        let path = self.path.display();
        let shown = |found: &Metadata| {
            format!("mode {:04o} and owner {}:{}", found.mode() & 0o7777, found.uid(), found.gid())
        };
        self.give(differing).map_err(|why| {
            format!("unix:{path} keeps {} of before the upgrade: it {why}; or: a restart", shown(&found))
        })?;
        if let Ok(now) = self.opened.metadata() {
            tracing::info!("unix:{path} has {}; before the upgrade: {}", shown(&now), shown(&found));
        }
        Ok(())
    }

    /// The group that a new file gets there: the process's, or with the set-group-ID bit the directory's.
    fn default_group(&self) -> u32 {
        let directory = self.path.parent().and_then(|directory| fs::metadata(directory).ok());
        let set = directory.filter(|found| found.mode() & libc::S_ISGID != 0);
        set.map_or_else(|| rustix::process::getegid().as_raw(), |found| found.gid())
    }

    /// Whether the path still leads to it.
    pub(super) fn is_in_place(&self) -> bool {
        let place = |found: Metadata| (found.dev(), found.ino());
        let (ours, found) = (self.opened.metadata(), fs::symlink_metadata(&self.path));
        ours.ok().map(place).is_some_and(|ours| found.is_ok_and(|found| place(found) == ours))
    }
}

impl SocketFile {
    fn remove(&self) {
        if !self.is_left.load(Ordering::Relaxed)
            && self.is_in_place()
            && let Err(error) = fs::remove_file(&self.path)
        {
            stays(&self.path, &error);
        }
    }
}

/// Names a file that nobody removes.
fn stays(path: &Path, error: &io::Error) {
    let hint = match error.raw_os_error() {
        // Landlock: the kernel says EACCES.
        Some(libc::EACCES | libc::EPERM) => {
            ", for the configuration names no socket in its directory, or another user owns that"
        }
        _ => "",
    };
    let (path, error) = (path.display(), errno::name(error));
    tracing::warn!(error, "unix:{path}: the file stays, though nobody listens there{hint}; try: rm {path}");
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// All that there are.
#[derive(Clone, Debug, Default)]
pub(super) struct SocketFiles(Arc<Mutex<Vec<Weak<SocketFile>>>>);

impl SocketFiles {
    /// Takes note of one.
    pub(super) fn add(&self, file: SocketFile) -> Arc<SocketFile> {
        let file = Arc::new(file);
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|file| file.strong_count() > 0);
        files.push(Arc::downgrade(&file));
        file
    }

    /// Removes those that are there, whoever keeps them.
    pub(super) fn remove_all(&self) {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.iter().filter_map(Weak::upgrade).for_each(|file| file.remove());
    }

    /// Another process has them from now on, and removes them.
    pub(super) fn leave_all(&self) {
        self.set_left(true);
    }

    /// No other process has them after all.
    pub(super) fn own_all(&self) {
        self.set_left(false);
    }

    /// Those that another process has made are this one's from now on: they get owner and mode as configured.
    pub(super) fn take_over(&self) {
        self.own_all();
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for why in files.iter().filter_map(Weak::upgrade).filter_map(|file| file.conform().err()) {
            tracing::warn!("{why}");
        }
    }

    fn set_left(&self, is_left: bool) {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|file| file.is_left.store(is_left, Ordering::Relaxed));
    }
}

fn unowned(user: Option<u32>, group: Option<u32>, error: &io::Error) -> String {
    let user = user.map_or_else(String::new, |user| user.to_string());
    let group = group.map_or_else(String::new, |group| format!(":{group}"));
    let hint = if error.raw_os_error() == Some(libc::EPERM) {
        "only root may give a file away, and others to a group of their own alone; try: socket_owner = \
         \":GROUP\" with a group of the user that runs Offramp, SupplementaryGroups= or \
         AmbientCapabilities=CAP_CHOWN and CapabilityBoundingSet=CAP_CHOWN in the systemd unit"
    } else {
        "try: is /proc mounted?"
    };
    format!("cannot be given socket_owner {user}{group}: {}; {hint}", errno::name(error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn adopted_file_gets_its_mode_when_it_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let files = SocketFiles::default();
        let wanted = SocketAccess { mode: 0o666, user: None, group: None };
        let file = files.add(SocketFile::adopt(&path, wanted).unwrap());
        files.own_all();
        assert_eq!(mode(), 0o600);
        files.take_over();
        assert_eq!(mode(), 0o666);
        assert_eq!(file.conform(), Ok(()), "there is nothing left to do");
    }
}
