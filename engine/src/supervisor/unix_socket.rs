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
    let file = path.map(SocketFile::of).transpose()?;
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
}

impl SocketFile {
    /// The file of a socket that another process has bound: that one's until [`SocketFiles::own_all`].
    pub(super) fn adopt(path: &Path) -> Result<Self, String> {
        let file = Self::of(path)?;
        file.is_left.store(true, Ordering::Relaxed);
        Ok(file)
    }

    fn of(path: &Path) -> Result<Self, String> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW);
        let opened = options.open(path).and_then(|opened| Ok((opened.metadata()?, opened)));
        match opened {
            Ok((found, opened)) if found.file_type().is_socket() => {
                Ok(Self { path: path.to_owned(), opened, is_left: AtomicBool::new(false) })
            }
            Ok(_) => Err(taken()),
            Err(error) => Err(format!("cannot be opened again: {}", errno::name(&error))),
        }
    }

    /// Sets owner and mode, of this very file, whatever has its name by now.
    fn give(&self, access: SocketAccess) -> Result<(), String> {
        let SocketAccess { mode, user, group } = access;
        let file = format!("/proc/self/fd/{}", self.opened.as_raw_fd());
        if user.is_some() || group.is_some() {
            chown(&file, user, group).map_err(|error| unowned(user, group, &error))?;
        }
        fs::set_permissions(&file, Permissions::from_mode(mode)).map_err(|error| {
            format!("cannot be given socket_mode {mode:04o}: {}; try: is /proc mounted?", errno::name(&error))
        })
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
            let path = self.path.display();
            tracing::warn!(error = errno::name(&error), "unix:{path}: the socket's file cannot be removed");
        }
    }
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

    /// No other process has them any more.
    pub(super) fn own_all(&self) {
        self.set_left(false);
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
