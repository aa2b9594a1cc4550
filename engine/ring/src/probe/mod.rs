//! What this host can do, found by trying: a version says little about a kernel with backports, a container
//! or a seccomp profile in between.

mod confinement;
mod limits;
mod records;
mod rings;
mod statistics;

use std::io;

use serde::Serialize;

pub use records::{Ktls, Refusal, Rekey, ktls};
pub use statistics::tls_statistics;

/// Everything that was found out.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// The kernel's release, as `uname -r` tells it.
    pub kernel: String,
    /// In the order of trying.
    pub checks: Vec<Check>,
}

/// One thing that was tried or read.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What it belongs to: `io_uring`, `ktls`, `limits` or `confinement`.
    pub group: &'static str,
    /// What it is.
    pub name: String,
    /// What came of it.
    pub verdict: Verdict,
    /// A value or an error's name.
    pub detail: String,
    /// What would make it better: a command where there is one.
    pub remedy: Option<String>,
}

/// What came of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It works, or the value is as it should be.
    Ok,
    /// Offramp runs, but not as well as it could.
    Degraded,
    /// Offramp cannot run.
    Missing,
    /// It was not tried, since something that it needs is missing.
    Untried,
}

impl Host {
    /// Tries everything. It takes a few milliseconds, opens loopback sockets and leaves nothing behind.
    #[must_use]
    pub fn probe() -> Self {
        let kernel = limits::kernel_release();
        let mut checks = rings::checks();
        checks.extend(ktls().checks());
        checks.extend(statistics::checks(&kernel));
        checks.extend(limits::checks());
        checks.extend(confinement::checks());
        Self { kernel, checks }
    }
}

impl Check {
    fn ok(group: &'static str, name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { group, name: name.into(), verdict: Verdict::Ok, detail: detail.into(), remedy: None }
    }

    fn bad(verdict: Verdict, at: (&'static str, String), detail: impl Into<String>, remedy: &str) -> Self {
        let remedy = (!remedy.is_empty()).then(|| remedy.to_owned());
        Self { group: at.0, name: at.1, verdict, detail: detail.into(), remedy }
    }
}

/// What a `/proc` or `/sys` file says, without the newline.
fn read_setting(path: &str) -> io::Result<String> {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_that_is_not_ok_has_a_detail() {
        let host = Host::probe();
        assert!(host.kernel.contains('.'), "{}", host.kernel);
        for group in ["io_uring", "ktls", "limits", "confinement"] {
            assert!(host.checks.iter().any(|check| check.group == group), "{group}");
        }
        for check in &host.checks {
            assert!(check.verdict == Verdict::Ok || !check.detail.is_empty(), "{check:?}");
        }
    }
}
