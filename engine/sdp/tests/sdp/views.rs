//! What is read of a stream.

use offramp_sdp::{ConnectionUse, Document, E2ae, Setup, TlsId, Transport};

use crate::samples::{CORE, TLS_ID, phone, sha256, stream, with_lines};

#[test]
fn stream_of_a_phone_is_read_whole() {
    let remote = stream(&phone());
    assert_eq!(remote.transport, Transport::TcpTlsMsrp);
    assert_eq!(remote.address, "192.0.2.7:7654".parse().unwrap());
    assert_eq!((remote.setup, remote.connection), (Some(Setup::Actpass), Some(ConnectionUse::New)));
    assert_eq!(remote.fingerprints.unwrap().fingerprints(), [sha256(0xAB)]);
    assert_eq!(remote.tls_id.unwrap().to_string(), TLS_ID);
    assert_eq!((remote.e2ae, remote.cema), (Some(E2ae::Requested), false));
    assert_eq!(remote.path[0].as_str(), "msrps://192.0.2.7:7654/s4f6a;tcp");
    assert_eq!(remote.path[0].session_id(), Some("s4f6a"));
}

#[test]
fn stream_of_the_core_is_read_whole() {
    let remote = stream(CORE);
    assert_eq!(remote.transport, Transport::TcpMsrp);
    assert_eq!(remote.address, "203.0.113.5:2855".parse().unwrap());
    assert_eq!((remote.setup, remote.connection, remote.tls_id, remote.e2ae), (None, None, None, None));
    assert_eq!(remote.fingerprints, None);
}

#[test]
fn media_lines_are_read_by_their_parts() {
    let document = Document::parse(b"v=0\r\nm=audio 49170/2 RTP/AVP 0 8 97\r\n").unwrap();
    let media = document.sections()[0].media();
    assert_eq!((media.media(), media.port(), media.count()), ("audio", 49170, Some(2)));
    assert_eq!((media.proto(), media.transport()), ("RTP/AVP", None));
    assert_eq!(media.formats().collect::<Vec<_>>(), ["0", "8", "97"]);
    assert_eq!(document.sections()[0].lines()[0].number(), 2);
}

#[test]
fn setup_of_the_session_holds_for_media_without() {
    let session =
        |text: &str| text.replace("t=0 0\r\n", "t=0 0\r\na=setup:passive\r\na=connection:existing\r\n");
    let remote = stream(&session(&with_lines(&[])));
    assert_eq!((remote.setup, remote.connection), (Some(Setup::Passive), Some(ConnectionUse::Existing)));
    assert_eq!(stream(&session(&phone())).setup, Some(Setup::Actpass));
}

#[test]
fn address_of_the_media_holds_before_that_of_the_session() {
    let remote = stream(&with_lines(&["c=IN IP6 2001:db8::5"]));
    assert_eq!(remote.address, "[2001:db8::5]:7654".parse().unwrap());
}

#[test]
fn tls_id_keeps_its_length_and_characters() {
    for (value, is_valid) in [
        ("a".repeat(19), false),
        ("a".repeat(20), true),
        ("aZ09+/-_aZ09+/-_aZ09".to_owned(), true),
        ("a".repeat(255), true),
        ("a".repeat(256), false),
        ("a".repeat(19) + ".", false),
        ("a".repeat(19) + "é", false),
    ] {
        assert_eq!(TlsId::read(&value).is_ok(), is_valid, "{value}");
    }
}

#[test]
fn unknown_e2ae_values_are_ignored() {
    assert_eq!(stream(&with_lines(&["a=3ge2ae:other"])).e2ae, None);
    assert_eq!(stream(&with_lines(&["a=3ge2ae:applied"])).e2ae, Some(E2ae::Applied));
}

#[test]
fn transports_are_ours_by_name_in_either_case() {
    for (name, transport) in [
        ("TCP/MSRP", Some(Transport::TcpMsrp)),
        ("tcp/tls/msrp", Some(Transport::TcpTlsMsrp)),
        ("UDPTL", Some(Transport::Udptl)),
        ("UDP/TLS/UDPTL", Some(Transport::UdpTlsUdptl)),
        ("TCP/TLS", None),
        ("TCP/MSRP/", None),
    ] {
        assert_eq!(Transport::by_name(name), transport, "{name}");
    }
    for transport in ["TCP/MSRP", "udptl"].map(|name| Transport::by_name(name).unwrap()) {
        let secured = transport.with_tls(true);
        assert!(secured.has_tls() && !transport.has_tls() && secured.is_tcp() == transport.is_tcp());
        assert_eq!((secured.with_tls(false), transport.with_tls(false)), (transport, transport));
    }
}
