//! What an established connection does: its conversation with what is behind the terminator, without
//! sockets.

mod bulk;
mod message;
mod request;

use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::plan::Work;
use crate::session::Session;

use bulk::Bulk;
use message::Messages;
use request::Exchange;

/// The conversation of one connection.
#[derive(Debug)]
pub enum Task {
    /// A request and the first byte of its answer.
    Exchange(Exchange),
    /// Bulk data.
    Bulk(Bulk),
    /// Messages.
    Messages(Messages),
}

/// What a conversation does when it rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It has something to say.
    Goes,
    /// It is asked again at this time.
    Waits(Instant),
    /// It is over.
    Ends,
}

/// What has verifiably happened since this was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the pattern that arrived at the client.
    pub down: u64,
    /// Bytes of the pattern whose arrival at the other side was confirmed.
    pub up: u64,
    /// How long each message took until it was answered, from when it was due.
    pub messages: Vec<Duration>,
}

impl Task {
    /// A conversation at its beginning. `dice` decides what is left to chance, `name` is the server's.
    #[must_use]
    pub fn new(work: &Work, name: &str, dice: fastrand::Rng) -> Self {
        match work {
            Work::Handshake(request) => Self::Exchange(Exchange::new(request, name)),
            Work::ToClient | Work::FromClient | Work::BothWays => Self::Bulk(Bulk::new(work)),
            Work::Message { request, answer, pace } => {
                Self::Messages(Messages::plain(*request, *answer, *pace, dice))
            }
            Work::Msrp { pace } => Self::Messages(Messages::msrp(*pace, dice)),
        }
    }

    /// Gives the session what is to be said next, as far as it takes it.
    pub fn fill(&mut self, session: &mut Session) {
        match self {
            Self::Exchange(exchange) => exchange.fill(session),
            Self::Bulk(bulk) => bulk.fill(session),
            Self::Messages(messages) => messages.fill(session),
        }
    }

    /// Hears what the other side said.
    ///
    /// # Errors
    /// It is not what it should have said.
    pub fn take(&mut self, plaintext: &[u8], now: Instant) -> Result<(), Failure> {
        match self {
            Self::Exchange(exchange) => exchange.take(plaintext),
            Self::Bulk(bulk) => bulk.take(plaintext),
            Self::Messages(messages) => messages.take(plaintext, now),
        }
    }

    /// Whether nothing is under way: the connection may end, or [`Task::go_on`].
    #[must_use]
    pub fn rests(&self) -> bool {
        match self {
            Self::Exchange(exchange) => exchange.rests(),
            Self::Bulk(bulk) => bulk.rests(),
            Self::Messages(messages) => messages.rests(),
        }
    }

    /// Starts the next part, to be called when it rests.
    pub fn go_on(&mut self, now: Instant) -> Next {
        match self {
            Self::Exchange(_) => Next::Ends,
            Self::Bulk(bulk) => bulk.go_on(),
            Self::Messages(messages) => messages.go_on(now),
        }
    }

    /// What has happened since this was last asked.
    pub fn progress(&mut self) -> Progress {
        match self {
            Self::Exchange(_) => Progress::default(),
            Self::Bulk(bulk) => bulk.progress(),
            Self::Messages(messages) => messages.progress(),
        }
    }

    /// The status of an HTTP answer, once, when it has come.
    pub fn take_status(&mut self) -> Option<u16> {
        match self {
            Self::Exchange(exchange) => exchange.take_status(),
            Self::Bulk(_) | Self::Messages(_) => None,
        }
    }

    /// Goes on with the schedule of an earlier conversation of the same place.
    pub fn carry_on(&mut self, next_due: Option<Instant>) {
        if let Self::Messages(messages) = self {
            messages.carry_on(next_due);
        }
    }

    /// When the next message is due, where messages have a schedule.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        match self {
            Self::Messages(messages) => messages.next_due(),
            Self::Exchange(_) | Self::Bulk(_) => None,
        }
    }

    /// Whether something is due before `end` that was not begun.
    #[must_use]
    pub fn is_behind(&self, end: Instant) -> bool {
        self.next_due().is_some_and(|due| due < end)
    }

    /// When the message was due that is under way: for a conversation that is over.
    pub fn take_unanswered(&mut self) -> Option<Instant> {
        match self {
            Self::Messages(messages) => messages.take_unanswered(),
            Self::Exchange(_) | Self::Bulk(_) => None,
        }
    }
}
