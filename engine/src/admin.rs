//! The admin interface, HTTP/1.1 in clear, by TCP and at a Unix socket: `GET /metrics` (OpenMetrics text),
//! `GET /healthz`, `GET /v1/state` (JSON), the status page at `GET /`, and `GET /offload`. At the Unix socket
//! alone, for processes of root and of our own user: the kill switch of the offload, `POST /offload/on` and
//! `POST /offload/off`; the configuration, `GET` and `PUT /v1/config`; `POST /v1/upgrade`; and the
//! connections, `GET /v1/connections` and `DELETE /v1/connections/ID`. HEAD is answered as GET.
//!
//! Each address has a thread of its own beside the supervisor's, so that no client can hold up the
//! supervisor. One request per connection. What a client can make us hold is bounded: connections, bytes of a
//! request, and the time from accept to close (`config::limits`), whatever the client does or leaves undone.
//! A connection too many costs the oldest its place, whose request has not come: slow clients keep nobody out
//! that sends its request before 64 others connect. Only the modules here name tokio-uring.

mod answer;
mod configure;
mod connections;
mod http;
mod listing;
mod page;
mod query;
mod request;
mod siblings;
mod stop;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_uring::fs::File;

use crate::config::limits::{ADMIN_BODY_BYTES_MAX, ADMIN_DEADLINE, STUCK_SECONDS};
use crate::confine::Confinement;
use crate::metrics::{Expiries, Gauge, Metrics};
use crate::state::{self, Published};
use crate::sys::{probe, socket};
use crate::tls::Tickets;
use crate::tls::ticket_keys::UnixSeconds;
use crate::worker::{Mailbox, OffloadSwitch};
use answer::Answer;
use connections::{Client, Open, TICKS};
use http::{Parsed, Request, Route};
pub use request::{ConfigRequest, ConfigTask, Refusal, Said, Submit};
pub use siblings::Siblings;
pub use stop::Stop;
use stream::{Access, Listener};

/// What is served.
#[derive(Clone, Debug)]
pub struct Service {
    /// `/metrics`.
    pub metrics: Metrics,
    /// `/offload`.
    pub offload: OffloadSwitch,
    /// Until when the certificates in force are valid.
    pub expiries: Arc<Mutex<Expiries>>,
    /// Once set, `/healthz` says 503, as it does while a worker is stuck: whoever balances load shall go
    /// elsewhere.
    pub draining: Arc<AtomicBool>,
    /// `/v1/config`; none where whoever embeds the engine has configured it.
    pub submit: Option<Submit>,
    /// When the process was started.
    pub started: UnixSeconds,
    /// Whose names are shown, and who knows the time.
    pub tickets: Arc<Tickets>,
    /// What is in force.
    pub published: Published,
    /// Where the secrets of every connection are written, if they are.
    pub key_log: Option<PathBuf>,
    /// What the process gave up; nothing where the engine is embedded.
    pub confinement: Confinement,
    /// Of the workers, in their order.
    pub mailboxes: Arc<[Arc<Mailbox>]>,
    /// Whose connections may be those of clients of a listener.
    pub siblings: Siblings,
}

impl Service {
    fn state(&self) -> String {
        state::report(&state::Process {
            started: self.started,
            is_draining: self.draining.load(Ordering::Relaxed),
            is_offload_allowed: self.offload.is_allowed(),
            metrics: &self.metrics,
            tickets: &self.tickets,
            published: &self.published,
            key_log: self.key_log.as_deref(),
            confinement: &self.confinement,
        })
    }
}

/// Serves on the calling thread until it is asked to stop. `ready` is called once, when it can serve, and
/// returns whether it is to.
///
/// # Errors
/// If no ring or timer can be made, or reading the event of `stop` fails. A client can cause none.
pub fn serve(
    listener: OwnedFd,
    stop: &Stop,
    service: &Service,
    ready: impl FnOnce() -> bool,
) -> io::Result<()> {
    serve_within(ADMIN_DEADLINE, listener, stop, service, ready)
}

