//! The ring as etcd stores it: sealed with a key-encryption key (AES-256-GCM).
//!
//! ```text
//! magic (8) | version (1) | id of the key-encryption key (8) | nonce (12) | ciphertext | tag (16)
//! ```
//!
//! The plaintext is a line `generation N` and the text of a key file. The additional data are everything in front
//! of the nonce, and the key of etcd under which the value stands: a ring that is copied to the prefix of another
//! cluster does not open there.

use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest;
use aws_lc_rs::rand;
use offramp_core::tls::ticket_keys::{KeyRing, NoRandomness};
use offramp_core::tls::{KeyFileError, TICKET_FILE_BYTES_MAX, read_secret};
use zeroize::Zeroizing;

const MAGIC: &[u8; 8] = b"OFFRKEYS";
const VERSION: u8 = 1;
const ID_BYTES: usize = 8;
const HEADER_BYTES: usize = MAGIC.len() + 1 + ID_BYTES;
const KEY_BYTES: usize = 32;
/// The key that seals, and the one before or after it.
pub(crate) const KEYS_MAX: usize = 2;
/// Most bytes of a sealed ring: more than a full ring has.
pub(crate) const SEALED_BYTES_MAX: usize = TICKET_FILE_BYTES_MAX;

/// Why a key-encryption key cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KekError {
    #[error("{}: it is not a regular file; {MAKE}", .0.display())]
    NoFile(PathBuf),
    #[error(transparent)]
    File(KeyFileError),
    #[error("{}: a key-encryption key has {KEY_BYTES} bytes, and this file has {bytes}; {MAKE}", .path.display())]
    Length { path: PathBuf, bytes: usize },
    #[error("{}: this file is one byte over and over, and no key; {MAKE}", .0.display())]
    Constant(PathBuf),
    #[error("{}: the same key-encryption key is given twice", .0.display())]
    Twice(PathBuf),
}

const MAKE: &str = "make one with: (umask 077; openssl rand -out FILE 32), and give every host the same";

/// Why a value is not taken as a ring. No text quotes the value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum OpenError {
    #[error("it is no ring that an agent has sealed ({bytes} bytes)")]
    Rubbish { bytes: usize },
    #[error("it has {bytes} bytes, and at most {SEALED_BYTES_MAX} are read")]
    TooLong { bytes: usize },
    #[error("its format has version {0}, and this agent reads version {VERSION}; update the agent")]
    Version(u8),
    #[error(
        "it is sealed with the key-encryption key {theirs}, and this host has {ours}; give this host that key"
    )]
    ForeignKey { theirs: String, ours: String },
    #[error("it was changed after it was sealed, or belongs to another prefix")]
    Changed,
    #[error("what was sealed is no ring: {0}")]
    NoRing(String),
}

/// A ring with the number that grows with each change.
#[derive(Clone, Debug)]
pub(crate) struct Generation {
    pub(crate) number: u64,
    pub(crate) ring: KeyRing,
}

/// What came out of a value.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) generation: Generation,
    /// Whether it was sealed with another key than the one that seals now.
    pub(crate) is_by_other_key: bool,
}

struct Kek {
    id: [u8; ID_BYTES],
    key: LessSafeKey,
}

/// Seals with the first key, opens with each.
pub(crate) struct Sealer {
    keys: Vec<Kek>,
    /// The key of etcd under which the value stands.
    place: String,
}

