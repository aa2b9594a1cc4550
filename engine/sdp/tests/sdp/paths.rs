//! a=path: the grammar of MSRP URIs, and CEMA.

use offramp_sdp::{Local, MsrpUri, PathRule, Problem};

use crate::samples::{CORE, changes, phone, plain, stream, tls, with_lines};

#[test]
fn msrp_uris_are_read_by_their_parts() {
    for (text, host, address, session) in [
        ("msrp://192.0.2.7:7654/ab~c;tcp", "192.0.2.7", Some("192.0.2.7:7654"), Some("ab~c")),
        (
            "msrps://bob@[2001:db8::1]:9/a/b+c=;tcp;x=y",
            "[2001:db8::1]",
            Some("[2001:db8::1]:9"),
            Some("a/b+c="),
        ),
        ("MSRP://relay.example;tcp;flag", "relay.example", None, None),
        ("msrp://192.0.2.7;tcp", "192.0.2.7", Some("192.0.2.7:2855"), None),
    ] {
        let uri = MsrpUri::read(text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((uri.as_str(), uri.host(), uri.session_id()), (text, host, session));
        assert_eq!(uri.address(), address.map(|address| address.parse().unwrap()));
    }
}

#[test]
fn malformed_msrp_uris_name_the_part() {
    for (text, part) in [
        ("", "scheme"),
        ("sip://a;tcp", "scheme"),
        ("msrp:a;tcp", "scheme"),
        ("msrp://;tcp", "host"),
        ("msrp://[2001:db8::1;tcp", "port"),
        ("msrp://[192.0.2.7]/a;tcp", "host"),
        ("msrp://a b/x;tcp", "host"),
        ("msrp://a\"b/x;tcp", "host"),
        ("msrp://a:/x;tcp", "port"),
        ("msrp://a:65536/x;tcp", "port"),
        ("msrp://a:-1/x;tcp", "port"),
        ("msrp://[::1]x/x;tcp", "port"),
        ("msrp://\"@a/x;tcp", "user"),
        ("msrp://a/;tcp", "session-id"),
        ("msrp://a/x?y;tcp", "session-id"),
        ("msrp://a/x", "transport"),
        ("msrp://a/x;", "transport"),
        ("msrp://a/x;t-c-p", "transport"),
        ("msrp://a/x;tcp;", "parameter"),
        ("msrp://a/x;tcp;=y", "parameter"),
    ] {
        match MsrpUri::read(text) {
            Err(Problem::MsrpUri { part: found, .. }) => assert_eq!(found, part, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    let twice = with_lines(&["a=path:msrp://a/x;tcp  msrp://b/y;tcp"]);
    let document = offramp_sdp::Document::parse(twice.as_bytes()).unwrap();
    assert_eq!(document.learn(0).unwrap_err().problem.name(), "sdp_msrp_uri");
}

/// The a=path lines that a rewriting brought.
fn paths(text: &str, index: usize, local: &Local) -> Vec<String> {
    let changes = changes(text, index, local);
    changes.into_iter().filter(|line| line.starts_with("+a=path")).collect()
}

#[test]
fn path_stays_with_cema() {
    let attribute = phone().replace("a=setup", "a=msrp-cema\r\na=setup");
    assert!(stream(&attribute).cema);
    let relay = phone().replace("msrps://192.0.2.7:7654", "msrps://203.0.113.9:7654");
    let port = phone().replace("msrps://192.0.2.7:7654", "msrps://192.0.2.7:7000");
    for text in [&attribute, &relay, &port] {
        assert_eq!(paths(text, 1, &plain()), [""; 0], "{text}");
        let authority = Local { path: PathRule::Authority, ..plain() };
        assert_eq!(paths(text, 1, &authority), ["+a=path:msrp://198.51.100.1:20000/s4f6a;tcp\r\n"]);
    }
    assert_eq!(paths(&phone(), 1, &Local { path: PathRule::Keep, ..plain() }), [""; 0]);
}

#[test]
fn path_gets_our_authority_without_cema() {
    let ours = ["+a=path:msrp://198.51.100.1:20000/s4f6a;tcp\r\n"];
    let discard = phone().replace("m=message 7654", "m=message 9");
    let name = phone().replace("msrps://192.0.2.7:7654", "msrps://bob@ue.example");
    let hold = phone().replace("a=path", "c=IN IP4 0.0.0.0\r\na=path");
    for text in [phone(), discard, name, hold] {
        assert_eq!(paths(&text, 1, &plain()), ours, "{text}");
    }
    assert_eq!(paths(CORE, 0, &tls()), ["+a=path:msrps://198.51.100.1:20000/9di4ea;tcp\n"]);
    let address = "[2001:db8::1]:20000".parse().unwrap();
    let expected = ["+a=path:msrp://[2001:db8::1]:20000/s4f6a;tcp\r\n"];
    assert_eq!(paths(&phone(), 1, &Local { address, ..plain() }), expected);
}

#[test]
fn fax_has_no_path() {
    let text = with_lines(&["a=path:not of MSRP"]).replace("TCP/TLS/MSRP", "udptl");
    assert_eq!(stream(&text).path, []);
    assert_eq!(paths(&text, 0, &tls()), [""; 0]);
}

#[test]
fn uris_behind_the_first_stay() {
    let text = phone().replace("s4f6a;tcp", "s4f6a;tcp;a=b msrps://relay.example:9000/zz;tcp");
    let expected = "+a=path:msrp://198.51.100.1:20000/s4f6a;tcp;a=b msrps://relay.example:9000/zz;tcp\r\n";
    assert_eq!(paths(&text, 1, &plain()), [expected]);
}