/// Bytes that are read and thrown away after the answer, so that the close is not a reset which overtakes it.
const REST_BYTES_MAX: usize = 2 * ADMIN_BODY_BYTES_MAX;

const CHUNK_BYTES: usize = 2048;
/// Accepts that may be refused, each a tenth of the deadline after the one before, until the log says it once
/// more: ten seconds.
const REFUSALS_PER_LINE: u64 = 20;

fn serve_within(
    deadline: Duration,
    listener: OwnedFd,
    stop: &Stop,
    service: &Service,
    ready: impl FnOnce() -> bool,
) -> io::Result<()> {
    let ticker = socket::ticker(deadline / TICKS)?;
    let pause = socket::ticker(deadline / TICKS)?;
    let event = stop.event()?;
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder())?;
    runtime.block_on(async {
        let listener = Listener::new(listener)?;
        if !ready() {
            return Ok(());
        }
        let shared = Shared { open: Open::default(), service: service.clone(), stop: stop.clone() };
        let open = shared.open.clone();
        tokio_uring::spawn(keep_time(file(ticker), open.clone()));
        let accepting = tokio_uring::spawn(accept(listener, file(pause), shared));
        let event = file(event);
        loop {
            next(&event).await?;
            // Nobody is accepted whom it does not answer: another process may listen on the same socket.
            accepting.abort();
            if !stop.lets_finish() || open.is_empty() {
                return Ok(());
            }
        }
    })
}

/// What a connection needs to know.
#[derive(Clone)]
struct Shared {
    open: Open,
    service: Service,
    stop: Stop,
}

async fn keep_time(ticker: File, open: Open) {
    while next(&ticker).await.is_ok() {
        open.tick();
    }
}

/// Waits for an event or timer descriptor.
async fn next(event: &File) -> io::Result<()> {
    event.read_at(Vec::with_capacity(8), 0).await.0.map(drop)
}

fn file(descriptor: OwnedFd) -> File {
    File::from_std(std::fs::File::from(descriptor))
}

