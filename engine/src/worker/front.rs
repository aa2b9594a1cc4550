//! A listener with what holds for the connections that it accepts.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::StartError;
use super::apply::Destination;
use super::faults::Circumstances;
use super::listener::Listener;
use crate::config::Backend;
use crate::config::limits::Timeouts;
use crate::conn::action::Evidence;
use crate::conn::carrier::{self, Suites};
use crate::conn::policy::{Legs, Policy};
use crate::sys::ktls::{Cipher, CipherSet};
use crate::sys::socket::{self, Address};
use crate::tls::secrets::{Aead, Version};
use crate::upstream::Upstream;

/// What the kernel may be asked to carry, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Transmit: records from the plain leg to the TLS leg.
    pub tx: CipherSet,
    /// Receive: records from the TLS leg to the plain leg.
    pub rx: CipherSet,
    /// Bytes of plaintext that a direction carries in userspace first; 0 offers it with the handshake.
    pub after_bytes: u64,
    /// Whether the kernel takes the key that follows a KeyUpdate.
    pub rekeys: bool,
    /// Whether the kernel may expect records without padding.
    pub expect_no_pad: bool,
}

/// The offers in force, one a listener, and the terms: all that changes under a running worker. A worker
/// looks at a number once a turn, and at the rest when that has changed. What the kernel carries by then
/// stays with it: it cannot be taken back.
#[derive(Debug)]
pub struct Offers {
    version: AtomicU64,
    offers: Mutex<Vec<Offer>>,
    /// Those in force, one a listener.
    legs: Mutex<Vec<Legs>>,
    allowed: Arc<AtomicBool>,
}

impl Offers {
    /// In force from the start, and allowed.
    #[must_use]
    pub fn new(offers: Vec<Offer>, legs: Vec<Legs>) -> Self {
        let allowed = Arc::new(AtomicBool::new(true));
        Self { version: AtomicU64::new(0), offers: Mutex::new(offers), legs: Mutex::new(legs), allowed }
    }

    /// In force from the next turn of every worker; one of each a listener.
    pub fn replace(&self, offers: Vec<Offer>, legs: Vec<Legs>) {
        *self.offers.lock().unwrap_or_else(PoisonError::into_inner) = offers;
        *self.legs.lock().unwrap_or_else(PoisonError::into_inner) = legs;
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The same with the offers that there are.
    pub fn replace_legs(&self, legs: Vec<Legs>) {
        *self.legs.lock().unwrap_or_else(PoisonError::into_inner) = legs;
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The kill switch, from the next turn of every worker: while it is off, the kernel is asked for nothing.
    /// Whether that changes anything.
    pub fn allow(&self, allowed: bool) -> bool {
        let has_changed = self.allowed.swap(allowed, Ordering::Relaxed) != allowed;
        if has_changed {
            self.version.fetch_add(1, Ordering::Release);
        }
        has_changed
    }

    /// Whether the kill switch leaves the offers in force, for who wants to watch it.
    #[must_use]
    pub fn allowed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.allowed)
    }

    /// The terms of a listener.
    #[must_use]
    pub fn legs(&self, index: usize) -> Option<Legs> {
        self.legs.lock().unwrap_or_else(PoisonError::into_inner).get(index).cloned()
    }

