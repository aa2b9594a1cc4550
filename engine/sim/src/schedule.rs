//! The key schedules, made from secrets that a peer tells: HKDF of TLS 1.3 and the PRF of TLS 1.2.
//!
//! On the primitives directly: what the worlds hold against the record paths shares no code with them.

use std::sync::{Mutex, PoisonError};

use aws_lc_rs::hkdf::{HKDF_SHA256, HKDF_SHA384, KeyType, Prk};
use aws_lc_rs::hmac::{self, HMAC_SHA256, HMAC_SHA384, Key};
use rustls::KeyLog;

use offramp_core::tls::secrets::{Aead, TrafficKeys, Version};

/// Secrets that rustls tells for debugging, of one connection.
#[derive(Debug, Default)]
pub struct Secrets(Mutex<Vec<(String, Vec<u8>)>>);

impl KeyLog for Secrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        let mut secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.push((label.to_owned(), secret.to_vec()));
    }
}

impl Secrets {
    /// The one of this label, if it was told.
    pub(super) fn get(&self, label: &str) -> Option<Vec<u8>> {
        let secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.iter().find(|(name, _)| name == label).map(|(_, secret)| secret.clone())
    }
}

/// Keys of TLS 1.3 from a traffic secret (RFC 8446 §7.3).
pub(super) fn traffic_keys(aead: Aead, secret: &[u8]) -> TrafficKeys {
    let key = expand(aead, secret, "key", aead.key_bytes());
    let iv = expand(aead, secret, "iv", 12).try_into().expect("12 bytes");
    TrafficKeys::new(Version::Tls13, aead, &key, iv, 0).expect("the AEAD's key length")
}

/// The traffic secret that follows a KeyUpdate (RFC 8446 §7.2).
pub(super) fn next_secret(aead: Aead, secret: &[u8]) -> Vec<u8> {
    expand(aead, secret, "traffic upd", if aead == Aead::Aes256Gcm { 48 } else { 32 })
}

/// Keys of TLS 1.2 from the master secret (RFC 5246 §6.3), the client's first. Of the iv the key schedule
/// makes 4 bytes where the record tells the rest (RFC 5288 §3), and 12 otherwise (RFC 7905 §2).
pub(super) fn key_block(
    aead: Aead,
    master: &[u8],
    client_random: &[u8],
    server_random: &[u8],
) -> [TrafficKeys; 2] {
    let (key_bytes, iv_bytes) = (aead.key_bytes(), if aead == Aead::ChaCha20Poly1305 { 12 } else { 4 });
    let seed = [b"key expansion", server_random, client_random].concat();
    let block = prf(aead, master, &seed, 2 * (key_bytes + iv_bytes));
    let (keys, ivs) = block.split_at(2 * key_bytes);
    [0, 1].map(|side| {
        let mut iv = [0; 12];
        iv[..iv_bytes].copy_from_slice(&ivs[side * iv_bytes..][..iv_bytes]);
        let key = &keys[side * key_bytes..][..key_bytes];
        TrafficKeys::new(Version::Tls12, aead, key, iv, 0).expect("the AEAD's key length")
    })
}

/// P_hash (RFC 5246 §5), with the hash of the suite.
fn prf(aead: Aead, secret: &[u8], seed: &[u8], length: usize) -> Vec<u8> {
    let key = Key::new(if aead == Aead::Aes256Gcm { HMAC_SHA384 } else { HMAC_SHA256 }, secret);
    let mut output = Vec::new();
    let mut a = hmac::sign(&key, seed);
    while output.len() < length {
        output.extend_from_slice(hmac::sign(&key, &[a.as_ref(), seed].concat()).as_ref());
        a = hmac::sign(&key, a.as_ref());
    }
    output.truncate(length);
    output
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446 §7.1).
fn expand(aead: Aead, secret: &[u8], label: &str, length: usize) -> Vec<u8> {
    let algorithm = if aead == Aead::Aes256Gcm { HKDF_SHA384 } else { HKDF_SHA256 };
    let label = [b"tls13 ", label.as_bytes()].concat();
    let info = [&(length as u16).to_be_bytes()[..], &[label.len() as u8], &label, &[0]];
    let mut output = vec![0; length];
    Prk::new_less_safe(algorithm, secret)
        .expand(&info, Length(length))
        .and_then(|okm| okm.fill(&mut output))
        .expect("a length that HKDF allows");
    output
}
