//! What a process has in memory.

use std::fs;
use std::io;

/// Resident bytes of one process, all its mappings together (proc_pid_smaps(5)). Not from `status`, whose
/// VmRSS lags by up to 64 pages per CPU.
///
/// # Errors
/// The process is gone, or `/proc` cannot be read.
pub fn bytes(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, text))
}

fn parse(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_the_line_of_the_whole() {
        let text = "55 - 77 ---p 00000000 00:00 0 [rollup]\nRss:                1948 kB\nPss: 52 kB\n";
        assert_eq!(parse(text), Some(1948 << 10));
        assert_eq!(parse("Pss: 52 kB\n"), None);
        assert!(bytes(std::process::id()).unwrap() > 0);
    }
}
