//! A child process and what it writes.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::tools::{has_ended, patiently, pause};

/// The child and what it wrote.
pub(crate) struct Process {
    pub(crate) child: Child,
    /// The process that has taken over from it.
    pub(crate) successor: Option<u32>,
    pub(crate) stdout: Log,
    pub(crate) stderr: Log,
}

impl Process {
    pub(crate) fn spawn(
        mut command: Command,
        arguments: &[String],
        stdout: Option<Stdio>,
        stderr: Option<Stdio>,
    ) -> Self {
        command
            .arg("serve")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(stdout.unwrap_or_else(Stdio::piped))
            .stderr(stderr.unwrap_or_else(Stdio::piped));
        let mut child = command.spawn().expect("the server can be started");
        let stdout = child.stdout.take().map_or_else(|| Log::follow(std::io::empty()), Log::follow);
        let stderr = child.stderr.take().map_or_else(|| Log::follow(std::io::empty()), Log::follow);
        Self { child, successor: None, stdout, stderr }
    }

    pub(crate) fn await_ready(&mut self) -> String {
        let line = patiently(|| {
            let ready = |line: &str| line.starts_with("offramp ready:").then(|| line.to_owned());
            let found = self.stdout.text().lines().find_map(ready);
            // A server that ended will not become ready: waiting longer is no use.
            if found.is_none() && !self.is_running() { Some(None) } else { found.map(Some) }
        });
        line.flatten().unwrap_or_else(|| panic!("the server did not become ready: {}", self.report()))
    }

    pub(crate) fn await_exit(&mut self, patience: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                self.stdout.finish();
                self.stderr.finish();
                return Some(status);
            }
            pause();
        }
        None
    }

    pub(crate) fn pid(&self) -> u32 {
        self.successor.unwrap_or_else(|| self.child.id())
    }

    pub(crate) fn is_running(&mut self) -> bool {
        if let Some(successor) = self.successor {
            return !has_ended(successor);
        }
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    pub(crate) fn report(&mut self) -> String {
        let state = match self.child.try_wait() {
            Ok(Some(status)) => format!("ended: {status}"),
            Ok(None) => "running".to_owned(),
            Err(error) => error.to_string(),
        };
        let (out, err) = (self.stdout.text(), self.stderr.text());
        format!(
            "server {}, {state}\n--- stdout of the server\n{out}\n--- stderr of the server\n{err}",
            self.child.id()
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let report = std::thread::panicking().then(|| self.report());
        if let Some(successor) = self.successor.filter(|successor| !has_ended(*successor)) {
            let _ = Command::new("kill").args(["-KILL", &successor.to_string()]).status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.stdout.finish();
        self.stderr.finish();
        if let Some(report) = report {
            eprintln!("{report}");
        }
    }
}

/// What a child writes to one pipe, collected by a thread.
pub(crate) struct Log {
    text: Arc<Mutex<String>>,
    reader: std::thread::JoinHandle<()>,
}

impl Log {
    pub(crate) fn follow(pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let into = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut lines = BufReader::new(pipe);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                into.lock().expect("no holder panics").push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Self { text, reader }
    }

    pub(crate) fn text(&self) -> String {
        self.text.lock().expect("no holder panics").clone()
    }

    /// The child is gone: what it wrote is read in a moment, unless it left a child of its own that holds the
    /// pipe.
    pub(crate) fn finish(&self) {
        let end = Instant::now() + Duration::from_secs(5);
        while !self.reader.is_finished() && Instant::now() < end {
            pause();
        }
    }
}
