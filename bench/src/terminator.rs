//! The terminators that are compared, and how a fresh one is started on its own CPU and ended.

use std::env;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use offramp_loadgen::identity::{Identity, SERVER_NAME};
use offramp_ring::socket::is_self_connected;
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::kx_group::{X25519, X25519MLKEM768};
use tempfile::TempDir;

use crate::process;

/// The CPU that a terminator has for itself.
pub const TERMINATOR_CPU: usize = 0;
/// The CPU that clients and backend share.
pub const CLIENT_CPU: usize = 1;
/// Each as taskset(1) takes it; and both, where workers are compared.
const ONE_CPU: &str = "0";
const SECOND_CPU: &str = "1";
const TWO_CPUS: &str = "0,1";

/// Where Debian has nginx's stream module.
pub const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

const POLL: Duration = Duration::from_millis(20);
/// How many times [`POLL`] a terminator may take until it accepts connections: 10 s.
const START_POLLS: usize = 500;
/// The same, until it has ended when asked to: 5 s.
const END_POLLS: usize = 250;
/// How often a port is chosen anew when somebody else took it in the meantime.
const START_TRIES: usize = 3;

/// One row of [`TERMINATORS`]: all that there is to know about a product.
#[derive(Debug)]
pub struct Terminator {
    /// As in the table and on the command line.
    pub name: &'static str,
    /// What makes it print its version as one line.
    pub version_arguments: &'static [&'static str],
    /// Its configuration file with `@NAMES@` to be filled in; empty if it has none.
    template: &'static str,
    /// What stands for `@MORE@` in the template.
    more: &'static str,
    /// Its command line; `@NAMES@` as in the template.
    arguments: &'static [&'static str],
    /// More of its command line: who carries the records.
    record_path: &'static [&'static str],
    /// Where it may run.
    cpus: &'static str,
    /// How many workers it is told to have.
    pub workers: u8,
    /// The group of the key exchange that it prefers in TLS 1.3.
    group: &'static dyn SupportedKxGroup,
    ready: Ready,
}

/// How a terminator shows that it accepts connections.
#[derive(Debug)]
enum Ready {
    /// It prints this and then its address, up to a comma or the end of the line.
    Prints(&'static str),
    /// A connection to the port that it was given succeeds.
    Accepts,
}

const fn offramp(name: &'static str, record_path: &'static [&'static str]) -> Terminator {
    Terminator {
        name,
        version_arguments: &["--version"],
        template: "",
        more: "",
        #[rustfmt::skip]
        arguments: &[
            "serve", "--listen", "127.0.0.1:0", "--backend", "@BACKEND@", "--cert", "@CERTIFICATE@",
            "--key", "@KEY@", "--workers", "@WORKERS@",
        ],
        record_path,
        cpus: ONE_CPU,
        workers: 1,
        group: X25519,
        ready: Ready::Prints("offramp ready: listening on "),
    }
}

const fn nginx(name: &'static str, more: &'static str) -> Terminator {
    Terminator {
        name,
        version_arguments: &["-v"],
        template: include_str!("../peers/nginx.conf"),
        more,
        arguments: &["-p", "@DIRECTORY@", "-c", "@CONFIG@"],
        record_path: &[],
        cpus: ONE_CPU,
        workers: 1,
        group: X25519,
        ready: Ready::Accepts,
    }
}

const fn peer(
    name: &'static str,
    version_arguments: &'static [&'static str],
    template: &'static str,
    arguments: &'static [&'static str],
) -> Terminator {
    let (more, record_path, cpus, ready): (_, &[_], _, _) = ("", &[], ONE_CPU, Ready::Accepts);
    Terminator {
        name,
        version_arguments,
        template,
        more,
        arguments,
        record_path,
        cpus,
        workers: 1,
        group: X25519,
        ready,
    }
}

/// Every terminator that can be compared; the first is the one that the others are compared with. One worker
/// each, the same certificate, suite, group and tickets.
pub static TERMINATORS: [Terminator; 5] = [
    offramp("offramp", &["--offload", "never"]),
    nginx("nginx", ""),
    peer("haproxy", &["-v"], include_str!("../peers/haproxy.cfg"), &["-db", "-f", "@CONFIG@"]),
    peer("hitch", &["--version"], include_str!("../peers/hitch.conf"), &["--config=@CONFIG@"]),
    peer("stunnel4", &["-version"], include_str!("../peers/stunnel.conf"), &["@CONFIG@"]),
];

