//! `/v1/state`: its shape, and what it says of endpoints, connections and a changed configuration.

use std::path::Path;

use serde_json::Value;

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::metrics::ask_socket;
use offramp_testing::peer::{Peer, Version, dial, plain};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{eventually, scratch};

fn state(server: &TestServer) -> Value {
    let answer = server.ask("GET /v1/state");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("Content-Type: application/json"), "{head}");
    serde_json::from_str(body).expect("JSON")
}

#[test]
fn state_says_why_an_endpoint_is_down() {
    let backend = Backend::start(BackendBehavior::Echo);
    let dead = "127.0.0.1:1";
    let server = Setup::new(format!("{},{dead}", backend.addr)).flags("--health-check tcp").start();
    let endpoint = |address: &str| {
        let state = state(&server);
        let all = state["pools"][0]["endpoints"].as_array().expect("an array");
        all.iter().find(|one| one["address"] == address).expect("it is there").clone()
    };
    eventually("it is down", || endpoint(dead)["state"] == "down");
    let (down, up) = (endpoint(dead), endpoint(&backend.addr.to_string()));
    assert!(down["reason"].as_str().expect("text").contains("ECONNREFUSED"), "{down}");
    assert!(down["last_probe"]["problem"].is_string() && down["since"].is_u64(), "{down}");
    assert!(up["state"] == "up" && up["reason"].is_null() && up["last_probe"]["problem"].is_null(), "{up}");
    server.stop();
}

#[test]
fn state_counts_connections_where_they_are() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let mut peers = [Version::Tls12, Version::Tls13].map(|version| Peer::open(server.addr, &plain(version)));
    peers.iter_mut().for_each(|peer| peer.ping(b"counted"));
    let state = state(&server);
    for place in [
        &state["connections"]["open"],
        &state["listeners"][0]["connections"],
        &state["pools"][0]["endpoints"][0]["connections"],
        &state["workers"][0]["connections"],
    ] {
        assert_eq!(*place, 2, "{state}");
    }
    assert_eq!(state["listeners"][0]["address"], server.addr.to_string());
    assert_eq!(
        (&state["handshakes"]["tls12_full"], &state["handshakes"]["tls13_full"]),
        (&1.into(), &1.into())
    );
    assert_eq!(state["bytes"]["from_clients"], 14);
    assert_eq!((&state["pid"], &state["offload_allowed"]), (&server.pid().into(), &true.into()));
    drop(peers);
    server.stop();
}

#[test]
fn state_follows_a_configuration_that_is_put() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let file = files.path().join("offramp.toml");
    let text = format!("listen = \"127.0.0.1:0\"\nmode = \"plain\"\nbackend = \"{}\"\n", backend.addr);
    std::fs::write(&file, &text).expect("the file can be written");
    let server = Setup::from_file(&file).start();
    let listeners = || state(&server)["listeners"].as_array().expect("an array").len();
    assert_eq!(listeners(), 1);
    let more = format!("[[listener]]\nlisten = \"127.0.0.2:0\"\nbackend = \"{}\"\n", backend.addr);
    let sent = format!("max_connections = 77\n{text}{more}");
    let head = format!("PUT /v1/config HTTP/1.1\r\nContent-Length: {}\r\n\r\n", sent.len());
    let answer = ask_socket(server.admin_socket(), &(head + &sent)).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(listeners(), 2);
    let limits = state(&server)["limits"].clone();
    assert_eq!((&limits[0]["limit"], &limits[0]["value"]), (&"max_connections".into(), &77.into()));
    server.stop();
}

/// The keys of a value, and the types of what they lead to; of an array its first element.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "boolean".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
        Value::Array(all) => all.first().map(shape).into_iter().collect(),
        Value::Object(all) => all.iter().map(|(key, value)| (key.clone(), shape(value))).collect(),
    }
}

/// Written by `OFFRAMP_WRITE_DOCS=1 cargo test --workspace --test wire of_the_documentation`.
#[test]
fn state_has_the_shape_of_the_documentation() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let before = server.metrics();
    std::io::Write::write_all(&mut dial(server.addr), b"GET / HTTP/1.0\r\n\r\n").expect("it reads");
    server.faulted(&before, 1);
    let mut found = shape(&state(&server));
    // Linux counts these if it has kernel TLS.
    found["kernel_tls"] = "object".into();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operate/admin.md");
    let table = format!("```json\n{}\n```\n", serde_json::to_string_pretty(&found).expect("JSON"));
    offramp_testing::docs::assert_generated(&page, "state", &table);
    server.stop();
}
