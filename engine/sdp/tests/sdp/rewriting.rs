//! Rules 1 to 3: which lines change, and no others.

use offramp_sdp::{ConnectionUse, Document, Learnt, Local, LocalTls, PathRule, Problem, Setup};

use crate::samples::{CORE, changes, fingerprint, phone, plain, sha256, stream, tls, with_lines};
use offramp_sdp::FingerprintHash;

#[test]
fn untouched_documents_keep_every_byte() {
    let mixed = "v=0\ns=\u{e9}\r\nx=\n\n\r\n";
    for text in [phone().as_str(), CORE, "v=0", "v=0\r\n", mixed] {
        assert_eq!(Document::parse(text.as_bytes()).unwrap().to_bytes(), text.as_bytes(), "{text}");
    }
    let latin1 = b"v=0\r\ns=\xE9\xFF\r\n";
    assert_eq!(Document::parse(latin1).unwrap().to_bytes(), latin1);
}

#[test]
fn foreign_media_pass_byte_for_byte() {
    for proto in ["RTP/AVP", "RTP/SAVP", "UDP/TLS/RTP/SAVPF", "TCP/BFCP", "UDP/DTLS/SCTP", "x"] {
        let text = phone().replace("TCP/TLS/MSRP", proto);
        assert_eq!(changes(&text, 1, &plain()), [""; 0], "{proto}");
        assert_eq!(Document::parse(text.as_bytes()).unwrap().learn(1), Ok(Learnt::Foreign));
    }
    assert_eq!(changes(&phone(), 0, &plain()), [""; 0], "the audio");
    assert_eq!(changes(&phone(), 2, &plain()), [""; 0], "a section that does not exist");
}

#[test]
fn removing_tls_changes_its_lines_only() {
    let fingerprint = format!("-a=fingerprint:{}\r\n", sha256(0xAB));
    assert_eq!(
        changes(&phone(), 1, &plain()),
        [
            "-m=message 7654 TCP/TLS/MSRP *\r\n",
            "+m=message 20000 TCP/MSRP *\r\n",
            "+c=IN IP4 198.51.100.1\r\n",
            "-a=path:msrps://192.0.2.7:7654/s4f6a;tcp\r\n",
            "+a=path:msrp://198.51.100.1:20000/s4f6a;tcp\r\n",
            &fingerprint,
            "-a=tls-id:phone-association-0001\r\n",
            "-a=3ge2ae:requested\r\n",
        ],
        "the setup stays on TCP (RFC 6135), and the title stays in front of c="
    );
}

#[test]
fn adding_tls_changes_its_lines_only() {
    let local = Local { setup: Some(Setup::Actpass), connection: Some(ConnectionUse::New), ..tls() };
    let fingerprint = format!("+a=fingerprint:{}\n", sha256(1));
    assert_eq!(
        changes(CORE, 0, &local),
        [
            "-m=message 2855 TCP/MSRP *\n",
            "-c=IN IP4 203.0.113.5\n",
            "+m=message 20000 TCP/TLS/MSRP *\n",
            "+c=IN IP4 198.51.100.1\n",
            "-a=path:msrp://203.0.113.5:2855/9di4ea;tcp",
            "+a=path:msrps://198.51.100.1:20000/9di4ea;tcp\n",
            "+a=setup:actpass\n",
            "+a=connection:new\n",
            &fingerprint,
            "+a=tls-id:gateway-association-77\n",
            "+a=3ge2ae:applied",
        ],
        "the last line has no end still"
    );
}

#[test]
fn tls_on_both_legs_replaces_lines_in_place() {
    let fingerprints = vec![sha256(1), fingerprint(FingerprintHash::Sha384, 2)];
    let both = LocalTls { fingerprints: fingerprints.clone(), ..tls().tls.unwrap() };
    let text = phone().replace("a=setup", "a=fingerprint:sha-1 00\r\na=setup");
    let local = Local { tls: Some(both), path: PathRule::Keep, ..plain() };
    assert_eq!(
        changes(&text, 1, &local),
        [
            "-m=message 7654 TCP/TLS/MSRP *\r\n".to_owned(),
            "+m=message 20000 TCP/TLS/MSRP *\r\n".to_owned(),
            "+c=IN IP4 198.51.100.1\r\n".to_owned(),
            "-a=fingerprint:sha-1 00\r\n".to_owned(),
            format!("+a=fingerprint:{}\r\n", fingerprints[0]),
            format!("+a=fingerprint:{}\r\n", fingerprints[1]),
            format!("-a=fingerprint:{}\r\n", sha256(0xAB)),
            "-a=tls-id:phone-association-0001\r\n".to_owned(),
            "-a=3ge2ae:requested\r\n".to_owned(),
            "+a=tls-id:gateway-association-77\r\n".to_owned(),
            "+a=3ge2ae:applied\r\n".to_owned(),
        ]
    );
}