impl Sealer {
    /// Reads the key-encryption keys; the caller has checked that there are 1 to [`KEYS_MAX`].
    pub(crate) fn read(paths: &[PathBuf], place: &str) -> Result<Self, KekError> {
        let mut keys: Vec<Kek> = Vec::new();
        for path in paths {
            let key = Kek::read(path)?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(KekError::Twice(path.clone()));
            }
            keys.push(key);
        }
        Ok(Self { keys, place: place.to_owned() })
    }

    /// What identifies the key that seals; it shows nothing of the key.
    pub(crate) fn id(&self) -> String {
        self.keys.first().map(|key| hex(&key.id)).unwrap_or_default()
    }

    pub(crate) fn seal(&self, generation: &Generation) -> Result<Vec<u8>, NoRandomness> {
        let Some(kek) = self.keys.first() else { return Err(NoRandomness) };
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| NoRandomness)?;
        let header = header(VERSION, kek.id);
        let content = generation.ring.content();
        let line = format!("generation {}\n", generation.number);
        // Encrypted in place: with room for everything from the beginning, no copy of a secret is left behind.
        let tag_bytes = AES_256_GCM.tag_len();
        let mut sealed = Zeroizing::new(Vec::with_capacity(line.len() + content.len() + tag_bytes));
        sealed.extend_from_slice(line.as_bytes());
        sealed.extend_from_slice(content.as_bytes());
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        let aad = Aad::from(self.aad(&header));
        kek.key.seal_in_place_append_tag(nonce_used, aad, &mut *sealed).map_err(|_| NoRandomness)?;
        Ok([&header[..], &nonce, &sealed].concat())
    }

    pub(crate) fn open(&self, value: &[u8]) -> Result<Opened, OpenError> {
        let bytes = value.len();
        if bytes > SEALED_BYTES_MAX {
            return Err(OpenError::TooLong { bytes });
        }
        let rest = value.strip_prefix(&MAGIC[..]).ok_or(OpenError::Rubbish { bytes })?;
        let (version, rest) = rest.split_first().ok_or(OpenError::Rubbish { bytes })?;
        if *version != VERSION {
            return Err(OpenError::Version(*version));
        }
        let (id, rest) = rest.split_first_chunk::<ID_BYTES>().ok_or(OpenError::Rubbish { bytes })?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(OpenError::Rubbish { bytes })?;
        let Some(nth) = self.keys.iter().position(|key| key.id == *id) else {
            let ours: Vec<String> = self.keys.iter().map(|key| hex(&key.id)).collect();
            return Err(OpenError::ForeignKey { theirs: hex(id), ours: ours.join(" and ") });
        };
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let aad = Aad::from(self.aad(&value[..HEADER_BYTES]));
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.keys[nth].key.open_in_place(nonce, aad, &mut sealed);
        let generation = parse(opened.map_err(|_| OpenError::Changed)?, &self.place)?;
        Ok(Opened { generation, is_by_other_key: nth != 0 })
    }

    fn aad(&self, header: &[u8]) -> Vec<u8> {
        [header, self.place.as_bytes()].concat()
    }
}

impl Kek {
    fn read(path: &Path) -> Result<Self, KekError> {
        // One byte more, so that a longer file is named with a wrong length.
        let content = read_secret(path, 4096).map_err(|error| match error {
            KeyFileError::NoFile { path } => KekError::NoFile(path),
            other => KekError::File(other),
        })?;
        let secret = content.raw();
        let bytes = secret.len();
        let Ok(secret) = <&[u8; KEY_BYTES]>::try_from(secret) else {
            return Err(KekError::Length { path: path.to_owned(), bytes });
        };
        if secret.iter().all(|byte| *byte == secret[0]) {
            return Err(KekError::Constant(path.to_owned()));
        }
        let mut named = digest::Context::new(&digest::SHA256);
        named.update(b"offramp ticket-key agent: id of a key-encryption key");
        named.update(secret);
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&named.finish().as_ref()[..ID_BYTES]);
        let key = UnboundKey::new(&AES_256_GCM, secret)
            .map_err(|_| KekError::Length { path: path.to_owned(), bytes })?;
        Ok(Self { id, key: LessSafeKey::new(key) })
    }
}

fn header(version: u8, id: [u8; ID_BYTES]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..MAGIC.len()].copy_from_slice(MAGIC);
    header[MAGIC.len()] = version;
    header[MAGIC.len() + 1..].copy_from_slice(&id);
    header
}

