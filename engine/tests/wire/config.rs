//! The configuration at the admin socket, and what a reload changes of the process: `PUT /v1/config`, the
//! limit of connections, where admin is served.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::Identity;
use offramp_testing::metrics::{Metrics, ask, ask_socket};
use offramp_testing::peer::{End, Peer, Version, plain};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{eventually, in_guest, scratch, signal, skip};

/// A file with one listener, its backend, and more lines in front.
fn text(backend: SocketAddr, more: &str) -> String {
    format!(
        "{more}listen = \"127.0.0.1:0\"\nbackend = \"{backend}\"\n\
         [[identity]]\ncertificate = \"ecdsa.crt\"\nkey = \"ecdsa.key\"\n"
    )
}

/// A server whose file says that.
fn from_text(text: &str, directory: &Path) -> Setup {
    Identity::ecdsa().write(directory);
    let file = directory.join("offramp.toml");
    std::fs::write(&file, text).expect("the file can be written");
    Setup::from_file(&file)
}

fn start(backend: SocketAddr, directory: &Path) -> TestServer {
    from_text(&text(backend, ""), directory).start()
}

/// What admin answers to these bytes at its socket.
fn exchange(admin: &Path, request: &str) -> String {
    ask_socket(admin, request).expect("it answers")
}

fn put(admin: &Path, body: &str) -> String {
    let head =
        format!("PUT /v1/config HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    exchange(admin, &(head + body))
}

fn get(admin: &Path) -> String {
    exchange(admin, "GET /v1/config HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").expect("a head and a body").1
}

#[test]
fn config_that_is_put_holds_for_new_connections() {
    let backends = [Backend::start(BackendBehavior::Echo), Backend::start(BackendBehavior::Echo)];
    let files = scratch();
    let server = start(backends[0].addr, files.path());
    let file = text(backends[0].addr, "");
    assert_eq!(body(&get(server.admin_socket())), file, "as it was read");
    let mut old = Peer::open(server.addr, &plain(Version::Tls13));
    old.ping(b"before");
    let sent = text(backends[1].addr, "pin_workers = \"on\"\n");
    let answer = put(server.admin_socket(), &sent);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // Behind it are warnings, such as of few descriptors.
    let said = body(&answer).lines().next().expect("a line");
    assert!(said.starts_with("listeners, pools, limits and timeouts in force; "), "{said}");
    assert!(said.ends_with("not in force until an upgrade or a restart: pin_workers"), "{said}");
    eventually("the log says the same", || server.stderr().contains(&format!("PUT /v1/config: {said}")));
    assert_eq!(body(&get(server.admin_socket())), sent, "as it was sent");
    let mut new = Peer::open(server.addr, &plain(Version::Tls13));
    new.ping(b"later");
    old.ping(b"still");
    for peer in [&mut old, &mut new] {
        peer.close_notify();
        assert_eq!(peer.rest(), (Vec::new(), End::Clean));
    }
    assert_eq!(backends.each_ref().map(|backend| backend.seen().bytes), [11, 5]);
    // The file is the operator's: SIGHUP reads it again.
    server.reload("SIGHUP: listeners, pools");
    assert_eq!(body(&get(server.admin_socket())), file);
    let mut last = Peer::open(server.addr, &plain(Version::Tls12));
    last.ping(b"back");
    drop(last);
    assert_eq!(backends[0].seen().bytes, 4);
    server.stop();
}

#[test]
fn config_that_is_bad_changes_nothing_and_says_why() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let server = start(backend.addr, files.path());
    let before = get(server.admin_socket());
    let mut last = String::new();
    for line in [
        "offload = \"sometimes\"",
        "worker = 2",
        "listen = ",
        "client_auth = \"require\"\nclient_ca = \"none.pem\"",
        "ticket_keys = \"none.keys\"",
        "mode = \"plain\"",
        "mode = \"originate\"",
    ] {
        let bad = text(backend.addr, &format!("{line}\n"));
        let name = "checked.toml";
        std::fs::write(files.path().join(name), &bad).expect("the file can be written");
        let mut check = Command::new(env!("CARGO_BIN_EXE_offramp"));
        let check =
            check.args(["check", "--config", name]).current_dir(files.path()).output().expect("it runs");
        let expected = String::from_utf8(check.stderr).expect("text");
        let expected = expected.trim().strip_prefix("offramp: ").expect("it is refused").to_owned();
        let answer = put(server.admin_socket(), &bad);
        assert!(answer.starts_with("HTTP/1.1 422 "), "{line}: {answer}");
        // `check` runs in the directory, to which the paths are relative.
        let said = body(&answer).trim_end().replace(&format!("{}/", files.path().display()), "");
        assert_eq!(said, expected.replace(name, "PUT /v1/config"), "{line}");
        last = body(&answer).trim_end().to_owned();
    }
    eventually("the log says so", || {
        server.stderr().contains(&format!("PUT /v1/config: {last}; the configuration in force stays"))
    });
    assert_eq!(get(server.admin_socket()), before);
    let mut peer = Peer::open(server.addr, &plain(Version::Tls13));
    peer.ping(b"as before");
    drop(peer);
    server.stop();
}

