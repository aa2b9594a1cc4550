//! The launcher: a small process that starts the program again when it is asked to.
//!
//! The process that serves may execute nothing, and what confines it would be inherited. So it starts this
//! one first, before it has read a key. What is started is fixed then: the path, the arguments and the
//! environment of the process that serves. A request carries one descriptor and no parameter.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use super::super::pools::now;
use super::channel::{Channel, MESSAGE_BYTES_MAX, Message};
use crate::sys::errno;

/// Set in the environment of a process that takes over, whose standard input is a [`Channel`].
pub(super) const HANDOVER: &str = "OFFRAMP_HANDOVER";

/// What was meant for the process that was started first, and for no other.
const OF_FIRST: [&str; 6] =
    ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "LISTEN_PIDFDID", "WATCHDOG_PID", HANDOVER];

/// How long a process has to end by its own.
const END_PATIENCE: Duration = Duration::from_secs(1);
/// How long the launcher may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The launcher as the process that serves knows it. Dropped, it ends, and so does what it has started and
/// was not to [leave](Launcher::leave).
#[derive(Debug)]
pub(super) struct Launcher {
    /// None once an answer was not in time: a later one would be taken for that of another request.
    channel: RefCell<Option<Channel>>,
}

impl Launcher {
    /// Starts it. To be called before anything else: what is open or secret by then is not its business.
    pub(super) fn start() -> Result<Self, String> {
        let failed = |error: io::Error| format!("the launcher cannot be started: {}", errno::name(&error));
        let program = program().map_err(failed)?;
        let (channel, theirs) = Channel::pair().map_err(failed)?;
        // The file that is running, whatever has its name by now.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("offramp").arg("launcher").arg("--").arg(program).args(std::env::args_os().skip(1));
        for name in OF_FIRST {
            command.env_remove(name);
        }
        // It is not reaped: it ends with this process, or when another one has taken over.
        command.stdin(theirs).spawn().map_err(failed)?;
        Ok(Self { channel: RefCell::new(Some(channel)) })
    }

    /// Starts the program again, with `end` as its standard input. Its process number.
    pub(super) fn launch(&self, end: &OwnedFd) -> Result<u32, String> {
        let answer = self.ask(b"start", &[end.as_fd()])?;
        match answer.words() {
            ("started", pid) => pid.parse().map_err(|_| "the launcher gave no process number".to_owned()),
            (_, why) => Err(why.to_owned()),
        }
    }

    /// Ends what it has started last, unless that has ended. How it has ended.
    pub(super) fn end(&self) -> Result<String, String> {
        Ok(self.ask(b"end", &[])?.words().1.to_owned())
    }

    /// What it has started last serves, and goes on when the launcher ends.
    pub(super) fn leave(&self) {
        if let Some(channel) = &*self.channel.borrow() {
            // Without the launcher nobody ends it.
            drop(channel.send(b"done", &[], now() + PATIENCE));
        }
    }

    fn ask(&self, word: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<Message, String> {
        let mut channel = self.channel.borrow_mut();
        let open = channel.as_ref().ok_or_else(|| gone(&io::ErrorKind::BrokenPipe.into()))?;
        let deadline = now() + PATIENCE;
        let answer = open.send(word, descriptors, deadline).and_then(|()| open.receive(Some(deadline)));
        let answer = answer.and_then(|message| message.ok_or_else(|| io::ErrorKind::BrokenPipe.into()));
        // Closed, it ends, and so does what it has started.
        answer.inspect_err(|_| *channel = None).map_err(|error| gone(&error))
    }
}

fn gone(error: &io::Error) -> String {
    format!("the launcher does not answer ({}); try: a restart", errno::name(error))
}

/// The path by which this process was started, which is the one that an operator replaces, also where it is
/// a link; or else the file that runs.
fn program() -> io::Result<PathBuf> {
    let running = fs::metadata("/proc/self/exe").map(|found| (found.dev(), found.ino()))?;
    let is_running =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == running);
    let name = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let found = if name.components().count() > 1 {
        std::path::absolute(&name).ok().filter(is_running)
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|directory| directory.join(&name)).find(is_running)
    };
    found.map_or_else(|| std::env::current_exe().map(|path| undeleted(&path)), Ok)
}

