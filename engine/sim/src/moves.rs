//! What happens in a world when it is its turn: connects, receives and sends of both legs.

use super::kernel::Received;
use super::plan::Backend;
use super::world::{ENDPOINTS, Want, World};
use offramp_core::conn::event::{Event, Operation};
use offramp_proto::buf::BUF_BYTES;

impl World {
    pub(super) fn connect(&mut self) {
        let Some(leg) = self.asked.connect.take() else { return };
        let is_last = self.attempts == ENDPOINTS;
        if std::mem::take(&mut self.plan.first_is_silent) || self.plan.last_is_silent && is_last {
            return;
        }
        if let Some(errno) = self.plan.first_refuses.take().or(self.plan.refuses) {
            return self.fail(leg, Operation::Connect, errno);
        }
        if leg == self.plain {
            self.backend_begins();
        } else if self.peer_reset {
            return self.fail(leg, Operation::Connect, libc::ECONNRESET);
        }
        let preamble = self.plan.preamble.take().filter(|_| leg == self.plain).map(|bytes| {
            let mut buf = self.out.bufs.take();
            buf.extend(&bytes);
            self.preamble.extend(bytes);
            buf
        });
        self.step(Event::Connected { preamble });
    }

    /// The plain leg is open.
    pub(super) fn backend_begins(&mut self) {
        self.plain_is_open = true;
        match self.plan.backend.clone() {
            Backend::Greets(greeting) => self.from_backend.extend(greeting),
            Backend::AnswersAndCloses(answer) => {
                self.from_backend.extend(answer);
                self.backend_ends = true;
            }
            Backend::Echo | Backend::ResetsAfter(_) | Backend::Silent | Backend::Stalls(_) => {}
        }
    }

    pub(super) fn tls_receives(&mut self) {
        let Some(want) = self.asked.tls_receive.take() else { return };
        // TCP hands out what it has first; kernel TLS may say so in front of records that it has.
        let is_first = self.to_us.is_empty() || self.kernel.has_rx() && self.dice.below(2) > 0;
        if let Some(errno) = self.reset_error.take_if(|_| is_first) {
            self.give_back(want);
            return self.fail(self.tls, Operation::Receive, errno);
        }
        if self.kernel.has_rx() {
            return self.kernel_receives(want);
        }
        let (mut buf, max) = match want {
            Want::Any(max) => (self.out.bufs.take(), max),
            Want::Into(buf, max) => (buf, max),
            Want::Record(_) => panic!("a record is asked for without keys in the kernel"),
        };
        let mut count = self.to_us.len().min(max);
        if count > 0 {
            count = match std::mem::take(&mut self.plan.cut) {
                0 => self.some(count).min(count),
                // The first flight goes as the dice have it.
                cut if self.last_flight == Some(0) || self.header > 0 => {
                    self.plan.cut = cut;
                    self.some(count).min(count)
                }
                // It may come in parts, as the client's answer to parts of the server's flight.
                cut => {
                    let count = count.min(cut);
                    self.plan.cut = cut - count;
                    self.was_cut = self.plan.cut == 0;
                    count
                }
            };
            let chunk: Vec<u8> = self.to_us.drain(..count).collect();
            let behind_header = self.behind_header(self.tls, count);
            self.wire.received.extend(&chunk[count - behind_header..]);
            assert_eq!(buf.extend(&chunk), count, "the buffer has room for what was asked for");
        }
        let more = !self.to_us.is_empty();
        self.step(Event::Received { leg: self.tls, buf, count, more });
    }

    fn kernel_receives(&mut self, want: Want) {
        let (max, with_record_type) = match &want {
            Want::Any(max) | Want::Into(_, max) => (*max, false),
            Want::Record(_) => (BUF_BYTES, true),
        };
        let max = self.some(max).min(max);
        match self.kernel.receive(&mut self.to_us, max, with_record_type) {
            // Records were opened and there is nothing to be told: it goes on waiting.
            Received::Nothing if !self.peer_finished && !self.peer_reset => {
                self.asked.tls_receive = Some(want);
            }
            Received::Nothing if self.reset_error.is_some() => {
                let errno = self.reset_error.take().unwrap_or_default();
                self.give_back(want);
                self.fail(self.tls, Operation::Receive, errno);
            }
            Received::Nothing => self.kernel_received(want, &[], with_record_type.then_some(None)),
            Received::Data(bytes) => self.kernel_received(want, &bytes, with_record_type.then_some(Some(23))),
            Received::Record(record_type, bytes) => {
                self.kernel_received(want, &bytes, Some(Some(record_type)));
            }
            Received::Error(errno) => {
                self.give_back(want);
                self.fail(self.tls, Operation::Receive, errno);
            }
        }
    }

