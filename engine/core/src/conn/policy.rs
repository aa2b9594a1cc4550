//! What holds for a connection from its beginning to its end.

use std::sync::Arc;
use std::time::Instant;

use super::event::Leg;
use super::record_path::Offer;
use crate::config::Timeouts;
use crate::tls::{Settings, Tickets, TlsPolicy, TlsPolicyError};

/// The policy of a service: immutable, swapped whole. A connection keeps the one under which it began.
#[derive(Clone, Debug)]
pub struct Policy {
    /// How the leg that was accepted is secured.
    pub near: Security,
    /// How the leg that is connected is secured.
    pub far: Security,
    /// Whether a PROXY header precedes everything on the near leg.
    pub accepts_proxy: bool,
    /// Whether the hello of a near leg without TLS is read, and passed on as it came.
    pub passes_tls_through: bool,
    /// The deadlines.
    pub timeouts: Timeouts,
    /// What the kernel may be asked to carry.
    pub offload: Offer,
    /// Most records that a key may protect, where its AEAD does not allow fewer.
    pub record_limit: u64,
    /// A peer's FIN without close_notify becomes an orderly end of the other leg, rather than a reset.
    pub takes_fin_for_the_end: bool,
    /// Whether the kernel may expect records without padding (`TLS_RX_EXPECT_NO_PAD`).
    pub expect_no_pad: bool,
}

impl Policy {
    /// How a leg is secured.
    #[must_use]
    pub fn security(&self, leg: Leg) -> &Security {
        match leg {
            Leg::Near => &self.near,
            Leg::Far => &self.far,
        }
    }
}

/// How a leg is secured. The TLS role is that of the TLS policy: it does not follow from who opened the TCP
/// connection.
#[derive(Clone, Debug)]
pub enum Security {
    /// Not at all.
    Plain,
    /// By TLS under this policy.
    Tls(Arc<TlsPolicy>),
}

/// The security of both legs.
#[derive(Clone, Debug)]
pub struct Legs {
    /// Of the leg that is accepted.
    pub near: Security,
    /// Of the leg that is connected.
    pub far: Security,
}

impl Legs {
    /// Reads and checks what the settings of each leg name; none is a plain leg. Of `earlier` ones a client's
    /// role stays where nothing has changed of what it was made of, and with it the sessions that may be
    /// resumed.
    ///
    /// # Errors
    /// [`TlsPolicyError`].
    pub fn load(
        near: Option<Settings<'_>>,
        far: Option<Settings<'_>>,
        tickets: Option<&Arc<Tickets>>,
        earlier: Option<&Self>,
    ) -> Result<Self, TlsPolicyError> {
        let load = |settings: Option<Settings<'_>>, earlier: Option<&Security>| match settings {
            None => Ok(Security::Plain),
            Some(settings) => {
                let earlier = earlier.and_then(Security::tls).cloned();
                TlsPolicy::reload(settings, tickets, earlier).map(Security::Tls)
            }
        };
        Ok(Self {
            near: load(near, earlier.map(|legs| &legs.near))?,
            far: load(far, earlier.map(|legs| &legs.far))?,
        })
    }

    /// The TLS policies of the legs that have TLS.
    pub fn policies(&self) -> impl Iterator<Item = &TlsPolicy> {
        [&self.near, &self.far].into_iter().filter_map(Security::tls).map(Arc::as_ref)
    }
}

impl Security {
    /// The TLS policy, if it has TLS.
    #[must_use]
    pub fn tls(&self) -> Option<&Arc<TlsPolicy>> {
        match self {
            Self::Plain => None,
            Self::Tls(policy) => Some(policy),
        }
    }
}

/// What is the same for all connections in one turn of a worker.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// The time.
    pub now: Instant,
    /// Whether the kernel may be given further directions: the kill switch.
    pub may_offload: bool,
    /// Whether a full handshake may be begun as a server. One more may be in the same turn.
    pub may_begin_full: bool,
}
