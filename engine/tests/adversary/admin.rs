//! The admin address among clients that are slow, or are led there by a browser.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::metrics::ask;
use offramp_testing::server::TestServer;

/// Far more than the admin address holds at once.
const SLOW_CLIENTS: usize = 300;
/// Each of so many health checks must be answered.
const CHECKS: usize = 30;

fn request(method: &str, path: &str, host: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: {host}")
}

fn status(answer: &str) -> u16 {
    let word = answer.split(' ').nth(1).unwrap_or_default();
    word.parse().unwrap_or_else(|_| panic!("an answer has a status: {answer:?}"))
}

/// Slow clients that come back as soon as they are closed, until it is over.
pub(crate) fn slow_clients(admin: SocketAddr, count: usize, over: &AtomicBool) {
    let mut open: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
    while !over.load(Ordering::Relaxed) {
        for slot in &mut open {
            let is_open = slot.as_mut().is_some_and(|tcp| {
                matches!(tcp.read(&mut [0; 64]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
            });
            if !is_open && let Ok(mut tcp) = TcpStream::connect(admin) {
                // Half a request line.
                let _ = tcp.write_all(b"GET /hea");
                let _ = tcp.set_nonblocking(true);
                *slot = Some(tcp);
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn admin_health_is_answered_among_slow_clients() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let (admin, over) = (server.admin(), AtomicBool::new(false));
    let answers = thread::scope(|scope| {
        scope.spawn(|| slow_clients(admin, SLOW_CLIENTS, &over));
        thread::sleep(Duration::from_millis(500));
        let check = |_| {
            thread::sleep(Duration::from_millis(50));
            ask(admin, &request("GET", "/healthz", &admin.to_string())).map(|answer| status(&answer))
        };
        let answers: Vec<_> = (0..CHECKS).map(|nth| check(nth).map_err(|error| error.kind())).collect();
        over.store(true, Ordering::Relaxed);
        answers
    });
    assert_eq!(answers, vec![Ok(200); CHECKS]);
    server.stop();
}

#[test]
fn admin_foreign_host_is_refused() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let admin = server.admin();
    let get = |host: &str| status(&ask(admin, &request("GET", "/metrics", host)).expect("an answer"));
    let port = admin.port();
    for own in
        [admin.to_string(), "127.0.0.1".to_owned(), format!("localhost:{port}"), "localhost".to_owned()]
    {
        assert_eq!(get(&own), 200, "{own}");
    }
    // A name of somebody else's that was made to resolve to this address.
    for foreign in ["attacker.example", "attacker.example:80", "127.0.0.1.attacker.example"] {
        assert!((400..500).contains(&get(foreign)), "{foreign}");
    }
    let post = |host: &str| status(&ask(admin, &request("POST", "/offload/off", host)).expect("an answer"));
    assert!((400..500).contains(&post("attacker.example")));
    server.stop();
}

#[test]
fn admin_head_answers_as_get_without_a_body() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let host = server.admin().to_string();
    let ask = |method| ask(server.admin(), &request(method, "/healthz", &host)).expect("an answer");
    let (get, head) = (ask("GET"), ask("HEAD"));
    let (head_of_get, body) = get.split_once("\r\n\r\n").expect("a head");
    assert!(!body.is_empty() && status(&get) == 200, "{get}");
    assert_eq!(head, format!("{head_of_get}\r\n\r\n"));
    server.stop();
}
