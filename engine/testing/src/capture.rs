//! What was really on the wire: packets of one port from loopback, put together to streams and split into
//! records.
//!
//! Steps: 1. a packet socket with a kernel filter on the port; 2. TCP segments by direction, duplicates and
//! all;
//! 3. streams by sequence number; 4. TLS records; 5. the explicit nonces of TLS 1.2 AES-GCM, which must never
//! repeat.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

/// IPv4 alone, not "all": then loopback shows each packet once, on its way in.
const ETH_P_IP: u16 = 0x0800;

/// A capture that runs until it is read.
pub struct Capture {
    port: u16,
    stop: Arc<AtomicBool>,
    packets: JoinHandle<Vec<Vec<u8>>>,
}

/// One direction of one connection, by its ports.
pub type Direction = (u16, u16);

/// A TLS record as it was on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub kind: u8,
    pub body: Vec<u8>,
}

impl Capture {
    /// Captures what goes from and to this TCP port; says why not where that is not allowed.
    pub fn start(port: u16) -> Result<Self, String> {
        let protocol = Protocol::from(i32::from(ETH_P_IP.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol));
        let socket = socket.map_err(|error| format!("no packet socket (CAP_NET_RAW): {error}"))?;
        socket.attach_filter(&port_filter(port)).map_err(|error| format!("no socket filter: {error}"))?;
        socket.set_recv_buffer_size(4 << 20).map_err(|error| format!("no receive buffer: {error}"))?;
        socket.set_read_timeout(Some(Duration::from_millis(20))).map_err(|error| error.to_string())?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let packets = std::thread::spawn(move || collect(&socket, &stopped));
        Ok(Self { port, stop, packets })
    }

    /// All streams so far; for one that is not whole, why. What an endpoint has received was captured before:
    /// nothing needs to be waited for. A stream that began before the capture is never whole.
    pub fn finish(self) -> BTreeMap<Direction, Result<Vec<u8>, String>> {
        self.stop.store(true, Ordering::Release);
        let packets = self.packets.join().expect("capturing does not panic");
        let directions = by_direction(&packets, self.port).into_iter();
        directions.map(|(direction, segments)| (direction, reassemble(&segments))).collect()
    }
}

/// Reads until told to stop and nothing is left.
fn collect(mut socket: &Socket, stopped: &AtomicBool) -> Vec<Vec<u8>> {
    let (mut packets, mut packet) = (Vec::new(), vec![0; 1 << 17]);
    loop {
        let last = stopped.load(Ordering::Acquire);
        match socket.read(&mut packet) {
            Ok(count) => packets.push(packet[..count].to_vec()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if last {
                    return packets;
                }
            }
            Err(error) => panic!("the capture broke: {error}"),
        }
    }
}

/// TCP over IPv4 whose source or destination port is this one; anything else never reaches the socket's
/// buffer.
fn port_filter(port: u16) -> [SockFilter; 9] {
    let port = u32::from(port);
    [
        SockFilter::new(0x30, 0, 0, 9),        // load the protocol
        SockFilter::new(0x15, 0, 6, 6),        // not TCP: drop
        SockFilter::new(0xb1, 0, 0, 0),        // x = length of the IP header
        SockFilter::new(0x48, 0, 0, 0),        // load the source port
        SockFilter::new(0x15, 2, 0, port),     // equal: keep
        SockFilter::new(0x48, 0, 0, 2),        // load the destination port
        SockFilter::new(0x15, 0, 1, port),     // not equal: drop
        SockFilter::new(0x06, 0, 0, u32::MAX), // keep all of it
        SockFilter::new(0x06, 0, 0, 0),        // drop
    ]
}

/// A TCP segment: its sequence number, whether it opens the stream, its payload.
#[derive(Clone, Debug)]
struct Segment {
    sequence: u32,
    syn: bool,
    payload: Vec<u8>,
}

fn by_direction(packets: &[Vec<u8>], port: u16) -> BTreeMap<Direction, Vec<Segment>> {
    let mut directions: BTreeMap<Direction, Vec<Segment>> = BTreeMap::new();
    for (direction, segment) in packets.iter().filter_map(|packet| parse(packet)) {
        if direction.0 == port || direction.1 == port {
            directions.entry(direction).or_default().push(segment);
        }
    }
    directions
}

fn parse(packet: &[u8]) -> Option<(Direction, Segment)> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    // A segment-offload packet larger than the field can say has 0 there.
    let end = if total == 0 { packet.len() } else { total.min(packet.len()) };
    let tcp = packet.get(header..end)?;
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    let sequence = u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?);
    let payload = tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?.to_vec();
    Some(((port(0)?, port(2)?), Segment { sequence, syn: tcp.get(13)? & 2 != 0, payload }))
}

