//! Ticket keys that a process has generated, on their way to the process that replaces it, so that sessions
//! resume there. With a file, the file is the only input of both processes.

use std::path::Path;

use zeroize::Zeroizing;

use super::super::ticket_file::KeyFileError;
use super::super::ticket_keys::{KeyRing, UnixSeconds};
use super::{NextKeys, Tickets};

impl Tickets {
    /// The keys of this process alone, as a key file has them; none if they come from a file.
    #[must_use]
    pub fn share(&self) -> Option<Zeroizing<String>> {
        let ring = self.ring.load();
        self.file().is_none().then(|| ring.content())
    }

    /// Those that another process has [shared](Tickets::share), for this process alone from now on.
    ///
    /// # Errors
    /// [`KeyFileError`]: the text is none of those.
    pub fn from_shared(
        keys: &str,
        session_lifetime_seconds: u64,
        now: UnixSeconds,
    ) -> Result<Self, KeyFileError> {
        let ring = KeyRing::parse(Path::new("the keys that were handed over"), keys)?;
        Ok(Self::new(NextKeys { ring, file: None }, session_lifetime_seconds, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = 1_790_000_000;

    #[test]
    fn generated_keys_are_shared_and_file_keys_are_not() {
        let tickets = Tickets::generate(3600, NOW).expect("randomness");
        let shared = tickets.share().expect("there is no file");
        let taken = Tickets::from_shared(&shared, 3600, NOW).expect("as it was written");
        assert_eq!((taken.keys(), taken.file()), (tickets.keys(), None));
        assert_eq!(*taken.share().expect("there is no file"), *shared);
        let error = Tickets::from_shared("key", 3600, NOW).expect_err("it is no key").to_string();
        assert!(error.starts_with("the keys that were handed over:1: "), "{error}");
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("ticket.keys");
        KeyRing::generate(NOW).expect("randomness").create(&file).expect("written");
        assert!(Tickets::from_file(&file, 3600, NOW).expect("readable").share().is_none());
    }
}