#[test]
fn fax_gets_dtls_and_loses_it() {
    let text = "v=0\r\nc=IN IP6 2001:db8::7\r\nm=image 6000 UDPTL t38\r\na=T38FaxVersion:0\r\n\r\n";
    let local = Local { address: "[2001:db8::1]:20000".parse().unwrap(), ..tls() };
    let mut document = Document::parse(text.as_bytes()).unwrap();
    document.rewrite(0, &Local { setup: Some(Setup::Active), ..local }).unwrap();
    let secured = String::from_utf8(document.to_bytes()).unwrap();
    assert!(secured.contains("m=image 20000 UDP/TLS/UDPTL t38\r\nc=IN IP6 2001:db8::1\r\n"), "{secured}");
    assert!(secured.ends_with("\r\na=3ge2ae:applied\r\n\r\n"), "in front of the empty line: {secured}");
    document.rewrite(0, &Local { setup: Some(Setup::Active), ..plain() }).unwrap();
    let plain = String::from_utf8(document.to_bytes()).unwrap();
    assert!(plain.ends_with("m=image 20000 udptl t38\r\nc=IN IP4 198.51.100.1\r\na=T38FaxVersion:0\r\n\r\n"));
}

#[test]
fn existing_media_address_is_replaced_once() {
    let text = with_lines(&["i=chat", "c=IN IP4 192.0.2.7", "a=setup:active"]);
    let changed = changes(&text, 0, &plain());
    assert_eq!(changed[2..], ["-c=IN IP4 192.0.2.7\r\n", "+c=IN IP4 198.51.100.1\r\n"]);
    let titled = with_lines(&["i=chat", "b=AS:64"]);
    let mut document = Document::parse(titled.as_bytes()).unwrap();
    document.rewrite(0, &plain()).unwrap();
    let rewritten = String::from_utf8(document.to_bytes()).unwrap();
    assert!(rewritten.ends_with("i=chat\r\nc=IN IP4 198.51.100.1\r\nb=AS:64\r\n"), "{rewritten}");
}

#[test]
fn transport_that_stays_keeps_its_spelling() {
    let text = "v=0\nc=IN IP4 192.0.2.7\nm=image 6000/1 UDPTL t38  x \nc=IN IP4 198.51.100.1\n";
    let expected = ["-m=image 6000/1 UDPTL t38  x \n", "+m=image 20000 UDPTL t38  x \n"];
    assert_eq!(changes(text, 0, &plain()), expected, "and the formats their spaces");
    let mut document = Document::parse(text.as_bytes()).unwrap();
    document.rewrite(0, &plain()).unwrap();
    let again = Document::parse(&document.to_bytes()).unwrap();
    assert_eq!(again.sections()[0].media(), document.sections()[0].media());
}

#[test]
fn released_stream_changes_its_protocol_alone() {
    let text = with_lines(&["a=setup:nonsense"]).replace("7654", "0");
    assert_eq!(
        changes(&text, 0, &plain()),
        ["-m=message 0 TCP/TLS/MSRP *\r\n", "+m=message 0 TCP/MSRP *\r\n"]
    );
    let mut document = Document::parse(text.as_bytes()).unwrap();
    assert_eq!(document.rewrite(0, &tls()), Ok(Learnt::Released));
    assert_eq!(document.to_bytes(), text.as_bytes());
}

#[test]
fn attribute_names_count_in_either_case() {
    let line = format!("a=FingerPrint:{}", sha256(9));
    let text = with_lines(&[&line, "a=TLS-ID:phone-association-0001", "a=Setup:Active"]);
    assert_eq!(stream(&text).setup, Some(Setup::Active));
    let mut document = Document::parse(text.as_bytes()).unwrap();
    document.rewrite(0, &plain()).unwrap();
    let rewritten = String::from_utf8(document.to_bytes()).unwrap().to_lowercase();
    assert!(!rewritten.contains("fingerprint") && !rewritten.contains("tls-id"), "{rewritten}");
}

#[test]
fn failed_rewriting_leaves_the_document() {
    let text = with_lines(&["a=setup:sometimes"]);
    let mut document = Document::parse(text.as_bytes()).unwrap();
    let error = document.rewrite(0, &plain()).unwrap_err();
    assert_eq!((error.line, error.problem.name()), (7, "sdp_value"));
    assert_eq!(document.to_bytes(), text.as_bytes());

    let mut document = Document::parse(CORE.as_bytes()).unwrap();
    let mut local = tls();
    local.tls.as_mut().unwrap().fingerprints.clear();
    assert_eq!(document.rewrite(0, &local).unwrap_err().problem, Problem::NoFingerprint);
    assert_eq!(document.to_bytes(), CORE.as_bytes());
}
