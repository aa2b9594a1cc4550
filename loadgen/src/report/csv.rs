//! Second by second, for a spreadsheet or to lay beside the target's own log.

use std::fmt::Write as _;
use std::time::Duration;

use super::Report;
use crate::machine;

/// The columns: no cell has a comma or a quote.
const HEADING: &str = "time,unix_ms,target,counts,started,handshakes,not_resumed,done,failed,open,messages,\
                       up_bytes,down_bytes,p50_us,p99_us,max_us,cpu_cores";

impl Report {
    /// One line a second, with its absolute time.
    #[must_use]
    pub fn csv(&self) -> String {
        let mut out = format!("{HEADING}\n");
        for run in &self.runs {
            // A host name has no comma; what is no host name did not resolve.
            let target = run.target.split(' ').next().unwrap_or_default();
            for second in &run.series {
                let time = machine::utc(Duration::from_millis(second.unix_ms));
                // Writing to a string cannot fail.
                let _ = writeln!(
                    out,
                    "{time},{},{target},{},{},{},{},{},{},{},{},{},{},{},{},{},{:.3}",
                    second.unix_ms,
                    u8::from(second.counts),
                    second.started,
                    second.handshakes,
                    second.not_resumed,
                    second.done,
                    second.failed,
                    second.open,
                    second.messages,
                    second.up_bytes,
                    second.down_bytes,
                    second.p50_us,
                    second.p99_us,
                    second.max_us,
                    second.cpu_cores,
                );
            }
        }
        out
    }
}