/// Waits for connections by the system's means and not by an accept that is under way in the ring, which
/// could not be called off without a client that it had just accepted.
async fn accept(listener: Listener, pause: File, shared: Shared) {
    let mut refused = 0_u64;
    loop {
        match listener.accept(&shared.service.siblings).await {
            Ok((stream, access)) => {
                let (client, shared) = (shared.open.admit(stream, access), shared.clone());
                tokio_uring::spawn(async move {
                    converse(client, &shared).await;
                    if shared.stop.lets_finish() {
                        shared.stop.wake();
                    }
                });
                // A turn of the ring: what this client has sent by now is read before others are accepted.
                if tokio_uring::no_op().await.is_err() {
                    return;
                }
            }
            Err(error) => {
                if refused.is_multiple_of(REFUSALS_PER_LINE) {
                    tracing::warn!(%error, "admin: no connection is accepted; for EMFILE raise LimitNOFILE");
                }
                refused += 1;
                // Out of descriptors, most likely: no use in asking again at once.
                if next(&pause).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// One request, one answer, close. An error means that the client is gone: nobody reads an answer.
async fn converse(client: Rc<Client>, shared: &Shared) {
    let (stream, mut request) = (&client.stream, Vec::new());
    let answer = loop {
        match http::parse(&request) {
            Parsed::Whole(Request { route, is_head, .. })
                if client.access != Access::Full && route.needs_full_access() =>
            {
                client.has_asked.set(true);
                break forbidden(client.access).into_bytes(is_head);
            }
            Parsed::Whole(Request { route: Route::Configure(body), head_bytes, .. }) => {
                let begun = request.split_off(head_bytes);
                let answer = configure::change(&client, shared, begun, body).await;
                let Some(answer) = answer else { return };
                break answer.into_bytes(false);
            }
            Parsed::Whole(Request { route: Route::Config, is_head, .. }) => {
                let Some(answer) = configure::show(&client, shared).await else { return };
                break answer.into_bytes(is_head);
            }
            Parsed::Whole(Request { route: Route::Connections(page), is_head, .. }) => {
                break listing::list(&client, shared, page).await.into_bytes(is_head);
            }
            Parsed::Whole(Request { route: Route::EndConnection(name), .. }) => {
                break listing::end(&client, shared, name).await.into_bytes(false);
            }
            Parsed::Whole(Request { route: Route::Upgrade, .. }) => {
                let Some(answer) = configure::upgrade(&client, shared).await else { return };
                break answer.into_bytes(false);
            }
            Parsed::Whole(Request { route, is_head, .. }) => {
                client.has_asked.set(true);
                break answer(route, &shared.service).into_bytes(is_head);
            }
            Parsed::Bad => break Answer::bad_request().into_bytes(false),
            Parsed::Partial => {}
        }
        match stream.read(Vec::with_capacity(CHUNK_BYTES)).await {
            (Ok(1..), chunk) => request.extend_from_slice(&chunk),
            (Ok(_) | Err(_), _) => return,
        }
    };
    if stream.write_all(answer).await.0.is_err() || stream.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let mut rest = 0;
    while rest < REST_BYTES_MAX {
        match stream.read(Vec::with_capacity(CHUNK_BYTES)).await.0 {
            Ok(count @ 1..) => rest += count,
            Ok(_) | Err(_) => return,
        }
    }
}

fn forbidden(access: Access) -> Answer {
    if access == Access::ReadOnly {
        return Answer::read_only();
    }
    tracing::warn!("admin_socket: a request of another user, or of a client of a listener, is refused");
    Answer::stranger()
}

fn answer(route: Route, service: &Service) -> Answer {
    match route {
        Route::Metrics => {
            let expiries = service.expiries.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let (kernel, now) = (probe::tls_statistics(), service.tickets.now());
            Answer::metrics(service.metrics.exposition(kernel, expiries, now))
        }
        Route::Health => health(service),
        Route::State => Answer::json(service.state()),
        Route::Page(file) => file.answer(),
        Route::Offload => Answer::ok(on_or_off(service.offload.is_allowed())),
        Route::AllowOffload(allowed) => {
            if service.offload.allow(allowed) {
                tracing::warn!("offload turned {} at admin_socket", on_or_off(allowed).trim_end());
            }
            Answer::ok(on_or_off(allowed))
        }
        // They are answered by another thread.
        Route::Config
        | Route::Configure(_)
        | Route::Connections(_)
        | Route::EndConnection(_)
        | Route::Upgrade => Answer::bad_request(),
        Route::Refused(answer) => answer,
    }
}

/// 503 is for who balances load: send no more here. Full slots are no reason for that: connections wait in
/// the backlog for the next free slot, and where every instance is full, taking them out one by one would
/// make it worse. The text says it to whoever wants to know, as does the gauge `offramp_workers_full`.
fn health(service: &Service) -> Answer {
    let stuck = |(_, seconds): &(usize, u64)| *seconds >= STUCK_SECONDS;
    if let Some((worker, seconds)) = service.metrics.stalled().enumerate().find(stuck) {
        return Answer::unavailable(&format!("worker {worker} has not responded for {seconds} s\n"));
    }
    if service.draining.load(Ordering::Relaxed) {
        return Answer::unavailable("draining\n");
    }
    let (full, workers) = (service.metrics.level(Gauge::Full), service.metrics.workers());
    match full {
        0 => Answer::ok("ok\n"),
        _ => Answer::ok(&format!("full: {full} of {workers} workers have no free slot\n")),
    }
}

fn on_or_off(allowed: bool) -> &'static str {
    if allowed { "on\n" } else { "off\n" }
}
