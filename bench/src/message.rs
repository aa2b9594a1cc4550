//! Messages of one size, one way: what each costs the terminator.

use std::io::{Read, Write};

use anyhow::{Context, Result, ensure};
use offramp_loadgen::backend;
use offramp_loadgen::pattern;

use crate::client::Connection;
use crate::suite::Suite;
use crate::workload::Bench;

/// Messages on a connection before a reading is taken.
const WARM_UP: u32 = 16;

/// The way of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the backend to the client, which asks for it with 8 bytes.
    ToClient,
    /// From the client to the backend, which answers with 8 bytes.
    FromClient,
}

/// Messages of one size.
#[derive(Clone, Copy, Debug)]
pub struct Messages {
    /// On which suite.
    pub suite: Suite,
    /// Their way.
    pub way: Way,
    /// Their size.
    pub bytes: usize,
    /// How many make a sample.
    pub count: u32,
}

impl Messages {
    /// As in the table.
    #[must_use]
    pub fn label(self) -> String {
        let way = if self.way == Way::ToClient { "to the client" } else { "from the client" };
        format!("{} byte of {} KiB messages {way}", self.suite.label(), self.bytes / 1024)
    }

    /// The terminator's CPU time for one message, in µs: on one connection, each message after the one before
    /// has been answered.
    ///
    /// # Errors
    /// A connection failed, or data came changed; the text has the end of what the terminator printed.
    pub fn sample(self, bench: &Bench<'_>) -> Result<f64> {
        let mode = if self.way == Way::ToClient { backend::SOURCE } else { backend::SINK };
        let warm_up = |connection: &mut Connection| self.exchange(connection, 0, WARM_UP);
        let measured = |connection: &mut Connection| self.exchange(connection, WARM_UP, WARM_UP + self.count);
        let total = bench.streams(self.suite, mode, 1, warm_up, measured);
        let total = total.with_context(|| bench.terminator.last_words()).with_context(|| self.label())?;
        Ok(total / f64::from(self.count))
    }

    fn exchange(self, connection: &mut Connection, from: u32, to: u32) -> Result<()> {
        let len = (self.bytes as u64).to_be_bytes();
        let mut message = vec![0; self.bytes];
        for number in from..to {
            // The pattern goes on from one message to the next.
            let offset = u64::from(number) * self.bytes as u64;
            if self.way == Way::ToClient {
                connection.write_all(&len)?;
                connection.read_exact(&mut message)?;
                ensure!(pattern::matches(offset, &message), "data came changed");
            } else {
                // The length and the data are one message: one write, as an application would.
                let mut sent = len.to_vec();
                while sent.len() < len.len() + self.bytes {
                    let at = sent.len() - len.len();
                    sent.extend_from_slice(pattern::at(offset + at as u64, self.bytes - at));
                }
                connection.write_all(&sent)?;
                let mut arrived = [0; 8];
                connection.read_exact(&mut arrived)?;
                ensure!(arrived == len, "not all data arrived unchanged");
            }
        }
        Ok(())
    }
}
