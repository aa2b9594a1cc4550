//! Bad input: each problem with its name and line.

use std::collections::BTreeSet;

use offramp_sdp::{Document, MAX_BYTES, MAX_FINGERPRINTS, MAX_MEDIA, SdpError};

use crate::samples::{CORE, sha256, tls, with_lines};

/// The first error of reading a document and all its streams.
fn error(bytes: &[u8]) -> SdpError {
    let read = Document::parse(bytes).and_then(|document| {
        (0..document.sections().len()).try_for_each(|index| document.learn(index).map(drop))
    });
    read.expect_err(&String::from_utf8_lossy(bytes))
}

/// Documents, each with the line and the name of its problem.
fn cases() -> Vec<(String, usize, &'static str)> {
    let media = |line: &str| format!("v=0\r\nc=IN IP4 192.0.2.7\r\n{line}\r\n");
    let stream = |line: &str| with_lines(&[line]);
    let first_line = |text: &str| (text.to_owned(), 1, "sdp_version");
    let long_name = format!("a=fingerprint:{} AB", "x".repeat(80));
    vec![
        first_line(""),
        first_line("\r\n"),
        first_line("v=1\r\n"),
        first_line("o=- 1 1 IN IP4 192.0.2.7\r\nv=0\r\n"),
        first_line("m=message 1 TCP/MSRP *\r\n"),
        ("v=0\r\ns=a\0b\r\n".into(), 2, "sdp_nul"),
        ("v=0\r\ns=a\rb\r\n".into(), 2, "sdp_lone_cr"),
        ("v=0\r\ns=-\r".into(), 2, "sdp_lone_cr"),
        ("v=0\r\nhello\r\n".into(), 2, "sdp_not_a_line"),
        ("v=0\r\n =x\r\n".into(), 2, "sdp_not_a_line"),
        ("v=0\r\n\r\ns=-\r\n".into(), 2, "sdp_not_a_line"),
        (media("m="), 3, "sdp_media_part"),
        (media("m=message"), 3, "sdp_media_part"),
        (media("m=message 1"), 3, "sdp_media_part"),
        (media("m=message 1 TCP/MSRP"), 3, "sdp_media_part"),
        (media("m=message 1 TCP/MSRP "), 3, "sdp_media_part"),
        (media("m=message  1 TCP/MSRP *"), 3, "sdp_media_part"),
        (media("m=message 65536 TCP/MSRP *"), 3, "sdp_media_port"),
        (media("m=message -1 TCP/MSRP *"), 3, "sdp_media_port"),
        (media("m=message +1 TCP/MSRP *"), 3, "sdp_media_port"),
        (media("m=audio 1/x RTP/AVP 0"), 3, "sdp_media_port"),
        (media("m=audio 1/0 RTP/AVP 0"), 3, "sdp_media_port"),
        (media("m=audio /2 RTP/AVP 0"), 3, "sdp_media_port"),
        (media("m=message 7654/2 TCP/MSRP *"), 3, "sdp_port_count"),
        ("v=0\r\nm=message 1 TCP/MSRP *\r\n".into(), 2, "sdp_missing_connection"),
        (stream("c=IN IP4 host.example"), 7, "sdp_address"),
        (stream("c=IN IP6 192.0.2.7"), 7, "sdp_address"),
        (stream("c=IN IP4 2001:db8::1"), 7, "sdp_address"),
        (stream("c=IN IP4"), 7, "sdp_address"),
        (stream("c=ATM NSAP 1"), 7, "sdp_address"),
        (stream("c=IN IP4 233.252.0.1"), 7, "sdp_multicast"),
        (stream("c=IN IP4 192.0.2.7/127"), 7, "sdp_multicast"),
        (stream("c=IN IP6 ff15::101"), 7, "sdp_multicast"),
        (with_lines(&["c=IN IP4 192.0.2.7", "c=IN IP4 192.0.2.8"]), 8, "sdp_repeated"),
        (with_lines(&["a=setup:active", "a=setup:passive"]), 8, "sdp_repeated"),
        (with_lines(&["a=3ge2ae:applied", "a=3ge2ae:applied"]), 8, "sdp_repeated"),
        (stream("a=setup:sometimes"), 7, "sdp_value"),
        (stream("a=setup"), 7, "sdp_value"),
        (stream("a=connection:old"), 7, "sdp_value"),
        (stream("a=tls-id:short"), 7, "sdp_value"),
        (stream("a=tls-id:twenty chars, a space"), 7, "sdp_value"),
        (stream("a=fingerprint:md5 00"), 7, "weak_fingerprint"),
        (stream("a=fingerprint:SHA-1 00"), 7, "weak_fingerprint"),
        (stream("a=fingerprint:md2 00"), 7, "weak_fingerprint"),
        (stream("a=fingerprint:sha-224 00"), 7, "unknown_hash"),
        (stream("a=fingerprint"), 7, "unknown_hash"),
        (stream(&long_name), 7, "unknown_hash"),
        (stream("a=fingerprint:sha-256 AB:CD"), 7, "bad_fingerprint"),
        (stream("a=fingerprint:sha-512"), 7, "bad_fingerprint"),
        (stream("a=path:sip:bob"), 7, "sdp_msrp_uri"),
    ]
}

