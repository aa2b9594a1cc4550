//! What the kernel says of its TLS: its counters, and whether its release is one with known defects.

use super::{Check, Verdict, read_setting};

const GROUP: &str = "ktls";

/// `/proc/net/tls_stat`: what kernel TLS counts in this network namespace, by its own names; nothing where
/// there is none (no module, or a kernel that does not count).
///
/// Source: Linux `Documentation/networking/tls.rst`, "Statistics".
#[must_use]
pub fn tls_statistics() -> Vec<(String, u64)> {
    read_setting("/proc/net/tls_stat").map(|text| parse_statistics(&text)).unwrap_or_default()
}

fn parse_statistics(text: &str) -> Vec<(String, u64)> {
    let pair = |line: &str| {
        let (name, count) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), count.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

pub(super) fn checks(release: &str) -> Vec<Check> {
    let build = read_setting("/proc/sys/kernel/version").unwrap_or_default();
    vec![statistics(&tls_statistics()), defects(release, &build)]
}

fn statistics(found: &[(String, u64)]) -> Check {
    let name = "/proc/net/tls_stat";
    let of = |wanted: &str| found.iter().find(|(name, _)| name == wanted).map(|(_, count)| *count);
    match (of("TlsTxSw"), of("TlsRxSw"), of("TlsDecryptError")) {
        (None, None, None) => {
            Check::bad(Verdict::Untried, (GROUP, name.to_owned()), "not there", "modprobe tls")
        }
        (tx, rx, errors) => {
            let text = |count: Option<u64>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
            let detail =
                format!("TlsTxSw {}, TlsRxSw {}, TlsDecryptError {}", text(tx), text(rx), text(errors));
            Check::ok(GROUP, name, detail)
        }
    }
}

/// Long-term series in whose kernel TLS data was lost or memory corrupted, with the release that mended it.
const FLOORS: [(u32, u32, u32); 2] = [(6, 1, 191), (6, 12, 114)];

fn defects(release: &str, build: &str) -> Check {
    let name = "known defects";
    let Some(found) = version(release, build) else {
        let detail = format!("unknown: {release:?} is no version that can be read");
        return Check::bad(Verdict::Untried, (GROUP, name.to_owned()), detail, "");
    };
    let text = format!("{}.{}.{}", found.0, found.1, found.2);
    match FLOORS.iter().find(|floor| (floor.0, floor.1) == (found.0, found.1)) {
        None => Check::ok(GROUP, name, format!("none on record for {text}")),
        Some(floor) if found.2 >= floor.2 => Check::ok(GROUP, name, format!("none on record for {text}")),
        Some(floor) => {
            let detail = format!("{text} has defects in kernel TLS that are mended later in its series");
            let remedy = format!(
                "a kernel of {}.{}.{} or later; until then: --offload never",
                floor.0, floor.1, floor.2
            );
            Check::bad(Verdict::Degraded, (GROUP, name.to_owned()), detail, &remedy)
        }
    }
}

/// Debian's release names an ABI (`6.1.0-49-amd64`), its build string the version (`… Debian 6.1.176-1 …`).
fn version(release: &str, build: &str) -> Option<(u32, u32, u32)> {
    let debian = build.split_once("Debian ").and_then(|(_, rest)| numbers(rest));
    debian.or_else(|| numbers(release))
}

fn numbers(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    let mut next = || parts.next()?.parse().ok();
    Some((next()?, next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_by_name_and_bad_lines_skipped() {
        let text = "TlsCurrTxSw                     \t1\nTlsTxSw 12\nodd\nTlsRxSw x\n";
        assert_eq!(parse_statistics(text), [("TlsCurrTxSw".to_owned(), 1), ("TlsTxSw".to_owned(), 12)]);
        assert_eq!(statistics(&parse_statistics(text)).detail, "TlsTxSw 12, TlsRxSw ?, TlsDecryptError ?");
        assert_eq!(statistics(&[]).verdict, Verdict::Untried);
    }

    #[test]
    fn release_below_its_series_floor_reports_the_floor() {
        let check = defects("6.1.0-49-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-06-01)");
        assert_eq!(check.verdict, Verdict::Degraded);
        assert!(check.remedy.is_some_and(|remedy| remedy.contains("6.1.191")));
        assert!(check.detail.starts_with("6.1.176 "), "{}", check.detail);
        for (release, build) in [
            ("6.1.191", ""),
            ("6.12.114-cloud", "#1 SMP"),
            ("6.18.44", ""),
            ("6.12.0-1-amd64", "#1 Debian 6.12.120-1"),
        ] {
            assert_eq!(defects(release, build).verdict, Verdict::Ok, "{release}");
        }
        assert_eq!(defects("6.12.90+deb12-cloud-amd64", "").verdict, Verdict::Degraded);
        assert_eq!(defects("unknown", "").verdict, Verdict::Untried);
    }
}
