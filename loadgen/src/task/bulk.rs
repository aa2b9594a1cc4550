//! Bulk data in rounds, every byte of it checked.

use super::{Next, Progress};
use crate::backend::{CHANGED, ECHO, SINK, SOURCE};
use crate::failure::Failure;
use crate::pattern;
use crate::plan::Work;
use crate::session::Session;

/// Bytes of bulk data that are asked for, or acknowledged, at once.
const ROUND_BYTES: u64 = 8 * 1024 * 1024;

/// The conversation of a connection with a [`backend`](crate::backend), or, both ways, with any echo.
#[derive(Debug)]
pub struct Bulk {
    mode: u8,
    /// Bytes that are to be sent before anything else: the mode, or the length of a round.
    command: Vec<u8>,
    /// Where in the pattern each direction is, and where the present round ends.
    sent: u64,
    received: u64,
    round_end: u64,
    /// What has come of the backend's answer to a round that we sent.
    answer: Vec<u8>,
    /// Bytes of ours that the backend has not acknowledged.
    unanswered: u64,
    greeted: bool,
    progress: Progress,
}

impl Bulk {
    pub(super) fn new(work: &Work) -> Self {
        let mode = match work {
            Work::ToClient => SOURCE,
            Work::FromClient => SINK,
            _ => ECHO,
        };
        Self {
            mode,
            command: vec![mode],
            sent: 0,
            received: 0,
            round_end: 0,
            answer: Vec::new(),
            unanswered: 0,
            greeted: false,
            progress: Progress::default(),
        }
    }

    pub(super) fn fill(&mut self, session: &mut Session) {
        if !self.command.is_empty() {
            let count = session.send(&self.command);
            self.command.drain(..count);
        }
        if self.mode == SOURCE || !self.command.is_empty() {
            return;
        }
        while self.sent < self.round_end {
            let left = usize::try_from(self.round_end - self.sent).unwrap_or(usize::MAX);
            let count = session.send(pattern::at(self.sent, left));
            self.sent += count as u64;
            if count == 0 {
                break;
            }
        }
    }

    pub(super) fn take(&mut self, mut plaintext: &[u8]) -> Result<(), Failure> {
        if !self.greeted {
            let Some((first, rest)) = plaintext.split_first() else { return Ok(()) };
            if *first != self.mode {
                return Err(Failure::Changed("the first byte came back changed"));
            }
            self.greeted = true;
            plaintext = rest;
        }
        if self.mode == SINK {
            return self.acknowledged(plaintext);
        }
        let due = if self.mode == ECHO { self.sent } else { self.round_end };
        let count = plaintext.len() as u64;
        if count > due - self.received {
            return Err(Failure::Changed("more came than was asked for"));
        }
        if !pattern::matches(self.received, plaintext) {
            return Err(Failure::Changed("a byte to the client was lost or changed"));
        }
        self.received += count;
        self.progress.down += count;
        if self.mode == ECHO {
            self.progress.up += count;
        }
        Ok(())
    }

    pub(super) fn rests(&self) -> bool {
        let arrived = match self.mode {
            SINK => self.sent == self.round_end && self.unanswered == 0,
            _ => self.received == self.round_end,
        };
        self.greeted && arrived
    }

    pub(super) fn go_on(&mut self) -> Next {
        self.round_end += ROUND_BYTES;
        if self.mode != ECHO {
            self.command.extend(ROUND_BYTES.to_be_bytes());
        }
        if self.mode == SINK {
            self.unanswered = ROUND_BYTES;
        }
        Next::Goes
    }

    pub(super) fn progress(&mut self) -> Progress {
        std::mem::take(&mut self.progress)
    }

    fn acknowledged(&mut self, plaintext: &[u8]) -> Result<(), Failure> {
        self.answer.extend_from_slice(plaintext);
        let Some(answer) = self.answer.first_chunk::<8>() else { return Ok(()) };
        let count = u64::from_be_bytes(*answer);
        if count == CHANGED {
            return Err(Failure::Changed("a byte from the client was lost or changed"));
        }
        if count != self.unanswered || self.sent != self.round_end || self.answer.len() != 8 {
            return Err(Failure::Changed("an answer came that does not belong to what was sent"));
        }
        self.progress.up += self.unanswered;
        self.unanswered = 0;
        self.answer.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeted(work: &Work) -> Bulk {
        let mut bulk = Bulk::new(work);
        let mode = std::mem::take(&mut bulk.command);
        assert!(!bulk.rests());
        bulk.take(&mode).unwrap();
        assert!(bulk.rests());
        bulk
    }

    #[test]
    fn bulk_to_the_client_is_checked_and_counted() {
        assert!(Bulk::new(&Work::ToClient).take(&[ECHO]).is_err(), "another byte than was sent");
        let mut bulk = greeted(&Work::ToClient);
        assert!(bulk.take(b"x").is_err(), "nothing was asked for");
        assert_eq!(bulk.go_on(), Next::Goes);
        bulk.take(pattern::at(0, 1000)).unwrap();
        assert_eq!((bulk.progress().down, bulk.progress().down, bulk.rests()), (1000, 0, false));
        assert!(bulk.take(pattern::at(999, 1000)).is_err(), "a byte that was there already");
    }

    #[test]
    fn client_bulk_counts_only_after_acknowledgement() {
        let mut bulk = greeted(&Work::FromClient);
        bulk.go_on();
        bulk.sent = bulk.round_end;
        let answer = ROUND_BYTES.to_be_bytes();
        bulk.take(&answer[..5]).unwrap();
        assert_eq!((bulk.progress().up, bulk.rests()), (0, false));
        bulk.take(&answer[5..]).unwrap();
        assert_eq!((bulk.progress().up, bulk.rests()), (ROUND_BYTES, true));
        bulk.go_on();
        assert!(bulk.take(&answer).is_err(), "an answer before all was sent");
    }

    #[test]
    fn an_echo_is_checked_against_what_was_sent() {
        let mut bulk = greeted(&Work::BothWays);
        bulk.go_on();
        assert!(bulk.take(pattern::at(0, 1)).is_err(), "nothing was sent yet");
        bulk.sent = 5000;
        bulk.take(pattern::at(0, 3000)).unwrap();
        let progress = bulk.progress();
        assert_eq!((progress.up, progress.down), (3000, 3000));
        assert!(bulk.take(pattern::at(0, 100)).is_err(), "an echo twice");
    }

    #[test]
    fn what_the_backend_found_changed_is_an_error() {
        let mut bulk = greeted(&Work::FromClient);
        bulk.go_on();
        assert!(bulk.take(&CHANGED.to_be_bytes()).unwrap_err().to_string().contains("changed"));
    }
}