/// The same two, beside what they are where the kernel has TLS. The first is the one that the others are
/// compared with.
pub static RECORD_PATHS: [Terminator; 6] = [
    offramp("offramp kernel", &["--offload", "always"]),
    offramp("offramp kernel no pad", &["--offload", "always", "--expect-no-pad", "on"]),
    offramp("offramp kernel tx", &["--offload", "always", "--offload-directions", "tx"]),
    offramp("offramp userspace", &["--offload", "never"]),
    nginx("nginx kernel", "ssl_conf_command Options KTLS;"),
    nginx("nginx userspace", ""),
];

/// Two workers, each with as many clients as the one that they are compared with, and another product for the
/// same comparison: what workers share shows as a rise that the other has not.
pub static WORKERS: [Terminator; 4] = [
    on_both_cpus(2, offramp("offramp 2 workers", &["--offload", "never"])),
    on_both_cpus(1, offramp("offramp 1 worker", &["--offload", "never"])),
    on_both_cpus(2, nginx("nginx 2 workers", "")),
    on_both_cpus(1, nginx("nginx 1 worker", "")),
];

const fn on_both_cpus(workers: u8, one: Terminator) -> Terminator {
    Terminator { cpus: TWO_CPUS, workers, ..one }
}

/// TLS on both legs: what is sent on is TLS again, to a server of the same certificate, which is checked by
/// name and authority; sessions of both legs are resumed. The others cannot, or not as TLS clients of a
/// stream.
pub static REENCRYPT: [Terminator; 3] = [
    Terminator {
        #[rustfmt::skip]
        arguments: &[
            "serve", "--listen", "127.0.0.1:0", "--backend", "@BACKEND@", "--cert", "@CERTIFICATE@",
            "--key", "@KEY@", "--workers", "@WORKERS@", "--mode", "reencrypt",
            "--server-name", "@SERVER_NAME@", "--server-ca", "@CERTIFICATE@",
        ],
        ..offramp("offramp reencrypt", &["--offload", "never"])
    },
    nginx(
        "nginx reencrypt",
        "proxy_ssl on; proxy_ssl_verify on; proxy_ssl_trusted_certificate @CERTIFICATE@; \
         proxy_ssl_server_name on; proxy_ssl_name @SERVER_NAME@; proxy_ssl_session_reuse on; \
         proxy_ssl_protocols TLSv1.2 TLSv1.3;",
    ),
    peer(
        "haproxy reencrypt",
        &["-v"],
        include_str!("../peers/haproxy-reencrypt.cfg"),
        &["-db", "-f", "@CONFIG@"],
    ),
];

/// What an option costs, beside none of them: limits per source, a PROXY header for the backend, a line per
/// connection in the log, and the post-quantum group.
pub static OPTIONS: [Terminator; 5] = [
    offramp("offramp", &["--offload", "never"]),
    offramp(
        "offramp per source",
        &["--offload", "never", "--source-connections", "1000000", "--source-rate", "1000000"],
    ),
    offramp("offramp send-proxy v2", &["--offload", "never", "--send-proxy", "v2"]),
    offramp("offramp connection log", &["--offload", "never", "--connection-log", "1000000"]),
    Terminator {
        group: X25519MLKEM768,
        ..offramp("offramp post-quantum", &["--offload", "never", "--post-quantum", "prefer"])
    },
];

/// The TLS server behind those: on the clients' CPU, and measured as little as the clients are.
static TLS_SERVER: Terminator =
    Terminator { cpus: SECOND_CPU, ..offramp("offramp server", &["--offload", "never"]) };

/// Starts that server in front of the plain `backend`.
///
/// # Errors
/// It did not start.
pub fn tls_server(program: &Path, backend: SocketAddr, identity: &Identity) -> Result<Running> {
    TLS_SERVER.start(program, backend, identity)
}

