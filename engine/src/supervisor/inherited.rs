//! Listening sockets that this process was given: by the service manager (socket activation), or by the
//! process that it replaces. A listener of the configuration takes those of its address instead of binding
//! its own.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::StartError;
use super::unix_socket::{Bound, SocketFile, SocketFiles};
use crate::config::Config;
use crate::config::limits::LISTEN_BACKLOG;
use crate::sys::socket::{self, Address};
use crate::sys::{errno, passed};

/// What listens on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Listener,
    Admin,
}

/// The sockets of one address.
#[derive(Debug)]
pub(super) struct Given {
    /// None if it is for whoever has the address.
    pub(super) purpose: Option<Purpose>,
    /// As the other process was configured.
    pub(super) asked: Address,
    /// As they are bound.
    pub(super) bound: Address,
    pub(super) sockets: Vec<OwnedFd>,
    /// All workers accept on one.
    pub(super) is_shared: bool,
    /// This process removes the file of the Unix socket at its end.
    pub(super) owns_file: bool,
}

/// Who has given them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Giver {
    #[default]
    Nobody,
    /// Each listener must get one, and each socket a listener.
    Manager,
    /// What it has and this one wants; the rest stays with it.
    Predecessor,
}

/// All that were given and not yet taken.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    pub(super) giver: Giver,
    pub(super) sockets: Vec<Given>,
}

impl Inherited {
    /// Takes those of this address, if there are any. Of a port that the kernel has chosen it is the one that
    /// the other process had for the same line of the configuration.
    pub(super) fn take(&mut self, purpose: Purpose, asked: &Address) -> Option<Given> {
        let is_for = |it: &Given| it.purpose.is_none_or(|other| other == purpose);
        let exact = self.sockets.iter().position(|it| is_for(it) && it.asked == *asked);
        let at = exact.or_else(|| self.sockets.iter().position(|it| is_for(it) && it.bound == *asked));
        at.map(|at| self.sockets.remove(at))
    }

    /// How many sockets there are.
    pub(super) fn count(&self) -> u64 {
        self.sockets.iter().map(|it| it.sockets.len() as u64).sum()
    }

    /// Whether the service manager has passed what the configuration wants, no more and no less. The admin
    /// address is bound if it was not passed.
    pub(super) fn check(&self, config: &Config) -> Result<(), StartError> {
        if self.giver != Giver::Manager {
            return Ok(());
        }
        let is_passed = |address: &Address| self.sockets.iter().any(|it| it.bound == *address);
        let wanted = |it: &Address| {
            config.listeners.iter().any(|listener| listener.listen == *it)
                || config.admin.is_some_and(|admin| Address::Tcp(admin) == *it)
        };
        let missing: Vec<_> =
            config.listeners.iter().map(|it| &it.listen).filter(|it| !is_passed(it)).collect();
        let extra: Vec<_> = self.sockets.iter().map(|it| &it.bound).filter(|it| !wanted(it)).collect();
        if missing.is_empty() && extra.is_empty() {
            return Ok(());
        }
        Err(StartError::Activation {
            passed: self.sockets.len(),
            extra: list(extra.into_iter()),
            missing: list(missing.into_iter()),
        })
    }

    /// The files of Unix sockets that nobody here has taken: this process removes them once it has taken
    /// over, as nobody else will.
    pub(super) fn left_files(&mut self, files: &SocketFiles) -> Vec<Arc<SocketFile>> {
        let left = std::mem::take(&mut self.sockets);
        let owned = left.iter().filter(|it| it.owns_file).filter_map(|it| it.bound.file());
        owned.filter_map(|path| SocketFile::adopt(path).ok()).map(|file| files.add(file)).collect()
    }
}

impl Given {
    /// For as many workers: each gets a socket of its own, or a duplicate of the one that all share. Sockets
    /// that are more than the workers are behind theirs: none is closed, for connections wait in it.
    pub(super) fn bind(self, workers: usize) -> Result<Bound, StartError> {
        let Self { asked, bound, mut sockets, is_shared, owns_file, .. } = self;
        let refused = |error: std::io::Error| StartError::Listen {
            key: "listen",
            address: asked.clone(),
            problem: format!("was passed by another process and cannot be used: {}", errno::name(&error)),
        };
        for socket in &sockets {
            passed::adopt(socket.as_fd(), bound.is_unix()).map_err(refused)?;
        }
        while sockets.len() < workers {
            let more = match &bound {
                Address::Tcp(address) if !is_shared => socket::listener(*address, true, LISTEN_BACKLOG),
                _ => sockets[0].try_clone(),
            };
            sockets.push(more.map_err(refused)?);
        }
        let file = bound.file().filter(|_| owns_file).map(SocketFile::adopt).transpose();
        let file =
            file.map_err(|problem| StartError::Listen { key: "listen", address: bound.clone(), problem })?;
        Ok(Bound { listen: bound, sockets, file, is_shared })
    }
}

/// As it is written in a message.
pub(super) fn list<'a>(addresses: impl Iterator<Item = &'a Address>) -> String {
    let addresses: Vec<String> = addresses.map(Address::to_string).collect();
    if addresses.is_empty() { "none".to_owned() } else { addresses.join(", ") }
}
