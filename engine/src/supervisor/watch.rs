//! The files of certificates, keys, OCSP responses and authorities: looked at each second, and read again
//! when they have changed.
//!
//! A renewal changes two files or more, one after the other. So they are read when all have been as they are
//! for a second, or for ten seconds where a file has gone, which may be about to be replaced. What cannot be
//! used as a whole, such as a new certificate with the old key, changes nothing: what was in force stays, and
//! the next change is the next try. Symbolic links are followed to their end, as Kubernetes swaps one that is
//! a directory.

use super::seen::Seen;
use super::services::Services;
use crate::config::Listener;
use crate::tls::TlsPolicy;

/// For how many looks a file that has gone is waited for.
const GONE_LOOKS: u32 = 10;

/// Looks at the files.
pub(super) struct Watch {
    services: Services,
    /// As the files were at the last look, if they had changed by then, and for how many looks before it.
    settling: Option<(Seen, u32)>,
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
        if now == in_force.seen {
            self.settling = None;
            return;
        }
        let looks = match self.settling.take() {
            Some((before, looks)) if before == now => looks + 1,
            _ => 0,
        };
        let needed = if in_force.seen.has_lost(&now) { GONE_LOOKS } else { 1 };
        if looks < needed {
            self.settling = Some((now, looks));
            return;
        }
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
        watch_of(&config(directory))
    }

    fn watch_of(config: &Config) -> Watch {
        let tickets = Arc::new(Tickets::generate(1, 0).unwrap());
        let services = Control::new(1, tickets).unwrap().services;
        let mut in_force = services.lock();
        let next = in_force.prepare(config, &find(config)).unwrap();
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
    fn watch_goes_on_when_a_file_stays_away() {
        let directory = tempfile::tempdir().unwrap();
        let pair = Pair::new();
        pair.write(directory.path());
        let mut watch = watch(directory.path());
        let (certificate, key) = (directory.path().join("c.pem"), directory.path().join("k.pem"));
        fs::remove_file(&key).unwrap();
        let reads = |watch: &mut Watch, looks: u32| {
            let before = watch.services.lock().seen.clone();
            (0..looks).for_each(|_| watch.tick());
            before != watch.services.lock().seen
        };
        assert!(!reads(&mut watch, GONE_LOOKS), "it may be about to be replaced");
        assert!(reads(&mut watch, 1), "what cannot be read is logged");
        fs::write(&certificate, &pair.certificate).unwrap();
        assert!(reads(&mut watch, 2), "a file that was missing before holds up no other");
        pair.write(directory.path());
        assert!(changes(&mut watch, 2));
    }

    #[test]
    fn watch_renews_beside_a_certificate_without_key() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let write = |pair: &Pair| {
            fs::write(at("a.crt"), &pair.certificate).unwrap();
            fs::write(at("a.key"), &pair.key).unwrap();
        };
        write(&Pair::new());
        fs::write(at("ca.crt"), Pair::new().certificate).unwrap();
        let mut config = config(directory.path());
        config.listeners[0].identities.clear();
        config.listeners[0].identity_directories = vec![directory.path().to_owned()];
        let mut watch = watch_of(&config);
        write(&Pair::new());
        assert!(changes(&mut watch, 2));
        fs::remove_file(at("a.key")).unwrap();
        Pair::new().write(&at("b"));
        fs::rename(at("b/c.pem"), at("b/tls.crt")).unwrap();
        fs::rename(at("b/k.pem"), at("b/tls.key")).unwrap();
        assert!(changes(&mut watch, 11), "a pair of which half has gone");
    }

    #[test]
    fn watch_keeps_pairs_of_an_unreadable_directory() {
        let directory = tempfile::tempdir().unwrap();
        let (pairs, away) = (directory.path().join("pairs"), directory.path().join("away"));
        Pair::new().write(&pairs);
        fs::rename(pairs.join("k.pem"), pairs.join("c.key")).unwrap();
        Pair::new().write(directory.path());
        let mut config = config(directory.path());
        config.listeners[0].identity_directories = vec![pairs.clone()];
        let mut watch = watch_of(&config);
        fs::rename(&pairs, &away).unwrap();
        assert!(!changes(&mut watch, 20), "the other identity alone would serve");
        fs::rename(&away, &pairs).unwrap();
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
