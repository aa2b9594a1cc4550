//! a=fingerprint (RFC 8122): which certificates hold.

use offramp_proto::fingerprint::{Fingerprint, FingerprintHash};

use crate::MAX_FINGERPRINTS;
use crate::error::{Problem, SdpError, shown};
use crate::line::Line;

pub(crate) const NAME: &str = "fingerprint";

/// Functions that RFC 8122 §5 forbids.
const WEAK: [&str; 3] = ["md2", "md5", "sha-1"];

/// The fingerprints of a peer that count: those by the strongest function that is supported (rule 5). Two
/// sets with the same fingerprints in another order are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FingerprintSet {
    hash: FingerprintHash,
    /// At least one, sorted, each once.
    fingerprints: Vec<Fingerprint>,
}

impl FingerprintSet {
    /// The strongest of these; none of no fingerprints.
    #[must_use]
    pub fn strongest(mut fingerprints: Vec<Fingerprint>) -> Option<Self> {
        let hash = fingerprints.iter().map(|fingerprint| fingerprint.hash).max()?;
        fingerprints.retain(|fingerprint| fingerprint.hash == hash);
        fingerprints.sort();
        fingerprints.dedup();
        Some(Self { hash, fingerprints })
    }

    /// The function by which a certificate has to be hashed.
    #[must_use]
    pub fn hash(&self) -> FingerprintHash {
        self.hash
    }

    /// The fingerprints: what the engine is given to judge the peer by.
    #[must_use]
    pub fn fingerprints(&self) -> &[Fingerprint] {
        &self.fingerprints
    }

    /// Whether a certificate holds whose digest, by the function that `digest` is asked for, is this one.
    pub fn holds(&self, digest: impl FnOnce(FingerprintHash) -> Vec<u8>) -> bool {
        let digest = digest(self.hash);
        self.fingerprints.iter().any(|fingerprint| fingerprint.digest == digest)
    }

    /// The a=fingerprint lines among these, which are of one level.
    pub(crate) fn read(lines: &[Line]) -> Result<Option<Self>, SdpError> {
        let (mut read, mut passed_over) = (Vec::new(), None);
        let values = lines.iter().filter_map(|line| line.attribute(NAME).map(|value| (line, value)));
        for (index, (line, value)) in values.enumerate() {
            if index == MAX_FINGERPRINTS {
                return Err(line.fault(Problem::TooManyFingerprints));
            }
            match read_fingerprint(line.utf8(value)?) {
                Ok(fingerprint) => read.push(fingerprint),
                Err(problem @ Problem::FingerprintForm { .. }) => return Err(line.fault(problem)),
                Err(problem) => passed_over = passed_over.or(Some(line.fault(problem))),
            }
        }
        match (Self::strongest(read), passed_over) {
            (None, Some(problem)) => Err(problem),
            (set, _) => Ok(set),
        }
    }
}

/// The first of several forked answers, each with the fingerprints of its to-tag, whose peer has shown this
/// certificate (rule 6); `digest` is its digest by the function that is asked for.
pub fn first_match<'a, T>(
    forks: impl IntoIterator<Item = (T, &'a FingerprintSet)>,
    mut digest: impl FnMut(FingerprintHash) -> Vec<u8>,
) -> Option<T> {
    forks.into_iter().find(|(_, set)| set.holds(&mut digest)).map(|(tag, _)| tag)
}

fn read_fingerprint(value: &str) -> Result<Fingerprint, Problem> {
    let name = value.split(' ').next().unwrap_or_default();
    if let Some(weak) = WEAK.into_iter().find(|weak| weak.eq_ignore_ascii_case(name)) {
        return Err(Problem::WeakFingerprint(weak));
    }
    let hash = FingerprintHash::by_name(name).ok_or_else(|| Problem::UnknownHash(shown(name)))?;
    let problem = Problem::FingerprintForm { name: hash.name(), bytes: hash.digest_bytes() };
    Fingerprint::parse(value).ok_or(problem)
}
