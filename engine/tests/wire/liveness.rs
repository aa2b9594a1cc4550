//! Liveness: a worker that does not turn is seen, and no file makes the process deaf to signals.

use std::path::Path;
use std::process::Command;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::Identity;
use offramp_testing::peer::{Peer, Version, plain};
use offramp_testing::server::{Setup, TestServer, identity_flags};
use offramp_testing::tools::{eventually, pause, scratch, signal, skip};

/// A worker's thread that is held by the debugger's means until it is thawed.
struct Frozen(Pid);

impl Frozen {
    /// `None` where the system does not allow it.
    fn worker(server: &TestServer, index: usize) -> Option<Self> {
        let thread = Pid::from_raw(worker_thread(server, index));
        if let Err(error) = ptrace::seize(thread, ptrace::Options::empty()) {
            skip(&format!("a thread cannot be held by ptrace: {error}"));
            return None;
        }
        ptrace::interrupt(thread).expect("it was seized");
        waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it stops");
        Some(Self(thread))
    }

    fn thaw(self) {
        ptrace::detach(self.0, None).expect("it is held");
    }

    /// The kernel keeps a thread that is held until its holder has seen its end.
    fn let_end(self) {
        let ended = |status| !matches!(status, Ok(WaitStatus::StillAlive | WaitStatus::PtraceEvent(..)));
        while !ended(waitpid(self.0, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG))) {
            pause();
        }
    }
}

fn worker_thread(server: &TestServer, index: usize) -> i32 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).expect("it runs");
    let named = |task: &std::fs::DirEntry| {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        name.trim() == format!("offramp-{index}")
    };
    let task = tasks.flatten().find(named).expect("the worker's thread has its name");
    task.file_name().to_str().expect("a number").parse().expect("a number")
}

fn health(server: &TestServer) -> String {
    server.ask("GET /healthz")
}

#[test]
fn liveness_stuck_worker_is_reported_until_it_turns() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags("--workers 2").start();
    assert!(health(&server).starts_with("HTTP/1.1 200 "));
    let Some(frozen) = Frozen::worker(&server, 1) else { return server.stop() };
    eventually("/healthz says 503", || health(&server).starts_with("HTTP/1.1 503 "));
    let answer = health(&server);
    assert!(answer.contains("worker 1 has not responded for "), "{answer}");
    let stalled =
        |worker: &str| server.metrics().sum("offramp_worker_stalled_seconds", &[("worker", worker)]);
    assert!(stalled("1") >= 5 && stalled("0") <= 2, "{}", server.metrics().raw);
    eventually("an error in the log", || {
        server.stderr().lines().any(|line| line.contains("ERROR") && line.contains("worker=1"))
    });
    frozen.thaw();
    eventually("/healthz says 200", || health(&server).starts_with("HTTP/1.1 200 "));
    eventually("the end of it in the log", || server.stderr().contains("turns again after "));
    server.stop();
}

#[test]
fn liveness_idle_worker_is_not_stuck() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags("--workers 2").start();
    // Longer than what makes a worker stuck.
    for _ in 0..700 {
        assert!(health(&server).starts_with("HTTP/1.1 200 "), "{}", server.metrics().raw);
        pause();
    }
    assert!(!server.stderr().contains("has not responded"), "{}", server.stderr());
    server.stop();
}

#[test]
fn liveness_stuck_worker_does_not_hold_up_the_end() {
    let backend = Backend::start(BackendBehavior::Echo);
    let mut server = Setup::new(backend.addr).flags("--workers 2").start();
    let Some(frozen) = Frozen::worker(&server, 1) else { return server.stop() };
    server.terminate();
    frozen.let_end();
    let status = server.await_exit();
    assert_eq!(status.code(), Some(1), "{}", server.stderr());
    let said = server.stderr();
    assert!(said.contains("offramp: worker 1 does not turn and was given up"), "{said}");
}

/// Has a thread that is held go on until its wait on the ring has ended, and fail with EBADF.
#[cfg(target_arch = "x86_64")]
fn fail_wait(thread: Pid) {
    let value = |number: i64| number.cast_unsigned();
    // It stops at the beginning of each call, when ENOSYS stands for the result, and at the end.
    for _ in 0..100 {
        ptrace::syscall(thread, None).expect("it is held");
        waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it stops again");
        let mut registers = ptrace::getregs(thread).expect("it is held");
        let is_over = registers.rax != value(-i64::from(libc::ENOSYS));
        if registers.orig_rax == value(libc::SYS_io_uring_enter) && is_over {
            registers.rax = value(-i64::from(libc::EBADF));
            return ptrace::setregs(thread, registers).expect("it is held");
        }
    }
    panic!("it does not wait on its ring");
}

/// A worker whose ring fails ends; the process does not go on with the others.
#[cfg(target_arch = "x86_64")]
#[test]
fn liveness_lost_worker_ends_the_process() {
    let backend = Backend::start(BackendBehavior::Echo);
    let mut server = Setup::new(backend.addr).flags("--workers 3").start();
    let Some(frozen) = Frozen::worker(&server, 1) else { return server.stop() };
    fail_wait(frozen.0);
    frozen.thaw();
    let status = server.await_exit();
    assert_eq!(status.code(), Some(1), "{}", server.stderr());
    let said = server.stderr();
    assert!(said.contains("the ring cannot be waited on"), "{said}");
    assert!(said.contains("offramp: worker 1 ended without being asked to"), "{said}");
}

/// A file that is opened and never answers, where today's are refused and where they are not.
fn fifo_in_place_of(file: &Path) {
    std::fs::remove_file(file).expect("it was there");
    assert!(Command::new("mkfifo").arg(file).status().expect("mkfifo runs").success());
}

#[test]
fn liveness_sigterm_works_with_a_certificate_fifo() {
    let (backend, files) = (Backend::start(BackendBehavior::Echo), scratch());
    let flags = identity_flags(Identity::ecdsa(), files.path());
    let server = Setup::new(backend.addr).identities(&[]).flags(&flags.join(" ")).start();
    let mut victim = Peer::open(server.addr, &plain(Version::Tls13));
    fifo_in_place_of(Path::new(&flags[1]));
    for _ in 0..3 {
        signal(server.pid(), "HUP");
        victim.ping(b"goes on");
    }
    victim.close_notify();
    drop(victim);
    server.settled();
    server.stop();
}
