use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

use super::*;
use crate::config::limits::{ADMIN_CONNECTIONS_MAX, ADMIN_REQUEST_BYTES_MAX};
use crate::confine::Confinement;
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
        let tickets = Arc::new(Tickets::generate(1, 7).unwrap());
        let (published, submit, mailboxes) = (Published::default(), None, Arc::new([]));
        let service = Service {
            metrics,
            offload,
            expiries,
            draining,
            submit,
            started: 5,
            tickets,
            published,
            key_log: None,
            confinement: Confinement::default(),
            mailboxes,
            siblings: Siblings::default(),
        };
        let stop = Stop::new().unwrap();
        let thread = spawn(deadline, listener, &stop, &service);
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

fn spawn(
    deadline: Duration,
    listener: OwnedFd,
    stop: &Stop,
    service: &Service,
) -> JoinHandle<io::Result<()>> {
    let (stop, service) = (stop.clone(), service.clone());
    std::thread::spawn(move || serve_within(deadline, listener, &stop, &service, || true))
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.at_once();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

fn read_all(stream: &mut impl Read) -> String {
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
fn page_asks_for_nothing_from_elsewhere() {
    let running = Running::start(LONG);
    for (path, kind) in [("/", "text/html"), ("/status.css", "text/css"), ("/status.js", "text/javascript")] {
        let answer = running.ask(&format!("GET {path} HTTP/1.1\r\n\r\n"));
        assert!(answer.contains(&format!("\r\nContent-Type: {kind}; charset=utf-8\r\n")), "{answer}");
        assert!(answer.contains("\r\nContent-Security-Policy: default-src 'none'; script-src 'self'; "));
        assert!(!answer.replace("http://www.w3.org/2000/svg", "").contains("://"), "{path}");
        assert!(!answer.contains("innerHTML"), "{path}: text is set as text");
    }
}

#[test]
fn state_is_json() {
    let running = Running::start(LONG);
    let answer = running.ask("GET /v1/state HTTP/1.1\r\n\r\n");
    assert!(answer.contains("\r\nContent-Type: application/json\r\n"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let state: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!((&state["connections"]["accepted"], &state["uptime_seconds"]), (&42.into(), &2.into()));
    assert_eq!(state["ticket_keys"]["keys"][0]["state"], "seals");
}

#[test]
fn admin_by_tcp_changes_nothing() {
    let running = Running::start(LONG);
    let state = || running.ask("GET /offload HTTP/1.1\r\n\r\n");
    assert!(state().ends_with("\r\n\r\non\n"));
    assert!(running.ask("GET /offload/off HTTP/1.1\r\n\r\n").contains("\r\nAllow: POST\r\n"));
    for request in [
        "POST /offload/off HTTP/1.1\r\n\r\n",
        "GET /v1/config HTTP/1.1\r\n\r\n",
        "GET /v1/connections HTTP/1.1\r\n\r\n",
        "DELETE /v1/connections/0-0-0 HTTP/1.1\r\n\r\n",
        "PUT /v1/config HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
    ] {
        let answer = running.ask(request);
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("admin_socket"), "{answer}");
    }
    assert!(state().ends_with("\r\n\r\non\n"));
    running.service.offload.allow(false);
    assert!(state().ends_with("\r\n\r\noff\n"));
    let metrics = running.ask("GET /metrics HTTP/1.1\r\n\r\n");
    assert!(metrics.contains("\nofframp_offload_allowed 0\n"), "{metrics}");
}

/// The client is a connection of this process, as a backend's is.
#[test]
fn admin_socket_serves_a_stranger_as_tcp_does() {
    let running = Running::start(LONG);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let stop = Stop::new().unwrap();
    let thread = spawn(LONG, listener.into(), &stop, &running.service);
    let ask = |request: &str| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        read_all(&mut stream)
    };
    assert!(ask("GET /healthz HTTP/1.1\r\n\r\n").ends_with("\r\n\r\nok\n"));
    let refused = ask("POST /offload/off HTTP/1.1\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 403 ") && refused.contains("no client of a listener"), "{refused}");
    assert!(running.service.offload.is_allowed());
    stop.when_answered();
    thread.join().unwrap().unwrap();
    assert!(UnixStream::connect(&path).is_err(), "it listens no more");
}

#[test]
fn everything_else_is_refused() {
    let running = Running::start(LONG);
    assert!(running.ask("GET /nothing HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
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
fn excess_admin_client_evicts_the_oldest_slow_one() {
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
    for host in ["rebound.example", "rebound.example:80", "127.0.0.1.example", "localhost.example", "", "a b"]
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
fn health_knows_stuck_and_full_workers() {
    let running = Running::start(LONG);
    let health = || running.ask("GET /healthz HTTP/1.1\r\n\r\n");
    running.counters.set(Gauge::Full, 1);
    let full = health();
    assert!(full.starts_with("HTTP/1.1 200 ") && full.ends_with("full: 1 of 1 workers have no free slot\n"));
    running.service.metrics.set_stalled(0, STUCK_SECONDS - 1);
    assert!(health().starts_with("HTTP/1.1 200 "));
    running.service.metrics.set_stalled(0, STUCK_SECONDS);
    let stuck = health();
    assert!(stuck.starts_with("HTTP/1.1 503 ") && stuck.ends_with("worker 0 has not responded for 5 s\n"));
}
