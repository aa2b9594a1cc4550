//! Messages and their answers, every byte of both checked.

use std::time::{Duration, Instant};

use super::{Next, Progress};
use crate::backend::{MESSAGE, RIGHT};
use crate::failure::Failure;
use crate::msrp::{self, CHUNK_BYTES_MAX, Chunk, Response, ResponseReader};
use crate::pattern;
use crate::plan::Pace;
use crate::session::Session;

/// The sizes of MSRP-like messages: of 100, so many have this many bytes. Short texts mostly, some long ones,
/// a few pictures; an assumption, for no public figures exist.
const MSRP_MIX: [(u8, std::ops::RangeInclusive<usize>); 3] =
    [(70, 20..=300), (25, 301..=2048), (5, 2049..=16_384)];

/// The one response code of MSRP that is success (RFC 4975 §10.1).
const MSRP_OK: u16 = 200;

/// The conversation of a connection with a [`backend`](crate::backend).
#[derive(Debug)]
pub struct Messages {
    sizes: Sizes,
    pace: Pace,
    dice: fastrand::Rng,
    /// What is to be said, and how much of it was.
    unsaid: Vec<u8>,
    said: usize,
    /// What is to be heard, and how much of it was. The bytes of the pattern follow.
    expected: Vec<u8>,
    heard: usize,
    /// Bytes of the pattern that are still to be heard.
    pattern_due: u64,
    /// Transactions of MSRP that are still to be answered, in any order: as many as a message has chunks.
    unanswered: Vec<String>,
    responses: ResponseReader,
    /// Where in the pattern each direction is.
    sent: u64,
    received: u64,
    /// Messages and chunks so far.
    messages: u64,
    chunks: u64,
    /// When the message under way was due; none if none is.
    due: Option<Instant>,
    /// When the next one is.
    next_due: Option<Instant>,
    /// Bytes of the message under way.
    len: u64,
    progress: Progress,
}

#[derive(Clone, Copy, Debug)]
enum Sizes {
    Plain { request: u32, answer: u32 },
    Msrp,
}

impl Messages {
    pub(super) fn plain(request: u32, answer: u32, pace: Pace, dice: fastrand::Rng) -> Self {
        let mut messages = Self::msrp(pace, dice);
        messages.sizes = Sizes::Plain { request, answer };
        messages.unsaid.push(MESSAGE);
        messages.expected.push(MESSAGE);
        messages
    }

    pub(super) fn msrp(pace: Pace, dice: fastrand::Rng) -> Self {
        Self {
            sizes: Sizes::Msrp,
            pace,
            dice,
            unsaid: Vec::new(),
            said: 0,
            expected: Vec::new(),
            heard: 0,
            pattern_due: 0,
            unanswered: Vec::new(),
            responses: ResponseReader::default(),
            sent: 0,
            received: 0,
            messages: 0,
            chunks: 0,
            due: None,
            next_due: None,
            len: 0,
            progress: Progress::default(),
        }
    }

    pub(super) fn fill(&mut self, session: &mut Session) {
        while self.said < self.unsaid.len() {
            let count = session.send(&self.unsaid[self.said..]);
            self.said += count;
            if count == 0 {
                return;
            }
        }
        self.unsaid.clear();
        self.said = 0;
    }

    pub(super) fn take(&mut self, plaintext: &[u8], now: Instant) -> Result<(), Failure> {
        match self.sizes {
            Sizes::Plain { .. } => self.take_answer(plaintext)?,
            Sizes::Msrp => self.take_responses(plaintext)?,
        }
        if self.rests() {
            self.expected.clear();
            self.heard = 0;
            if let Some(due) = self.due.take() {
                self.progress.messages.push(now.saturating_duration_since(due));
                self.progress.up += self.len;
            }
        }
        Ok(())
    }

    fn take_responses(&mut self, mut plaintext: &[u8]) -> Result<(), Failure> {
        while let Some(Response { id, status, is_of_integrity }) = self.responses.take(&mut plaintext)? {
            if is_of_integrity {
                return Err(Failure::Changed("a byte to the server was lost or changed"));
            }
            let known = self.unanswered.iter().position(|unanswered| *unanswered == id);
            self.unanswered.swap_remove(known.ok_or(Failure::MsrpMismatch("no such transaction"))?);
            if status != MSRP_OK {
                return Err(Failure::MsrpStatus(status));
            }
        }
        Ok(())
    }

    fn take_answer(&mut self, plaintext: &[u8]) -> Result<(), Failure> {
        let (head, rest) = plaintext.split_at(plaintext.len().min(self.expected.len() - self.heard));
        if head != &self.expected[self.heard..self.heard + head.len()] {
            return Err(Failure::Changed("an answer that does not belong to what was sent"));
        }
        self.heard += head.len();
        if rest.len() as u64 > self.pattern_due {
            return Err(Failure::Changed("more came than was asked for"));
        }
        if !pattern::matches(self.received, rest) {
            return Err(Failure::Changed("a byte to the client was lost or changed"));
        }
        self.received += rest.len() as u64;
        self.pattern_due -= rest.len() as u64;
        self.progress.down += rest.len() as u64;
        Ok(())
    }

