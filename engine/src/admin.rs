//! The admin address, over HTTP/1.1 in clear: `GET /metrics` (OpenMetrics text), `GET /healthz`, the kill
//! switch of the offload, `GET /offload`, `POST /offload/on` and `POST /offload/off`, and the configuration,
//! `GET` and `PUT /v1/config`, and `POST /v1/upgrade`, at a loopback address, for those who may send SIGHUP.
//! HEAD is answered as GET.
//!
//! It has a thread of its own beside the supervisor's, so that no client can hold up the supervisor. One
//! request per connection. What a client can make us hold is bounded: connections, bytes of a request, and
//! the time from accept to close (`config::limits`), whatever the client does or leaves undone. A
//! connection too many costs the oldest its place, whose request has not come: slow clients keep nobody out
//! that sends its request before 64 others connect. This is the only module that names tokio-uring.

mod configure;
mod connections;
mod http;
mod request;
mod sender;
mod stop;

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_uring::fs::File;
use tokio_uring::net::TcpStream;

use crate::config::limits::{ADMIN_BODY_BYTES_MAX, ADMIN_DEADLINE, STUCK_SECONDS};
use crate::metrics::{Expiries, Gauge, Metrics};
use crate::sys::{probe, socket};
use crate::worker::OffloadSwitch;
use connections::{Client, Open, TICKS};
use http::{Answer, Parsed, Request, Route};
pub use request::{ConfigRequest, ConfigTask, Refusal, Said, Submit};
pub use stop::Stop;

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
}