    /// `record_type` is what the kernel says of the type, if it was asked.
    fn kernel_received(&mut self, want: Want, bytes: &[u8], record_type: Option<Option<u8>>) {
        let mut buf = match want {
            Want::Any(_) => self.out.bufs.take(),
            Want::Into(buf, _) | Want::Record(buf) => buf,
        };
        let count = buf.extend(bytes);
        assert_eq!(count, bytes.len(), "the buffer has room");
        let is_data = record_type.is_none_or(|record_type| record_type == Some(23));
        self.authentic += if is_data && !self.peer_said_close { count } else { 0 };
        self.peer_said_close |= record_type == Some(Some(21)) && bytes.get(1) == Some(&0);
        match record_type {
            None => self.step(Event::Received { leg: self.tls, buf, count, more: true }),
            Some(record_type) => self.step(Event::Record { leg: self.tls, record_type, buf }),
        }
    }

    pub(super) fn tls_sends(&mut self) {
        let Some((mut buf, record_type)) = self.asked.tls_send.take() else { return };
        if self.peer_reset {
            self.out.bufs.give(buf);
            let errno = self.reset_error.take().unwrap_or(libc::EPIPE);
            return self.fail(self.tls, Operation::Send, errno);
        }
        // What it has found in what comes shows when something is sent, too.
        if let Some(errno) = self.kernel.finds_no_record(&self.to_us).filter(|_| self.dice.below(2) > 0) {
            self.kernel.stop();
            self.asked.tls_send = Some((buf, record_type));
            return self.step(Event::Unreadable { leg: self.tls, errno });
        }
        // The kernel takes a whole small record or none of it; application data it may take in part.
        let count = if record_type.is_some() { buf.len() } else { self.some(buf.len()).min(buf.len()) };
        let bytes = buf.filled()[..count].to_vec();
        let on_wire = match (self.kernel.has_tx(), record_type) {
            (false, None) => bytes,
            (false, Some(_)) => panic!("a record is sent without keys in the kernel"),
            (true, Some(record_type)) => self.kernel.seal(record_type, &bytes),
            (true, None) => bytes.chunks(16_384).flat_map(|chunk| self.kernel.seal(23, chunk)).collect(),
        };
        if self.kernel.has_tx() {
            self.kernel.unsent.extend(&on_wire);
            if self.dice.below(2) > 0 {
                self.kernel_sends();
            }
        } else {
            self.to_peer.extend(&on_wire);
            self.wire.sent.extend(&on_wire);
        }
        buf.consume(count);
        if buf.is_empty() {
            self.step(Event::Sent { leg: self.tls, buf });
        } else {
            self.asked.tls_send = Some((buf, record_type));
            self.step(Event::Moved { leg: self.tls });
        }
    }

    /// What the kernel has sealed goes to TCP, which takes nothing behind FIN.
    pub(super) fn kernel_sends(&mut self) {
        let sealed = std::mem::take(&mut self.kernel.unsent);
        if !self.asked.tls_finished && !self.peer_reset {
            self.to_peer.extend(&sealed);
            self.wire.sent.extend(&sealed);
        }
    }

    pub(super) fn plain_receives(&mut self) {
        let Some(max) = self.asked.plain_receive.take() else { return };
        if self.backend_down {
            return self.fail(self.plain, Operation::Receive, libc::ECONNRESET);
        }
        let mut buf = self.out.bufs.take();
        let mut count = self.from_backend.len().min(max);
        if count > 0 {
            count = self.some(count).min(count);
            let chunk: Vec<u8> = self.from_backend.drain(..count).collect();
            buf.extend(&chunk);
            self.received_from_backend += self.behind_header(self.plain, count);
        }
        let more = !self.from_backend.is_empty();
        self.step(Event::Received { leg: self.plain, buf, count, more });
    }

    pub(super) fn plain_sends(&mut self) {
        let Some(mut buf) = self.asked.plain_send.take() else { return };
        if self.backend_down {
            self.out.bufs.give(buf);
            return self.fail(self.plain, Operation::Send, libc::EPIPE);
        }
        let count = self.some(buf.len()).min(buf.len());
        self.to_plain.extend(&buf.filled()[..count]);
        if self.dice.below(2) > 0 {
            self.plain_arrives(count);
        }
        buf.consume(count);
        if buf.is_empty() {
            self.step(Event::Sent { leg: self.plain, buf });
        } else {
            self.asked.plain_send = Some(buf);
            self.step(Event::Moved { leg: self.plain });
        }
    }

    /// The backend's TCP acknowledges some of what is in our socket: the backend will read it, whatever comes
    /// behind, a reset included.
    pub(super) fn plain_arrives(&mut self, most: usize) {
        let count = self.to_plain.len().min(most).min(self.backend_room());
        let mut bytes: Vec<u8> = self.to_plain.drain(..count).collect();
        let preamble: Vec<u8> = self.preamble.drain(..count.min(self.preamble.len())).collect();
        assert!(bytes.starts_with(&preamble), "seed {}: something precedes the preamble", self.plan.seed);
        bytes.drain(..preamble.len());
        self.to_backend.extend(&bytes);
        match self.plan.backend {
            Backend::Echo | Backend::Greets(_) => self.from_backend.extend(&bytes),
            Backend::ResetsAfter(limit) if self.to_backend.len() >= limit => self.backend_down = true,
            _ => {}
        }
        if self.to_plain.is_empty() && self.plain_finished {
            self.backend_saw_end = true;
            self.backend_ends |= matches!(self.plan.backend, Backend::Echo | Backend::Greets(_));
        }
    }
}