fn parse(plaintext: &[u8], place: &str) -> Result<Generation, OpenError> {
    let no_ring = |why: &str| OpenError::NoRing(why.to_owned());
    let text = std::str::from_utf8(plaintext).map_err(|_| no_ring("it is not text"))?;
    let (line, text) = text.split_once('\n').ok_or_else(|| no_ring("it has no generation"))?;
    let number = line.strip_prefix("generation ").and_then(|number| number.parse().ok());
    let number = number.ok_or_else(|| no_ring("it has no generation"))?;
    let ring =
        KeyRing::parse(Path::new(place), text).map_err(|error| OpenError::NoRing(error.to_string()))?;
    Ok(Generation { number, ring })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NOW: u64 = 1_790_000_000;

    fn kek(dir: &tempfile::TempDir, name: &str, content: &[u8]) -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    fn random(dir: &tempfile::TempDir, name: &str) -> PathBuf {
        let mut secret = [0; KEY_BYTES];
        rand::fill(&mut secret).unwrap();
        kek(dir, name, &secret)
    }

    fn generation() -> Generation {
        Generation { number: 17, ring: KeyRing::generate(NOW).unwrap() }
    }

    #[test]
    fn sealed_ring_opens_with_either_key() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (random(&dir, "old"), random(&dir, "new"));
        let sealer = |keys: &[&PathBuf]| {
            Sealer::read(&keys.iter().map(|path| (*path).clone()).collect::<Vec<_>>(), "/p/ring").unwrap()
        };
        let sealed = sealer(&[&old]).seal(&generation()).unwrap();
        for (keys, is_by_other) in [(vec![&old], false), (vec![&old, &new], false), (vec![&new, &old], true)]
        {
            let opened = sealer(&keys).open(&sealed).unwrap();
            assert_eq!((opened.generation.number, opened.is_by_other_key), (17, is_by_other));
        }
        let error = sealer(&[&new]).open(&sealed).unwrap_err();
        assert!(matches!(error, OpenError::ForeignKey { .. }), "{error}");
        let again = sealer(&[&old]).seal(&generation()).unwrap();
        assert_ne!(again[HEADER_BYTES..][..NONCE_LEN], sealed[HEADER_BYTES..][..NONCE_LEN]);
    }

    #[test]
    fn sealed_ring_changed_anywhere_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let key = random(&dir, "kek");
        let sealer = Sealer::read(std::slice::from_ref(&key), "/p/ring").unwrap();
        let sealed = sealer.seal(&generation()).unwrap();
        let elsewhere = Sealer::read(&[key], "/q/ring").unwrap();
        assert_eq!(elsewhere.open(&sealed).unwrap_err(), OpenError::Changed);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(sealer.open(&changed).is_err(), "byte {at}");
            assert!(sealer.open(&sealed[..at]).is_err(), "the first {at}");
        }
        let long = vec![0; SEALED_BYTES_MAX + 1];
        assert_eq!(sealer.open(&long).unwrap_err(), OpenError::TooLong { bytes: long.len() });
    }

    #[test]
    fn full_ring_fits_the_bound() {
        let dir = tempfile::tempdir().unwrap();
        let sealer = Sealer::read(&[random(&dir, "kek")], "/p/ring").unwrap();
        let mut full = generation();
        while full.ring.add(NOW, NOW + 600).is_ok() {}
        let sealed = sealer.seal(&full).unwrap();
        assert!(sealed.len() * 4 < SEALED_BYTES_MAX, "{}", sealed.len());
        assert_eq!(*sealer.open(&sealed).unwrap().generation.ring.content(), *full.ring.content());
    }

    #[test]
    fn key_encryption_key_of_another_form_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |path: PathBuf| match Sealer::read(&[path], "/p/ring") {
            Ok(_) => panic!("accepted"),
            Err(error) => error.to_string(),
        };
        assert!(refused(kek(&dir, "short", &[1; 31])).contains("has 32 bytes, and this file has 31"));
        assert!(refused(kek(&dir, "zero", &[0; 32])).contains("one byte over and over"));
        assert!(refused(dir.path().to_owned()).contains("not a regular file"));
        let open = random(&dir, "open");
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(refused(open).contains("mode is 0644"));
        let twice = random(&dir, "twice");
        assert!(matches!(Sealer::read(&[twice.clone(), twice], "/p/ring"), Err(KekError::Twice(_))));
    }
}
