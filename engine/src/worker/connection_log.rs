//! A line in the log for each connection, when it is over: no more per second than `connection_log` says, and
//! how many have none is in the next line.

use std::fmt;
use std::time::{Duration, Instant};

use super::about::{About, Timeline};
use super::slots::Slot;
use crate::conn::action::{RecordPath, Report};
use crate::conn::event::Leg;
use crate::conn::fault::{Fault, alert};
use crate::sys::socket::Address;
use crate::tls::TlsInfo;
use crate::tls::evidence::quoted;

/// Writes the line of a connection that is over; `unlogged` before it had none.
pub(super) fn write(slot: &Slot, report: &Report, now: Instant, worker: usize, unlogged: u64) {
    let Some(about) = slot.about.as_deref() else { return };
    let Some(timeline) = about.timeline.as_deref() else { return };
    let Fields { sni, alpn, near, far } = Fields::of(about);
    let pool = slot.target.destination(&slot.route).map(|destination| &*destination.pool.name);
    let backend = slot.target.endpoint(&slot.route).map(|endpoint| endpoint.address.clone());
    let Timeline { accepted, routed, connected, bytes, paths } = timeline;
    let handshake_ms = millis(Some(*accepted), *routed);
    let connect_ms = millis(*routed, *connected);
    let total_ms = millis(Some(*accepted), Some(now));
    let fault = report.fault.map(Fault::label);
    let heard = report.heard.map(alert::name);
    let [tx, rx] = paths[Leg::Near as usize].map(|path| path.map(path_name));
    let [far_tx, far_rx] = paths[Leg::Far as usize].map(|path| path.map(path_name));
    tracing::info!(
        worker,
        id = %about.id,
        client = about.client.map(tracing::field::display),
        listener = %slot.route.listen,
        sni,
        alpn,
        tls = near.map(tracing::field::display),
        tx,
        rx,
        pool,
        backend = backend.as_ref().map(|address: &Address| tracing::field::display(address)),
        backend_tls = far.map(tracing::field::display),
        backend_tx = far_tx,
        backend_rx = far_rx,
        bytes_from_client = bytes[Leg::Near as usize],
        bytes_from_backend = bytes[Leg::Far as usize],
        handshake_ms,
        connect_ms,
        total_ms,
        fault,
        alert_received = heard,
        unlogged = (unlogged > 0).then_some(unlogged),
        "connection"
    );
}

/// What a client or a server says is quoted.
struct Fields<'a> {
    sni: Option<String>,
    alpn: Option<String>,
    near: Option<Tls<'a>>,
    far: Option<Tls<'a>>,
}

impl<'a> Fields<'a> {
    fn of(about: &'a About) -> Self {
        let alpn = about.near.as_ref().and_then(|info| info.alpn.as_deref());
        Self {
            sni: about.server_name().map(|name| quoted(name.as_bytes()).into()),
            alpn: alpn.map(|protocol| quoted(protocol).into()),
            near: about.near.as_deref().map(Tls),
            far: about.far.as_deref().map(Tls),
        }
    }
}

/// Version, suite, group and kind of a handshake: `1.3,TLS_AES_128_GCM_SHA256,X25519,full`.
struct Tls<'a>(&'a TlsInfo);

impl fmt::Display for Tls<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TlsInfo { version, group, resumed, .. } = self.0;
        let kind = if *resumed { "resumed" } else { "full" };
        write!(f, "{version},{},{},{kind}", self.0.suite_name(), group.unwrap_or("-"))
    }
}

pub(super) fn path_name(path: RecordPath) -> &'static str {
    match path {
        RecordPath::Kernel => "kernel",
        RecordPath::Userspace => "userspace",
        RecordPath::Fallback { .. } => "fallback",
    }
}

/// From one moment to another, where there were both.
fn millis(from: Option<Instant>, to: Option<Instant>) -> Option<f64> {
    let passed: Duration = to?.saturating_duration_since(from?);
    Some((passed.as_secs_f64() * 1e5).round() / 1e2)
}
