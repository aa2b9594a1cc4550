//! The files of certificates, keys, OCSP responses and authorities: looked at each second, and read again
//! when they have changed.
//!
//! A renewal changes two files or more, one after the other. So they are read when all have been as they are
//! for a second, and what cannot be used as a whole, such as a new certificate with the old key, changes
//! nothing: what was in force stays, and the next change is the next try. Symbolic links are followed to
//! their end, as Kubernetes swaps one that is a directory.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Control, ticket_clock};
use crate::config::{Listener, Voucher};
use crate::conn::policy::Legs;
use crate::files::Stamp;
use crate::tls::{Terms, TermsError, warnings};

/// The listeners as they are in force, and their files as they were when they were last read.
#[derive(Debug, Default)]
pub(super) struct InForce {
    listeners: Vec<Listener>,
    seen: Seen,
    /// What is wrong with their certificates and has been said.
    warned: Vec<String>,
}

/// Of each file of the listeners, in their order; `None` where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen(Vec<Option<Stamp>>);

impl Seen {
    /// As they are now; to be taken before they are read, or a change in between would be missed.
    pub(super) fn of(listeners: &[Listener]) -> Self {
        Self(listeners.iter().flat_map(files).map(Stamp::of).collect())
    }

    fn is_complete(&self) -> bool {
        self.0.iter().all(Option::is_some)
    }
}

/// All that a listener names and that is read when it is loaded.
fn files(listener: &Listener) -> impl Iterator<Item = &Path> {
    let identities = listener.identities.iter().flat_map(|identity| {
        [Some(&identity.certificate), Some(&identity.key), identity.ocsp.as_ref()].into_iter().flatten()
    });
    let vouchers = [listener.mode.server().map(|server| &server.trust), Some(&listener.peers.voucher)];
    let authorities = vouchers.into_iter().flatten().filter_map(|voucher| match voucher {
        Voucher::Authorities(file) => Some(file),
        _ => None,
    });
    identities.chain(authorities).map(AsRef::as_ref)
}

/// Shared by whoever puts listeners in force: one at a time.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched(Arc<Mutex<InForce>>);

impl Watched {
    /// For as long as something is read and put in force.
    pub(super) fn lock(&self) -> MutexGuard<'_, InForce> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InForce {
    /// These listeners are, with files that were so when they were read.
    pub(super) fn replace(&mut self, listeners: Vec<Listener>, seen: Seen) {
        *self = Self { listeners, seen, warned: Vec::new() };
    }

    /// Says what is wrong with the certificates now and has not been said: one may have expired since, an
    /// OCSP response may be out of date.
    pub(super) fn warn(&mut self, all: &[Legs]) {
        let found = warnings(all.iter().flat_map(Legs::terms), ticket_clock::now());
        for line in found.iter().filter(|line| !self.warned.contains(line)) {
            tracing::warn!("{line}");
        }
        self.warned = found;
    }

    /// The files that are no longer as they were.
    fn changed(&self, now: &Seen) -> String {
        let paths = self.listeners.iter().flat_map(files).zip(self.seen.0.iter().zip(&now.0));
        let mut changed: Vec<String> = Vec::new();
        for (path, (before, now)) in paths {
            let path = path.display().to_string();
            if before != now && !changed.contains(&path) {
                changed.push(path);
            }
        }
        changed.join(", ")
    }
}

/// Looks at the files.
pub(super) struct Watch {
    control: Control,
    /// As the files were at the last look, if they had changed by then.
    settling: Option<Seen>,
}

impl Watch {
    pub(super) fn new(control: Control) -> Self {
        Self { control, settling: None }
    }

    /// Once a [`TICK`](crate::config::limits::TICK).
    pub(super) fn tick(&mut self) {
        let mut in_force = self.control.watched.lock();
        let now = Seen::of(&in_force.listeners);
        in_force.warn(&self.control.offers.all_legs());
        // A file that is gone for a moment is being replaced.
        if now == in_force.seen || !now.is_complete() {
            self.settling = None;
            return;
        }
        if self.settling.as_ref() != Some(&now) {
            self.settling = Some(now);
            return;
        }
        self.settling = None;
        let changed = in_force.changed(&now);
        in_force.seen = now;
        match load(&in_force.listeners, &self.control) {
            Ok(terms) => {
                tracing::info!("changed and in force: {changed}");
                in_force.warned.clear();
                in_force.warn(&terms);
                self.control.offers.replace_legs(terms);
                warn_of_exposed_keys(&in_force.listeners);
            }
            Err(why) => tracing::error!(
                "changed and not in force: {changed}: {why}; what was in force stays until a file changes \
                 again"
            ),
        }
    }
}

