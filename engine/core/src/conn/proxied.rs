//! In front of everything else: the PROXY header of a balancer, which says who the client is (the PROXY
//! protocol's specification, haproxy.org, versions 1 and 2). Whether the peer is a balancer that may say so
//! is the shell's to know.

use proxy_header::{Error, ParseConfig, ProxyHeader, Tlv};

use super::Next;
use super::action::{Action, Outbox, ProxiedAddresses};
use super::event::{Event, Leg};
use super::fault::Fault;
use crate::buf::Buf;
use crate::tls::evidence::first_bytes;

/// Bytes of the longest header that is taken: that of version 1 has 107 at most, and one of version 2 with
/// all that is known of a client, its certificate included, may have some thousands.
const HEADER_BYTES_MAX: usize = 4096;

/// The beginnings of headers.
const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Waits for the header.
#[derive(Debug)]
pub(super) struct Proxied {
    /// What has come of it, if anything has; behind it, what follows.
    incoming: Option<Buf>,
    /// What came in its place, for the log.
    pub(super) first_bytes: Option<Box<str>>,
}

impl Proxied {
    pub(super) fn begin(out: &mut Outbox) -> Self {
        out.push(Action::ReceiveHandshake { leg: Leg::Near });
        Self { incoming: None, first_bytes: None }
    }

    /// Advances with what came behind the header.
    pub(super) fn on(&mut self, event: Event, out: &mut Outbox) -> Next<Option<Buf>> {
        match event {
            Event::Received { buf, count: 0, .. } => {
                out.bufs.give(buf);
                Next::End(if self.incoming.is_some() {
                    Fault::ProxyHeaderMalformed
                } else {
                    Fault::ClosedBeforeHello
                })
            }
            Event::Received { buf, .. } => {
                let whole = out.bufs.join(self.incoming.take(), buf);
                self.read(whole, out)
            }
            Event::Admitted => Next::Advance(self.incoming.take()),
            Event::Failed { .. } => Next::End(Fault::ClosedBeforeHello),
            Event::Drain { .. } => Next::Stay,
            Event::Expired => Next::End(Fault::ProxyHeaderTimeout),
            _ => Next::End(Fault::Internal),
        }
    }

    fn read(&mut self, mut buf: Buf, out: &mut Outbox) -> Next<Option<Buf>> {
        match parse(buf.filled()) {
            Ok((addresses, length)) => {
                buf.consume(length);
                let behind = if buf.is_empty() {
                    out.bufs.give(buf);
                    None
                } else {
                    Some(buf)
                };
                let Some(addresses) = addresses else { return Next::Advance(behind) };
                // Whether that client may connect is asked before anything is done for it.
                self.incoming = behind;
                out.push(Action::Proxied(Box::new(addresses)));
                Next::Stay
            }
            Err(None) => {
                self.incoming = Some(out.bufs.fit(buf));
                out.push(Action::ReceiveHandshake { leg: Leg::Near });
                Next::Stay
            }
            Err(Some(fault)) => {
                self.first_bytes = Some(first_bytes(buf.filled()));
                out.bufs.give(buf);
                Next::End(fault)
            }
        }
    }

    /// Whether it keeps bytes of a message that is not whole.
    pub(super) fn keeps_front(&self) -> bool {
        self.incoming.is_some()
    }

    /// Gives what it holds back to the free list.
    pub(super) fn release(&mut self, out: &mut Outbox) {
        self.incoming.take().into_iter().for_each(|buf| out.bufs.give(buf));
    }
}

/// The addresses of client and listener, if the header has some, and its length.
///
/// # Errors
/// Why it is none; no fault where more of it has to come.
fn parse(bytes: &[u8]) -> Result<(Option<ProxiedAddresses>, usize), Option<Fault>> {
    let begins = |with: &[u8]| {
        let length = bytes.len().min(with.len());
        bytes[..length] == with[..length]
    };
    if !begins(V1) && !begins(V2) {
        return Err(Some(Fault::ProxyHeaderMissing));
    }
    match ProxyHeader::parse(bytes, ParseConfig::default()) {
        Ok((_, length)) if length > HEADER_BYTES_MAX => Err(Some(Fault::ProxyHeaderMalformed)),
        Ok((header, length)) => {
            if !is_whole(&header, &bytes[..length]) {
                return Err(Some(Fault::ProxyHeaderMalformed));
            }
            let addresses = header
                .proxied_address()
                .map(|it| ProxiedAddresses { client: it.source, local: it.destination });
            Ok((addresses, length))
        }
        Err(Error::BufferTooShort) if !is_too_long(bytes) => Err(None),
        Err(_) => Err(Some(Fault::ProxyHeaderMalformed)),
    }
}

