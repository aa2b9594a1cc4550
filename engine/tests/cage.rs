//! Out of the cage: a process confines itself as `offramp serve` does, by the same code, and then tries to
//! leave it by every way that a safe language has. What a worker needs still works.
//!
//! The test starts this program once more for that, since a cage is for good.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

use std::fs::{self, File};
use std::io;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::chown;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, parent_id};
use std::path::Path;
use std::process::Command;

use nix::sys::{ptrace, signal};
use nix::unistd::{Pid, Uid, setuid};
use offramp::config::file;
use offramp::confine::Cage;
use offramp::log::Log;
use offramp::sys::landlock;
use offramp::sys::ring::Ring;
use offramp::sys::seccomp::{self, Refusals, Threads};
use offramp_testing::identity::Identity;
use offramp_testing::tools::{scratch, skip};
use socket2::{Domain, Protocol, Socket, Type};

/// A user and group of no rights, without an account by which it would have more groups.
const NOBODY: u32 = 3_999_999_999;

/// The argument of the process in the cage, in front of its directory.
const INSIDE: &str = "--inside";

/// What a try comes to, and the layer without which it would come to something else.
const OUTCOMES: [(&str, &str, &str); 27] = [
    ("read a key", "ok", ""),
    ("list the directory of the keys", "ok", ""),
    ("connect by TCP", "ok", ""),
    ("listen on a privileged port", "ok", ""),
    ("make a socket where one is listened on", "ok", ""),
    ("resolve a name", "ok", ""),
    ("start a thread", "ok", ""),
    ("make a ring", "ok", ""),
    ("read another file", "EACCES", "landlock"),
    ("read a secret", "EACCES", "landlock"),
    ("write beside a key", "EACCES", "landlock"),
    ("make a socket elsewhere", "EACCES", "landlock"),
    ("connect to an abstract socket", "EPERM", "landlock"),
    ("make a directory", "EPERM", "seccomp"),
    ("run a program", "EPERM", "seccomp"),
    ("start a program", "EPERM", "seccomp"),
    ("a netlink socket", "EPERM", "seccomp"),
    ("a packet socket", "EPERM", "seccomp"),
    ("a raw socket", "EPERM", "seccomp"),
    ("trace a process", "EPERM", "seccomp"),
    ("signal a process", "EPERM", "seccomp"),
    ("change the root", "EPERM", "seccomp"),
    ("become root again", "EPERM", ""),
    ("as a worker, connect by TCP", "ok", ""),
    ("as a worker, make another ring", "EPERM", "seccomp"),
    ("as a worker, listen", "EPERM", "seccomp"),
    ("as a worker, start a thread", "EPERM", "seccomp"),
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(INSIDE) {
        return inside(Path::new(&arguments.next().unwrap()));
    }
    if !Uid::effective().is_root() {
        return skip("only root can become another user");
    }
    let directory = scratch();
    let said = outside(directory.path());
    let (report, outcomes) = said.split_once('\n').unwrap();
    println!("{report}");
    let scopes = landlock::abi().is_ok_and(|abi| abi >= 6);
    let held = |layer: &str| report.contains(&format!("\"name\":\"{layer}\",\"in_force\":true"));
    let mut outcomes = outcomes.lines();
    for (what, expected, layer) in OUTCOMES {
        let line = outcomes.next().unwrap_or_default();
        println!("{line}");
        assert!(line.starts_with(&format!("{what}: ")), "{what}: {line}");
        let is_held = held(layer) && (scopes || !what.contains("abstract"));
        if layer.is_empty() || is_held {
            assert_eq!(line, format!("{what}: {expected}"));
        }
    }
    assert_eq!(outcomes.next(), None);
    for layer in ["user", "no_new_privs", "landlock", "seccomp", "io_uring restrictions"] {
        if !held(layer) {
            skip(&format!("{layer} is not in force here"));
        }
    }
}

