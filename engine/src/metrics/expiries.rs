//! Until when the certificates in force are valid, so that whoever watches the metrics is warned in time.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::{encode, families};

/// Most certificates of which the end is exposed; the first that are added.
const EXPIRIES_MAX: usize = 4096;
/// Most characters of a file's name in a label; of a longer one its end.
const FILE_CHARS_MAX: usize = 200;

/// Until when certificates are valid, by file and place in the file.
#[derive(Clone, Debug, Default)]
pub struct Expiries(BTreeMap<(String, usize), i64>);

impl Expiries {
    /// Adds one, unless it is there or there are 4,096. `nth` counts from 1; the time is in seconds since
    /// 1970.
    pub fn add(&mut self, file: &str, nth: usize, not_after: i64) {
        if self.0.len() < EXPIRIES_MAX {
            let cut = file.char_indices().rev().nth(FILE_CHARS_MAX - 1).map_or(0, |(at, _)| at);
            self.0.entry((file[cut..].to_owned(), nth)).or_insert(not_after);
        }
    }
}

impl Collector for Expiries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut metric = encode::begin(&mut encoder, &families::CERTIFICATE_NOT_AFTER)?;
        for ((file, nth), not_after) in &self.0 {
            let nth = nth.to_string();
            let labels = [("certificate", file.as_str()), ("nth", nth.as_str())];
            metric.encode_family(&labels)?.encode_gauge(not_after)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::metrics::{Metrics, Registry};

    #[test]
    fn certificate_ends_are_bounded_and_escaped() {
        let mut expiries = Expiries::default();
        let long = format!("/{}/é.pem", "d".repeat(300));
        for (file, nth, end) in [("a \"b\\\n.pem", 1, 7), ("it.pem", 2, -1), ("it.pem", 2, 5), (&long, 1, 9)]
        {
            expiries.add(file, nth, end);
        }
        let shown = format!("{}/é.pem", "d".repeat(194));
        let metrics = Metrics::new(Vec::new(), Arc::new(Registry::new(0, 0)), Arc::default());
        let text = metrics.exposition(Vec::new(), expiries, 0);
        for line in [
            "# TYPE offramp_certificate_not_after_seconds gauge",
            r#"offramp_certificate_not_after_seconds{certificate="a \"b\\\n.pem",nth="1"} 7"#,
            r#"offramp_certificate_not_after_seconds{certificate="it.pem",nth="2"} -1"#,
            &format!("offramp_certificate_not_after_seconds{{certificate=\"{shown}\",nth=\"1\"}} 9"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
        let mut expiries = Expiries::default();
        (0..10_000).for_each(|nth| expiries.add("many.pem", nth, 0));
        assert_eq!(expiries.0.len(), EXPIRIES_MAX);
    }
}