    pub(super) fn rests(&self) -> bool {
        self.heard == self.expected.len()
            && self.pattern_due == 0
            && self.unanswered.is_empty()
            && self.responses.is_empty()
    }

    pub(super) fn go_on(&mut self, now: Instant) -> Next {
        let due = match self.pace {
            Pace::AtOnce => now,
            Pace::Every(_) | Pace::Around(_) => {
                let due = self.next_due.unwrap_or_else(|| now + self.first_gap());
                self.next_due = Some(due);
                if due > now {
                    return Next::Waits(due);
                }
                self.next_due = Some(due + self.gap());
                due
            }
        };
        self.due = Some(due);
        self.messages += 1;
        match self.sizes {
            Sizes::Plain { request, answer } => {
                self.unsaid.extend(request.to_be_bytes());
                self.unsaid.extend(answer.to_be_bytes());
                self.say_pattern(request as usize);
                self.expected.push(RIGHT);
                self.pattern_due = answer.into();
                self.len = request.into();
            }
            Sizes::Msrp => self.say_chunks(),
        }
        Next::Goes
    }

    pub(super) fn progress(&mut self) -> Progress {
        std::mem::take(&mut self.progress)
    }

    /// Goes on with the schedule of an earlier conversation.
    pub(super) fn carry_on(&mut self, next_due: Option<Instant>) {
        self.next_due = next_due;
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.next_due
    }

    /// When the message was due that is under way and will not be answered any more.
    pub(super) fn take_unanswered(&mut self) -> Option<Instant> {
        self.due.take()
    }

    /// From one message to the next.
    fn gap(&mut self) -> Duration {
        match self.pace {
            Pace::AtOnce => Duration::ZERO,
            Pace::Every(gap) => gap,
            Pace::Around(gap) => gap.mul_f64(-(1.0 - self.dice.f64()).ln()),
        }
    }

    /// The first one is due at any moment of a gap: connections do not speak in chorus.
    fn first_gap(&mut self) -> Duration {
        match self.pace {
            Pace::Every(gap) => gap.mul_f64(self.dice.f64()),
            Pace::AtOnce | Pace::Around(_) => self.gap(),
        }
    }

    fn say_pattern(&mut self, mut len: usize) {
        while len > 0 {
            let bytes = pattern::at(self.sent, len);
            self.unsaid.extend_from_slice(bytes);
            self.sent += bytes.len() as u64;
            len -= bytes.len();
        }
    }

    fn say_chunks(&mut self) {
        let total = self.msrp_size();
        self.len = total as u64;
        for start in (0..total).step_by(CHUNK_BYTES_MAX) {
            let len = (total - start).min(CHUNK_BYTES_MAX);
            self.chunks += 1;
            let chunk = Chunk { id: self.chunks, message: self.messages, start, len, total };
            chunk.write(&mut self.unsaid, pattern::at(self.sent, len));
            self.sent += len as u64;
            self.unanswered.push(msrp::transaction(chunk.id));
        }
    }

