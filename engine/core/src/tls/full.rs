//! Whether a full handshake may be begun as a server: its signature is what costs, and a flood of clients
//! without a session asks for nothing else. rustls has opened the ticket by the time at which it looks for
//! the signature, so that who resumes is not asked.

use std::cell::Cell;
use std::sync::Arc;

use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};

/// What became of it in one call into rustls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// Nothing was to be signed.
    NotBegun,
    Begun,
    /// It was not allowed.
    Refused,
}

thread_local! {
    static MAY_BEGIN: Cell<bool> = const { Cell::new(true) };
    static FULL: Cell<Full> = const { Cell::new(Full::NotBegun) };
}

/// Calls into rustls, which may begin a full handshake in that call or not.
pub(super) fn with_permission<T>(may_begin: bool, call: impl FnOnce() -> T) -> (T, Full) {
    MAY_BEGIN.set(may_begin);
    let result = call();
    MAY_BEGIN.set(true);
    (result, FULL.replace(Full::NotBegun))
}

/// A key that signs where that is allowed.
#[derive(Debug)]
pub(super) struct GuardedKey(pub(super) Arc<dyn SigningKey>);

impl SigningKey for GuardedKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = self.0.choose_scheme(offered)?;
        let may = MAY_BEGIN.get();
        FULL.set(if may { Full::Begun } else { Full::Refused });
        may.then_some(signer)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}
