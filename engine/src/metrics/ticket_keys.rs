//! Which ticket keys are in force, for what, and for how long. A key's id is in every ticket that it seals:
//! it is no secret.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::{encode, families};
use crate::tls::KeyState;

pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, keys: &[KeyState]) -> fmt::Result {
    let mut metric = encode::begin(encoder, &families::TICKET_KEY_AGE)?;
    for KeyState { id, purpose, age_seconds, .. } in keys {
        let state = purpose.to_string();
        metric.encode_family(&[("key", &**id), ("state", &*state)])?.encode_gauge(age_seconds)?;
    }
    let mut metric = encode::begin(encoder, &families::TICKET_KEY_NOT_AFTER)?;
    for KeyState { id, until, .. } in keys {
        metric.encode_family(&[("key", &**id)])?.encode_gauge(until)?;
    }
    Ok(())
}