    fn msrp_size(&mut self) -> usize {
        let mut dice = self.dice.u8(0..100);
        for (share, sizes) in MSRP_MIX {
            if dice < share {
                return self.dice.usize(sizes);
            }
            dice -= share;
        }
        *MSRP_MIX[0].1.start()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::now;

    fn greeted(pace: Pace) -> (Messages, Instant) {
        let now = now();
        let mut messages = Messages::plain(3, 5, pace, fastrand::Rng::with_seed(1));
        assert!(!messages.rests(), "the mode is not echoed yet");
        messages.take(&[MESSAGE], now).unwrap();
        assert!(messages.rests());
        messages.unsaid.clear();
        (messages, now)
    }

    #[test]
    fn an_answer_is_checked_byte_by_byte_and_timed() {
        let (mut messages, now) = greeted(Pace::AtOnce);
        assert_eq!(messages.go_on(now), Next::Goes);
        assert_eq!(&messages.unsaid[..8], [0, 0, 0, 3, 0, 0, 0, 5]);
        assert_eq!(&messages.unsaid[8..], pattern::at(0, 3));
        messages.take(&[RIGHT], now).unwrap();
        assert!(!messages.rests());
        messages.take(pattern::at(0, 5), now + Duration::from_millis(7)).unwrap();
        let expected = Progress { down: 5, up: 3, messages: vec![Duration::from_millis(7)] };
        assert_eq!(messages.progress(), expected);
        assert!(messages.take(b"x", now).is_err(), "nothing more is due");
        messages.go_on(now);
        assert!(messages.take(b"!", now).is_err(), "the backend found a changed byte");
    }

    #[test]
    fn every_message_counts_from_its_due_time() {
        let gap = Duration::from_secs(1);
        let (mut messages, now) = greeted(Pace::Every(gap));
        let Next::Waits(first) = messages.go_on(now) else { panic!("the first one is due later") };
        assert!(first < now + gap);
        assert_eq!(messages.go_on(first), Next::Goes);
        // Answered 2.5 gaps later: the next two were due meanwhile.
        let late = first + gap.mul_f64(2.5);
        let answer = [&[RIGHT], pattern::at(0, 5)].concat();
        messages.take(&answer, late).unwrap();
        assert_eq!(messages.go_on(late), Next::Goes);
        messages.take(&[&[RIGHT], pattern::at(5, 5)].concat(), late).unwrap();
        assert_eq!(messages.progress().messages, [gap.mul_f64(2.5), gap.mul_f64(1.5)]);
        assert_eq!(messages.go_on(late), Next::Goes, "due half a gap ago");
    }

    #[test]
    fn every_msrp_chunk_must_be_acknowledged() {
        let now = now();
        let mut messages = Messages::msrp(Pace::AtOnce, fastrand::Rng::with_seed(1));
        assert!(messages.rests(), "the client speaks first");
        let mut long = 0;
        for _ in 0..200 {
            messages.go_on(now);
            long += usize::from(messages.len > CHUNK_BYTES_MAX as u64);
            let mut answers = Vec::new();
            // In another order than they were asked in.
            for id in messages.unanswered.iter().rev() {
                msrp::write_answer(&mut answers, id, true);
            }
            let (last, before) = answers.split_last().unwrap();
            messages.take(before, now).unwrap();
            assert!(!messages.rests());
            messages.take(&[*last], now).unwrap();
            assert!(messages.rests());
        }
        assert_eq!(messages.progress().messages.len(), 200);
        assert!((2..30).contains(&long), "about one in twenty is longer than a chunk: {long}");
    }

    #[test]
    fn msrp_response_fails_by_status_or_transaction() {
        let now = now();
        let failed = |answer: fn(&str, &str) -> String| {
            let mut messages = Messages::msrp(Pace::AtOnce, fastrand::Rng::with_seed(1));
            messages.go_on(now);
            let (id, mut right) = (messages.unanswered[0].clone(), Vec::new());
            msrp::write_answer(&mut right, &id, true);
            let answer = answer(&String::from_utf8_lossy(&right), &id);
            let failure = messages.take(answer.as_bytes(), now).unwrap_err();
            assert_eq!(messages.progress(), Progress::default(), "the message does not count");
            failure
        };
        assert_eq!(failed(|right, _| right.replace("200 OK", "413")), Failure::MsrpStatus(413));
        let changed = failed(|right, _| right.replace("200 OK", "400 Changed"));
        assert!(changed.is_of_integrity(), "our own backend says so");
        let unknown = Failure::MsrpMismatch("no such transaction");
        assert_eq!(failed(|right, id| right.replace(id, "1")), unknown);
        let report = failed(|right, id| right.replace(id, "dkei38sd").replace("200 OK", "REPORT"));
        assert_eq!(report, Failure::MsrpRequest("REPORT"));
    }

    #[test]
    fn second_msrp_response_to_a_chunk_is_a_failure() {
        let now = now();
        let mut messages = Messages::msrp(Pace::AtOnce, fastrand::Rng::with_seed(1));
        messages.go_on(now);
        let mut twice = Vec::new();
        for id in [&messages.unanswered[0], &messages.unanswered[0]] {
            msrp::write_answer(&mut twice, id, true);
        }
        assert_eq!(messages.take(&twice, now), Err(Failure::MsrpMismatch("no such transaction")));
    }

    #[test]
    fn a_schedule_outlives_its_conversation() {
        let gap = Duration::from_secs(1);
        let (mut messages, now) = greeted(Pace::Every(gap));
        let Next::Waits(first) = messages.go_on(now) else { panic!("the first one is due later") };
        messages.go_on(first);
        assert_eq!(messages.take_unanswered(), Some(first), "the connection failed");
        let mut next = Messages::msrp(Pace::Every(gap), fastrand::Rng::with_seed(2));
        next.carry_on(messages.next_due());
        assert_eq!(next.go_on(first), Next::Waits(first + gap));
        assert_eq!(next.go_on(first + 5 * gap), Next::Goes);
        assert_eq!((next.take_unanswered(), next.next_due()), (Some(first + gap), Some(first + 2 * gap)));
    }

    #[test]
    fn random_gaps_are_exponential_around_their_mean() {
        let mean = Duration::from_secs(5);
        let mut messages = Messages::msrp(Pace::Around(mean), fastrand::Rng::with_seed(3));
        let gaps: Vec<f64> = (0..20_000).map(|_| messages.gap().div_duration_f64(mean)).collect();
        let average = gaps.iter().sum::<f64>() / gaps.len() as f64;
        assert!((average - 1.0).abs() < 0.05, "{average}");
        let long = gaps.iter().filter(|gap| **gap > 2.0).count() as f64 / gaps.len() as f64;
        assert!((long - (-2.0_f64).exp()).abs() < 0.02, "{long}");
    }
}
