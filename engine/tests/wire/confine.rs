//! The cage of the running server: its user, what each thread may do, and what a reload still can.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::Identity;
use offramp_testing::peer::{Peer, Version, dial_unix, plain};
use offramp_testing::server::{Setup, TestServer, binary, refused};
use offramp_testing::tools::{eventually, have, in_guest, scratch, text};

/// A user and group of no rights; by number, since a guest has no accounts.
const NOBODY: u32 = 3_999_999_999;
const AS_NOBODY: &str = "user = \"3999999999\"\ngroup = \"3999999999\"\n";
/// CAP_NET_BIND_SERVICE, as /proc writes it.
const NET_BIND_SERVICE: &str = "0000000000000400";

/// A directory with an identity that belongs to that user, and what stands behind the server.
struct Place {
    files: tempfile::TempDir,
    key: PathBuf,
    backend: Backend,
}

impl Place {
    fn new() -> Self {
        let files = scratch();
        let (certificate, key) = Identity::ecdsa().write(files.path());
        for path in [files.path(), &certificate, &key] {
            chown(path, Some(NOBODY), Some(NOBODY)).expect("the tests run as root");
        }
        Self { files, key, backend: Backend::start(BackendBehavior::Echo) }
    }

    fn file(&self) -> PathBuf {
        self.files.path().join("offramp.toml")
    }

    /// A configuration with these lines in front and behind.
    fn write(&self, front: &str, behind: &str) {
        let text = format!(
            "{front}listen = \"127.0.0.1:0\"\nbackend = \"{}\"\n\
             [[identity]]\ncertificate = \"ecdsa.crt\"\nkey = \"ecdsa.key\"\n{behind}",
            self.backend.addr
        );
        fs::write(self.file(), text).expect("the file can be written");
    }

    fn start(&self, front: &str) -> TestServer {
        self.write(front, "");
        Setup::from_file(&self.file()).start()
    }

    fn refused(&self, front: &str) -> String {
        self.write(front, "");
        let words = ["--config", self.file().to_str().expect("UTF-8")].map(str::to_owned);
        refused(&words).stderr
    }

    fn listener(&self, listen: &str) -> String {
        format!("[[listener]]\nlisten = \"{listen}\"\nbackend = \"{}\"\n", self.backend.addr)
    }
}

fn ping(addr: SocketAddr) {
    Peer::open(addr, &plain(Version::Tls13)).ping(b"there and back");
}

/// Whether the server said so; guests have kernels without some layers, others do not.
fn has(server: &TestServer, layer: &str) -> bool {
    let log = server.stderr();
    let line = log.lines().find(|line| line.contains("confined: ")).expect("a line about it");
    let (held, missing) = line.split_once("; not in force: ").unwrap_or((line, ""));
    let is_held = held.contains(layer);
    assert!(is_held || in_guest() && missing.contains(layer), "{line}");
    is_held
}

/// What /proc says of each thread under this name.
fn of_threads(server: &TestServer, name: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).expect("it runs");
    // One that has ended meanwhile has no status.
    let status = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("status")).ok();
    let value = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).expect("a line");
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    threads.filter_map(|thread| status(thread.expect("an entry"))).map(value).collect()
}

fn all_threads_have(server: &TestServer, name: &str, expected: &str) {
    let found = of_threads(server, name);
    assert!(found.len() >= 6 && found.iter().all(|value| value == expected), "{name}: {found:?}");
}

#[test]
fn confine_puts_every_thread_into_the_cage() {
    let place = Place::new();
    let server = place.start(AS_NOBODY);
    let (ids, one) = (format!("{NOBODY} {NOBODY} {NOBODY} {NOBODY}"), NOBODY.to_string());
    ping(server.addr);
    for (name, expected) in [("Uid", &*ids), ("Gid", &ids), ("Groups", &one), ("NoNewPrivs", "1")] {
        all_threads_have(&server, name, expected);
    }
    for name in ["CapEff", "CapPrm"] {
        let found = of_threads(&server, name);
        let is_small = |set: &String| set == NET_BIND_SERVICE || set.bytes().all(|digit| digit == b'0');
        assert!(found.iter().all(is_small), "{name}: {found:?}");
    }
    for name in ["CapInh", "CapAmb"] {
        all_threads_have(&server, name, "0000000000000000");
    }
    if has(&server, "seccomp") {
        all_threads_have(&server, "Seccomp", "2");
        let filters = of_threads(&server, "Seccomp_filters");
        let of_worker = filters.iter().max().expect("threads");
        let others = filters.iter().filter(|count| *count != of_worker).count();
        assert_eq!(others, filters.len() - 1, "one worker has one filter more: {filters:?}");
    }
    has(&server, "io_uring restrictions");
    let process = fs::metadata(format!("/proc/{}/mem", server.pid())).expect("it runs");
    assert_eq!(process.uid(), 0, "it is not dumpable, which a change of the user undoes");
    server.stop();
}

