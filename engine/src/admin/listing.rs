//! `/v1/connections`: the connections of all workers, a page at a time, and the end of one.
//!
//! Workers own their connections, so each is asked for a batch of slots after another until the page is full.
//! A worker has at most [`INQUIRIES_MAX`](crate::worker::INQUIRIES_MAX) inquiries waiting: one more is
//! answered 503 at once, and so is one to a worker that is stuck.

use std::sync::Arc;

use serde::Serialize;

use super::answer::Answer;
use super::configure::REQUEST_TICKS;
use super::connections::Client;
use super::query::Page;
use super::{Shared, file, next};
use crate::config::limits::STUCK_SECONDS;
use crate::reply::reply;
use crate::tls::TlsInfo;
use crate::worker::{Command, ConnectionInfo, ConnectionName, Inquiry, InquiryAnswer, InquiryTask};

#[derive(Serialize)]
struct Listing {
    connections: Vec<Row>,
    /// What `after` is to be for the next page.
    next: Option<String>,
}

#[derive(Serialize)]
struct Row {
    id: String,
    log_id: Option<String>,
    listener: String,
    client: Option<String>,
    server_name: Option<String>,
    stage: &'static str,
    age_seconds: Option<f64>,
    bytes_from_client: Option<u64>,
    bytes_from_backend: Option<u64>,
    tls: Option<Tls>,
    pool: Option<String>,
    backend: Option<String>,
    backend_tls: Option<Tls>,
}

#[derive(Serialize)]
struct Tls {
    version: String,
    suite: &'static str,
    group: Option<&'static str>,
    resumed: bool,
    alpn: Option<String>,
    tx: Option<&'static str>,
    rx: Option<&'static str>,
}

impl Tls {
    fn of(info: Option<TlsInfo>, [tx, rx]: [Option<&'static str>; 2]) -> Option<Self> {
        let info = info?;
        Some(Self {
            version: info.version.to_string(),
            suite: info.suite_name(),
            group: info.group,
            resumed: info.resumed,
            alpn: info.alpn.map(|name| String::from_utf8_lossy(&name).into_owned()),
            tx,
            rx,
        })
    }
}

impl Row {
    fn of(info: ConnectionInfo) -> Self {
        let ([near, far], [near_paths, far_paths]) = (info.tls, info.paths);
        Self {
            id: info.name.to_string(),
            log_id: info.log_id,
            listener: info.listener.to_string(),
            client: info.client.map(|client| client.to_string()),
            server_name: info.server_name,
            stage: info.stage,
            age_seconds: info.age.map(|age| (age.as_secs_f64() * 1e3).round() / 1e3),
            bytes_from_client: info.bytes.map(|[near, _]| near),
            bytes_from_backend: info.bytes.map(|[_, far]| far),
            tls: Tls::of(near, near_paths),
            pool: info.pool.map(|pool| (*pool).to_owned()),
            backend: info.endpoint.map(|endpoint| endpoint.to_string()),
            backend_tls: Tls::of(far, far_paths),
        }
    }
}

/// A page of connections.
pub(super) async fn list(client: &Client, shared: &Shared, page: Page) -> Answer {
    begin(client);
    let filter = Arc::new(page.filter);
    let (first, slot) = page.after.map_or((0, 0), |name| (name.worker, name.slot.saturating_add(1)));
    let mut listing = Listing { connections: Vec::new(), next: None };
    for worker in first..shared.service.mailboxes.len() {
        let mut from = Some(if worker == first { slot } else { 0 });
        while let Some(slot) = from {
            let most = page.most - listing.connections.len();
            let task = InquiryTask::List { from: slot, most, filter: Arc::clone(&filter) };
            let (found, go_on) = match ask(client, shared, worker, task).await {
                Ok(InquiryAnswer::Listed(found, go_on)) => (found, go_on),
                Ok(InquiryAnswer::Ended(_)) => return Answer::bad_request(),
                Err(refusal) => return refusal,
            };
            listing.connections.extend(found.into_iter().map(Row::of));
            if listing.connections.len() >= page.most {
                listing.next = listing.connections.last().map(|row| row.id.clone());
                return Answer::json(serde_json::to_string(&listing).unwrap_or_default());
            }
            from = go_on;
        }
    }
    Answer::json(serde_json::to_string(&listing).unwrap_or_default())
}

/// Ends a connection.
pub(super) async fn end(client: &Client, shared: &Shared, name: ConnectionName) -> Answer {
    if name.worker >= shared.service.mailboxes.len() {
        return Answer::no_connection(name);
    }
    begin(client);
    match ask(client, shared, name.worker, InquiryTask::End(name)).await {
        Ok(InquiryAnswer::Ended(true)) => {
            tracing::warn!("connection {name} is ended at admin_socket");
            Answer::ok(&format!("connection {name} is being ended\n"))
        }
        Ok(_) => Answer::no_connection(name),
        Err(refusal) => refusal,
    }
}

/// From here on its request is in work.
fn begin(client: &Client) {
    client.has_asked.set(true);
    client.ticks_left.set(REQUEST_TICKS);
}

/// Asks a worker.
async fn ask(
    client: &Client,
    shared: &Shared,
    worker: usize,
    task: InquiryTask,
) -> Result<InquiryAnswer, Answer> {
    if client.ticks_left.get() == 0 {
        // Who has asked is not answered any more.
        return Err(Answer::unavailable("it took too long\n"));
    }
    if shared.service.metrics.stalled().nth(worker).is_some_and(|seconds| seconds >= STUCK_SECONDS) {
        return Err(Answer::unavailable(&format!("worker {worker} does not respond\n")));
    }
    let no_descriptor = |_| Answer::unavailable("there is no descriptor to wait with\n");
    let (reply, waiting) = reply().map_err(no_descriptor)?;
    let answered = file(waiting.event().map_err(no_descriptor)?);
    if let Some(mailbox) = shared.service.mailboxes.get(worker) {
        mailbox.post(Command::Ask(Inquiry { task, reply }));
    }
    next(&answered).await.map_err(no_descriptor)?;
    let none =
        || Answer::unavailable(&format!("worker {worker} has too many requests waiting, or has ended\n"));
    waiting.take().ok_or_else(none)
}