/// Plain TCP in and out: the engine's ring without TLS, and others without theirs.
pub static PLAIN: [Terminator; 3] = [
    Terminator {
        name: "plain relay",
        version_arguments: &["--help"],
        template: "",
        more: "",
        arguments: &["@BACKEND@"],
        record_path: &[],
        cpus: ONE_CPU,
        workers: 1,
        group: X25519,
        ready: Ready::Prints("plain relay ready: listening on "),
    },
    peer(
        "nginx plain",
        &["-v"],
        include_str!("../peers/nginx-plain.conf"),
        &["-p", "@DIRECTORY@", "-c", "@CONFIG@"],
    ),
    peer("haproxy plain", &["-v"], include_str!("../peers/haproxy-plain.cfg"), &["-db", "-f", "@CONFIG@"]),
];

/// The terminator of this name, if there is one.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Terminator> {
    let all = TERMINATORS
        .iter()
        .chain(&RECORD_PATHS)
        .chain(&WORKERS)
        .chain(&PLAIN)
        .chain(&REENCRYPT)
        .chain(&OPTIONS);
    all.into_iter().find(|terminator| terminator.name == name)
}

/// A terminator that runs; dropping it ends all of its processes.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// Where it accepts connections.
    pub address: SocketAddr,
    /// The group of the key exchange that it prefers in TLS 1.3.
    pub group: &'static dyn SupportedKxGroup,
    /// Its configuration and what it prints; last, so that it is gone only after the processes.
    directory: TempDir,
}

