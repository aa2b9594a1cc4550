//! The guest's first process: a script for busybox's shell that mounts, loads, runs and reports.

use std::fmt::Write as _;
use std::path::Path;

use crate::Job;

/// Where things are inside the guest.
pub(crate) struct Places<'a> {
    pub(crate) busybox: &'a Path,
    /// In the order in which they are loaded.
    pub(crate) modules: Vec<&'a Path>,
    /// Becomes a tmpfs.
    pub(crate) scratch: &'a Path,
    /// What is mounted beside /proc and /sys, as mount's arguments.
    pub(crate) mounts: &'a [&'a str],
    /// Files that are written to, in the order console's end: output, tls_stat, status.
    pub(crate) results: [&'a Path; 3],
    /// Ends the guest, by busybox.
    pub(crate) end: &'a str,
}

/// The script. The command's output goes to its file at once: what a guest that hangs has said is not lost.
pub(crate) fn script(job: &Job, places: &Places<'_>) -> String {
    let busybox = quoted(places.busybox);
    let scratch = quoted(places.scratch);
    let [output, tls_stat, status] = places.results.map(quoted);
    let mut lines = vec![
        format!("#!{} sh", places.busybox.display()),
        format!("export PATH={}", quoted(std::env::var("PATH").unwrap_or_default())),
        "export PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8".into(),
    ];
    let mounts = ["proc proc /proc", "sysfs sysfs /sys"];
    lines.extend(mounts.iter().chain(places.mounts).map(|mount| format!("{busybox} mount -t {mount}")));
    lines.push(format!("{busybox} mount -t tmpfs scratch {scratch}"));
    lines.push(format!("{busybox} ip link set lo up"));
    lines.extend(places.modules.iter().map(|module| format!("{busybox} insmod {}", quoted(module))));
    lines.push(format!("ulimit -n 20000\nexport {}={scratch}", job.scratch));
    lines.extend(job.environment.iter().map(|(name, value)| format!("export {name}={}", quoted(value))));
    let command: Vec<String> = job.command.iter().map(quoted).collect();
    lines.push(format!("cd {}", quoted(&job.directory)));
    lines.push(format!("{} >{output} 2>&1", command.join(" ")));
    lines.push("ended=$?".into());
    lines.push(format!("{busybox} cat /proc/net/tls_stat >{tls_stat}"));
    lines.push(format!("echo $ended >{status}"));
    lines.push(format!("{busybox} sync"));
    lines.push(format!("{busybox} {}", places.end));
    lines.iter().fold(String::new(), |mut script, line| {
        writeln!(script, "{line}").expect("a string takes all");
        script
    })
}

/// As one word of the shell.
fn quoted(word: impl AsRef<std::ffi::OsStr>) -> String {
    let word = word.as_ref().to_str().expect("paths and words are UTF-8");
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_shell_whole() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