#[test]
fn confine_without_a_user_stays_root_and_says_so() {
    let place = Place::new();
    let server = place.start("");
    has(&server, "landlock");
    assert!(server.stderr().contains("user: runs as root; try: user = "), "{}", server.stderr());
    all_threads_have(&server, "Uid", "0 0 0 0");
    ping(server.addr);
    server.stop();
}

#[test]
fn confine_off_gives_up_nothing_but_the_user() {
    let place = Place::new();
    let server = place.start(&format!("confine = \"off\"\n{AS_NOBODY}"));
    ping(server.addr);
    assert!(server.stderr().contains("not confined: confine = \"off\""), "{}", server.stderr());
    for (name, expected) in
        [("Uid", format!("{NOBODY} ").repeat(4).trim()), ("NoNewPrivs", "0"), ("Seccomp", "0")]
    {
        // A kernel without seccomp has no such line.
        if name != "Seccomp" || !in_guest() {
            all_threads_have(&server, name, expected);
        }
    }
    server.stop();
}

#[test]
fn confine_lets_a_reload_add_a_privileged_port() {
    let place = Place::new();
    let run = place.files.path().join("run");
    fs::create_dir(&run).expect("a directory");
    chown(&run, Some(NOBODY), Some(NOBODY)).expect("root");
    let unix = |name: &str| format!("unix:{}", run.join(name).display());
    place.write(AS_NOBODY, &place.listener(&unix("first")));
    let server = Setup::from_file(&place.file()).start();
    let first = fs::metadata(run.join("first")).expect("the socket's file");
    assert_eq!((first.uid(), first.gid()), (NOBODY, NOBODY), "bound by root, owned by the user");
    // Of this process alone: whatever else listens there has another address.
    let [.., two, one] = std::process::id().to_be_bytes();
    let added = SocketAddr::from(([127, 93, two, one], 443));
    let listeners = [unix("first"), unix("second"), added.to_string()].map(|listen| place.listener(&listen));
    let (certificate, key) = Identity::ecdsa().files(place.files.path());
    // Renewed files of the user are read, and the sockets' files come and go.
    for path in [certificate, key] {
        let bytes = fs::read(&path).expect("a file");
        fs::write(path.with_extension("next"), bytes).expect("a file");
        chown(path.with_extension("next"), Some(NOBODY), None).expect("root");
        fs::rename(path.with_extension("next"), &path).expect("a renewal");
    }
    place.write(AS_NOBODY, &listeners.concat());
    server.reload("SIGHUP: listeners, pools");
    ping(added);
    for name in ["first", "second"] {
        let mut peer =
            Peer::over(dial_unix(&unix(name)), &plain(Version::Tls13), offramp_testing::identity::NAME);
        peer.handshake().expect("the handshake");
        peer.ping(b"there and back");
    }
    server.stop();
    assert!(!run.join("first").exists() && !run.join("second").exists(), "removed at the end");
}

#[test]
fn confine_key_that_the_user_cannot_read_is_a_warning() {
    let place = Place::new();
    chown(&place.key, Some(0), Some(0)).expect("root");
    fs::set_permissions(&place.key, Permissions::from_mode(0o600)).expect("root");
    let server = place.start(AS_NOBODY);
    let why = format!("{} cannot be read by the user {NOBODY}", place.key.display());
    assert!(server.stderr().contains(&why), "{}", server.stderr());
    ping(server.addr);
    server.reload(&format!("{why}, whom Offramp becomes after the start: no reload can use it; try: chown"));
    ping(server.addr);
    chown(&place.key, Some(NOBODY), None).expect("root");
    server.reload("SIGHUP: listeners, pools");
    server.stop();
    chown(&place.key, Some(0), None).expect("root");
    let error = place.refused(&format!("confine = \"require\"\n{AS_NOBODY}"));
    assert!(error.contains(&why) || in_guest() && error.contains("is not in force"), "{error}");
}

