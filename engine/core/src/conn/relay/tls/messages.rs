//! Handshake messages behind the handshake, which TLS 1.3 alone has: tickets and KeyUpdate, put together from
//! the records that they come in.
//!
//! Several may share a record, and one may go on in the next (RFC 8446 §5.1). Between the parts of one there
//! is no other record, and a KeyUpdate, which the next key follows, ends with its record: tickets may stand
//! in front of it, nothing behind.

use super::TlsSide;
use crate::conn::action::{ControlKind, Outbox};
use crate::conn::fault::Fault;
use offramp_proto::handshake::{HEADER_BYTES, KEY_UPDATE, NEW_SESSION_TICKET};

/// Most bytes of a message that is put together; a longer ticket is passed over, and its session not resumed.
/// Those of known servers have a few hundred, with a chain of certificates in them some thousand.
const MESSAGE_BYTES_MAX: usize = 32 * 1024;

/// A whole one.
#[derive(Debug, PartialEq, Eq)]
enum Message<'a> {
    /// NewSessionTicket (RFC 8446 §4.6.1), without its header.
    Ticket(&'a [u8]),
    /// The peer's next records are under its next key (RFC 8446 §4.6.3).
    KeyUpdate {
        /// We are asked to update ours.
        requested: bool,
    },
}

/// What has come of a message that is not whole.
#[derive(Debug, Default)]
pub(super) struct Messages {
    partial: Vec<u8>,
    /// Bytes still to come of one that is too long to keep.
    passed_over: usize,
}

impl Messages {
    /// Whether no message is in the middle.
    pub(super) fn are_whole(&self) -> bool {
        self.partial.is_empty() && self.passed_over == 0
    }

    fn take(
        &mut self,
        record: &[u8],
        mut each: impl FnMut(Message<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if record.is_empty() {
            return Err(Fault::UnexpectedRecord);
        }
        let passed = self.passed_over.min(record.len());
        self.passed_over -= passed;
        let mut joined = std::mem::take(&mut self.partial);
        joined.extend_from_slice(&record[passed..]);
        let mut rest = &joined[..];
        while let Some(kind) = rest.first().copied() {
            if !matches!(kind, NEW_SESSION_TICKET | KEY_UPDATE) {
                return Err(Fault::UnexpectedRecord);
            }
            let whole = rest.split_first_chunk().and_then(|(&[_, high, middle, low], body)| {
                body.split_at_checked(u32::from_be_bytes([0, high, middle, low]) as usize)
            });
            match (kind, whole) {
                (NEW_SESSION_TICKET, Some((body, after))) => {
                    each(Message::Ticket(body))?;
                    rest = after;
                }
                (KEY_UPDATE, whole) => return key_update(rest, whole).and_then(each),
                (_, None) => {
                    self.keep(rest);
                    return Ok(());
                }
                _ => return Err(Fault::UnexpectedRecord),
            }
        }
        Ok(())
    }

    /// The front of a message whose rest comes in the next record.
    fn keep(&mut self, front: &[u8]) {
        let length = front.first_chunk().map_or(0, |&[_, high, middle, low]| {
            HEADER_BYTES + u32::from_be_bytes([0, high, middle, low]) as usize
        });
        if length > MESSAGE_BYTES_MAX {
            self.passed_over = length - front.len();
        } else {
            self.partial = front.to_vec();
        }
    }
}

/// The KeyUpdate at the front of `rest`: its body and what follows it, if it is whole.
///
/// # Errors
/// Another length than 1 is [`Fault::Malformed`] and another value than 0 and 1 [`Fault::KeyUpdateValue`]
/// (RFC 8446 §4.6.3, §6.2); one that does not end with its record is [`Fault::UnexpectedRecord`] (§5.1).
fn key_update<'a>(rest: &[u8], whole: Option<(&[u8], &[u8])>) -> Result<Message<'a>, Fault> {
    const LENGTH: [u8; 3] = [0, 0, 1];
    match (rest.get(1..HEADER_BYTES), whole) {
        (Some(length), _) if length != LENGTH => Err(Fault::Malformed),
        (_, Some((&[request @ (0 | 1)], &[]))) => Ok(Message::KeyUpdate { requested: request == 1 }),
        (_, Some((_, &[]))) => Err(Fault::KeyUpdateValue),
        _ => Err(Fault::UnexpectedRecord),
    }
}

impl TlsSide {
    /// A record of handshake messages.
    pub(super) fn messages(&mut self, record: &[u8], is_flood: bool, out: &mut Outbox) -> Result<(), Fault> {
        let takes_tickets = self.rekey.as_ref().is_some_and(|rekey| rekey.takes_tickets());
        let (mut has_ticket, mut key_update) = (false, None);
        let rekey = &mut self.rekey;
        let result = if record.first() == Some(&NEW_SESSION_TICKET) && !takes_tickets {
            // Only a server has any to give; not a part of one is kept.
            Err(Fault::UnexpectedRecord)
        } else {
            self.receiver.messages.take(record, |message| match message {
                Message::Ticket(ticket) => {
                    has_ticket = true;
                    // Not a fault of the handshake, whose alerts rustls sends: this one is ours to tell.
                    rekey
                        .as_mut()
                        .map_or(Ok(()), |rekey| rekey.take_ticket(ticket).map_err(|_| Fault::Malformed))
                }
                Message::KeyUpdate { requested } => {
                    key_update = Some(requested);
                    Ok(())
                }
            })
        };
        if has_ticket || (result.is_ok() && key_update.is_none()) {
            self.seen.add(ControlKind::Tickets);
        }
        if key_update.is_some() {
            self.seen.add(ControlKind::KeyUpdate);
        } else if result.is_err() && !has_ticket {
            self.seen.add(ControlKind::Unexpected);
        }
        result?;
        match key_update {
            Some(requested) => self.peer_updated_key(requested, out),
            None if is_flood => Err(Fault::UnexpectedRecord),
            None => Ok(()),
        }
    }

