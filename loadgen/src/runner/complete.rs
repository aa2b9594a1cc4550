//! What a completion means for its connection, and what follows from it.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use offramp_proto::buf::{BUF_BYTES, Buf};
use offramp_ring::ring::{Completion, Outcome};
use offramp_ring::socket;

use super::connection::{Connection, Stage};
use super::now;
use super::worker::{NO_BUFFER, Operation, Owner, Worker};
use crate::failure::{Failure, Moment};
use crate::plan::Ending;
use crate::task::{Next, Progress};

/// A flight or a message fits in it, mostly; thousands of connections may send one at the same time.
const SMALL_BYTES: usize = 4 * 1024;
/// Free ones that are kept.
const SMALL_KEPT: usize = 1024;

impl Worker<'_> {
    pub(super) fn complete(&mut self, completion: Completion<Owner>) -> Result<()> {
        let (index, operation) = completion.user_data;
        let moment = now();
        let Some(connection) = &mut self.places[index].connection else { return Ok(()) };
        match operation {
            Operation::Receive => connection.receiving = false,
            Operation::Connect | Operation::Send => connection.sending = false,
        }
        let result = match completion.outcome {
            Outcome::Connected if connection.reached_itself(self.address.port()) => Err(Failure::ToItself),
            Outcome::Connected => {
                if connection.stage == Stage::Connecting {
                    connection.stage = Stage::Handshaking;
                    connection.times.connected = Some(moment);
                    connection.times.since = moment;
                }
                Ok(())
            }
            Outcome::Received { buf, .. } => {
                let result = self.received(index, &buf);
                self.bufs.give(buf);
                result
            }
            Outcome::Sent { buf, .. } => {
                if connection.stage == Stage::Talking {
                    connection.times.since = moment;
                }
                self.send(index, buf);
                Ok(())
            }
            Outcome::Failed { errno: NO_BUFFER, buf: None } if operation == Operation::Receive => Ok(()),
            Outcome::Failed { errno, buf } => {
                let failure = Failure::system(connection.moment(), errno);
                // What the peer said before it broke the connection, its reason, is still to be received.
                let listens = operation == Operation::Send
                    && connection.receiving
                    && matches!(failure, Failure::Reset(_));
                if let Some(buf) = buf {
                    self.give(buf);
                }
                if listens { Ok(()) } else { Err(failure) }
            }
            other => bail!("the ring completed what was never started: {other:?}"),
        };
        if let Err(failure) = result {
            self.fail(index, &failure);
        }
        self.advance(index)
    }

    fn received(&mut self, index: usize, buf: &Buf) -> Result<(), Failure> {
        let place = &mut self.places[index];
        let Some(connection) = &mut place.connection else { return Ok(()) };
        match connection.stage {
            Stage::Ended => return Ok(()),
            Stage::Closing { .. } if buf.is_empty() => {
                self.closed(index, now());
                return Ok(());
            }
            _ if buf.is_empty() => return Err(Failure::Closed(connection.moment())),
            _ => {}
        }
        self.plaintext.clear();
        connection.session.receive(buf.filled(), &mut self.plaintext)?;
        // Behind the client's own work: in TLS 1.3 the last of it is just what led here.
        let now = now();
        match connection.stage {
            // Tickets may still come, and the server's verdict on the client; data is of no interest.
            Stage::Closing { .. } => {
                connection.confirmed = true;
                return Ok(());
            }
            Stage::Handshaking => {
                let Some(established) = connection.session.established() else { return Ok(()) };
                connection.stage = Stage::Talking;
                connection.times.ready = Some(now);
                connection.times.since = now;
                if !place.active {
                    place.active = true;
                    self.opening -= 1;
                    self.shared.gate.activate(now);
                }
                connection.wish.judge_ticket(established.kind);
                self.meter.established(connection, established, now);
            }
            _ => connection.confirmed = true,
        }
        self.heard(index, now)
    }

    /// What the connection does with the plaintext that came.
    fn heard(&mut self, index: usize, now: Instant) -> Result<(), Failure> {
        let Some(connection) = &mut self.places[index].connection else { return Ok(()) };
        let taken = connection.task.take(&self.plaintext, now);
        if let Some(status) = connection.task.take_status() {
            self.meter.status(connection, status);
        }
        taken?;
        if !self.plaintext.is_empty() {
            connection.times.since = now;
            if connection.times.first_byte.is_none() {
                connection.times.first_byte = Some(now);
                self.meter.first_byte(connection, now);
            }
        }
        let progress = connection.task.progress();
        if progress != Progress::default() {
            self.failures_in_a_row = 0;
            self.meter.progress(&progress, now);
        }
        if connection.task.rests() && !connection.sleeps {
            self.go_on(index, now);
        } else if connection.session.peer_has_closed() {
            return Err(Failure::Closed(connection.moment()));
        }
        Ok(())
    }

    /// Goes on with a conversation that rests, or ends it.
    pub(super) fn go_on(&mut self, index: usize, now: Instant) {
        let Some(connection) = &mut self.places[index].connection else { return };
        if self.plan.work.lasts() && self.meter.is_over(now) {
            // What was due before the end and had to wait is still said: it would be missing otherwise, just
            // where it was slow.
            let end = self.meter.window().map_or(now, |window| window.end());
            if !connection.task.is_behind(end) {
                return self.close(index, now);
            }
        }
        match connection.task.go_on(now) {
            Next::Goes => connection.times.since = now,
            Next::Waits(until) => {
                connection.sleeps = true;
                self.timers.set(index, until);
            }
            Next::Ends => self.close(index, now),
        }
    }

    /// Ends a connection that has done its work, as the plan has it.
    pub(super) fn close(&mut self, index: usize, now: Instant) {
        let Some(connection) = &mut self.places[index].connection else { return };
        if self.plan.ending == Ending::Orderly {
            connection.session.close();
        }
        connection.stage = Stage::Closing { said: false };
        connection.times.closing = Some(now);
        connection.times.since = now;
    }

    /// The peer's end came after ours.
    fn closed(&mut self, index: usize, now: Instant) {
        let Some(connection) = &self.places[index].connection else { return };
        let close = connection.times.closing.map(|since| now.saturating_duration_since(since));
        self.done(index, close);
    }

    /// The connection has ended as it should.
    fn done(&mut self, index: usize, close: Option<Duration>) {
        let Some(connection) = &mut self.places[index].connection else { return };
        connection.stage = Stage::Ended;
        self.failures_in_a_row = 0;
        self.meter.done(connection, close);
    }

    /// Keeps what is due in flight, or gives the place of a connection that has ended to the next one.
    pub(super) fn advance(&mut self, index: usize) -> Result<()> {
        let Some(connection) = &mut self.places[index].connection else { return Ok(()) };
        match connection.stage {
            Stage::Ended => return self.leave(index),
            Stage::Connecting => return Ok(()),
            _ => {}
        }
        let resets = self.plan.ending == Ending::Reset && matches!(connection.stage, Stage::Closing { .. });
        if !connection.receiving && !resets {
            connection.receiving = true;
            self.ring.receive(connection.socket.as_fd(), BUF_BYTES, true, (index, Operation::Receive));
        }
        if connection.sending {
            return Ok(());
        }
        if connection.stage == Stage::Talking {
            connection.task.fill(&mut connection.session);
        }
        if connection.session.wants_to_send() {
            let mut buf = if self.plan.work.is_bulk() {
                self.bufs.take()
            } else {
                self.small.pop().unwrap_or_else(|| Buf::with_capacity(SMALL_BYTES))
            };
            connection.session.records(&mut buf)?;
            self.send(index, buf);
        } else if resets {
            self.done(index, None);
            return self.leave(index);
        } else if connection.stage == (Stage::Closing { said: false }) {
            connection.stage = Stage::Closing { said: true };
            // If the peer was faster, with a reset, the receive says so.
            let _ = socket::shutdown_write(connection.socket.as_fd());
        }
        Ok(())
    }

    /// Gives up the place of a connection that has ended, as soon as nothing of it is in flight.
    fn leave(&mut self, index: usize) -> Result<()> {
        let Some(connection) = &mut self.places[index].connection else { return Ok(()) };
        if connection.sending || connection.receiving {
            if connection.receiving {
                self.ring.cancel_all(connection.socket.as_fd());
            }
            return Ok(());
        }
        self.timers.clear(index);
        let place = &mut self.places[index];
        if let Some(Connection { socket, mut task, .. }) = place.connection.take() {
            self.ring.close(socket);
            place.next_due = task.next_due();
            if let Some(due) = task.take_unanswered() {
                self.meter.unanswered(due);
            }
        }
        self.open -= 1;
        if self.failures_in_a_row == 0 {
            self.free.give(index, now());
        } else {
            self.rest(index, now());
        }
        Ok(())
    }

    /// Sends what is left of a buffer, or takes it back.
    fn send(&mut self, index: usize, buf: Buf) {
        match &mut self.places[index].connection {
            Some(connection) if !buf.is_empty() && connection.stage != Stage::Ended => {
                connection.sending = true;
                self.ring.send(connection.socket.as_fd(), buf, (index, Operation::Send));
            }
            _ => self.give(buf),
        }
    }

    /// Takes a buffer back.
    fn give(&mut self, mut buf: Buf) {
        if buf.capacity() != SMALL_BYTES {
            self.bufs.give(buf);
        } else if self.small.len() < SMALL_KEPT {
            buf.clear();
            self.small.push(buf);
        }
    }

    pub(super) fn fail(&mut self, index: usize, failure: &Failure) {
        let place = &mut self.places[index];
        let Some(connection) = &mut place.connection else { return };
        match connection.stage {
            // It was over, or has failed already: what cancelling it brings is no news.
            Stage::Ended => return,
            // A reset is one way to answer our end, or, before it has said anything, to refuse us.
            Stage::Closing { .. }
                if matches!(failure, Failure::Reset(Moment::Close)) && connection.is_accepted() =>
            {
                return self.done(index, None);
            }
            _ => {}
        }
        // What we do not accept is told to the peer by an alert.
        let tells = matches!(failure, Failure::Certificate(_) | Failure::Tls(_))
            && !connection.sending
            && !connection.receiving
            && connection.session.wants_to_send();
        if !place.active {
            self.opening -= 1;
        }
        connection.wish.lose_ticket();
        self.meter.failed(failure);
        self.count_failure(failure);
        if tells {
            self.tell(index);
        } else {
            self.abort(index);
        }
    }

    /// Sends what waits to be sent, as the last thing.
    fn tell(&mut self, index: usize) {
        let mut buf = Buf::with_capacity(SMALL_BYTES);
        let Some(connection) = &mut self.places[index].connection else { return };
        if connection.session.records(&mut buf).is_ok() {
            self.send(index, buf);
        }
        if let Some(connection) = &mut self.places[index].connection {
            connection.stage = Stage::Ended;
        }
    }

    /// Cancels what is in flight; the rest follows from that.
    pub(super) fn abort(&mut self, index: usize) {
        let Some(connection) = &mut self.places[index].connection else { return };
        connection.stage = Stage::Ended;
        if connection.sending || connection.receiving {
            self.ring.cancel_all(connection.socket.as_fd());
        }
    }

    /// Breaks the run off, for all threads, after so many failures in a row.
    pub(super) fn count_failure(&mut self, failure: &Failure) {
        self.failures_in_a_row += 1;
        if self.failures_in_a_row >= self.plan.give_up_after && self.broken_off.is_none() {
            let count = self.failures_in_a_row;
            self.broken_off =
                Some(format!("too many connections fail: {count} in a row, the last one: {failure}"));
            self.shared.stop.store(true, Ordering::Release);
        }
    }
}
