//! The admin address, over HTTP/1.1 in clear: `GET /metrics` (OpenMetrics text), `GET /healthz`, and the kill
//! switch of the offload, `GET /offload`, `POST /offload/on` and `POST /offload/off`.
//!
//! It has a thread of its own beside the supervisor's, so that no client can hold up the supervisor. One
//! request a connection. What a client can make us hold is bounded: connections, bytes of a request, and the
//! time from accept to close (`config::limits`), whatever the client does or leaves undone. This is the only
//! module that names tokio-uring.

use std::cell::RefCell;
use std::io;
use std::net::{Shutdown, TcpListener};
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_uring::fs::File;
use tokio_uring::net::TcpStream;

use crate::config::limits::{ADMIN_CONNECTIONS_MAX, ADMIN_DEADLINE, ADMIN_REQUEST_BYTES_MAX};
use crate::metrics::{Expiries, Metrics};
use crate::sys::{probe, socket};
use crate::worker::Offers;

/// What is served.
#[derive(Clone, Debug)]
pub struct Service {
    /// `/metrics`.
    pub metrics: Metrics,
    /// `/offload`.
    pub offers: Arc<Offers>,
    /// Once set, `/healthz` says 503: whoever balances load shall go elsewhere.
    pub draining: Arc<AtomicBool>,
}

/// Serves on the calling thread until `stop`, an event descriptor, is signalled. Connections still open then
/// are closed.
///
/// # Errors
/// If no ring or timer can be made, or reading `stop` fails. A client can cause none.
pub fn serve(listener: OwnedFd, stop: OwnedFd, service: &Service) -> io::Result<()> {
    serve_within(ADMIN_DEADLINE, listener, stop, service)
}

/// Ticks in a deadline: it is kept to a tenth.
const TICKS: u32 = 10;

/// Bytes that are read and thrown away after the answer, so that the close is not a reset which overtakes it.
const REST_BYTES_MAX: usize = 64 * 1024;

const CHUNK_BYTES: usize = 2048;

fn serve_within(deadline: Duration, listener: OwnedFd, stop: OwnedFd, service: &Service) -> io::Result<()> {
    let ticker = socket::ticker(deadline / TICKS)?;
    let pause = socket::ticker(deadline / TICKS)?;
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder())?;
    runtime.block_on(async {
        let open = Open::default();
        tokio_uring::spawn(keep_time(file(ticker), open.clone()));
        tokio_uring::spawn(accept(TcpListener::from(listener), file(pause), open, service.clone()));
        next(&file(stop)).await
    })
}

/// The connections that are open.
#[derive(Clone, Default)]
struct Open(Rc<RefCell<Vec<Entry>>>);

struct Entry {
    ticks_left: u32,
    stream: Weak<TcpStream>,
}

impl Open {
    /// Takes a connection in, unless there are too many.
    fn admit(&self, stream: TcpStream) -> Option<Rc<TcpStream>> {
        let mut open = self.0.borrow_mut();
        open.retain(|entry| entry.stream.strong_count() > 0);
        if open.len() >= ADMIN_CONNECTIONS_MAX {
            return None;
        }
        let stream = Rc::new(stream);
        open.push(Entry { ticks_left: TICKS, stream: Rc::downgrade(&stream) });
        Some(stream)
    }