#[test]
fn errors_name_the_problem_and_its_line() {
    let mut seen = BTreeSet::from(["sdp_not_utf8", "sdp_too_long", "sdp_too_many_media"]);
    seen.extend(["too_many_fingerprints", "no_fingerprint"]);
    for (text, line, name) in cases() {
        let found = error(text.as_bytes());
        assert_eq!((found.line, found.problem.name()), (line, name), "{found}: {text}");
        let message = found.to_string();
        assert!(message.starts_with(&format!("SDP line {line}: ")) && message.len() < 200, "{message}");
        assert!(!message.contains(['\0', '\r', '\n']), "{message:?}");
        seen.insert(name);
    }
    assert_eq!(seen.len(), 21, "a problem has no case: {seen:?}");
}

#[test]
fn lines_that_are_read_must_be_utf8() {
    for line in [&b"m=message 1 TCP/MSRP \xFF\r\n"[..], b"m=message 1 TCP/MSRP *\r\na=path:\xFF\r\n"] {
        let bytes = [b"v=0\r\nc=IN IP4 192.0.2.7\r\n", line].concat();
        assert_eq!(error(&bytes).problem.name(), "sdp_not_utf8");
    }
}

#[test]
fn ten_thousand_lines_are_refused() {
    let text = format!("v=0\r\n{}", "a=\n".repeat(10_000));
    let found = error(text.as_bytes());
    assert_eq!(found.problem.name(), "sdp_too_long");
    assert!(found.to_string().contains("30005 bytes; send at most 16384"), "{found}");
    assert_eq!(found.line, 5461, "where the bound is");
    let within = format!("v=0\r\na={}", "x".repeat(MAX_BYTES - 7));
    assert_eq!(within.len(), MAX_BYTES);
    assert!(Document::parse(within.as_bytes()).is_ok());
    assert_eq!(error(format!("{within}x").as_bytes()).problem.name(), "sdp_too_long");
}

#[test]
fn one_media_line_too_many_is_refused() {
    let text = |count: usize| format!("v=0\r\n{}", "m=audio 1 RTP/AVP 0\r\n".repeat(count));
    assert_eq!(Document::parse(text(MAX_MEDIA).as_bytes()).unwrap().sections().len(), MAX_MEDIA);
    let found = error(text(MAX_MEDIA + 1).as_bytes());
    assert_eq!((found.line, found.problem.name()), (MAX_MEDIA + 2, "sdp_too_many_media"));
}

#[test]
fn one_fingerprint_too_many_is_refused() {
    let lines =
        |count: u8| (0..count).map(|byte| format!("a=fingerprint:{}", sha256(byte))).collect::<Vec<_>>();
    let text = |count: u8| with_lines(&lines(count).iter().map(String::as_str).collect::<Vec<_>>());
    let most = u8::try_from(MAX_FINGERPRINTS).unwrap();
    let document = Document::parse(text(most).as_bytes()).unwrap();
    assert!(document.learn(0).is_ok());
    let found = error(text(most + 1).as_bytes());
    assert_eq!((found.line, found.problem.name()), (7 + MAX_FINGERPRINTS, "too_many_fingerprints"));
}

#[test]
fn tls_without_a_fingerprint_of_ours_is_refused() {
    let mut local = tls();
    local.tls.as_mut().unwrap().fingerprints.clear();
    let found = Document::parse(CORE.as_bytes()).unwrap().rewrite(0, &local).unwrap_err();
    assert_eq!((found.line, found.problem.name()), (5, "no_fingerprint"));
}
