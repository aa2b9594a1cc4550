//! Network namespaces, each with one veth to where the test runs; removed with the value.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A namespace, and the addresses of the two ends of its link.
pub(crate) struct Namespace {
    pub(crate) name: String,
    /// Inside.
    pub(crate) address: Ipv4Addr,
    /// Where the test runs.
    pub(crate) gateway: Ipv4Addr,
}

impl Namespace {
    /// Made new, or why not.
    pub(crate) fn make() -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{nth}", std::process::id());
        let (name, ours, theirs) = (format!("offramp-{id}"), format!("oa{id}"), format!("ob{id}"));
        // RFC 2544's block for tests between devices; a /30 for each, and others' tests beside ours.
        let block = (std::process::id() % 4096) * 16 + nth % 16;
        let base = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + 4 * (block % 32_768);
        let (gateway, address) = (Ipv4Addr::from(base + 1), Ipv4Addr::from(base + 2));
        ip(&format!("netns add {name}"))?;
        let made = Self { name, address, gateway };
        let name = &made.name;
        for words in [
            format!("link add {ours} type veth peer name {theirs} netns {name}"),
            format!("addr add {gateway}/30 dev {ours}"),
            format!("link set {ours} up"),
            format!("-n {name} addr add {address}/30 dev {theirs}"),
            format!("-n {name} link set {theirs} up"),
            format!("-n {name} link set lo up"),
        ] {
            ip(&words)?;
        }
        Ok(made)
    }

    /// A command that runs inside.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The link goes with it.
        let _ = ip(&format!("netns delete {}", self.name));
    }
}

fn ip(words: &str) -> Result<(), String> {
    let output = Command::new("ip").args(words.split(' ')).stdin(Stdio::null()).output();
    let output =
        output.map_err(|error| format!("ip cannot be run ({error}); try: apt-get install iproute2"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
