//! The files that listeners name, and whether they are as they were.

use std::path::Path;

use crate::config::{Listener, TrustAnchor};
use offramp_files::Stamp;

/// Of each file of the listeners, in their order; `None` where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen(Vec<Option<Stamp>>);

impl Seen {
    /// As they are now; to be taken before they are read, or a change in between would be missed.
    pub(super) fn of<'a>(listeners: impl IntoIterator<Item = &'a Listener>) -> Self {
        Self(listeners.into_iter().flat_map(files).map(Stamp::of).collect())
    }

    /// Which files of the listeners are no longer as they were.
    pub(super) fn changed<'a>(&self, listeners: impl Iterator<Item = &'a Listener>, now: &Self) -> String {
        let mut changed: Vec<String> = Vec::new();
        for (path, (before, now)) in listeners.flat_map(files).zip(self.0.iter().zip(&now.0)) {
            let path = path.display().to_string();
            if before != now && !changed.contains(&path) {
                changed.push(path);
            }
        }
        changed.join(", ")
    }

    pub(super) fn is_complete(&self) -> bool {
        self.0.iter().all(Option::is_some)
    }
}

/// All that a listener names and that is read when it is loaded.
fn files(listener: &Listener) -> impl Iterator<Item = &Path> {
    let identities = listener.all_identities().flat_map(|identity| {
        [Some(&identity.certificate), Some(&identity.key), identity.ocsp.as_ref()].into_iter().flatten()
    });
    let anchors = [listener.mode.server().map(|server| &server.trust), Some(&listener.peers.trust_anchor)];
    let authorities = anchors.into_iter().flatten().filter_map(|trust_anchor| match trust_anchor {
        TrustAnchor::Authorities(file) => Some(file),
        _ => None,
    });
    identities.chain(authorities).map(AsRef::as_ref)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigOption, Raw};

    #[test]
    fn watch_knows_every_file_that_a_listener_names() {
        let mut raw = Raw::default();
        raw.give_flag(ConfigOption::Listen, "127.0.0.1:0".to_owned());
        raw.give_flag(ConfigOption::Backend, "127.0.0.1:1".to_owned());
        raw.give_identities(&["/d/c.pem".into()], &["/d/k.pem".into()]).unwrap();
        let mut listener = raw.check().unwrap().listeners.remove(0);
        listener.identities[0].ocsp = Some("/d/ocsp".into());
        listener.peers.trust_anchor = TrustAnchor::Authorities("/d/ca.pem".into());
        let named: Vec<_> = files(&listener).map(|path| path.display().to_string()).collect();
        assert_eq!(named, ["/d/c.pem", "/d/k.pem", "/d/ocsp", "/d/ca.pem"]);
    }
}