#[test]
fn config_of_a_taken_address_changes_nothing() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let server = start(backend.addr, files.path());
    let taken = server.addr;
    let bad = text(backend.addr, "").replace("127.0.0.1:0", &taken.to_string());
    let said = put(server.admin_socket(), &bad);
    assert!(body(&said).starts_with(&format!("PUT /v1/config:1: listen: {taken} is in use")), "{said}");
    Peer::open(server.addr, &plain(Version::Tls13)).ping(b"as before");
    server.stop();
}

#[test]
fn config_request_that_is_malformed_is_refused() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let server = start(backend.addr, files.path());
    let before = get(server.admin_socket());
    let head = "PUT /v1/config HTTP/1.1\r\nHost: localhost\r\n";
    for (rest, status) in [
        ("\r\n".to_owned(), "411"),
        ("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), "411"),
        (format!("Content-Length: 1048577\r\n\r\n{}", "#".repeat(1_048_577)), "413"),
        ("Content-Length: 2\r\nOrigin: http://a.example\r\n\r\n##".to_owned(), "403"),
    ] {
        let answer = exchange(server.admin_socket(), &format!("{head}{rest}"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
    }
    let foreign = "PUT /v1/config HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\n##";
    assert!(exchange(server.admin_socket(), foreign).starts_with("HTTP/1.1 421 "));
    let delete = "DELETE /v1/config HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert!(exchange(server.admin_socket(), delete).contains("\r\nAllow: GET, HEAD, PUT\r\n"));
    assert_eq!(get(server.admin_socket()), before);
    server.stop();
}

#[test]
fn config_body_is_sent_after_100_continue() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let server = start(backend.addr, files.path());
    let sent = text(backend.addr, "# sent\n");
    let mut tcp = UnixStream::connect(server.admin_socket()).expect("it listens");
    let length = sent.len();
    write!(tcp, "PUT /v1/config HTTP/1.1\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n")
        .expect("it reads");
    let mut first = [0; 25];
    tcp.read_exact(&mut first).expect("it asks for more");
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    tcp.write_all(sent.as_bytes()).expect("it reads");
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(body(&get(server.admin_socket())), sent);
    server.stop();
}

/// Whoever may send SIGHUP may do the same here, and nobody else.
#[test]
fn config_is_not_for_another_user() {
    const NOBODY: u32 = 65_534;
    if in_guest() {
        return;
    }
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let server = start(backend.addr, files.path());
    let before = get(server.admin_socket());
    // Somebody has opened the way to it.
    let socket = server.admin_socket();
    let open = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode));
    open(socket, 0o666).expect("it is ours");
    open(socket.parent().expect("a directory"), 0o711).expect("it is ours");
    for task in [&["--request", "PUT", "--data", "workers = 1"][..], &[]] {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--include", "--unix-socket"]).arg(socket).arg("http://localhost/v1/config");
        curl.args(task).current_dir("/").uid(NOBODY).gid(NOBODY);
        let Ok(output) = curl.output() else {
            return skip("another user's curl needs root, and curl");
        };
        let answer = String::from_utf8(output.stdout).expect("text");
        assert!(
            answer.starts_with("HTTP/1.1 403 ") && answer.contains("of root and of the user"),
            "{answer}"
        );
    }
    assert_eq!(get(server.admin_socket()), before);
    eventually("the log says so", || server.stderr().contains("admin_socket: a request of another user"));
    server.stop();
}

