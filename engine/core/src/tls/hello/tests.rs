use super::*;
use rustls::server::Acceptor;

type Extension<'a> = (u16, &'a [u8]);

/// A record header, and a hello that rustls accepts, with these extensions behind the needed ones.
fn record(extensions: &[Extension<'_>]) -> Vec<u8> {
    let needed: [Extension<'_>; 2] = [(13, &[0, 2, 4, 3]), (10, &[0, 2, 0, 23])];
    hello([3, 3], &[&needed, extensions].concat())
}

fn hello(version: [u8; 2], extensions: &[Extension<'_>]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, body) in extensions {
        list.extend(kind.to_be_bytes());
        list.extend(u16::try_from(body.len()).expect("short").to_be_bytes());
        list.extend(*body);
    }
    let mut message = version.to_vec();
    message.extend([7; 32]);
    message.extend([4, 1, 2, 3, 4]);
    message.extend([0, 2, 0xc0, 0x2b]);
    message.extend([1, 0]);
    message.extend(u16::try_from(list.len()).expect("short").to_be_bytes());
    message.extend(list);
    let length = u16::try_from(message.len()).expect("short");
    let mut record = vec![22, 3, 1];
    record.extend((length + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend(length.to_be_bytes());
    record.extend(message);
    record
}

fn rustls_accepts(record: &[u8]) -> bool {
    let mut acceptor = Acceptor::default();
    acceptor.read_tls(&mut &*record).expect("a slice can be read");
    matches!(acceptor.accept(), Ok(Some(_)))
}

fn finding(pieces: &[&[u8]]) -> Finding {
    let mut reader = HelloReader::of_client();
    pieces.iter().map(|piece| reader.read(piece)).last().expect("at least one piece")
}

/// server_name (RFC 6066 §3) with one host_name.
fn server_name(name: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).expect("short").to_be_bytes();
    [&length(name.len() + 3)[..], &[0], &length(name.len()), name].concat()
}

#[test]
fn an_address_as_name_is_found_and_no_host_name_is() {
    let cases = [
        (&b"192.0.2.1"[..], Finding::AddressAsName),
        (b"1.1.1.1", Finding::AddressAsName),
        (b"2001:db8::1", Finding::AddressAsName),
        (b"::ffff:192.0.2.1", Finding::AddressAsName),
        (b"abcd:ef01:2345:6789:abcd:ef01:255.255.255.255", Finding::AddressAsName),
        (b"a.example", Finding::Nothing),
        (b"1.2.3.4.example", Finding::Nothing),
        (b"4u.example", Finding::Nothing),
        // As long as no address is: left to rustls, which refuses it.
        (&[b'1'; 46], Finding::Nothing),
    ];
    for (name, expected) in cases {
        let body = server_name(name);
        let record = record(&[OTHER, (0, &body), EMPTY]);
        for cut in [0, 60, record.len() - 5] {
            let (front, back) = record[5..].split_at(cut);
            assert_eq!(finding(&[front, back]), expected, "{:?}", String::from_utf8_lossy(name));
        }
    }
    let body = server_name(b"192.0.2.1");
    let both = record(&[(0, &body), FULL]);
    assert_eq!(finding(&[&both[5..]]), Finding::RenegotiationInfo, "what is forbidden comes first");
    assert!(rustls_accepts(&record(&[(0, &body)])), "the reason why it is looked for");
}

const EMPTY: Extension<'_> = (0xff01, &[0]);
const FULL: Extension<'_> = (0xff01, &[12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
const OTHER: Extension<'_> = (0x1234, &[0xff, 1, 0, 1, 1]);

#[test]
fn only_a_nonempty_renegotiation_info_is_found() {
    let cases: [(&[Extension<'_>], Finding); 7] = [
        (&[], Finding::Nothing),
        (&[EMPTY], Finding::Nothing),
        (&[OTHER, EMPTY, OTHER], Finding::Nothing),
        (&[FULL], Finding::RenegotiationInfo),
        (&[OTHER, FULL], Finding::RenegotiationInfo),
        (&[FULL, OTHER], Finding::RenegotiationInfo),
        // Its only byte is missing: rustls says decode_error.
        (&[(0xff01, &[]), OTHER], Finding::Nothing),
    ];
    for (extensions, expected) in cases {
        let record = record(extensions);
        assert_eq!(finding(&[&record[5..]]), expected, "{extensions:?}");
    }
    assert!(rustls_accepts(&record(&[FULL])), "the reason why this file exists");
}

#[test]
fn it_is_found_wherever_the_records_are_cut() {
    let record = record(&[OTHER, FULL, OTHER]);
    let message = &record[5..];
    for cut in 0..=message.len() {
        let (front, back) = message.split_at(cut);
        assert_eq!(finding(&[front, back]), Finding::RenegotiationInfo, "cut at {cut}");
    }
    let bytes: Vec<&[u8]> = message.chunks(1).collect();
    assert_eq!(finding(&bytes), Finding::RenegotiationInfo);
    assert_eq!(finding(&[&message[..40]]), Finding::Unfinished);
}

#[test]
fn what_rustls_accepts_hides_nothing() {
    // The unknown one comes last: in front, it could be made to swallow the one in question.
    let good = record(&[FULL, OTHER]);
    let kind_at = good.len() - OTHER.1.len() - 4 - FULL.1.len() - 4;
    let mut accepted = 0;
    for at in (5..good.len()).filter(|at| !(kind_at..kind_at + 2).contains(at)) {
        for value in (0..=u8::MAX).filter(|value| *value != good[at]) {
            let mut changed = good.clone();
            changed[at] = value;
            if rustls_accepts(&changed) {
                accepted += 1;
                assert_eq!(finding(&[&changed[5..]]), Finding::RenegotiationInfo, "{value} at {at}");
            }
        }
    }
    assert!(accepted > 10_000, "most of a hello is free to change, but only {accepted} were accepted");
}

#[test]
fn supported_versions_win_over_the_hello_version() {
    let needed: [Extension<'_>; 3] = [(13, &[0, 2, 4, 3]), (10, &[0, 2, 0, 23]), (51, &[0, 0])];
    let versions = |version, list: &[u8]| {
        let versions = (43, list);
        finding(&[&hello(version, &[&needed[..], &[versions]].concat())[5..]])
    };
    for version in [[2, 0], [3, 0], [3, 1], [3, 2]] {
        assert_eq!(finding(&[&hello(version, &[])[5..]]), Finding::NoCommonVersion, "{version:?}");
        assert_eq!(finding(&[&hello(version, &[OTHER])[5..]]), Finding::NoCommonVersion, "{version:?}");
        assert_eq!(versions(version, &[2, 3, 3]), Finding::Nothing, "{version:?}");
    }
    assert_eq!(finding(&[&hello([3, 3], &[])[5..]]), Finding::Nothing);
    assert_eq!(versions([3, 3], &[4, 3, 2, 3, 1]), Finding::NoCommonVersion);
    assert_eq!(versions([3, 3], &[6, 0x0a, 0x0a, 3, 2, 3, 4]), Finding::Nothing);
}

#[test]
fn tls_1_3_has_what_rfc_8446_section_9_2_asks_for() {
    const GROUPS: Extension<'_> = (10, &[0, 2, 0, 23]);
    const SCHEMES: Extension<'_> = (13, &[0, 2, 4, 3]);
    const SHARES: Extension<'_> = (51, &[0, 0]);
    const PSK: Extension<'_> = (41, &[0, 0]);
    let of = |extensions: &[Extension<'_>]| {
        let versions: Extension<'_> = (43, &[2, 3, 4]);
        finding(&[&hello([3, 3], &[&[versions], extensions].concat())[5..]])
    };
    for good in [&[GROUPS, SCHEMES, SHARES][..], &[GROUPS, SHARES, PSK], &[PSK], &[SCHEMES, PSK]] {
        assert_eq!(of(good), Finding::Nothing, "{good:?}");
    }
    for bad in [&[][..], &[GROUPS, SCHEMES], &[SCHEMES, SHARES], &[GROUPS, SHARES], &[GROUPS, PSK]] {
        assert_eq!(of(bad), Finding::MissingExtension, "{bad:?}");
    }
}

#[test]
fn server_hello_is_read_only_for_renegotiation_info() {
    let server_hello = |extensions: &[u8]| {
        let mut message = vec![2, 0, 0, 0, 3, 3];
        message.extend([7; 32]);
        message.extend([2, 9, 9, 0xc0, 0x2b, 0]);
        message.extend(extensions);
        message[3] = u8::try_from(message.len() - 4).expect("short");
        message
    };
    let cases: [(&[u8], Finding); 4] = [
        (&[], Finding::Nothing),
        (&[0, 5, 0xff, 1, 0, 1, 0], Finding::Nothing),
        (&[0, 10, 0, 43, 0, 2, 3, 4, 0, 51, 0, 0], Finding::Nothing),
        (&[0, 10, 0, 23, 0, 0, 0xff, 1, 0, 2, 1, 9], Finding::RenegotiationInfo),
    ];
    for (extensions, expected) in cases {
        assert_eq!(HelloReader::of_server().read(&server_hello(extensions)), expected, "{extensions:?}");
    }
    assert_eq!(finding(&[&server_hello(&[])]), Finding::Nothing, "of a client it would be no hello");
}

#[test]
fn what_is_no_hello_is_left_to_rustls() {
    for message in [&[0, 0, 0, 0][..], &[16, 0, 0, 1, 0], &[1, 0, 0, 2, 3, 3], &[1, 0, 0, 0]] {
        assert_eq!(finding(&[message]), Finding::Nothing, "{message:?}");
    }
    assert_eq!(finding(&[&[]]), Finding::Unfinished);
}
