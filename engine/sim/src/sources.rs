//! Randomness, ephemeral keys, signatures and time of a world, all from its seed.
//!
//! A world runs on one thread from its beginning to its end, and both sides of it draw from one generator of
//! that thread. Nothing here is secret or secure: the private key is 1, and so is the nonce of every ECDSA
//! signature. The engine knows nothing of it:
//! only [`TlsPolicy::load_from`](offramp_core::tls::TlsPolicy) takes other sources than the system's, and
//! only the sim calls it.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::agreement::{ECDH_P256, ECDH_P384, PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::digest::{SHA256, digest};
use fastrand::Rng;
use rcgen::{KeyPair, PublicKeyData};
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom, SharedSecret,
    SupportedKxGroup,
};
use rustls::pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::sign::{Signer, SigningKey};
use rustls::time_provider::TimeProvider;
use rustls::{Error, NamedGroup, PeerMisbehaved, SignatureAlgorithm, SignatureScheme};

use offramp_core::tls::Sources;

thread_local! {
    static DRAWS: RefCell<Rng> = const { RefCell::new(Rng::with_seed(0)) };
}

/// What this thread draws from here on follows from the seed.
pub(super) fn seed(seed: u64) {
    DRAWS.set(Rng::with_seed(seed));
}

fn draw(bytes: &mut [u8]) {
    DRAWS.with_borrow_mut(|rng| rng.fill(bytes));
}

/// The system's, but for what would differ from run to run.
pub(super) fn sources() -> Sources {
    let system = Sources::system();
    let provider = Arc::new(provider(CryptoProvider::clone(&system.provider)));
    Sources { signing_key, provider, time: Arc::new(Noon) }
}

/// The same cryptography, with draws in place of randomness.
pub(super) fn provider(cryptography: CryptoProvider) -> CryptoProvider {
    CryptoProvider { secure_random: &Draws, kx_groups: GROUPS.to_vec(), key_provider: &Draws, ..cryptography }
}

/// The clock of all worlds, which stands still.
#[derive(Debug)]
pub(super) struct Noon;

impl TimeProvider for Noon {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000)))
    }
}

#[derive(Debug)]
struct Draws;

impl SecureRandom for Draws {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        draw(bytes);
        Ok(())
    }
}

/// The groups of the profile.
static GROUPS: [&dyn SupportedKxGroup; 3] =
    [&Group(NamedGroup::X25519), &Group(NamedGroup::secp256r1), &Group(NamedGroup::secp384r1)];

#[derive(Debug)]
struct Group(NamedGroup);

impl SupportedKxGroup for Group {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let (algorithm, key_bytes) = match self.0 {
            NamedGroup::secp256r1 => (&ECDH_P256, 32),
            NamedGroup::secp384r1 => (&ECDH_P384, 48),
            _ => (&X25519, 32),
        };
        let mut scalar = [0; 48];
        draw(&mut scalar);
        // Below the order of either curve.
        scalar[0] &= 0x7f;
        let refused = |_| Error::from(GetRandomFailed);
        let key = PrivateKey::from_private_key(algorithm, &scalar[..key_bytes])
            .map_err(|_| Error::from(GetRandomFailed))?;
        let share = key.compute_public_key().map_err(refused)?.as_ref().to_vec();
        Ok(Box::new(Exchange { group: self.0, key, share }))
    }

    fn name(&self) -> NamedGroup {
        self.0
    }
}

struct Exchange {
    group: NamedGroup,
    key: PrivateKey,
    share: Vec<u8>,
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer = UnparsedPublicKey::new(self.key.algorithm(), peer);
        let refused = Error::from(PeerMisbehaved::InvalidKeyShare);
        agree(&self.key, peer, refused, |secret| Ok(SharedSecret::from(secret)))
    }

    fn pub_key(&self) -> &[u8] {
        &self.share
    }

    fn group(&self) -> NamedGroup {
        self.group
    }
}