impl Terminator {
    /// Its program: ours are beside this one, others are found by their names.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        let beside = |name| env::current_exe().unwrap_or_default().with_file_name(name);
        match self.name.split(' ').next() {
            Some("offramp") => beside("offramp"),
            Some("plain") => beside("plain_relay"),
            name => name.unwrap_or_default().into(),
        }
    }

    /// Starts a fresh one from `program` on [`TERMINATOR_CPU`] and waits until it accepts connections.
    ///
    /// # Errors
    /// It did not start; the text has the end of what it printed.
    pub fn start(&self, program: &Path, backend: SocketAddr, identity: &Identity) -> Result<Running> {
        let mut last = anyhow!("{} was never tried", self.name);
        for _ in 0..START_TRIES {
            match self.start_once(program, backend, identity) {
                Ok(running) => return Ok(running),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    fn start_once(&self, program: &Path, backend: SocketAddr, identity: &Identity) -> Result<Running> {
        let directory = tempfile::tempdir()?;
        let (config, pem) = (directory.path().join("config"), directory.path().join("pem"));
        // Free at this moment; if somebody is faster, the terminator says so and another one is tried.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let names = [
            // First: it has names in it.
            ("@MORE@", self.more.to_owned()),
            ("@PORT@", address.port().to_string()),
            ("@BACKEND@", backend.to_string()),
            ("@BACKEND_HOST@", backend.ip().to_string()),
            ("@BACKEND_PORT@", backend.port().to_string()),
            ("@PEM@", text(&pem)?),
            ("@CERTIFICATE@", text(&identity.certificate_file())?),
            ("@KEY@", text(&identity.key_file())?),
            ("@CONFIG@", text(&config)?),
            ("@DIRECTORY@", text(directory.path())?),
            ("@SERVER_NAME@", SERVER_NAME.to_owned()),
            ("@LOAD_STREAM@", load_stream(Path::new(STREAM_MODULE))),
            ("@WORKERS@", self.workers.to_string()),
            ("@AS_NOBODY@", if is_root()? { "user = \"nobody\"".to_owned() } else { String::new() }),
        ];
        // Some want both in one file, and that file to be nobody else's.
        let both = fs::read(identity.certificate_file())
            .and_then(|certificate| Ok([certificate, fs::read(identity.key_file())?].concat()))?;
        fs::write(&pem, both)?;
        fs::set_permissions(&pem, fs::Permissions::from_mode(0o600))?;
        fs::write(&config, fill_in(self.template, &names))?;
        let log = File::create(directory.path().join("log"))?;
        // taskset and setpriv become the terminator itself, so the process that we know is the one that we
        // measure; setpriv ends it should we be killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "taskset", "-c", self.cpus])
            .arg(program)
            .args(self.arguments.iter().chain(self.record_path).map(|argument| fill_in(argument, &names)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("setpriv (util-linux) could not be started")?;
        let mut running = Running { child, address, group: self.group, directory };
        running.wait_until_ready(&self.ready).with_context(|| format!("{} did not start", self.name))?;
        Ok(running)
    }
}

impl Running {
    /// Process whose descendants, together with itself, are the terminator.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it has printed.
    #[must_use]
    pub fn last_words(&self) -> String {
        let printed = self.printed();
        let lines: Vec<_> = printed.lines().rev().take(10).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn printed(&self) -> String {
        let bytes = fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn wait_until_ready(&mut self, ready: &Ready) -> Result<()> {
        for _ in 0..START_POLLS {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}:\n{}", self.last_words());
            }
            match ready {
                Ready::Prints(prefix) => {
                    if let Some(address) = announced(&self.printed(), prefix) {
                        self.address = address;
                        return Ok(());
                    }
                }
                Ready::Accepts if accepts(self.address) => return Ok(()),
                Ready::Accepts => {}
            }
            thread::park_timeout(POLL);
        }
        bail!("it does not accept connections:\n{}", self.last_words())
    }

    fn wait_for_end(&mut self) -> io::Result<Option<ExitStatus>> {
        for _ in 0..END_POLLS {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            thread::park_timeout(POLL);
        }
        Ok(None)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let all = process::tree(self.pid()).unwrap_or_default();
        process::signal(self.pid(), "TERM");
        if !matches!(self.wait_for_end(), Ok(Some(_))) {
            for pid in all {
                process::signal(pid, "KILL");
            }
            let _ = self.child.wait();
        }
    }
}

fn fill_in(template: &str, names: &[(&str, String)]) -> String {
    names.iter().fold(template.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// Debian has nginx's stream module in a file of its own; elsewhere it may be built in.
fn load_stream(module: &Path) -> String {
    if module.exists() { format!("load_module {};", module.display()) } else { String::new() }
}

/// hitch refuses to work as root, and can change to another user only if it is.
fn is_root() -> io::Result<bool> {
    Ok(fs::metadata("/proc/self")?.uid() == 0)
}

fn announced(printed: &str, prefix: &str) -> Option<SocketAddr> {
    let (_, rest) = printed.split_once(prefix)?;
    // A line that is not complete yet may still lack digits.
    let (line, _) = rest.split_once('\n')?;
    line.split(',').next()?.trim().parse().ok()
}

fn text(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(text.to_owned())
}

/// Whether somebody listens there. A connect to a local port where nobody does may reach its own socket.
fn accepts(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok_and(|socket| !is_self_connected(socket.as_fd(), address.port()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ready_line_gives_the_address_when_complete() {
        let prefix = "ready: listening on ";
        let printed = "x\nofframp ready: listening on 127.0.0.1:4433, backend 127.0.0.1:1\n";
        assert_eq!(announced(printed, prefix), "127.0.0.1:4433".parse().ok());
        assert_eq!(announced("ready: listening on 127.0.0.1:44", prefix), None);
        assert_eq!(announced("ready: listening on nowhere\n", prefix), None);
        assert_eq!(announced("", prefix), None);
    }

    #[test]
    fn every_name_in_a_template_is_filled_in() {
        let names = [("@PORT@", "1".to_owned()), ("@KEY@", "k".to_owned())];
        assert_eq!(fill_in("listen @PORT@; key @KEY@ @PORT@;", &names), "listen 1; key k 1;");
        assert_eq!(load_stream(Path::new("/nonexistent/module.so")), "");
    }

    #[test]
    fn the_names_of_terminators_are_distinct() {
        let all = || TERMINATORS.iter().chain(&RECORD_PATHS).chain(&WORKERS).chain(&PLAIN).chain(&REENCRYPT);
        for terminator in all() {
            assert!(std::ptr::eq(terminator, by_name(terminator.name).unwrap()));
        }
        let names: HashSet<_> = all().map(|terminator| terminator.name).collect();
        assert_eq!(names.len(), all().count());
        assert!(by_name("apache").is_none());
    }

    #[test]
    fn early_exit_is_reported_with_the_last_output() {
        let identity = Identity::generate().unwrap();
        let backend = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let error = TERMINATORS[0].start_once(Path::new("echo"), backend, &identity).unwrap_err();
        assert!(format!("{error:#}").contains("127.0.0.1:1"), "{error:#}");
    }
}
