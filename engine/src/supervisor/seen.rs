//! The files that listeners name, and whether they are as they were.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::config::Listener;
use offramp_files::Stamp;

/// Each file of the listeners, in their order, and as it was; `None` where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen(Vec<(PathBuf, Option<Stamp>)>);

impl Seen {
    /// As they are now; to be taken before they are read, or a change in between would be missed.
    pub(super) fn of<'a>(listeners: impl IntoIterator<Item = &'a Listener>) -> Self {
        let seen = |path: PathBuf| (path.clone(), Stamp::of(&path));
        Self(listeners.into_iter().flat_map(Listener::files).map(seen).collect())
    }

    /// Which files are no longer as they were, have come or are gone.
    pub(super) fn changed(&self, now: &Self) -> String {
        let differs = |(one, other): (&Self, &Self)| {
            let is_in_other = |seen: &&(PathBuf, Option<Stamp>)| other.0.contains(seen);
            one.0
                .iter()
                .filter(|seen| !is_in_other(seen))
                .map(|(path, _)| path.display().to_string())
                .collect::<Vec<_>>()
        };
        let changed: BTreeSet<String> = [(self, now), (now, self)].into_iter().flat_map(differs).collect();
        changed.into_iter().collect::<Vec<_>>().join(", ")
    }

    /// Whether a file that was there is not there now, and still named.
    pub(super) fn has_lost(&self, now: &Self) -> bool {
        let was_there = |path: &PathBuf| self.0.iter().any(|(it, stamp)| it == path && stamp.is_some());
        now.0.iter().any(|(path, stamp)| stamp.is_none() && was_there(path))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{ConfigOption, Raw, TrustAnchor};

    #[test]
    fn watch_knows_every_file_that_a_listener_names() {
        let mut raw = Raw::default();
        raw.give_flag(ConfigOption::Listen, "127.0.0.1:0".to_owned());
        raw.give_flag(ConfigOption::Backend, "127.0.0.1:1".to_owned());
        raw.give_identities(&["/d/c.pem".into()], &["/d/k.pem".into()]).unwrap();
        let mut listener = raw.check().unwrap().listeners.remove(0);
        listener.identities[0].ocsp = Some("/d/ocsp".into());
        listener.peers.trust_anchor = TrustAnchor::Authorities("/d/ca.pem".into());
        let named: Vec<_> = listener.files().iter().map(|path| path.display().to_string()).collect();
        assert_eq!(named, ["/d/c.pem", "/d/k.pem", "/d/ocsp", "/d/ca.pem"]);
    }
}
