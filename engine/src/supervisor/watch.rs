//! The files of certificates, keys, OCSP responses and authorities: looked at each second, and read again
//! when they have changed.
//!
//! A renewal changes two files or more, one after the other. So they are read when all have been as they are
//! for a second, and what cannot be used as a whole, such as a new certificate with the old key, changes
//! nothing: what was in force stays, and the next change is the next try. Symbolic links are followed to
//! their end, as Kubernetes swaps one that is a directory.

use super::seen::Seen;
use super::services::Services;
use crate::config::Listener;
use crate::tls::TlsPolicy;

/// Looks at the files.
pub(super) struct Watch {
    services: Services,
    /// As the files were at the last look, if they had changed by then.
    settling: Option<Seen>,
}

impl Watch {
    pub(super) fn new(services: Services) -> Self {
        Self { services, settling: None }
    }

    /// Once a [`TICK`](crate::config::limits::TICK).
    pub(super) fn tick(&mut self) {
        let mut in_force = self.services.lock();
        in_force.warn();
        let now = Seen::of(in_force.listeners());
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
        let changed = in_force.seen.changed(&now);
        in_force.seen = now;
        let outcome = in_force.reread();
        in_force.registry().reloaded(outcome.is_ok());
        match outcome {
            Ok(()) => {
                tracing::info!("changed and in force: {changed}");
                warn_of_exposed_keys(in_force.listeners());
            }
            Err(why) => tracing::error!(
                "changed and not in force: {changed}: {why}; what was in force stays until a file changes \
                 again"
            ),
        }
    }
}

/// One line for each key file to which everybody has access.
pub(super) fn warn_of_exposed_keys<'a>(listeners: impl Iterator<Item = &'a Listener>) {
    for warning in TlsPolicy::exposed_keys(&listeners.flat_map(Listener::all_identities).collect::<Vec<_>>())
    {
        tracing::warn!("{warning}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    use super::super::Control;
    use super::super::reload::find;
    use super::*;
    use crate::config::{Config, ConfigOption, Raw};
    use crate::tls::Tickets;

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
        raw.give_flag(ConfigOption::Listen, "127.0.0.1:0".to_owned());
        raw.give_flag(ConfigOption::Backend, "127.0.0.1:1".to_owned());
        raw.give_identities(&[directory.join("c.pem")], &[directory.join("k.pem")]).unwrap();
        raw.check().unwrap()
    }

    /// With the files of this directory in force.
    fn watch(directory: &Path) -> Watch {
        let tickets = Arc::new(Tickets::generate(1, 0).unwrap());
        let services = Control::new(1, tickets).unwrap().services;
        let config = config(directory);
        let mut in_force = services.lock();
        let next = in_force.prepare(&config, &find(&config)).unwrap();
        in_force.commit(next);
        drop(in_force);
        Watch::new(services)
    }

    /// Whether another TLS policy is in force after so many looks.
    fn changes(watch: &mut Watch, looks: usize) -> bool {
        let in_force =
            |watch: &Watch| Arc::clone(watch.services.lock().running()[0].legs.near.tls().unwrap());
        let before = in_force(watch);
        (0..looks).for_each(|_| watch.tick());
        !Arc::ptr_eq(&before, &in_force(watch))
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
}