/// Serves on the calling thread until it is asked to stop. `ready` is called once, when it will serve.
///
/// # Errors
/// If no ring or timer can be made, or reading the event of `stop` fails. A client can cause none.
pub fn serve(listener: OwnedFd, stop: &Stop, service: &Service, ready: impl FnOnce()) -> io::Result<()> {
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
    ready: impl FnOnce(),
) -> io::Result<()> {
    let ticker = socket::ticker(deadline / TICKS)?;
    let pause = socket::ticker(deadline / TICKS)?;
    let event = stop.event()?;
    let listener = TcpListener::from(listener);
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder())?;
    ready();
    runtime.block_on(async {
        let shared = Shared { open: Open::default(), service: service.clone(), address, stop: stop.clone() };
        let open = shared.open.clone();
        tokio_uring::spawn(keep_time(file(ticker), open.clone()));
        let listener = tokio::net::TcpListener::from_std(listener)?;
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
    /// Where it listens.
    address: SocketAddr,
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
async fn accept(listener: tokio::net::TcpListener, pause: File, shared: Shared) {
    let mut refused = 0_u64;
    loop {
        let accepted = listener.accept().await;
        match accepted.and_then(|(stream, address)| Ok((stream.into_std()?, address))) {
            Ok((stream, address)) => {
                let Ok(()) = stream.set_nonblocking(false) else { continue };
                let (client, shared) =
                    (shared.open.admit(TcpStream::from_std(stream), address), shared.clone());
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

fn answer(route: Route, service: &Service) -> Answer {
    match route {
        Route::Metrics => {
            let expiries = service.expiries.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Answer::metrics(service.metrics.exposition(probe::tls_statistics(), expiries))
        }
        Route::Health => health(service),
        Route::Offload => Answer::ok(state(service.offload.is_allowed())),
        Route::AllowOffload(allowed) => {
            if service.offload.allow(allowed) {
                tracing::warn!("offload turned {} at the admin address", state(allowed).trim_end());
            }
            Answer::ok(state(allowed))
        }
        // They are answered by another thread.
        Route::Config | Route::Configure(_) | Route::Upgrade => Answer::bad_request(),
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

fn state(allowed: bool) -> &'static str {
    if allowed { "on\n" } else { "off\n" }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpStream};
    use std::os::fd::AsFd;
    use std::thread::JoinHandle;

    use super::*;
    use crate::config::limits::{ADMIN_CONNECTIONS_MAX, ADMIN_REQUEST_BYTES_MAX};
    use crate::metrics::{Counter, Counters, Registry};

    struct Running {
        address: SocketAddr,
        service: Service,
        counters: Arc<Counters>,
        stop: Stop,
        thread: Option<JoinHandle<io::Result<()>>>,
    }

    impl Running {
        fn start(deadline: Duration) -> Self {
            let listener = socket::listener((Ipv4Addr::LOCALHOST, 0).into(), false, 128).unwrap();
            let address = socket::local_addr(listener.as_fd()).unwrap();
            let (counters, registry) = (Arc::new(Counters::default()), Arc::new(Registry::new(1, 0)));
            registry.listener("a", 0).add(Counter::Accepted, 42);
            let offload = OffloadSwitch::new(Arc::new([]));
            let metrics = Metrics::new(vec![Arc::clone(&counters)], registry, offload.allowed());
            let (expiries, draining) = Default::default();
            let service = Service { metrics, offload, expiries, draining, submit: None };
            let stop = Stop::new().unwrap();
            let (theirs, serves) = (stop.clone(), service.clone());
            let thread =
                std::thread::spawn(move || serve_within(deadline, listener, &theirs, &serves, || ()));
            Self { address, service, counters, stop, thread: Some(thread) }
        }

        fn connect(&self) -> TcpStream {
            let stream = TcpStream::connect(self.address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            stream
        }

        fn ask(&self, request: &str) -> String {
            let mut stream = self.connect();
            stream.write_all(request.as_bytes()).unwrap();
            read_all(&mut stream)
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            self.stop.at_once();
            if let Some(thread) = self.thread.take() {
                thread.join().unwrap().unwrap();
            }
        }
    }

    fn read_all(stream: &mut TcpStream) -> String {
        let mut answer = Vec::new();
        // A reset after the answer is the client's own doing in these tests.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn metrics_and_health_are_served() {
        let running = Running::start(LONG);
        let metrics = running.ask("GET /metrics?x=1 HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
        assert!(metrics.contains("\nofframp_connections_accepted_total{listener=\"a\"} 42\n"), "{metrics}");
        assert!(running.ask("GET /healthz HTTP/1.1\r\n\r\n").ends_with("\r\n\r\nok\n"));
        running.service.draining.store(true, Ordering::Relaxed);
        assert!(running.ask("GET /healthz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 503 "));
    }

    #[test]
    fn the_kill_switch_is_thrown_by_post_alone_and_not_by_web_pages() {
        let running = Running::start(LONG);
        let state = || running.ask("GET /offload HTTP/1.1\r\n\r\n");
        assert!(state().ends_with("\r\n\r\non\n"));
        assert!(running.ask("GET /offload/off HTTP/1.1\r\n\r\n").contains("\r\nAllow: POST\r\n"));
        let foreign = "POST /offload/off HTTP/1.1\r\norigin: http://a.example\r\n\r\n";
        assert!(running.ask(foreign).starts_with("HTTP/1.1 403 "));
        assert!(state().ends_with("\r\n\r\non\n"));
        assert!(running.ask("POST /offload/off HTTP/1.1\r\n\r\n").ends_with("\r\n\r\noff\n"));
        assert!(state().ends_with("\r\n\r\noff\n"));
        let metrics = running.ask("GET /metrics HTTP/1.1\r\n\r\n");
        assert!(metrics.contains("\nofframp_offload_allowed 0\n"), "{metrics}");
        assert!(running.ask("POST /offload/on HTTP/1.1\r\n\r\n").ends_with("\r\n\r\non\n"));
        assert!(running.service.offload.is_allowed());
    }

    #[test]
    fn everything_else_is_refused() {
        let running = Running::start(LONG);
        assert!(running.ask("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        let wrong = running.ask("POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc");
        assert!(wrong.starts_with("HTTP/1.1 405 ") && wrong.contains("\r\nAllow: GET, HEAD\r\n"), "{wrong}");
        assert!(running.ask("\x16\x03\x01 no HTTP\r\n\r\n").starts_with("HTTP/1.1 400 "));
        let many = "X: y\r\n".repeat(33);
        assert!(running.ask(&format!("GET /healthz HTTP/1.1\r\n{many}\r\n")).starts_with("HTTP/1.1 400 "));
    }

    #[test]
    fn a_request_without_end_is_refused_at_the_bound() {
        let running = Running::start(LONG);
        let request = format!("GET /{} HTTP/1.1\r\n", "x".repeat(ADMIN_REQUEST_BYTES_MAX));
        assert!(running.ask(&request).starts_with("HTTP/1.1 400 "));
    }

    #[test]
    fn a_request_may_come_in_pieces() {
        let running = Running::start(LONG);
        let mut stream = running.connect();
        for byte in b"GET /healthz HTTP/1.1\r\n\r\n" {
            stream.write_all(&[*byte]).unwrap();
        }
        assert!(read_all(&mut stream).ends_with("ok\n"));
    }

    #[test]
    fn a_silent_client_is_ended_at_the_deadline() {
        let running = Running::start(Duration::from_millis(200));
        let mut silent = running.connect();
        assert_eq!(read_all(&mut silent), "");
    }

    #[test]
    fn a_client_too_many_ends_the_oldest_that_is_slow_and_is_served() {
        let running = Running::start(LONG);
        let mut asked = running.connect();
        asked.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
        let mut held: Vec<TcpStream> = (0..3 * ADMIN_CONNECTIONS_MAX).map(|_| running.connect()).collect();
        assert!(running.ask("GET /healthz HTTP/1.1\r\n\r\n").ends_with("ok\n"), "within the deadline");
        assert_eq!(read_all(&mut held[0]), "", "the oldest is ended");
        assert!(read_all(&mut asked).ends_with("ok\n"), "and not the one that was answered");
        held.last_mut().unwrap().write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
        assert!(read_all(held.last_mut().unwrap()).ends_with("ok\n"), "the youngest is not ended");
    }

    #[test]
    fn head_is_answered_as_get_without_a_body() {
        let running = Running::start(LONG);
        for path in ["/healthz", "/metrics", "/offload", "/nowhere", "/offload/on"] {
            let get = running.ask(&format!("GET {path} HTTP/1.1\r\n\r\n"));
            let head = running.ask(&format!("HEAD {path} HTTP/1.1\r\n\r\n"));
            assert_eq!(head, get.split_inclusive("\r\n\r\n").next().unwrap(), "{path}");
        }
    }

    #[test]
    fn a_name_that_is_none_of_ours_is_refused() {
        let running = Running::start(LONG);
        for host in
            ["rebound.example", "rebound.example:80", "127.0.0.1.example", "localhost.example", "", "a b"]
        {
            let answer = running.ask(&format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            assert!(answer.starts_with("HTTP/1.1 421 "), "{host}: {answer}");
        }
        for host in ["127.0.0.1", "127.0.0.1:9100", "[::1]:9100", "[::1]", "LocalHost:1", "192.0.2.1"] {
            let answer = running.ask(&format!("GET /healthz HTTP/1.1\r\nhost: {host}\r\n\r\n"));
            assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
        }
        let two = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: rebound.example\r\n\r\n";
        assert!(running.ask(two).starts_with("HTTP/1.1 421 "));
        let post = "POST /offload/off HTTP/1.1\r\nHost: rebound.example\r\n\r\n";
        assert!(running.ask(post).starts_with("HTTP/1.1 421 "));
        assert!(running.service.offload.is_allowed());
    }

    #[test]
    fn admin_that_stops_answers_those_who_are_connected() {
        let running = Running::start(LONG);
        let mut connected = running.connect();
        connected.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
        running.ask("GET /healthz HTTP/1.1\r\n\r\n");
        running.stop.when_answered();
        let address = running.address;
        while TcpStream::connect(address).is_ok() {
            std::thread::yield_now();
        }
        let again = socket::listener(address, false, 1).unwrap();
        connected.write_all(b"\r\n").unwrap();
        assert!(read_all(&mut connected).ends_with("ok\n"));
        drop((connected, again));
        let mut running = running;
        running.thread.take().unwrap().join().unwrap().unwrap();
    }

    #[test]
    fn configuration_of_an_embedded_engine_is_not_there() {
        let running = Running::start(LONG);
        let put = "PUT /v1/config HTTP/1.1\r\nContent-Length: 1\r\n\r\nx";
        assert!(running.ask(put).starts_with("HTTP/1.1 404 "));
        assert!(running.ask("GET /v1/config HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    }

    #[test]
    fn health_knows_stuck_and_full_workers() {
        let running = Running::start(LONG);
        let health = || running.ask("GET /healthz HTTP/1.1\r\n\r\n");
        running.counters.set(Gauge::Full, 1);
        let full = health();
        assert!(
            full.starts_with("HTTP/1.1 200 ") && full.ends_with("full: 1 of 1 workers have no free slot\n")
        );
        running.service.metrics.set_stalled(0, STUCK_SECONDS - 1);
        assert!(health().starts_with("HTTP/1.1 200 "));
        running.service.metrics.set_stalled(0, STUCK_SECONDS);
        let stuck = health();
        assert!(
            stuck.starts_with("HTTP/1.1 503 ") && stuck.ends_with("worker 0 has not responded for 5 s\n")
        );
    }
}