/// Runs the process in the cage, and gives what it says.
fn outside(directory: &Path) -> String {
    let (certificate, key) = Identity::ecdsa().write(directory);
    fs::create_dir(directory.join("run")).unwrap();
    for path in [directory, &directory.join("run"), &certificate, &key] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let backend = port.local_addr().unwrap();
    let hidden = UnixListener::bind_addr(&hidden(directory)).unwrap();
    let text = format!(
        "listen = \"unix:{0}/run/s\"\nbackend = \"{backend}\"\nuser = \"{NOBODY}\"\ngroup = \"{NOBODY}\"\n\
         [[identity]]\ncertificate = \"{1}\"\nkey = \"{2}\"\n",
        directory.display(),
        certificate.display(),
        key.display(),
    );
    fs::write(directory.join("offramp.toml"), text).unwrap();
    let mut inside = Command::new(std::env::current_exe().unwrap());
    let output = inside.arg(INSIDE).arg(directory).output().unwrap();
    drop(hidden);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The name of a socket that is not in the file system.
fn hidden(directory: &Path) -> SocketAddr {
    SocketAddr::from_abstract_name(directory.as_os_str().as_encoded_bytes()).unwrap()
}

fn inside(directory: &Path) {
    let config = file::read(&directory.join("offramp.toml")).unwrap().check().unwrap();
    let log = Log::start(io::sink()).unwrap();
    let mut cage = Cage::enter(&config, &log).unwrap();
    cage.close(&config).unwrap();
    println!("{}", serde_json::to_string(cage.report()).unwrap());

    let say = |what: &str, outcome: io::Result<()>| {
        let text = outcome.map_or_else(|error| offramp::sys::errno::name(&error), |()| "ok".to_owned());
        println!("{what}: {text}");
    };
    let backend = config.listeners[0].routes.to_string();
    say("read a key", File::open(&config.listeners[0].identities[0].key).map(drop));
    say("list the directory of the keys", fs::read_dir(directory).map(drop));
    say("connect by TCP", TcpStream::connect(&backend).map(drop));
    say("listen on a privileged port", TcpListener::bind("127.91.7.3:1").map(drop));
    say("make a socket where one is listened on", UnixListener::bind(directory.join("run/other")).map(drop));
    say("resolve a name", ("localhost", 1).to_socket_addrs().map(drop));
    let thread = std::thread::Builder::new().spawn(|| ()).map(|thread| thread.join().unwrap());
    say("start a thread", thread);
    say("make a ring", Ring::<u8>::restricted().map(drop));
    let elsewhere = std::env::current_exe().unwrap();
    say("read another file", File::open(elsewhere).map(drop));
    say("read a secret", File::open("/etc/shadow").map(drop));
    say("write beside a key", File::create(directory.join("other")).map(drop));
    say("make a socket elsewhere", UnixListener::bind(directory.join("other")).map(drop));
    say("connect to an abstract socket", UnixStream::connect_addr(&hidden(directory)).map(drop));
    say("make a directory", fs::create_dir(directory.join("run/directory")));
    say("run a program", Err(Command::new("/bin/true").exec()));
    say("start a program", Command::new("/bin/true").spawn().map(drop));
    say("a netlink socket", Socket::new(libc::AF_NETLINK.into(), Type::RAW, None).map(drop));
    say("a packet socket", Socket::new(Domain::PACKET, Type::RAW, None).map(drop));
    say("a raw socket", Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).map(drop));
    let parent = Pid::from_raw(parent_id().cast_signed());
    say("trace a process", ptrace::attach(parent).map_err(io::Error::from));
    say("signal a process", signal::kill(parent, None).map_err(io::Error::from));
    say("change the root", std::os::unix::fs::chroot(directory));
    say("become root again", setuid(Uid::from_raw(0)).map_err(io::Error::from));

    let filter = cage.of_worker().filter;
    if !filter.is_empty() {
        seccomp::filter(&filter, Threads::Own, Refusals::Logged).unwrap();
    }
    say("as a worker, connect by TCP", TcpStream::connect(&backend).map(drop));
    say("as a worker, make another ring", Ring::<u8>::new().map(drop));
    say("as a worker, listen", TcpListener::bind("127.0.0.1:0").map(drop));
    say("as a worker, start a thread", std::thread::Builder::new().spawn(|| ()).map(drop));
}