/// The path without what the kernel puts behind that of a file which was replaced since.
fn undeleted(path: &Path) -> PathBuf {
    let path = path.to_string_lossy();
    PathBuf::from(path.strip_suffix(" (deleted)").unwrap_or(&path))
}

/// The launcher's process: starts `program` with `arguments` when it is asked to, until nobody can ask any
/// more.
pub fn launcher(program: &Path, arguments: &[OsString]) -> ExitCode {
    // Its name in ps and top; otherwise that of the link by which it was executed.
    let _ = rustix::thread::set_name(c"offramp-launch");
    // They are meant for the process that serves, also where they are sent to all of this name. Handled and
    // not ignored: what is started has the defaults again.
    let _taken = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2]);
    let Ok(channel) = Channel::from_stdin() else { return ExitCode::FAILURE };
    let mut last: Option<Child> = None;
    loop {
        let Ok(Some(mut request)) = channel.receive(None) else {
            // What nobody has let serve would be left behind.
            last.map(ended);
            return ExitCode::SUCCESS;
        };
        let answer = match (std::mem::take(&mut request.descriptors).pop(), request.words().0) {
            (Some(end), "start") => match start(program, arguments, end) {
                Ok(child) => {
                    let pid = child.id();
                    last = Some(child);
                    format!("started {pid}")
                }
                Err(error) => format!(
                    "failed {} cannot be executed: {}; try: ls -l {0}",
                    program.display(),
                    errno::name(&error)
                ),
            },
            (_, "done") => {
                last = None;
                continue;
            }
            (_, "end") => format!("ended {}", last.take().map_or_else(String::new, ended)),
            _ => "failed it knows only start, end and done".to_owned(),
        };
        if answer.len() > MESSAGE_BYTES_MAX || channel.send(answer.as_bytes(), &[], now() + PATIENCE).is_err()
        {
            return ExitCode::FAILURE;
        }
    }
}

fn start(program: &Path, arguments: &[OsString], end: OwnedFd) -> io::Result<Child> {
    let mut command = Command::new(program);
    for name in OF_FIRST {
        command.env_remove(name);
    }
    command.args(arguments).env(HANDOVER, "stdin").stdin(Stdio::from(end)).spawn()
}

/// How a process has ended, which is killed if it does not within [`END_PATIENCE`]: it closes its end of the
/// channel a moment before it has ended.
fn ended(mut child: Child) -> String {
    let until = now() + END_PATIENCE;
    while now() < until {
        if let Ok(Some(status)) = child.try_wait() {
            return how(status);
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    // Who cannot be killed has ended.
    drop(child.kill());
    child.wait().map_or_else(|error| error.to_string(), |_| "it was killed".to_owned())
}

fn how(status: ExitStatus) -> String {
    status
        .code()
        .map_or_else(|| format!("it ended: {status}"), |code| format!("it ended with exit code {code}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_is_found_also_where_it_was_replaced() {
        let own = fs::canonicalize(program().unwrap()).unwrap();
        assert_eq!(own, fs::canonicalize(std::env::current_exe().unwrap()).unwrap());
        assert_eq!(undeleted(Path::new("/usr/bin/offramp (deleted)")), Path::new("/usr/bin/offramp"));
        assert_eq!(undeleted(Path::new("/usr/bin/offramp")), Path::new("/usr/bin/offramp"));
    }

    #[test]
    fn what_was_started_is_killed_or_was_over() {
        let (_ours, theirs) = Channel::pair().unwrap();
        let stuck = start(Path::new("/bin/sleep"), &["600".into()], theirs).unwrap();
        assert_eq!(ended(stuck), "it was killed");
        let (_ours, theirs) = Channel::pair().unwrap();
        let mut over = start(Path::new("/bin/sh"), &["-c".into(), "exit 3".into()], theirs).unwrap();
        over.wait().unwrap();
        assert_eq!(ended(over), "it ended with exit code 3");
        let (_ours, theirs) = Channel::pair().unwrap();
        assert!(start(Path::new("/nowhere/offramp"), &[], theirs).is_err());
    }
}