/// The key of every certificate in a world: P-256 with the private key 1, in PKCS #8.
pub(super) fn private_key() -> PrivateKeyDer<'static> {
    let [before, between] = [
        &[0x30, 0x81, 0x87, 2, 1, 0, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86]
            [..],
        &[0xa1, 0x44, 3, 0x42, 0, 4],
    ];
    let ec = [0x48, 0xce, 0x3d, 3, 1, 7, 4, 0x6d, 0x30, 0x6b, 2, 1, 1, 4, 0x20];
    let scalar = U256([0, 1]).bytes();
    let key = [before, &ec, &scalar, between, &GENERATOR_X.bytes(), &GENERATOR_Y.bytes()].concat();
    PrivateKeyDer::Pkcs8(key.into())
}

/// For the peers, whose rustls loads keys itself.
impl KeyProvider for Draws {
    fn load_private_key(&self, key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        signing_key(&key)
    }
}

fn signing_key(key: &PrivateKeyDer<'_>) -> Result<Arc<dyn SigningKey>, Error> {
    if *key != private_key() {
        return Err(Error::General("worlds have one private key".to_owned()));
    }
    Ok(Arc::new(Key::new()))
}

/// Signs with ECDSA on P-256 and SHA-256.
#[derive(Debug)]
pub(super) struct Key(KeyPair);

impl Key {
    pub(super) fn new() -> Self {
        Self(KeyPair::try_from(&private_key()).expect("a private key of P-256"))
    }
}

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&SCHEME).then(|| Box::new(Nonce1) as _)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.0.subject_public_key_info().into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(signature(message))
    }
}

const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

#[derive(Debug)]
struct Nonce1;

impl Signer for Nonce1 {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(signature(message))
    }

    fn scheme(&self) -> SignatureScheme {
        SCHEME
    }
}

/// With the private key d = 1 and the nonce k = 1 (SEC 1 §4.1.3): r is the generator's x, and s = (z + rd)/k
/// = z + r.
fn signature(message: &[u8]) -> Vec<u8> {
    let z = U256::read(digest(&SHA256, message).as_ref());
    let s = z.plus(GENERATOR_X);
    let [r, s] = [GENERATOR_X, s].map(U256::der);
    [&[0x30, (r.len() + s.len()) as u8][..], &r, &s].concat()
}

/// Of P-256 (SEC 2 §2.4.2).
const GENERATOR_X: U256 =
    U256([0x6b17_d1f2_e12c_4247_f8bc_e6e5_63a4_40f2, 0x7703_7d81_2deb_33a0_f4a1_3945_d898_c296]);
const GENERATOR_Y: U256 =
    U256([0x4fe3_42e2_fe1a_7f9b_8ee7_eb4a_7c0f_9e16, 0x2bce_3357_6b31_5ece_cbb6_4068_37bf_51f5]);
const ORDER: U256 =
    U256([0xffff_ffff_0000_0000_ffff_ffff_ffff_ffff, 0xbce6_faad_a717_9e84_f3b9_cac2_fc63_2551]);

/// The high half first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct U256([u128; 2]);

impl U256 {
    fn read(bytes: &[u8]) -> Self {
        let half =
            |at| bytes.get(at..at + 16).and_then(|half| half.try_into().ok()).map_or(0, u128::from_be_bytes);
        Self([half(0), half(16)])
    }

    fn bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&self.0[0].to_be_bytes());
        bytes[16..].copy_from_slice(&self.0[1].to_be_bytes());
        bytes
    }

    /// Modulo the order of P-256; `other` is below it.
    fn plus(self, other: Self) -> Self {
        let (low, carry) = self.0[1].overflowing_add(other.0[1]);
        let (high, first) = self.0[0].overflowing_add(other.0[0]);
        let (high, second) = high.overflowing_add(u128::from(carry));
        let mut sum = Self([high, low]);
        let mut overflows = first || second;
        while overflows || sum >= ORDER {
            let (low, borrow) = sum.0[1].overflowing_sub(ORDER.0[1]);
            let (high, first) = sum.0[0].overflowing_sub(ORDER.0[0]);
            let (high, second) = high.overflowing_sub(u128::from(borrow));
            overflows &= !(first || second);
            sum = Self([high, low]);
        }
        sum
    }

    /// As an INTEGER.
    fn der(self) -> Vec<u8> {
        let bytes = self.bytes();
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count().min(31);
        let number = &bytes[zeros..];
        let sign = if number[0] < 0x80 { &[][..] } else { &[0] };
        [&[2, (sign.len() + number.len()) as u8], sign, number].concat()
    }
}
