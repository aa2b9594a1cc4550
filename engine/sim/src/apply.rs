//! What the connection asks for, held against its contract; and how a world is left.

use super::plan::Outcome;
use super::watch::{Misuse, Watched};
use super::world::{Asked, ENDPOINTS, Want, World};
use offramp_core::conn::action::{Action, ProxiedAddresses, Report};
use offramp_core::conn::event::{Event, Leg};
use offramp_core::tls::secrets::{Direction, TrafficKeys};
use offramp_proto::buf::{Buf, SMALL_BYTES};

impl World {
    pub(super) fn apply(&mut self, action: Action) {
        let (asked, tls, plain) = (&mut self.asked, self.tls, self.plain);
        let on_plain = |released: bool| assert!(!released, "an operation on a leg that was released");
        match action {
            Action::Connect if self.attempts < ENDPOINTS => {
                self.attempts += 1;
                asked.connect = Some(Leg::Far);
            }
            Action::Connect => self.events.push_back(Event::NoEndpoint),
            Action::Established { info, .. } => self.established = Some(info),
            Action::Proxied(addresses) => self.proxied(*addresses),
            Action::Asked(_) => {}
            Action::Receive { leg, max } if leg == plain => {
                on_plain(asked.plain_released);
                assert!(asked.plain_receive.replace(max).is_none(), "two receives on the plain leg");
            }
            Action::Receive { max, .. } => {
                asked.receive(Want::Any(max));
            }
            Action::ReceiveHandshake { leg } if leg == plain && self.conn.policy().accepts_proxy => {
                assert!(asked.plain_receive.replace(SMALL_BYTES).is_none(), "two receives on the plain leg");
            }
            Action::ReceiveHandshake { leg } => {
                assert_eq!(leg, tls, "a handshake on the plain leg");
                asked.receive(Want::Any(SMALL_BYTES));
            }
            Action::ReceiveInto { leg, buf, max } => {
                assert_eq!(leg, tls, "only records have a front that waits");
                assert!(max > 0 && max <= buf.spare_len(), "room for {max} bytes");
                asked.receive(Want::Into(buf, max));
            }
            Action::ReceiveRecord { leg, buf } => {
                assert_eq!(leg, tls, "a record of the plain leg");
                asked.receive(Want::Record(buf));
            }
            Action::Send { leg, buf } if leg == plain => {
                on_plain(asked.plain_released);
                assert!(asked.plain_send.replace(buf).is_none(), "two sends on the plain leg");
            }
            Action::Send { buf, .. } => {
                asked.send((buf, None));
            }
            Action::SendRecord { leg, record_type, buf } => {
                assert_eq!(leg, tls, "a record on the plain leg");
                asked.send((buf, Some(record_type)));
            }
            Action::InstallKeys { leg, direction, keys } => self.install(leg, direction, &keys),
            Action::ReadSequence { leg, direction } => {
                let sequence = self.kernel.sequence(direction);
                self.events.push_back(Event::Sequence { leg, direction, sequence });
            }
            Action::Flush { leg } => {
                assert_eq!(leg, tls, "a flush of the plain leg");
                assert!(asked.tls_send.is_none() && !asked.flush, "a flush of what is being sent");
                asked.flush = true;
            }
            Action::CountUnread { leg } => {
                assert_eq!(leg, tls, "nothing of the plain leg stays with the kernel");
                let bytes = self.to_us.len();
                self.events.push_back(Event::Unread { leg, bytes });
            }
            Action::Settle { leg } => asked.settle(leg == tls),
            Action::ShutdownWrite { leg } if leg == plain => {
                self.plain_finished = true;
                self.plain_arrives(0);
            }
            Action::ShutdownWrite { .. } => self.finish_tls(),
            Action::Release { leg, reset } => self.release(leg, reset),
            Action::Note(milestone) => self.notes.push(milestone),
            Action::Close(report) => self.report = Some(report),
        }
    }

    fn proxied(&mut self, addresses: ProxiedAddresses) {
        self.proxied = Some(addresses);
        let turned_away = self.plan.turns_away.map(Event::TurnedAway);
        self.events.push_back(turned_away.unwrap_or(Event::Admitted));
    }

    /// FIN on the TLS leg.
    fn finish_tls(&mut self) {
        (self.asked.tls_finished, self.tls_ends) = (true, true);
        self.peer_may_finish();
    }