/// A backend sees Offramp's own user: the clients of a listener are not that user.
#[test]
fn config_is_not_for_clients_of_a_listener() {
    let (backend, files) = (Backend::start(BackendBehavior::Echo), scratch());
    let server = start(backend.addr, files.path());
    let (through, admin) = (free_address(), server.admin_socket());
    let backend_line = format!("backend = \"unix:{}\"", admin.display());
    let more = format!("[[listener]]\nlisten = \"{through}\"\nmode = \"plain\"\n{backend_line}\n");
    let sent = text(backend.addr, "") + &more;
    assert!(put(admin, &sent).starts_with("HTTP/1.1 200 "));
    let ask =
        |request: &str| ask(through, &format!("{request} HTTP/1.1\r\nHost: localhost")).expect("an answer");
    assert!(ask("GET /healthz").ends_with("\r\n\r\nok\n"));
    for answer in [ask("GET /v1/config"), ask("POST /offload/off")] {
        assert!(
            answer.starts_with("HTTP/1.1 403 ") && answer.contains("no client of a listener"),
            "{answer}"
        );
    }
    assert_eq!(body(&get(admin)), sent);
    server.stop();
}

#[test]
fn config_changes_that_meet_are_one_after_the_other() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let server = start(backend.addr, files.path());
    let admin = server.admin_socket().to_owned();
    let texts: Vec<String> = (0..8).map(|nth| text(backend.addr, &format!("# {nth}\n"))).collect();
    let threads: Vec<_> = texts
        .iter()
        .cloned()
        .map(|sent| (admin.clone(), sent))
        .map(|(admin, sent)| {
            std::thread::spawn(move || put(&admin, &sent).split(' ').nth(1).map(str::to_owned))
        })
        .collect();
    for _ in 0..5 {
        signal(server.pid(), "HUP");
        assert!(server.ask("GET /healthz").starts_with("HTTP/1.1 200 "));
    }
    let statuses: Vec<_> =
        threads.into_iter().map(|it| it.join().expect("it ends").expect("a status")).collect();
    assert!(statuses.iter().any(|status| status == "200"), "{statuses:?}");
    assert!(statuses.iter().all(|status| status == "200" || status == "503"), "{statuses:?}");
    let last = put(&admin, &texts[0]);
    assert!(last.starts_with("HTTP/1.1 200 "), "{last}");
    Peer::open(server.addr, &plain(Version::Tls13)).ping(b"as before");
    server.stop();
}

#[test]
fn config_flag_wins_over_what_is_put() {
    let backends = [Backend::start(BackendBehavior::Echo), Backend::start(BackendBehavior::Echo)];
    let files = scratch();
    let server = from_text(&text(backends[0].addr, ""), files.path())
        .flags(&format!("--backend {}", backends[1].addr))
        .start();
    assert!(put(server.admin_socket(), &text(backends[0].addr, "")).starts_with("HTTP/1.1 200 "));
    Peer::open(server.addr, &plain(Version::Tls13)).ping(b"to the flag's");
    assert_eq!(backends[1].seen().bytes, 13);
    server.stop();
}