    fn peer_updated_key(&mut self, requested: bool, out: &mut Outbox) -> Result<(), Fault> {
        // Java asks with every record that it has on the way, until it sees our answer.
        self.receiver.control_records_in_a_row -= 1;
        if !self.receiver.key_updates.spend(out.now) {
            return Err(Fault::KeyUpdateFlood);
        }
        self.sender.pending.key_update |= requested;
        self.receiver.update_asked = false;
        self.follow_key_update(out)
    }

    /// Application data came: not in the middle of a message (RFC 8446 §5.1).
    pub(super) fn no_message_is_cut(&self) -> Result<(), Fault> {
        if self.receiver.messages.are_whole() { Ok(()) } else { Err(Fault::UnexpectedRecord) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::fault::alert;

    /// Tickets by their bytes, KeyUpdates by whether they ask, and what is not whole.
    type Read = (Vec<Vec<u8>>, Vec<bool>, Messages);

    /// What comes of these records.
    fn read(records: &[&[u8]]) -> Result<Read, Fault> {
        let (mut tickets, mut updates) = (Vec::new(), Vec::new());
        let mut messages = Messages::default();
        for record in records {
            messages.take(record, |message| {
                match message {
                    Message::Ticket(body) => tickets.push(body.to_vec()),
                    Message::KeyUpdate { requested } => updates.push(requested),
                }
                Ok(())
            })?;
        }
        Ok((tickets, updates, messages))
    }

    fn whole(records: &[&[u8]]) -> (Vec<Vec<u8>>, Vec<bool>) {
        let (tickets, updates, messages) = read(records).expect("well formed");
        assert!(messages.are_whole());
        (tickets, updates)
    }

    #[test]
    fn messages_may_share_a_record_and_go_on_in_the_next() {
        let two = [4, 0, 0, 2, 7, 8, 4, 0, 0, 0];
        let tickets = vec![vec![7, 8], vec![]];
        assert_eq!(whole(&[&two]), (tickets.clone(), vec![]));
        for at in 1..two.len() {
            let (front, back) = two.split_at(at);
            assert_eq!(whole(&[front, back]), (tickets.clone(), vec![]), "cut at {at}");
        }
        let bytes: Vec<&[u8]> = two.chunks(1).collect();
        assert_eq!(whole(&bytes), (tickets, vec![]));
        let (tickets, _, messages) = read(&[&two[..5]]).expect("the front of one");
        assert!(tickets.is_empty() && !messages.are_whole());
        assert_eq!(read(&[&two[..5], &[]]).err(), Some(Fault::UnexpectedRecord), "an empty fragment");
    }

    #[test]
    fn a_key_update_ends_with_its_record() {
        assert_eq!(whole(&[&[24, 0, 0, 1, 0], &[24, 0, 0, 1, 1]]), (vec![], vec![false, true]));
        assert_eq!(whole(&[&[4, 0, 0, 1, 9, 24, 0, 0, 1, 1]]), (vec![vec![9]], vec![true]));
        for bad in [
            &[24, 0, 0, 1][..],
            &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0],
            &[24, 0, 0, 1, 2, 24, 0, 0, 1, 0],
            &[24, 0, 0, 1, 0, 4],
            &[4, 0, 0, 0, 24, 0, 0],
            &[4, 0, 0, 0, 13],
            &[1, 0, 0, 0],
            &[],
        ] {
            assert_eq!(read(&[bad]).err(), Some(Fault::UnexpectedRecord), "{bad:?}");
        }
    }

    #[test]
    fn key_update_value_and_length_have_separate_faults() {
        for value in 2..=255 {
            assert_eq!(read(&[&[24, 0, 0, 1, value]]).err(), Some(Fault::KeyUpdateValue), "{value}");
        }
        for bad in [
            &[24, 0, 0, 0][..],
            &[24, 0, 0, 2, 0, 0],
            &[24, 0, 0, 2, 0],
            &[24, 0xff, 0xff, 0xff],
            &[24, 0, 1, 1, 0],
            &[4, 0, 0, 0, 24, 0, 0, 0],
        ] {
            assert_eq!(read(&[bad]).err(), Some(Fault::Malformed), "{bad:?}");
        }
        assert_eq!(Fault::KeyUpdateValue.alert(), Some(alert::ILLEGAL_PARAMETER));
        assert_eq!(Fault::Malformed.alert(), Some(alert::DECODE_ERROR));
    }

    #[test]
    fn oversized_ticket_is_skipped_and_the_next_is_kept() {
        let long = [&[4, 0, 0x80, 0][..], &[7; 0x8000]].concat();
        let stream = [&long[..], &[4, 0, 0, 1, 9, 24, 0, 0, 1, 0]].concat();
        let (first, rest) = stream.split_at(16_384);
        let (_, _, messages) = read(&[first]).expect("the front");
        assert!(messages.partial.is_empty() && !messages.are_whole(), "nothing of it is kept");
        let (second, third) = rest.split_at(16_384);
        assert_eq!(whole(&[first, second, third]), (vec![vec![9]], vec![false]));
        let kept = [&[4, 0, 0x7f, 0xfc][..], &[7; 0x7ffc]].concat();
        assert_eq!(whole(&[&kept[..16_384], &kept[16_384..]]), (vec![vec![7; 0x7ffc]], vec![]));
    }
}