    /// Shuts down what has used up its time: whatever its task waits for then completes.
    fn tick(&self) {
        self.0.borrow_mut().retain_mut(|entry| {
            let Some(stream) = entry.stream.upgrade() else { return false };
            entry.ticks_left = entry.ticks_left.saturating_sub(1);
            if entry.ticks_left == 0 {
                // One that is gone already needs no ending.
                let _ = stream.shutdown(Shutdown::Both);
            }
            true
        });
    }
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

async fn accept(listener: TcpListener, pause: File, open: Open, service: Service) {
    let listener = tokio_uring::net::TcpListener::from_std(listener);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Some(stream) = open.admit(stream) {
                    tokio_uring::spawn(converse(stream, service.clone()));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "admin: a connection cannot be accepted");
                // Out of descriptors, most likely: no use in asking again at once.
                if next(&pause).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// One request, one answer, close. An error means that the client is gone: there is nobody to tell.
async fn converse(stream: Rc<TcpStream>, service: Service) {
    let mut request = Vec::new();
    let answer = loop {
        match parse(&request) {
            Parsed::Whole(route) => break answer(route, &service),
            Parsed::Bad => break Answer::new("400 Bad Request", "bad request\n"),
            Parsed::Partial => {}
        }
        match stream.read(Vec::with_capacity(CHUNK_BYTES)).await {
            (Ok(1..), chunk) => request.extend_from_slice(&chunk),
            (Ok(_) | Err(_), _) => return,
        }
    };
    if stream.write_all(answer.into_bytes()).await.0.is_err() || stream.shutdown(Shutdown::Write).is_err() {
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

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Partial,
    Bad,
    Whole(Route),
}

#[derive(Debug, PartialEq, Eq)]
enum Route {
    Metrics,
    Health,
    Offload,
    AllowOffload(bool),
    /// This one is the right one.
    WrongMethod(&'static str),
    /// A web page asks, by way of somebody's browser.
    Foreign,
    Nowhere,
}

fn parse(request: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(request) {
        Ok(httparse::Status::Complete(length)) if length <= ADMIN_REQUEST_BYTES_MAX => {}
        Ok(httparse::Status::Partial) if request.len() < ADMIN_REQUEST_BYTES_MAX => return Parsed::Partial,
        _ => return Parsed::Bad,
    }
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else { return Parsed::Bad };
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let is_foreign = parsed.headers.iter().any(|header| header.name.eq_ignore_ascii_case("origin"));
    Parsed::Whole(match path {
        _ if is_foreign && method != "GET" => Route::Foreign,
        "/metrics" if method == "GET" => Route::Metrics,
        "/healthz" if method == "GET" => Route::Health,
        "/offload" if method == "GET" => Route::Offload,
        "/offload/on" if method == "POST" => Route::AllowOffload(true),
        "/offload/off" if method == "POST" => Route::AllowOffload(false),
        "/metrics" | "/healthz" | "/offload" => Route::WrongMethod("GET"),
        "/offload/on" | "/offload/off" => Route::WrongMethod("POST"),
        _ => Route::Nowhere,
    })
}

/// Of the certificates in force.
fn expiries(offers: &Offers) -> Expiries {
    let mut expiries = Expiries::default();
    for terms in offers.all_terms() {
        for certificate in terms.certificates() {
            let file = certificate.file.to_string_lossy();
            expiries.add(&file, certificate.nth, certificate.not_after());
        }
    }
    expiries
}

fn answer(route: Route, service: &Service) -> Answer {
    match route {
        Route::Metrics => Answer {
            status: "200 OK",
            allow: "",
            kind: "application/openmetrics-text; version=1.0.0; charset=utf-8",
            body: service.metrics.exposition(probe::tls_statistics(), expiries(&service.offers)),
        },
        Route::Health if service.draining.load(Ordering::Relaxed) => {
            Answer::new("503 Service Unavailable", "draining\n")
        }
        Route::Health => Answer::new("200 OK", "ok\n"),
        Route::Offload => Answer::new("200 OK", state(service.offers.allowed().load(Ordering::Relaxed))),
        Route::AllowOffload(allowed) => {
            service.offers.allow(allowed);
            tracing::warn!("offload turned {} at the admin address", state(allowed).trim_end());
            Answer::new("200 OK", state(allowed))
        }
        Route::WrongMethod(allow) => {
            let answer = Answer::new("405 Method Not Allowed", "another method is wanted: see Allow\n");
            Answer { allow, ..answer }
        }
        Route::Foreign => Answer::new("403 Forbidden", "nothing is changed for a web page\n"),
        Route::Nowhere => Answer::new(
            "404 Not Found",
            "there are /metrics, /healthz, /offload, /offload/on, /offload/off\n",
        ),
    }
}

fn state(allowed: bool) -> &'static str {
    if allowed { "on\n" } else { "off\n" }
}

struct Answer {
    status: &'static str,
    /// RFC 9110 §15.5.6: a 405 names the methods there are.
    allow: &'static str,
    kind: &'static str,
    body: String,
}

impl Answer {
    fn new(status: &'static str, body: &str) -> Self {
        Self { status, allow: "", kind: "text/plain; charset=utf-8", body: body.to_owned() }
    }

    fn into_bytes(self) -> Vec<u8> {
        let Self { status, allow, kind, body } = self;
        let allow = if allow.is_empty() { String::new() } else { format!("Allow: {allow}\r\n") };
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{allow}\
             Connection: close\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, SocketAddr, TcpStream};
    use std::os::fd::AsFd;
    use std::thread::JoinHandle;

    use super::*;
    use crate::metrics::{Counter, Counters};

    struct Running {
        address: SocketAddr,
        service: Service,
        stop: OwnedFd,
        thread: Option<JoinHandle<io::Result<()>>>,
    }

    impl Running {
        fn start(deadline: Duration) -> Self {
            let listener = socket::listener((Ipv4Addr::LOCALHOST, 0).into(), false, 128).unwrap();
            let address = socket::local_addr(listener.as_fd()).unwrap();
            let counters = Arc::new(Counters::new(&[]));
            counters.add(Counter::Accepted, 42);
            let offers = Arc::new(Offers::new(Vec::new(), Vec::new()));
            let metrics = Metrics::new(vec![counters], offers.allowed());
            let service = Service { metrics, offers, draining: Arc::new(AtomicBool::new(false)) };
            let stop = socket::event().unwrap();
            let (theirs, serves) = (stop.try_clone().unwrap(), service.clone());
            let thread = std::thread::spawn(move || serve_within(deadline, listener, theirs, &serves));
            Self { address, service, stop, thread: Some(thread) }
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
            socket::signal(self.stop.as_fd()).unwrap();
            self.thread.take().unwrap().join().unwrap().unwrap();
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
        let metrics = running.ask("GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
        assert!(metrics.contains("\nofframp_connections_accepted_total 42\n"), "{metrics}");
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
        assert!(running.service.offers.allowed().load(Ordering::Relaxed));
    }

    #[test]
    fn everything_else_is_refused() {
        let running = Running::start(LONG);
        assert!(running.ask("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        let wrong = running.ask("POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc");
        assert!(wrong.starts_with("HTTP/1.1 405 ") && wrong.contains("\r\nAllow: GET\r\n"), "{wrong}");
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
    fn a_client_too_many_is_closed_and_the_others_are_served_after_the_deadline() {
        let running = Running::start(Duration::from_millis(400));
        let mut held: Vec<TcpStream> = (0..=ADMIN_CONNECTIONS_MAX).map(|_| running.connect()).collect();
        for stream in &mut held {
            assert_eq!(read_all(stream), "", "closed: the last at once, the others at the deadline");
        }
        assert!(running.ask("GET /healthz HTTP/1.1\r\n\r\n").ends_with("ok\n"));
    }
}
