//! A victim: small messages on one established connection, and how long each answer takes.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of a message.
pub const MESSAGE_BYTES: usize = 64;
/// A message is due each time this has passed.
pub const EVERY: Duration = Duration::from_millis(20);

/// What a victim noticed: a sorted list of times, each from when a message was due until its echo was whole.
#[derive(Clone, Debug, Default)]
pub struct Noticed {
    times: Vec<Duration>,
    length: Duration,
}

impl Noticed {
    /// Sends messages for as long as `goes_on` says, each when it is due, or as soon as the one before has
    /// come back where that is later. Every echo is compared with what was sent.
    ///
    /// # Errors
    /// The connection failed, or an echo was not what was sent.
    pub fn watch(stream: &mut (impl Read + Write), mut goes_on: impl FnMut() -> bool) -> io::Result<Self> {
        let mut times = Vec::new();
        let began = Instant::now();
        let mut due = began;
        let mut number = 0_u64;
        while goes_on() {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            exchange(stream, number)?;
            times.push(due.elapsed());
            due += EVERY;
            number += 1;
        }
        times.sort_unstable();
        Ok(Self { times, length: began.elapsed() })
    }

    /// The same for so long.
    ///
    /// # Errors
    /// As for [`Noticed::watch`].
    pub fn watch_for(stream: &mut (impl Read + Write), length: Duration) -> io::Result<Self> {
        Self::watch_until(stream, length..length, || true)
    }

    /// The same for as long as `span` begins with, and then until `is_enough`, at most until its end.
    ///
    /// # Errors
    /// As for [`Noticed::watch`].
    pub fn watch_until(
        stream: &mut (impl Read + Write),
        span: Range<Duration>,
        is_enough: impl Fn() -> bool,
    ) -> io::Result<Self> {
        let began = Instant::now();
        Self::watch(stream, || {
            let passed = began.elapsed();
            passed < span.start || (passed < span.end && !is_enough())
        })
    }

    /// How many messages there were.
    #[must_use]
    pub fn count(&self) -> usize {
        self.times.len()
    }

    /// The time that so many per cent of the messages did not exceed; zero if there were none.
    #[must_use]
    pub fn percentile(&self, per_cent: usize) -> Duration {
        let rank = (self.times.len() * per_cent).div_ceil(100).max(1);
        self.times.get(rank - 1).copied().unwrap_or_default()
    }

    /// From the first message to the answer to the last.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.length
    }

    /// The longest time.
    #[must_use]
    pub fn max(&self) -> Duration {
        self.times.last().copied().unwrap_or_default()
    }
}

fn exchange(stream: &mut (impl Read + Write), number: u64) -> io::Result<()> {
    let mut sent = [0x76; MESSAGE_BYTES];
    sent[..8].copy_from_slice(&number.to_be_bytes());
    stream.write_all(&sent)?;
    stream.flush()?;
    let mut came = [0; MESSAGE_BYTES];
    stream.read_exact(&mut came)?;
    let changed =
        || io::Error::new(io::ErrorKind::InvalidData, format!("message {number} came back changed"));
    if came == sent { Ok(()) } else { Err(changed()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks_of_the_sorted_times() {
        let noticed =
            Noticed { times: (1..=200).map(Duration::from_millis).collect(), length: Duration::ZERO };
        let ms = |per_cent| noticed.percentile(per_cent).as_millis();
        assert_eq!((ms(50), ms(99), ms(100), noticed.max().as_millis()), (100, 198, 200, 200));
        assert_eq!(Noticed::default().percentile(99), Duration::ZERO);
    }
}