#[test]
fn config_moves_admin_and_answers() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    // The flags of the fixture would win: the file says where admin is, and the log where that came to be.
    let file = files.path().join("offramp.toml");
    let sockets = ["a.sock", "b.sock"].map(|name| files.path().join(name));
    let lines = |tcp: SocketAddr, socket: &Path| {
        format!("admin = \"{tcp}\"\nadmin_socket = \"{}\"\nworkers = 1\n", socket.display())
    };
    let write = |admin: &str| {
        std::fs::write(&file, text(backend.addr, admin)).expect("the file can be written");
    };
    let (first, second) = (free_address(), free_address());
    Identity::ecdsa().write(files.path());
    write(&lines(first, &sockets[0]));
    let child = Command::new(env!("CARGO_BIN_EXE_offramp"))
        .args(["serve", "--config", file.to_str().expect("UTF-8")])
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(files.path().join("log")).expect("a file"))
        .spawn()
        .expect("it runs");
    let mut child = Killed(child);
    let log = || std::fs::read_to_string(files.path().join("log")).expect("a file");
    eventually("it serves", || Metrics::scrape(first).is_ok());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().map(|address| (taken, address)).expect("it is bound");
    let refused = put(&sockets[0], &text(backend.addr, &lines(taken.1, &sockets[1])));
    assert!(
        body(&refused).starts_with(&format!("PUT /v1/config:1: admin: {} is in use", taken.1)),
        "{refused}"
    );
    assert!(!sockets[1].exists());
    let moved = put(&sockets[0], &text(backend.addr, &lines(second, &sockets[1])));
    assert!(moved.starts_with("HTTP/1.1 200 ") && !moved.contains("restart"), "{moved}");
    assert!(Metrics::scrape(second).is_ok() && !sockets[0].exists(), "{}", log());
    assert!(get(&sockets[1]).starts_with("HTTP/1.1 200 "));
    eventually("nobody listens there any more", || TcpStream::connect(first).is_err());
    write("workers = 1\n");
    signal(child.0.id(), "HUP");
    eventually("it is gone", || TcpStream::connect(second).is_err() && !sockets[1].exists());
    write(&lines(first, &sockets[0]));
    signal(child.0.id(), "HUP");
    eventually("it is back", || Metrics::scrape(first).is_ok());
    // Somebody has removed the file: a reload makes another.
    std::fs::remove_file(&sockets[0]).expect("it is there");
    signal(child.0.id(), "HUP");
    eventually("it is found again", || ask_socket(&sockets[0], "GET /offload HTTP/1.0\r\n\r\n").is_ok());
    signal(child.0.id(), "TERM");
    assert!(child.0.wait().expect("it ends").success(), "{}", log());
    let socket = format!("unix:{}", sockets[1].display());
    for address in [second.to_string(), socket] {
        for line in [format!("admin is on {address}"), format!("admin is no longer on {address}")] {
            assert!(log().contains(&line), "{line} in: {}", log());
        }
    }
}

/// One that nobody has at the moment.
fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound")
}

struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn max_connections_is_lowered_and_raised_by_a_reload() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let with = |most: usize| text(backend.addr, &format!("max_connections = {most}\n"));
    let server = from_text(&with(8), files.path()).start();
    let open = || Peer::open(server.addr, &plain(Version::Tls13));
    let mut held: Vec<Peer> = (0..4).map(|_| open()).collect();
    held.iter_mut().for_each(|peer| peer.ping(b"held"));
    let answer = put(server.admin_socket(), &with(2));
    assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("restart"), "{answer}");
    eventually("there is no room", || server.metrics().required("offramp_workers_full") == 1);
    held.iter_mut().for_each(|peer| peer.ping(b"none was ended"));
    let mut waiting = Peer::dial(server.addr, &plain(Version::Tls13), offramp_testing::identity::NAME);
    eventually("one waits without a slot at most", || server.metrics().open() <= 4);
    held.truncate(1);
    waiting.handshake().expect("there is room for two");
    waiting.ping(b"served");
    assert_eq!(server.metrics().open(), 2);
    assert!(put(server.admin_socket(), &with(16)).starts_with("HTTP/1.1 200 "));
    let mut more: Vec<Peer> = (0..10).map(|_| open()).collect();
    more.iter_mut().for_each(|peer| peer.ping(b"there is room"));
    drop((held, waiting, more));
    server.stop();
}