/// The bytes of one direction from its SYN on, whatever came twice or out of order. A gap is an error: a
/// record that was not captured could be the one that matters.
fn reassemble(segments: &[Segment]) -> Result<Vec<u8>, String> {
    let syn = segments.iter().find(|segment| segment.syn).ok_or("the SYN was not captured")?;
    let first = syn.sequence.wrapping_add(1);
    let offset = |segment: &Segment| u64::from(segment.sequence.wrapping_sub(first));
    // Offsets near the top of the space lie before the start: the SYN itself, keep-alives.
    let mut data: Vec<&Segment> = segments.iter().filter(|s| !s.payload.is_empty() && !s.syn).collect();
    data.retain(|segment| offset(segment) < 1 << 31);
    data.sort_by_key(|segment| offset(segment));
    let mut stream: Vec<u8> = Vec::new();
    for segment in data {
        let have = stream.len() as u64;
        let known = have.checked_sub(offset(segment)).ok_or_else(|| format!("a gap after {have} bytes"))?;
        let known = usize::try_from(known).expect("no longer than the stream");
        if let Some(new) = segment.payload.get(known..) {
            stream.extend_from_slice(new);
        }
    }
    Ok(stream)
}

/// Whole records; what remains of a last one that was cut off is no record.
pub fn records(stream: &[u8]) -> Vec<Record> {
    let (mut records, mut rest) = (Vec::new(), stream);
    while let [kind, _, _, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((body, later)) = after.split_at_checked(length) else { break };
        records.push(Record { kind: *kind, body: body.to_vec() });
        rest = later;
    }
    records
}

/// The explicit nonces of a TLS 1.2 AES-GCM direction: of every record behind ChangeCipherSpec, Finished
/// included.
fn explicit_nonces(records: &[Record]) -> Vec<(u8, [u8; 8])> {
    let encrypted = records.iter().skip_while(|record| record.kind != 20).skip(1);
    encrypted.filter_map(|record| Some((record.kind, *record.body.first_chunk()?))).collect()
}

/// Every explicit nonce once, and at least this many of them: with fewer the answer would mean nothing.
pub fn distinct_nonces(records: &[Record], at_least: usize) -> Result<(), String> {
    let nonces = explicit_nonces(records);
    if nonces.len() < at_least {
        return Err(format!("{} encrypted records, wanted {at_least}", nonces.len()));
    }
    if nonces[0].0 != 22 {
        return Err(format!("the first encrypted record is of type {}, not a Finished", nonces[0].0));
    }
    let mut seen = BTreeSet::new();
    for (index, (kind, nonce)) in nonces.iter().enumerate() {
        if !seen.insert(nonce) {
            let nonce = crate::rng::hex(nonce);
            return Err(format!("encrypted record {index}, type {kind}: nonce {nonce} was used before"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, nonce: u64) -> Record {
        Record { kind, body: [nonce.to_be_bytes().as_slice(), b"sealed"].concat() }
    }

    #[test]
    fn a_repeated_nonce_is_found_and_distinct_ones_pass() {
        let hello = Record { kind: 22, body: vec![1; 40] };
        let change = Record { kind: 20, body: vec![1] };
        // The bytes before ChangeCipherSpec are no nonces: equal ones there mean nothing.
        let mut records = vec![hello.clone(), hello, change, record(22, 7), record(23, 8), record(21, 9)];
        assert_eq!(distinct_nonces(&records, 3), Ok(()));
        assert!(distinct_nonces(&records, 4).is_err_and(|why| why.contains("wanted 4")));
        records[4] = record(23, 7);
        assert!(distinct_nonces(&records, 3).is_err_and(|why| why.contains("was used before")));
        records.remove(3);
        assert!(distinct_nonces(&records, 1).is_err_and(|why| why.contains("not a Finished")));
    }

    fn segment(sequence: u32, payload: &[u8]) -> Segment {
        Segment { sequence, syn: false, payload: payload.to_vec() }
    }

    #[test]
    fn stream_reassembly_handles_reorder_repeats_and_wrap() {
        let start = u32::MAX - 2;
        let syn = Segment { sequence: start, syn: true, payload: Vec::new() };
        let at = |offset: u32, payload| segment(start.wrapping_add(1).wrapping_add(offset), payload);
        let whole =
            [syn.clone(), at(4, b"efgh"), at(0, b"abcd"), at(0, b"abcd"), at(2, b"cdef"), at(8, b"i")];
        assert_eq!(reassemble(&whole).as_deref(), Ok(b"abcdefghi".as_slice()));
        let with_gap = [syn, at(0, b"abcd"), at(5, b"fgh")];
        assert!(reassemble(&with_gap).is_err_and(|why| why.contains("gap after 4")));
        assert!(reassemble(&[at(0, b"abcd")]).is_err(), "without a SYN the start is unknown");
    }

    #[test]
    fn records_are_split_and_a_cut_one_is_left_out() {
        let stream = [22, 3, 3, 0, 2, 1, 2, 20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 5, 9];
        let expected = [Record { kind: 22, body: vec![1, 2] }, Record { kind: 20, body: vec![1] }];
        assert_eq!(records(&stream), expected);
    }
}
