//! Whether a new offer or answer keeps the TLS association (rule 6, RFC 8842 §5).

use crate::attribute::ConnectionUse;
use crate::remote::Remote;

/// What a new description of a side means for its association.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Association {
    /// It goes on.
    Same,
    /// A new one begins, and the old one is released when the new one is up.
    New(Renewal),
}

/// What started a new association.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The transport is another one.
    Transport,
    /// a=connection:new asks for it.
    Connection,
    /// a=tls-id is another one, or came or went.
    TlsId,
    /// The fingerprints that count are others.
    Fingerprints,
}

/// Compares the description of a side with the one before. An address that is another one does not start a
/// new association; RFC 4145 has `new` as the default of a=connection, which counts only where it is
/// written, or each refresh of a session would end its connection.
#[must_use]
pub fn association(before: &Remote, now: &Remote) -> Association {
    let changes = [
        (Renewal::Transport, before.transport != now.transport),
        (Renewal::Connection, now.connection == Some(ConnectionUse::New)),
        (Renewal::TlsId, before.tls_id != now.tls_id),
        (Renewal::Fingerprints, before.fingerprints != now.fingerprints),
    ];
    let renewal = changes.into_iter().find(|(_, changed)| *changed);
    renewal.map_or(Association::Same, |(renewal, _)| Association::New(renewal))
}
