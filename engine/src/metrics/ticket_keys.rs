//! Which ticket keys are in force, for what, and for how long. A key's id is in every ticket that it seals:
//! it is no secret.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::{encode, families};
use crate::tls::{KeyState, Tickets};

pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, tickets: &Tickets) -> fmt::Result {
    let (keys, now) = (tickets.keys(), i128::from(tickets.now()));
    let mut metric = encode::begin(encoder, &families::TICKET_KEY_AGE)?;
    for KeyState { id, purpose, from, .. } in &keys {
        let state = purpose.to_string();
        let age = i64::try_from(now - i128::from(*from)).unwrap_or(i64::MIN);
        metric.encode_family(&[("key", &**id), ("state", &*state)])?.encode_gauge(&age)?;
    }
    let mut metric = encode::begin(encoder, &families::TICKET_KEY_NOT_AFTER)?;
    for KeyState { id, until, .. } in &keys {
        metric.encode_family(&[("key", &**id)])?.encode_gauge(until)?;
    }
    Ok(())
}
