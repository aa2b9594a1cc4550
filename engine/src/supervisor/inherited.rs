//! Listening sockets that this process was given: by the service manager (socket activation), or by the
//! process that it replaces. A listener of the configuration takes those of its address instead of binding
//! its own.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::StartError;
use super::unix_socket::{Bound, SocketFile, SocketFiles};
use crate::config::{Config, SocketAccess};
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
                || config.admin_addresses().contains(it)
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
        owned.filter_map(SocketFile::adopt_left).map(|file| files.add(file)).collect()
    }
}

impl Given {
    /// For as many workers: each gets a socket of its own, or a duplicate of the one that all share. Those
    /// that are new do not listen yet, for who waited in one would be lost if this process did not come to
    /// accept. Sockets that are more than the workers are behind theirs: none is closed, for connections wait
    /// in it. The file of a Unix socket gets this access once it is this process's.
    pub(super) fn bind(self, workers: usize, access: SocketAccess) -> Result<Bound, StartError> {
        let Self { purpose, asked, bound, mut sockets, is_shared, owns_file } = self;
        let refused = |error: std::io::Error| StartError::Listen {
            key: "listen",
            address: asked.clone(),
            problem: format!("was passed by another process and cannot be used: {}", errno::name(&error)),
        };
        // Those of admin do not block, in the process that has them as in this one: the flag is of both.
        for socket in sockets.iter().filter(|_| purpose != Some(Purpose::Admin)) {
            passed::adopt(socket.as_fd(), bound.is_unix()).map_err(refused)?;
        }
        while sockets.len() < workers {
            let more = match &bound {
                // The kernel shares a port among sockets of one user, and the first may be of another.
                Address::Tcp(address) if !is_shared => {
                    socket::bind_shared(*address).or_else(|_| sockets[0].try_clone())
                }
                _ => sockets[0].try_clone(),
            };
            sockets.push(more.map_err(refused)?);
        }
        let file = bound.file().filter(|_| owns_file);
        let file = file.map(|path| SocketFile::adopt(path, access)).transpose();
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::os::unix::net::UnixListener;

    use super::*;

    const ANY_PORT: &str = "127.0.0.1:0";
    const IDLE: &str = "a socket that does not listen";

    fn given(count: usize, is_shared: bool) -> Given {
        let first = socket::listener(ANY_PORT.parse().unwrap(), true, 16).unwrap();
        let bound = socket::local_addr(first.as_fd()).unwrap();
        let more = (1..count).map(|_| socket::listener(bound, true, 16).unwrap());
        Given {
            purpose: Some(Purpose::Listener),
            asked: Address::Tcp(ANY_PORT.parse().unwrap()),
            bound: bound.into(),
            sockets: std::iter::once(first).chain(more).collect(),
            is_shared,
            owns_file: false,
        }
    }

    fn tcp(address: &str) -> Address {
        Address::Tcp(address.parse::<SocketAddr>().unwrap())
    }

    #[test]
    fn inherited_sockets_match_by_address_and_purpose() {
        let (one, two) = (given(1, false), given(1, false));
        let (first, second) = (one.bound.clone(), two.bound.clone());
        let mut inherited = Inherited { giver: Giver::Predecessor, sockets: vec![one, two] };
        assert_eq!(inherited.count(), 2);
        assert!(inherited.take(Purpose::Admin, &first).is_none());
        assert!(inherited.take(Purpose::Listener, &tcp("127.0.0.1:1")).is_none());
        let taken = inherited.take(Purpose::Listener, &second).unwrap();
        assert_eq!(taken.bound, second, "a port that the kernel chose may be written since");
        assert_eq!(inherited.take(Purpose::Listener, &tcp(ANY_PORT)).unwrap().bound, first);
    }

    #[test]
    fn workers_get_a_socket_each_and_none_is_closed() {
        for (sockets, is_shared, workers, expected) in
            [(2, false, 2, 2), (1, false, 3, 3), (3, false, 1, 3), (1, true, 4, 4)]
        {
            let given = given(sockets, is_shared);
            let address = given.bound.clone();
            let bound = given.bind(workers, SocketAccess::default()).unwrap();
            assert_eq!(
                (bound.sockets.len(), bound.is_shared, &bound.listen),
                (expected, is_shared, &address)
            );
            for (nth, socket) in bound.sockets.iter().enumerate() {
                let found = passed::listening(socket.as_fd()).map(|found| found.address);
                let expected = if nth < sockets || is_shared { Ok(address.clone()) } else { Err(IDLE) };
                assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn unix_socket_file_is_removed_only_by_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let files = SocketFiles::default();
        for is_taken in [true, false] {
            let socket = OwnedFd::from(UnixListener::bind(&path).unwrap());
            let address = Address::Unix(path.clone());
            let given = Given {
                purpose: Some(Purpose::Listener),
                asked: address.clone(),
                bound: address.clone(),
                sockets: vec![socket],
                is_shared: true,
                owns_file: true,
            };
            let mut inherited = Inherited { giver: Giver::Predecessor, sockets: vec![given] };
            let taken = is_taken.then(|| inherited.take(Purpose::Listener, &address).unwrap());
            let taken = taken.map(|given| given.bind(2, SocketAccess::default()).unwrap());
            let taken = taken.and_then(|bound| bound.file).map(|file| files.add(file));
            let left = inherited.left_files(&files);
            files.remove_all();
            assert!(path.exists(), "another process may still have it");
            files.take_over();
            drop((taken, left));
            assert!(!path.exists());
        }
    }
}
