//! `/v1/connections`: what admin shows of connections, by filter and page, and the end of one.

use serde_json::Value;

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::peer::{End, Peer, Version, dial, plain};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::eventually;

/// The body of an answer.
fn json(answer: &str) -> Value {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    serde_json::from_str(body).expect("JSON")
}

/// The connections that a query finds.
fn list(server: &TestServer, query: &str) -> Vec<Value> {
    let page = json(&server.control(&format!("GET /v1/connections{query}")));
    page["connections"].as_array().expect("an array").clone()
}

#[test]
fn connection_shows_client_tls_route_and_bytes() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    for (version, number) in [(Version::Tls12, "1.2"), (Version::Tls13, "1.3")] {
        let mut peer = Peer::open(server.addr, &plain(version));
        peer.ping(b"twelve bytes");
        let found = list(&server, "");
        let [one] = &*found else { panic!("there is one: {found:?}") };
        let client = peer.tcp.local_addr().expect("it is connected").to_string();
        for (key, expected) in [
            ("listener", server.addr.to_string()),
            ("client", client),
            ("stage", "relay".to_owned()),
            ("server_name", offramp_testing::identity::NAME.to_owned()),
            ("backend", backend.addr.to_string()),
        ] {
            assert_eq!(one[key], *expected, "{key} of {one}");
        }
        assert_eq!((&one["tls"]["version"], &one["tls"]["resumed"]), (&number.into(), &false.into()));
        assert!(one["tls"]["suite"].as_str().expect("text").starts_with("TLS_"), "{one}");
        assert_eq!((&one["bytes_from_client"], &one["bytes_from_backend"]), (&12.into(), &12.into()));
        assert!(one["age_seconds"].as_f64().expect("a number") >= 0.0 && one["backend_tls"].is_null());
        drop(peer);
        server.settled();
    }
    assert!(list(&server, "").is_empty());
    server.stop();
}

#[test]
fn connections_are_listed_by_page_and_filter() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags("--workers 2").start();
    let mut peers: Vec<_> = (0..7).map(|_| Peer::open(server.addr, &plain(Version::Tls13))).collect();
    peers.iter_mut().for_each(|peer| peer.ping(b"held"));
    let silent = dial(server.addr);
    eventually("the silent one is there", || list(&server, "").len() == 8);
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = json(&server.control(&format!("GET /v1/connections?limit=3{after}")));
        let rows = page["connections"].as_array().expect("an array");
        assert!(rows.len() <= 3);
        seen.extend(rows.iter().map(|row| row["id"].as_str().expect("text").to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 8, "each once: {seen:?}");
    let (address, pool) = (server.addr, list(&server, "?stage=relay")[0]["pool"].clone());
    let pool = pool.as_str().expect("text");
    for (query, count) in [
        ("?stage=relay".to_owned(), 7),
        ("?stage=accept".to_owned(), 1),
        (format!("?listener={address}&stage=relay&limit=5"), 5),
        ("?listener=127.0.0.1:1".to_owned(), 0),
        (format!("?pool={pool}"), 7),
        ("?pool=other".to_owned(), 0),
        ("?source=127.0.0.0/8".to_owned(), 8),
        ("?source=192.0.2.1".to_owned(), 0),
    ] {
        assert_eq!(list(&server, &query).len(), count, "{query}");
    }
    let wrong = server.control("GET /v1/connections?limit=0");
    assert!(wrong.starts_with("HTTP/1.1 400 ") && wrong.contains("allowed is 1 to 1000"), "{wrong}");
    drop((peers, silent));
    server.stop();
}

#[test]
fn connection_is_ended_by_its_id_and_no_other() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let mut peers = [Version::Tls12, Version::Tls13].map(|version| Peer::open(server.addr, &plain(version)));
    peers.iter_mut().for_each(|peer| peer.ping(b"held"));
    let before = server.metrics();
    let id_of = |peer: &Peer| {
        let client = peer.tcp.local_addr().expect("it is connected").to_string();
        let found = list(&server, "").into_iter().find(|one| one["client"] == *client);
        found.expect("it is listed")["id"].as_str().expect("text").to_owned()
    };
    let [mut first, mut second] = peers;
    let id = id_of(&first);
    let delete = |id: &str| server.control(&format!("DELETE /v1/connections/{id}"));
    assert!(delete(&id).starts_with("HTTP/1.1 200 "));
    assert_eq!(first.rest().1, End::Clean);
    assert_eq!(server.faulted(&before, 1), ["ended_by_operator"]);
    second.ping(b"it goes on");
    drop(first);
    eventually("it is gone", || delete(&id).starts_with("HTTP/1.1 404 "));
    for id in ["0-9999-1", "77-0-0", "x"] {
        assert!(delete(id).starts_with("HTTP/1.1 404 "), "{id}");
    }
    let get = server.control(&format!("GET /v1/connections/{}", id_of(&second)));
    assert!(get.contains("\r\nAllow: DELETE\r\n"), "{get}");
    drop(second);
    server.stop();
}
