//! The processes beside the engine, ended when they are dropped.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use offramp_loadgen::report::Report;

use crate::process;

/// A process of `loadgen`; killed when it is dropped.
#[derive(Debug)]
pub(super) struct Loadgen(Child);

impl Loadgen {
    /// Starts it with these words.
    pub(super) fn start(program: &Path, words: &[String]) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(Self(command.spawn().with_context(|| format!("{} could not be started", program.display()))?))
    }

    /// Its report, once it has ended.
    pub(super) fn report(mut self) -> Result<Report> {
        let stdout = self.0.stdout.take().context("its output was taken")?;
        let text = std::io::read_to_string(stdout).context("the report of loadgen")?;
        let status = self.0.wait()?;
        serde_json::from_str(&text).with_context(|| format!("loadgen gave no report and ended: {status}"))
    }

    pub(super) fn signal(&self, name: &str) {
        process::signal(self.0.id(), name);
    }
}

impl Drop for Loadgen {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A backend that can be killed, and comes back at the same address.
#[derive(Debug)]
pub(super) struct Backend {
    process: Loadgen,
    pub(super) address: SocketAddr,
}

impl Backend {
    /// At any free port.
    pub(super) fn start(program: &Path) -> Result<Self> {
        Self::start_at(program, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn start_at(program: &Path, address: SocketAddr) -> Result<Self> {
        let words = ["backend", "--listen", &address.to_string()].map(str::to_owned);
        let mut process = Loadgen::start(program, &words)?;
        let stdout = process.0.stdout.take().context("its output is ours")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let said = line.trim().rsplit(' ').next().and_then(|address| address.parse().ok());
        let address = said.with_context(|| format!("no address in what a backend says: {line:?}"))?;
        Ok(Self { process, address })
    }

    pub(super) fn kill(&self) {
        self.process.signal("KILL");
    }

    /// It was killed.
    pub(super) fn start_again(&mut self, program: &Path) -> Result<()> {
        // Waits for the end of the one that was killed: its address is free then.
        self.process.0.wait()?;
        let address = self.address;
        *self = Self::start_at(program, address)?;
        ensure!(self.address == address, "a backend is at {} where it was to be at {address}", self.address);
        Ok(())
    }

    pub(super) fn stop(&self) {
        self.process.signal("STOP");
    }

    pub(super) fn go_on(&self) {
        self.process.signal("CONT");
    }
}

/// Behind which listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    /// Its backend is never touched.
    Steady,
    /// Its backends are killed and stopped.
    Fickle,
}

/// What a tool printed.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("{program} could not be started"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} ended with {}: {stderr}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
