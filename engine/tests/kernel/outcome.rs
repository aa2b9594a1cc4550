//! What came back from the guest: libtest's summary line and the kernel's own count.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// libtest's last line, in numbers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) ignored: usize,
}

impl Summary {
    /// Reads `test result: ok. 9 passed; 0 failed; 0 ignored; …`; there must be exactly one, and tests behind
    /// it.
    pub(crate) fn of(output: &str) -> Result<Self, String> {
        let mut lines = output.lines().filter_map(|line| line.strip_prefix("test result: "));
        let (Some(line), None) = (lines.next(), lines.next()) else {
            return Err("not exactly one summary of libtest in the guest's output".to_owned());
        };
        let number = |what: &str| {
            let words: Vec<&str> = line.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
            let pair = words.windows(2).find(|pair| pair[1] == what);
            pair.and_then(|pair| pair[0].parse().ok())
                .ok_or_else(|| format!("no count of {what} in {line:?}"))
        };
        let summary =
            Self { passed: number("passed")?, failed: number("failed")?, ignored: number("ignored")? };
        if summary.passed + summary.failed == 0 {
            return Err(format!("no test ran: {line:?}"));
        }
        Ok(summary)
    }
}

/// `/proc/net/tls_stat` of the guest when all was over.
#[derive(Debug)]
pub(crate) struct Stat(BTreeMap<String, u64>);

impl Stat {
    pub(crate) fn of(text: &str) -> Result<Self, String> {
        let pair = |line: &str| {
            let (name, count) = line.split_once(char::is_whitespace)?;
            Some((name.to_owned(), count.trim().parse().ok()?))
        };
        let counts: Option<BTreeMap<_, _>> = text.lines().map(pair).collect();
        let counts = counts.ok_or_else(|| format!("not the kernel's TLS statistics: {text:?}"))?;
        if counts.is_empty() {
            Err("the kernel's TLS statistics are empty".to_owned())
        } else {
            Ok(Self(counts))
        }
    }

    /// At least so many connections had kernel records each way, so many records could not be opened, no
    /// connection is left.
    pub(crate) fn proves(&self, at_least: u64, bad_records: &RangeInclusive<u64>) -> Result<(), String> {
        for name in ["TlsTxSw", "TlsRxSw"] {
            let count = self.count(name)?;
            if count < at_least {
                return Err(format!("{name} is {count}, at least {at_least} were expected"));
            }
        }
        let errors = self.count("TlsDecryptError")?;
        if !bad_records.contains(&errors) {
            return Err(format!("TlsDecryptError is {errors}, not in {bad_records:?}"));
        }
        let left = self.0.iter().find(|(name, count)| name.starts_with("TlsCurr") && **count != 0);
        left.map_or(Ok(()), |(name, count)| Err(format!("{name} is still {count}")))
    }

    /// By its name in that file.
    pub(crate) fn count(&self, name: &str) -> Result<u64, String> {
        self.0.get(name).copied().ok_or_else(|| format!("the kernel does not count {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_is_read_unless_empty_or_repeated() {
        let line = |passed, failed| {
            format!("noise\ntest result: FAILED. {passed} passed; {failed} failed; 1 ignored\n")
        };
        assert_eq!(Summary::of(&line(4, 2)), Ok(Summary { passed: 4, failed: 2, ignored: 1 }));
        assert!(Summary::of(&line(0, 0)).is_err_and(|why| why.contains("no test ran")));
        assert!(Summary::of(&line(1, 0).repeat(2)).is_err());
        assert!(Summary::of("test result: killed\n").is_err());
        assert!(Summary::of("running 3 tests\n").is_err());
    }

    #[test]
    fn kernel_counts_that_prove_nothing_are_refused() {
        let stat = |tx: u64, rx: u64, error: u64, left: u64| {
            let text =
                format!("TlsTxSw\t{tx}\nTlsRxSw {rx}\nTlsDecryptError   {error}\nTlsCurrRxSw {left}\n");
            Stat::of(&text).expect("well formed").proves(5, &(0..=0))
        };
        assert_eq!(stat(5, 5, 0, 0), Ok(()));
        assert!(stat(4, 5, 0, 0).is_err_and(|why| why.contains("TlsTxSw")));
        assert!(stat(5, 0, 0, 0).is_err_and(|why| why.contains("TlsRxSw")));
        assert!(stat(5, 5, 1, 0).is_err_and(|why| why.contains("TlsDecryptError")));
        assert!(stat(5, 5, 0, 1).is_err_and(|why| why.contains("TlsCurrRxSw")));
        assert!(Stat::of("cat: /proc/net/tls_stat: No such file\n").is_err());
        assert!(Stat::of("").is_err());
    }
}
