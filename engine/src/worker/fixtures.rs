//! What the tests of several files of the worker need.

use std::sync::Arc;

use super::route::Route;
use crate::config::AcceptProxy;
use crate::config::limits::{TCP_USER_TIMEOUT_DEFAULT, Timeouts};
use crate::conn::policy::{Policy, Security};
use crate::conn::record_path::Offer;
use crate::pool::ConnectionCount;
use crate::sys::socket::Address;

/// No TLS on either leg.
pub(super) fn policy() -> Arc<Policy> {
    Arc::new(Policy {
        near: Security::Plain,
        far: Security::Plain,
        timeouts: Timeouts::default(),
        offload: Offer::default(),
        record_limit: 1024,
        accepts_proxy: false,
        passes_tls_through: false,
        takes_fin_for_the_end: false,
        expect_no_pad: false,
    })
}

/// To nowhere.
pub(super) fn route() -> Arc<Route> {
    Arc::new(Route {
        listen: Address::Tcp(([127, 0, 0, 1], 1).into()),
        rules: Vec::new(),
        default: None,
        destinations: Vec::new(),
        connections: Arc::new(ConnectionCount::new(1)),
        counters: Arc::default(),
        accept_proxy: AcceptProxy::Off,
        keepalive: false,
        tcp_user_timeout: TCP_USER_TIMEOUT_DEFAULT,
    })
}
