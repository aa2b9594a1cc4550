//! Who connects, and who is the TLS client (rules 4 and 7).

use std::net::SocketAddr;

use thiserror::Error;

use crate::attribute::Setup;
use crate::remote::{DISCARD_PORT, Remote};

/// Which description of a leg is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// We sent the offer.
    Offerer,
    /// We sent the answer.
    Answerer,
}

/// What we do in TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpDirection {
    /// We connect.
    Connect,
    /// We accept.
    Accept,
}

/// What we are in TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsRole {
    /// We send the ClientHello.
    Client,
    /// We answer it.
    Server,
}

/// Our roles on a leg. a=setup decides both; a controller may still choose the other TCP direction, since
/// TLS does not depend on it: where both phones are behind NATs, both connect to us (TS 23.334, merge).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// In TCP.
    pub tcp: TcpDirection,
    /// In TLS, if the leg has it.
    pub tls: TlsRole,
}

/// What offer and answer agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// No connection for now: the gate of the leg is closed.
    Hold,
    /// A connection.
    Roles(Roles),
}

/// Why offer and answer do not fit, or why we cannot connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SetupError {
    /// Both say active.
    #[error("offer and answer both say a=setup:active; answer an active offer with passive or holdconn")]
    BothActive,
    /// Both say passive.
    #[error("offer and answer both say a=setup:passive; answer a passive offer with active or holdconn")]
    BothPassive,
    /// The answer leaves the choice open.
    #[error("the answer says a=setup:actpass; answer with active, passive or holdconn")]
    ActpassInAnswer,
    /// An offer to hold was answered with a connection.
    #[error("the offer says a=setup:holdconn; answer it with holdconn")]
    HoldNotAnswered,
    /// We are to connect and the peer names nothing to connect to.
    #[error(
        "a=setup has the gateway connect, and the peer names port 9 or no address; name both, or be active"
    )]
    NoTarget,
}

impl SetupError {
    /// The name in the API: what a program compares.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BothActive => "setup_both_active",
            Self::BothPassive => "setup_both_passive",
            Self::ActpassInAnswer => "setup_actpass_in_answer",
            Self::HoldNotAnswered => "setup_hold_not_answered",
            Self::NoTarget => "setup_no_target",
        }
    }
}

/// The verdict on an offer's and an answer's a=setup. Without the attribute an offer is active and an answer
/// passive (RFC 4145 §4): the offerer connects (RFC 4975 §8.5).
///
/// # Errors
/// A combination that RFC 4145 §4.1 does not have.
pub fn agree(offer: Option<Setup>, answer: Option<Setup>, we: Party) -> Result<Agreement, SetupError> {
    let connects = match (offer.unwrap_or(Setup::Active), answer.unwrap_or(Setup::Passive)) {
        (_, Setup::Actpass) => return Err(SetupError::ActpassInAnswer),
        (_, Setup::Holdconn) => return Ok(Agreement::Hold),
        (Setup::Holdconn, _) => return Err(SetupError::HoldNotAnswered),
        (Setup::Active, Setup::Active) => return Err(SetupError::BothActive),
        (Setup::Passive, Setup::Passive) => return Err(SetupError::BothPassive),
        (Setup::Active | Setup::Actpass, Setup::Passive) => Party::Offerer,
        (Setup::Passive | Setup::Actpass, Setup::Active) => Party::Answerer,
    };
    Ok(Agreement::Roles(if connects == we {
        Roles { tcp: TcpDirection::Connect, tls: TlsRole::Client }
    } else {
        Roles { tcp: TcpDirection::Accept, tls: TlsRole::Server }
    }))
}

/// What the gateway offers: actpass, unless the realm says otherwise.
#[must_use]
pub fn offered_setup(realm: Option<Setup>) -> Setup {
    realm.unwrap_or(Setup::Actpass)
}

/// What the gateway answers to an offer; `preferred` decides where the offer leaves the choice.
#[must_use]
pub fn answered_setup(offer: Option<Setup>, preferred: TcpDirection) -> Setup {
    match (offer, preferred) {
        (None | Some(Setup::Active), _) | (Some(Setup::Actpass), TcpDirection::Accept) => Setup::Passive,
        (Some(Setup::Passive), _) | (Some(Setup::Actpass), TcpDirection::Connect) => Setup::Active,
        (Some(Setup::Holdconn), _) => Setup::Holdconn,
    }
}

impl Remote {
    /// Where to connect to, if we connect. A peer that connects may write port 9 (rule 7).
    ///
    /// # Errors
    /// We connect, and the peer names port 9 or the unspecified address.
    pub fn target(&self, tcp: TcpDirection) -> Result<Option<SocketAddr>, SetupError> {
        let is_nobody = self.address.port() == DISCARD_PORT || self.address.ip().is_unspecified();
        match tcp {
            TcpDirection::Accept => Ok(None),
            TcpDirection::Connect if is_nobody => Err(SetupError::NoTarget),
            TcpDirection::Connect => Ok(Some(self.address)),
        }
    }
}