    fn install(&mut self, leg: Leg, direction: Direction, keys: &TrafficKeys) {
        assert_eq!(leg, self.tls, "keys of the plain leg");
        match direction {
            Direction::Tx => assert!(self.asked.tls_send.is_none(), "keys change under a send"),
            Direction::Rx => assert!(self.asked.tls_receive.is_none(), "keys change under a receive"),
        }
        // The protocol is attached with the first keys, to an ESTABLISHED connection alone.
        let is_late = self.peer_finished && !self.kernel.has_tx() && !self.kernel.has_rx();
        let attached = if is_late { Err(libc::ENOTCONN) } else { Ok(()) };
        self.events.push_back(match attached.and_then(|()| self.kernel.install(direction, keys)) {
            Ok(()) => Event::Keyed { leg: self.tls, direction },
            Err(errno) => Event::Refused { leg: self.tls, direction, errno },
        });
    }

    pub(super) fn release(&mut self, leg: Leg, reset: bool) {
        if leg == self.tls {
            self.tls_ends = !reset;
            return self.release_tls();
        }
        if !self.asked.plain_released {
            self.backend_was_reset = reset;
            if reset {
                // What is still in our socket is thrown away.
                self.to_plain.clear();
            } else {
                self.plain_arrives(usize::MAX);
            }
        }
        self.asked.plain_released = true;
        self.asked.plain_settle = false;
        self.asked.connect = self.asked.connect.filter(|leg| *leg == self.tls);
        self.asked.plain_receive = None;
        if let Some(buf) = self.asked.plain_send.take() {
            self.out.bufs.give(buf);
        }
    }

    fn release_tls(&mut self) {
        self.asked.tls_finished = true;
        (self.asked.tls_settle, self.asked.flush) = (false, false);
        if let Some(want) = self.asked.tls_receive.take() {
            self.give_back(want);
        }
        if let Some((buf, _)) = self.asked.tls_send.take() {
            self.out.bufs.give(buf);
        }
        self.kernel.unsent.clear();
    }

    pub(super) fn give_back(&mut self, want: Want) {
        if let Want::Into(buf, _) | Want::Record(buf) = want {
            self.out.bufs.give(buf);
        }
    }

    /// What is under way is cancelled, as the worker does; then nothing may be missing.
    pub(super) fn settle(mut self, steps: usize) -> Outcome {
        self.release(self.plain, self.backend_was_reset);
        self.release_tls();
        assert_eq!(self.out.bufs.held_bytes(), 0, "seed {}: buffers were not given back", self.plan.seed);
        assert!(self.conn.is_closed() && self.conn.deadline().is_none());
        if !self.peer_reset {
            let rest: Vec<u8> = self.to_peer.drain(..).collect();
            self.peer.read(&rest);
            self.peer_may_finish();
        }
        let passes = self.peer.is_passed_through();
        let was_altered = self.was_altered || self.peer.was_interrupted;
        let watched = match self.wire.watch() {
            // The TLS on it is none of ours.
            _ if passes => Watched::default(),
            // What the peer knows of the handshake is not what we know.
            Err(Misuse::OutOfPlace { .. }) if was_altered => Watched::default(),
            found => found.unwrap_or_else(|misuse| panic!("seed {}: {misuse:?}", self.plan.seed)),
        };
        let report =
            self.report.unwrap_or(Report { fault: None, culprit: None, heard: None, evidence: None });
        Outcome {
            report,
            established: self.established,
            proxied: self.proxied,
            notes: self.notes,
            to_backend: self.to_backend,
            backend_saw_end: self.backend_saw_end,
            backend_was_reset: self.backend_was_reset,
            peer: self.peer,
            was_cut: self.was_cut,
            was_altered,
            from_backend: self.received_from_backend,
            authentic: if passes {
                self.wire.received.len()
            } else {
                self.authentic + self.wire.received_data()
            },
            in_socket: self.to_plain.len(),
            plain_was_open: self.plain_is_open,
            wire: self.wire,
            watched,
            steps,
            transcript: self.transcript.digest(),
        }
    }
}

impl Asked {
    fn receive(&mut self, want: Want) {
        assert!(self.tls_receive.replace(want).is_none(), "two receives on the TLS leg");
    }

    fn send(&mut self, record: (Buf, Option<u8>)) {
        assert!(!self.tls_finished, "a send after FIN");
        assert!(self.tls_send.replace(record).is_none(), "two sends on the TLS leg");
    }

    fn settle(&mut self, is_tls: bool) {
        let asked = if is_tls { &mut self.tls_settle } else { &mut self.plain_settle };
        assert!(!std::mem::replace(asked, true), "two waits for an acknowledgement");
    }
}