/// Reads all files of the listeners again.
pub(super) fn load(listeners: &[Listener], control: &Control) -> Result<Vec<Legs>, TermsError> {
    let load = |(nth, listener): (usize, &Listener)| {
        listener.load(Some(&control.tickets), control.offers.legs(nth).as_ref())
    };
    listeners.iter().enumerate().map(load).collect()
}

/// One line for each key file to which everybody has access.
pub(super) fn warn_of_exposed_keys(listeners: &[Listener]) {
    for warning in Terms::exposed_keys(listeners.iter().flat_map(|listener| &listener.identities)) {
        tracing::warn!("{warning}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::{Config, Key, Raw};
    use crate::tls::Tickets;
    use crate::worker::Offers;

    /// Writes a certificate and its key into a directory.
    struct Pair {
        certificate: String,
        key: String,
    }

    impl Pair {
        fn new() -> Self {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
            Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
        }

        fn write(&self, directory: &Path) {
            fs::create_dir_all(directory).unwrap();
            fs::write(directory.join("c.pem"), &self.certificate).unwrap();
            fs::write(directory.join("k.pem"), &self.key).unwrap();
        }
    }

    fn config(directory: &Path) -> Config {
        let mut raw = Raw::default();
        raw.give_flag(Key::Listen, Some("127.0.0.1:0".to_owned()));
        raw.give_flag(Key::Backend, Some("127.0.0.1:1".to_owned()));
        raw.give_identities(&[directory.join("c.pem")], &[directory.join("k.pem")]).unwrap();
        raw.check().unwrap()
    }

    /// With the files of this directory in force.
    fn watch(directory: &Path) -> Watch {
        let tickets = Arc::new(Tickets::generate(1, 0).unwrap());
        let control = Control::new(0, Arc::new(Offers::new(Vec::new(), Vec::new())), tickets).unwrap();
        let listeners = config(directory).listeners;
        let seen = Seen::of(&listeners);
        control.offers.replace_legs(load(&listeners, &control).unwrap());
        control.watched.lock().replace(listeners, seen);
        Watch::new(control)
    }

    /// Whether other terms are in force after so many looks.
    fn changes(watch: &mut Watch, looks: usize) -> bool {
        let before = watch.control.offers.legs(0).unwrap();
        (0..looks).for_each(|_| watch.tick());
        let now = watch.control.offers.legs(0).unwrap();
        !Arc::ptr_eq(before.near.terms().unwrap(), now.near.terms().unwrap())
    }

    #[test]
    fn watch_reads_a_pair_once_it_is_whole_and_settled() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (Pair::new(), Pair::new());
        first.write(directory.path());
        let mut watch = watch(directory.path());
        assert!(!changes(&mut watch, 3), "nothing has changed");
        fs::write(directory.path().join("c.pem"), &second.certificate).unwrap();
        assert!(!changes(&mut watch, 3), "with the key of another");
        fs::write(directory.path().join("k.pem"), &second.key).unwrap();
        assert!(!changes(&mut watch, 1), "it may still be written");
        assert!(changes(&mut watch, 1));
        assert!(!changes(&mut watch, 3), "it is not read again and again");
    }

    #[test]
    fn watch_waits_while_files_change_or_are_missing() {
        let directory = tempfile::tempdir().unwrap();
        Pair::new().write(directory.path());
        let mut watch = watch(directory.path());
        for _ in 0..3 {
            Pair::new().write(directory.path());
            assert!(!changes(&mut watch, 1), "never the same for a second");
        }
        let key = directory.path().join("k.pem");
        fs::rename(&key, directory.path().join("gone")).unwrap();
        assert!(!changes(&mut watch, 3));
        fs::rename(directory.path().join("gone"), &key).unwrap();
        assert!(changes(&mut watch, 2));
    }

    #[test]
    fn watch_sees_a_directory_that_a_link_swaps() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        Pair::new().write(&at("one"));
        Pair::new().write(&at("two"));
        std::os::unix::fs::symlink("one", at("data")).unwrap();
        let mut watch = watch(&at("data"));
        std::os::unix::fs::symlink("two", at("next")).unwrap();
        fs::rename(at("next"), at("data")).unwrap();
        assert!(changes(&mut watch, 2));
    }

    #[test]
    fn watch_knows_every_file_that_a_listener_names() {
        let mut listener = config(Path::new("/d")).listeners.remove(0);
        listener.identities[0].ocsp = Some("/d/ocsp".into());
        listener.peers.voucher = Voucher::Authorities("/d/ca.pem".into());
        let named: Vec<_> = files(&listener).map(|path| path.display().to_string()).collect();
        assert_eq!(named, ["/d/c.pem", "/d/k.pem", "/d/ocsp", "/d/ca.pem"]);
    }
}