/// Whether a header that is not complete will be longer than is taken, as far as it tells.
fn is_too_long(bytes: &[u8]) -> bool {
    let says = bytes.starts_with(V2).then(|| bytes.get(14..16)).flatten();
    let says = says.map_or(0, |length| 16 + usize::from(u16::from_be_bytes([length[0], length[1]])));
    says.max(bytes.len()) > HEADER_BYTES_MAX
}

/// Whether each TLV is one, and the checksum, if there is one, that of the header.
fn is_whole(header: &ProxyHeader<'_>, bytes: &[u8]) -> bool {
    let mut checksum = None;
    for tlv in header.tlvs() {
        match tlv {
            Ok(Tlv::Crc32c(value)) => checksum = Some(value),
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    let Some(checksum) = checksum else { return true };
    let tlv = [&[0x03, 0x00, 0x04][..], &checksum.to_be_bytes()].concat();
    let is_valid = |at: usize| {
        let zeroed = [&bytes[..at + 3], &[0; 4], &bytes[at + tlv.len()..]].concat();
        crc32c::crc32c(&zeroed) == checksum
    };
    (0..=bytes.len() - tlv.len()).filter(|at| bytes[*at..].starts_with(&tlv)).any(is_valid)
}

#[cfg(test)]
mod tests {
    use proxy_header::ProxiedAddress;

    use super::*;

    fn v2(tlvs: Vec<Tlv<'_>>) -> Vec<u8> {
        let address = |text: &str| text.parse().expect("an address");
        let addresses = ProxiedAddress::stream(address("192.0.2.7:4711"), address("192.0.2.1:443"));
        let mut bytes = Vec::new();
        ProxyHeader::with_tlvs(Some(addresses), tlvs).encode_v2(&mut bytes).expect("short enough");
        bytes
    }

    fn summed() -> Vec<u8> {
        let mut bytes = v2(vec![Tlv::Crc32c(0), Tlv::UniqueId(b"id"[..].into())]);
        let sum = crc32c::crc32c(&bytes);
        let at = bytes.len() - 5 - 4;
        bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    #[test]
    fn header_cut_at_every_byte_is_awaited() {
        for header in [b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n".to_vec(), v2(Vec::new()), summed()] {
            for cut in 0..header.len() {
                assert_eq!(parse(&header[..cut]), Err(None), "{cut} of {:?}", header.escape_ascii());
            }
            let with_more = [&header[..], b"\x16\x03\x01"].concat();
            let (addresses, length) = parse(&with_more).expect("it is whole");
            assert_eq!(
                (addresses.map(|it| it.client.to_string()), length),
                (Some("192.0.2.7:4711".into()), header.len())
            );
        }
    }

    #[test]
    fn header_of_nobody_has_no_addresses() {
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Ok((None, 15)));
        assert_eq!(parse(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"), Ok((None, 16)), "a health check");
    }

    #[test]
    fn header_that_claims_64_kib_is_malformed_at_once() {
        let claims = [V2, b"\x21\x11\xff\xff"].concat();
        assert_eq!(parse(&claims), Err(Some(Fault::ProxyHeaderMalformed)));
        assert_eq!(parse(&[V1, &[b'1'; 200]].concat()), Err(Some(Fault::ProxyHeaderMalformed)));
    }

    #[test]
    fn what_is_no_header_is_missing_it() {
        for bytes in [&b"\x16\x03\x01\x02\x00"[..], b"GET / HTTP/1.1\r\n", b"PROXZ", b"\r\n\r\nx"] {
            assert_eq!(parse(bytes), Err(Some(Fault::ProxyHeaderMissing)), "{:?}", bytes.escape_ascii());
        }
    }

    #[test]
    fn header_with_a_wrong_checksum_is_malformed() {
        let header = summed();
        assert!(parse(&header).is_ok());
        for at in V2.len()..header.len() {
            let mut damaged = header.clone();
            damaged[at] ^= 1;
            // A changed length or type may leave it incomplete, or without a checksum that we know.
            let Ok((_, length)) = parse(&damaged) else { continue };
            assert!(length == header.len() && !has_checksum(&damaged), "byte {at}");
        }
    }

    fn has_checksum(header: &[u8]) -> bool {
        let (header, _) = ProxyHeader::parse(header, ParseConfig::default()).expect("it was parsed");
        header.crc32c().is_some()
    }

    #[test]
    fn header_of_any_bytes_is_read_without_a_panic() {
        for header in [summed(), b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n".to_vec()] {
            for at in 0..header.len() {
                let mut changed = header.clone();
                for value in 0..=u8::MAX {
                    changed[at] = value;
                    let _ = parse(&changed);
                }
            }
        }
    }
}
