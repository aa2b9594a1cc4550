//! Reads TLS record headers as they pass: how many handshake messages there were, and when data begins.

use offramp_proto::record::{APPLICATION_DATA, HEADER_BYTES};
/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the server.
    Up,
    /// To the client.
    Down,
}

/// The records of one connection, both ways.
#[derive(Debug)]
pub(super) struct Flights {
    /// The header under way, and what is left of the record, up and down.
    directions: [(Vec<u8>, usize); 2],
    last: Option<Way>,
    messages: u32,
    /// Records of type application_data from the client that are still of the handshake.
    sealed_left: u32,
    done: bool,
}

impl Flights {
    pub(super) fn new(sealed_handshake_records: u32) -> Self {
        Self {
            directions: Default::default(),
            last: None,
            messages: 0,
            sealed_left: sealed_handshake_records,
            done: false,
        }
    }

    /// Looks at bytes that pass. With the client's first application data: how many messages there were
    /// before it.
    pub(super) fn saw(&mut self, way: Way, mut bytes: &[u8]) -> Option<u32> {
        if self.done {
            return None;
        }
        while !bytes.is_empty() && !self.done {
            let (header, left) = &mut self.directions[way as usize];
            if *left > 0 {
                let skipped = bytes.len().min(*left);
                *left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let (taken, rest) = bytes.split_at(bytes.len().min(HEADER_BYTES - header.len()));
            header.extend_from_slice(taken);
            bytes = rest;
            if let [record_type, _, _, high, low] = header[..] {
                *left = usize::from(u16::from_be_bytes([high, low]));
                header.clear();
                self.record(way, record_type);
            }
        }
        self.done.then_some(self.messages)
    }

    fn record(&mut self, way: Way, record_type: u8) {
        if way == Way::Up && record_type == APPLICATION_DATA {
            if self.sealed_left == 0 {
                self.done = true;
                return;
            }
            self.sealed_left -= 1;
        }
        if self.last != Some(way) {
            self.last = Some(way);
            self.messages += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(record_type: u8, len: u16) -> Vec<u8> {
        let [high, low] = len.to_be_bytes();
        [&[record_type, 3, 3, high, low][..], &vec![0; usize::from(len)]].concat()
    }

    #[test]
    fn message_is_a_run_of_records_in_one_direction() {
        let (handshake, ccs, data) = (record(22, 300), record(20, 1), record(23, 40));
        let last = [&handshake[..], &ccs, &handshake].concat();
        let tls12_full = [
            (Way::Up, handshake.clone()),
            (Way::Down, [&handshake[..], &handshake].concat()),
            (Way::Up, last.clone()),
            (Way::Down, last.clone()),
            (Way::Up, data.clone()),
        ];
        let tls12_resumed =
            [(Way::Up, handshake.clone()), (Way::Down, last.clone()), (Way::Up, [&last[..], &data].concat())];
        let tls13 = [
            (Way::Up, handshake.clone()),
            (Way::Down, [&handshake[..], &ccs, &data].concat()),
            (Way::Up, [&ccs[..], &data, &data].concat()),
        ];
        for (records, sealed, messages) in
            [(&tls12_full[..], 0, 4), (&tls12_resumed[..], 0, 3), (&tls13[..], 1, 3)]
        {
            for step in [1, 7, usize::MAX] {
                let mut flights = Flights::new(sealed);
                let told: Vec<_> = records
                    .iter()
                    .flat_map(|(way, bytes)| bytes.chunks(step).map(|bytes| (*way, bytes)))
                    .filter_map(|(way, bytes)| flights.saw(way, bytes))
                    .collect();
                assert_eq!(told, [messages], "told once, step {step}");
            }
        }
    }
}
