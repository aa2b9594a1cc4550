//! Documents by chance: nothing panics, no byte is lost, and what was rewritten says what it has to.

use offramp_sdp::{
    ConnectionUse, Document, FingerprintSet, Learnt, Local, PathRule, Remote, Setup, Transport,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::RngSeed;

use crate::samples::{plain, tls};
use crate::second_opinion::compare;

/// The same documents in every run.
fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..Default::default()
    }
}

const FINGERPRINT: &str = "a=fingerprint:sha-256 00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:\
     10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F";

/// Lines that belong behind an m= line.
const LINES: [&str; 16] = [
    "c=IN IP4 192.0.2.9",
    "c=IN IP6 2001:db8::9",
    "a=setup:active",
    "a=setup:passive",
    "a=SETUP:actpass",
    "a=connection:new",
    "a=path:msrp://192.0.2.9:7000/x;tcp",
    "a=path:msrps://192.0.2.7:1/x;tcp msrp://b.example/y;tcp",
    "a=msrp-cema",
    "a=tls-id:01234567890123456789",
    "a=3ge2ae:requested",
    "a=accept-types:*",
    "a=sendrecv",
    "a=fingerprint:sha-1 00",
    FINGERPRINT,
    "b=AS:1",
];

const MEDIA: [&str; 7] = [
    "m=message 9 TCP/TLS/MSRP *",
    "m=message 7000 TCP/MSRP *",
    "m=image 6000 udptl t38",
    "m=image 6000 UDP/TLS/UDPTL t38",
    "m=audio 5000 RTP/AVP 0 8",
    "m=message 0 TCP/TLS/MSRP *",
    "m=message 7000/2 TCP/MSRP *",
];

fn local() -> impl Strategy<Value = Local> {
    let setups = vec![Setup::Active, Setup::Passive, Setup::Actpass, Setup::Holdconn];
    let uses = vec![ConnectionUse::New, ConnectionUse::Existing];
    let rules = vec![PathRule::Auto, PathRule::Keep, PathRule::Authority];
    let address = select(vec!["198.51.100.1:20000", "[2001:db8::1]:1"]);
    (any::<bool>(), address, option::of(select(setups)), option::of(select(uses)), select(rules)).prop_map(
        |(has_tls, address, setup, connection, path)| {
            let address = address.parse().unwrap();
            Local { address, setup, connection, path, ..if has_tls { tls() } else { plain() } }
        },
    )
}

/// A document of media sections with a few lines each.
fn document() -> impl Strategy<Value = Vec<u8>> {
    let section = (select(&MEDIA[..]), vec(select(&LINES[..]), 0..6));
    let session = subsequence(vec!["c=IN IP4 192.0.2.7", "a=setup:active", FINGERPRINT, "a=x:y"], 0..=4);
    let is_crlf = any::<bool>();
    (session, vec(section, 0..5), is_crlf, any::<bool>()).prop_map(|(session, sections, is_crlf, is_cut)| {
        let mut lines = vec!["v=0", "o=- 1 1 IN IP4 192.0.2.7", "s=-"];
        lines.extend(session.iter().filter(|line| line.starts_with('c')));
        lines.push("t=0 0");
        lines.extend(session.iter().filter(|line| line.starts_with('a')));
        for (media, of_media) in sections {
            lines.push(media);
            for letter in ['c', 'b', 'a'] {
                lines.extend(of_media.iter().filter(|line| line.starts_with(letter)));
            }
        }
        let end = if is_crlf { "\r\n" } else { "\n" };
        (lines.join(end) + if is_cut { "" } else { end }).into_bytes()
    })
}

/// Bytes that are nearly a document: pieces of lines, line ends and anything.
fn rubble() -> impl Strategy<Value = Vec<u8>> {
    let known =
        select([&LINES[..], &MEDIA[..], &["v=0", "\r\n", "\n", "\r", "\0", " ", "=", ":", "/"]].concat());
    let piece = prop_oneof![
        4 => known.clone().prop_map(|text| [text.as_bytes(), b"\r\n"].concat()),
        2 => known.prop_map(|text| text.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..6),
    ];
    vec(piece, 0..20).prop_map(|pieces| [b"v=0\r\nc=IN IP4 192.0.2.7\r\n".to_vec(), pieces.concat()].concat())
}

/// Reads, learns and rewrites, whatever it is.
fn go_through(bytes: &[u8], local: &Local) {
    let Ok(mut document) = Document::parse(bytes) else { return };
    assert_eq!(document.to_bytes(), bytes, "a byte was lost");
    for index in 0..=document.sections().len() {
        let before = document.clone();
        match document.rewrite(index, local) {
            Err(_) | Ok(Learnt::Foreign) => assert_eq!(document, before),
            Ok(Learnt::Released) => assert_eq!(document.sections()[index].media().port(), 0),
            Ok(Learnt::Stream(_)) => check(&before, &document, index, local),
        }
    }
}

/// What a rewritten stream says, read again from its bytes.
fn check(before: &Document, after: &Document, index: usize, local: &Local) {
    let again = Document::parse(&after.to_bytes()).unwrap();
    assert_eq!(again.to_bytes(), after.to_bytes());
    assert_eq!(again.session().len(), before.session().len());
    for (other, section) in before.sections().iter().enumerate().filter(|(other, _)| *other != index) {
        let text = |section: &offramp_sdp::Section| {
            section.lines().iter().map(|line| line.text().to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(text(&again.sections()[other]), text(section));
    }
    let Learnt::Stream(now) = again.learn(index).unwrap() else { panic!("a stream that went") };
    let Remote { transport, address, setup, fingerprints, tls_id, e2ae, .. } = *now;
    assert_eq!((address, transport.has_tls()), (local.address, local.tls.is_some()));
    assert!(transport == Transport::Udptl || local.setup.is_none() || setup == local.setup);
    let own = local.tls.as_ref();
    assert_eq!(fingerprints, own.and_then(|tls| FingerprintSet::strongest(tls.fingerprints.clone())));
    assert_eq!(tls_id, own.and_then(|tls| tls.tls_id.clone()));
    assert_eq!(e2ae.is_some(), own.is_some_and(|tls| tls.e2ae));
    let mut twice = after.clone();
    let rule = Local { path: PathRule::Keep, ..local.clone() };
    twice.rewrite(index, &rule).unwrap();
    assert_eq!(twice.to_bytes(), after.to_bytes(), "a second time changes nothing");
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_bytes_are_answered(bytes in vec(any::<u8>(), 0..200), local in local()) {
        go_through(&bytes, &local);
        go_through(&[b"v=0\n", &bytes[..]].concat(), &local);
    }

    #[test]
    fn near_documents_are_answered(bytes in rubble(), local in local()) {
        go_through(&bytes, &local);
    }

    #[test]
    fn documents_are_rewritten_as_the_rules_say(bytes in document(), local in local()) {
        go_through(&bytes, &local);
    }

    #[test]
    fn documents_mean_the_same_to_sdp_types(bytes in document(), local in local()) {
        compare(&bytes);
        let mut document = Document::parse(&bytes).unwrap();
        let streams = (0..document.sections().len()).filter(|index| document.rewrite(*index, &local).is_ok());
        prop_assert!(streams.count() <= 5);
        compare(&document.to_bytes());
    }
}
