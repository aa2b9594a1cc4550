//! `/v1/connections`: the connections of all workers, a page at a time, and the end of one.
//!
//! Workers own their connections, so each is asked for a batch of slots after another until the page is full.
//! A worker has at most [`INQUIRIES_MAX`](crate::worker::INQUIRIES_MAX) inquiries waiting: one more is answered
//! 503 at once, and so is one to a worker that is stuck.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use super::configure::REQUEST_TICKS;
use super::connections::Client;
use super::http::Answer;
use super::{Shared, file, next};
use crate::config::limits::{ADMIN_PAGE_DEFAULT, ADMIN_PAGE_MAX, STUCK_SECONDS};
use crate::reply::reply;
use crate::sys::socket::Address;
use crate::tls::TlsInfo;
use crate::worker::{
    Command, ConnectionFilter, ConnectionInfo, ConnectionName, Inquiry, InquiryAnswer, InquiryTask,
};

/// A page that is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    filter: ConnectionFilter,
    most: usize,
    /// The last connection of the page before.
    after: Option<ConnectionName>,
}

impl Page {
    /// Reads a query.
    ///
    /// # Errors
    /// What of it is wrong, and what is allowed.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut page = Self { filter: ConnectionFilter::default(), most: ADMIN_PAGE_DEFAULT, after: None };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let refused = |allowed: &str| Err(format!("{key}={value} is refused: allowed is {allowed}"));
            match &*key {
                "listener" => match address(&value) {
                    Some(address) => page.filter.listener = Some(address),
                    None => return refused("an address as /v1/state shows it, or unix:PATH"),
                },
                "pool" => page.filter.pool = Some(value.into_owned()),
                "stage" => page.filter.stage = Some(value.into_owned()),
                "source" => match network(&value) {
                    Some(network) => page.filter.source = Some(network),
                    None => return refused("an IP address or a network, such as 192.0.2.0/24"),
                },
                "limit" => match value.parse() {
                    Ok(most) if (1..=ADMIN_PAGE_MAX).contains(&most) => page.most = most,
                    _ => return refused(&format!("1 to {ADMIN_PAGE_MAX}")),
                },
                "after" => match value.parse() {
                    Ok(name) => page.after = Some(name),
                    Err(_) => return refused("the id of a connection, such as next of the page before"),
                },
                _ => {
                    let known = "listener, pool, source, stage, limit, after";
                    return Err(format!("{key} is unknown: allowed are {known}"));
                }
            }
        }
        Ok(page)
    }
}

fn address(text: &str) -> Option<Address> {
    match text.strip_prefix("unix:") {
        Some(path) => Some(Address::Unix(path.into())),
        None => text.parse().ok().map(Address::Tcp),
    }
}

fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_is_read_from_a_query() {
        let page = Page::parse("").unwrap();
        assert_eq!((page.most, page.after, &page.filter), (ADMIN_PAGE_DEFAULT, None, &Default::default()));
        let query = "listener=%5B%3A%3A1%5D:443&pool=a+b&source=10.0.0.0/8&stage=relay&limit=7&after=1-2-3";
        let page = Page::parse(query).unwrap();
        assert_eq!(page.filter.listener, Some(Address::Tcp("[::1]:443".parse().unwrap())));
        assert_eq!((page.filter.pool.as_deref(), page.filter.stage.as_deref()), (Some("a b"), Some("relay")));
        assert_eq!(page.filter.source, Some("10.0.0.0/8".parse().unwrap()));
        let after = ConnectionName { worker: 1, slot: 2, serial: 3 };
        assert_eq!((page.most, page.after), (7, Some(after)));
        assert_eq!(Page::parse("source=::1").unwrap().filter.source, Some("::1/128".parse().unwrap()));
        for (query, what) in [
            ("limit=0", "1 to 1000"),
            ("limit=1001", "1 to 1000"),
            ("after=x", "the id of a connection"),
            ("source=host", "an IP address"),
            ("listener=nowhere", "an address"),
            ("colour=red", "colour is unknown"),
        ] {
            assert!(Page::parse(query).unwrap_err().contains(what), "{query}");
        }
    }
}