#[test]
fn confine_user_without_the_capability_is_refused() {
    if !have("setpriv") {
        return;
    }
    let place = Place::new();
    place.write(&format!("confine = \"off\"\n{AS_NOBODY}"), "");
    let mut start = Command::new("setpriv");
    start.args(["--bounding-set", "-setuid,-setgid"]).arg(binary());
    let output = start.args(["serve", "--config"]).arg(place.file()).output().expect("it runs");
    let error = text(&output);
    assert_eq!(output.status.code(), Some(1), "{error}");
    let why = format!("offramp.toml:2: this process cannot become the user {NOBODY}: setgroups: EPERM");
    assert!(error.contains(&why), "{error}");
    assert!(error.contains("CapabilityBoundingSet=CAP_SETUID"), "{error}");
}

#[test]
fn confine_require_refuses_a_root_that_stays_one() {
    let error = Place::new().refused("confine = \"require\"\n");
    let why = "confine = \"require\", but user is not in force: runs as root; try: user = ";
    assert!(error.contains(why) || in_guest() && error.contains("is not in force"), "{error}");
}

/// As with certbot, whose links lead to a directory per name: what is linked to later is out of reach, and
/// keeps no other pair from being renewed.
#[test]
fn confine_leaves_out_a_pair_that_is_outside() {
    let place = Place::new();
    let at = |name: &str| place.files.path().join(name);
    let link = |name: &str, identity: &'static Identity| {
        let archive = at("archive").join(name);
        fs::create_dir_all(&archive).expect("a directory");
        let (certificate, key) = identity.write(&archive);
        let live = at("live").join(name);
        fs::create_dir_all(&live).expect("a directory");
        for (file, name) in [(certificate, "fullchain.pem"), (key, "privkey.pem")] {
            std::os::unix::fs::symlink(file, live.join(name)).expect("a link");
        }
    };
    link("first", Identity::ecdsa());
    let text = format!(
        "listen = \"127.0.0.1:0\"\nbackend = \"{}\"\n[[identity]]\ndirectory = \"live\"\n",
        place.backend.addr
    );
    fs::create_dir(at("config")).expect("a directory");
    let file = at("config").join("offramp.toml");
    fs::write(&file, text.replace("\"live\"", &format!("{:?}", at("live")))).expect("a file");
    let server = Setup::from_file(&file).start();
    if !has(&server, "landlock") {
        return;
    }
    link("second", Identity::one());
    Identity::one().write(&at("archive/first"));
    fs::rename(at("archive/first/one.crt"), at("archive/first/ecdsa.crt")).expect("it is there");
    fs::rename(at("archive/first/one.key"), at("archive/first/ecdsa.key")).expect("it is there");
    eventually("the renewed one serves", || {
        let mut peer = Peer::dial(server.addr, &plain(Version::Tls13), "one.test");
        peer.handshake().is_ok() && peer.try_ping(b"renewed")
    });
    let log = server.stderr();
    let expected =
        format!("not used: {} is outside of the directories", at("live/second/fullchain.pem").display());
    assert!(log.contains(&expected) && log.contains("changed and in force"), "{log}");
    server.reload("SIGHUP: listeners, pools");
    server.stop();
}

#[test]
fn confine_refuses_a_reload_that_names_a_file_outside() {
    let (place, other) = (Place::new(), scratch());
    let server = place.start("");
    if !has(&server, "landlock") {
        return;
    }
    let (certificate, key) = Identity::rsa().write(other.path());
    let identity = |certificate: &Path, key: &Path| {
        format!("[[identity]]\ncertificate = \"{}\"\nkey = \"{}\"\n", certificate.display(), key.display())
    };
    let socket = place.listener(&format!("unix:{}", other.path().join("s").display()));
    let hidden = "[[listener]]\nlisten = \"127.0.0.1:0\"\nbackend = \"unix:@confined\"\n".to_owned();
    let outside = "is outside of the directories that the configuration of the start named";
    let cases = [
        (identity(&certificate, &key), format!("{} {outside}", certificate.display())),
        (socket, outside.to_owned()),
        (hidden, "backend unix:@confined: the configuration of the start named no abstract".to_owned()),
    ];
    for (lines, expected) in cases {
        place.write("", &lines);
        server.reload(&expected);
        ping(server.addr);
    }
    assert!(server.stderr().contains("the configuration in force stays"), "{}", server.stderr());
    place.write("confine = \"off\"\nuser = \"3999999999\"\ngroup = \"1\"\n", "");
    server.reload("not in force until an upgrade or a restart: user, group, confine");
    server.stop();
}