    /// The terms of all listeners.
    #[must_use]
    pub fn all_legs(&self) -> Vec<Legs> {
        self.legs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the kill switch leaves them in force.
    pub(super) fn are_allowed(&self) -> bool {
        self.allowed.load(Ordering::Relaxed)
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn at(&self, index: usize) -> Offer {
        let offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        offers.get(index).copied().unwrap_or_default()
    }
}

/// What a listener of a worker is made of.
pub struct FrontSetup {
    /// Bound, listening, SO_REUSEPORT, TCP_NODELAY (accepted sockets inherit it).
    pub listener: OwnedFd,
    /// How each leg is secured.
    pub legs: Legs,
    /// Where the plain leg goes.
    pub upstream: Upstream,
    /// Whether TCP asks a silent backend if it is still there; what is accepted inherits that of `listener`.
    pub keepalive: bool,
    /// Most records that one key may protect.
    pub record_limit: u64,
    /// A peer's FIN without close_notify becomes FIN on the plain leg, rather than a reset.
    pub takes_fin_for_the_end: bool,
}

/// The running one.
pub(super) struct Front {
    pub(super) listener: Listener,
    /// Where it listens.
    pub(super) address: Option<SocketAddr>,
    /// For the connections that are accepted from now on.
    pub(super) policy: Arc<Policy>,
    /// Where the far leg goes: one endpoint after the other is tried.
    pub(super) route: Vec<Destination>,
}

impl Front {
    pub(super) fn new(
        index: usize,
        setup: FrontSetup,
        timeouts: Timeouts,
        offer: Offer,
    ) -> Result<Self, StartError> {
        let address = match setup.upstream.address() {
            Backend::Tcp(address) => Address::Tcp(*address),
            Backend::Unix(path) => Address::Unix(path.clone()),
        };
        let sockaddr = address.to_sockaddr().map_err(StartError::Backend)?;
        let Legs { near, far } = setup.legs;
        let policy = Arc::new(Policy {
            near,
            far,
            timeouts,
            offload: core_offer(offer),
            record_limit: setup.record_limit,
            takes_fin_for_the_end: setup.takes_fin_for_the_end,
            expect_no_pad: offer.expect_no_pad,
        });
        let keepalive = setup.keepalive && !address.is_local();
        let route = vec![Destination { address, sockaddr, keepalive }];
        let listening_at = socket::local_addr(setup.listener.as_fd()).ok();
        let listener = Listener::new(index, setup.listener);
        Ok(Self { listener, address: listening_at, policy, route })
    }

    /// For the log.
    pub(super) fn circumstances_of_accept(&self, errno: i32, hint: &'static str) -> Circumstances {
        let evidence = Evidence { errno: Some(errno), ..Evidence::default() };
        Circumstances { listener: self.address, evidence, hint: Some(hint), ..Circumstances::default() }
    }

    /// What has changed, for connections that are accepted from now on.
    pub(super) fn take(&mut self, offer: Offer, legs: Option<Legs>) {
        let mut policy = Policy::clone(&self.policy);
        policy.offload = core_offer(offer);
        policy.expect_no_pad = offer.expect_no_pad;
        if let Some(Legs { near, far }) = legs {
            (policy.near, policy.far) = (near, far);
        }
        self.policy = Arc::new(policy);
    }
}

fn core_offer(offer: Offer) -> carrier::Offer {
    carrier::Offer {
        tx: suites(offer.tx),
        rx: suites(offer.rx),
        after_bytes: offer.after_bytes,
        rekeys: offer.rekeys,
    }
}

fn suites(ciphers: CipherSet) -> Suites {
    const ALL: [(Cipher, Version, Aead); 6] = [
        (Cipher::Tls12Aes128Gcm, Version::Tls12, Aead::Aes128Gcm),
        (Cipher::Tls12Aes256Gcm, Version::Tls12, Aead::Aes256Gcm),
        (Cipher::Tls12ChaCha20Poly1305, Version::Tls12, Aead::ChaCha20Poly1305),
        (Cipher::Tls13Aes128Gcm, Version::Tls13, Aead::Aes128Gcm),
        (Cipher::Tls13Aes256Gcm, Version::Tls13, Aead::Aes256Gcm),
        (Cipher::Tls13ChaCha20Poly1305, Version::Tls13, Aead::ChaCha20Poly1305),
    ];
    ALL.iter()
        .filter(|(cipher, ..)| ciphers.contains(*cipher))
        .fold(Suites::default(), |suites, (_, version, aead)| suites.with(*version, *aead))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_change_with_their_version_and_the_switch_is_beside_them() {
        let mut tx = CipherSet::EMPTY;
        tx.insert(Cipher::Tls13Aes128Gcm);
        let offers = Offers::new(vec![Offer::default(); 2], Vec::new());
        let other = Offer { tx, after_bytes: 7, rekeys: true, expect_no_pad: true, ..Offer::default() };
        let version = offers.version();
        offers.replace(vec![Offer::default(), other], Vec::new());
        assert_ne!(offers.version(), version);
        assert_eq!((offers.at(0), offers.at(1), offers.at(2)), (Offer::default(), other, Offer::default()));
        let version = offers.version();
        assert!(!offers.allow(true) && offers.version() == version, "nothing has changed");
        assert!(offers.allow(false));
        assert_ne!(offers.version(), version);
        assert!(!offers.are_allowed() && offers.at(1) == other);
        offers.allow(true);
        assert!(offers.are_allowed());
    }
}
