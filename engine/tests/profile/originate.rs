//! RFC 5746 in the client's role: what a server made by hand says, and what it is told.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::hello::{Answer, ECDHE_ECDSA_AES_128_GCM, TLS12, extension, listen, records, vector};
use crate::identity::{Identity, NAME};
use crate::lab::{Lab, Setup};
use crate::peer::dial;
use crate::tools::scratch;

const HANDSHAKE_FAILURE: u8 = 40;
const EMPTY_RENEGOTIATION_INFO_SCSV: u16 = 0x00ff;

/// The first record that comes.
fn record(tcp: &mut TcpStream) -> Vec<u8> {
    let mut header = [0; 5];
    tcp.read_exact(&mut header).unwrap();
    let mut payload = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
    tcp.read_exact(&mut payload).unwrap();
    payload
}

/// The suites of a ClientHello.
fn suites(hello: &[u8]) -> Vec<u16> {
    let at = 4 + 2 + 32 + 1 + usize::from(hello[38]);
    let count = usize::from(u16::from_be_bytes([hello[at], hello[at + 1]])) / 2;
    let suites = hello[at + 2..].chunks(2).take(count);
    suites.map(|suite| u16::from_be_bytes([suite[0], suite[1]])).collect()
}

fn server_hello(renegotiated_connection: &[u8]) -> Vec<u8> {
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &vector::<2>(body)].concat();
    let extensions = [
        extension(extension::EXTENDED_MASTER_SECRET, &[]),
        extension(extension::RENEGOTIATION_INFO, &vector::<1>(renegotiated_connection)),
    ];
    let body = [
        TLS12.to_be_bytes().to_vec(),
        vec![0x5a; 32],
        vector::<1>(&[]),
        ECDHE_ECDSA_AES_128_GCM.to_be_bytes().to_vec(),
        vec![0],
        vector::<2>(&extensions.concat()),
    ];
    [&[2][..], &vector::<3>(&body.concat())].concat()
}

#[test]
fn the_client_signals_and_aborts_where_the_server_claims_to_renegotiate() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let files = scratch();
    Identity::ecdsa().write(files.path());
    let path = files.path().join("offramp.toml");
    let text = format!("mode = \"originate\"\nserver_name = \"{NAME}\"\nserver_ca = \"ecdsa.crt\"\n");
    std::fs::write(&path, text).unwrap();
    let flags = format!("--config {}", path.display());
    let lab: Lab = Setup::new(server.local_addr().unwrap()).identities(&[]).flags(&flags).start();
    for (renegotiated_connection, most) in [(&[][..], 1 << 14), (&[9; 24], 1 << 14), (&[9; 24], 1)] {
        let before = lab.settled();
        let plain = dial(lab.addr);
        let (mut tls, _) = server.accept().unwrap();
        let hello = record(&mut tls);
        assert!(suites(&hello).contains(&EMPTY_RENEGOTIATION_INFO_SCSV), "{hello:x?}");
        tls.write_all(&records(&server_hello(renegotiated_connection), most)).unwrap();
        if renegotiated_connection.is_empty() {
            // It is content, and waits for the rest of the flight, which does not come.
            drop(tls);
            assert_eq!(lab.faulted(&before, 1), ["closed_in_handshake"]);
        } else {
            assert!(matches!(listen(&mut tls), Answer::Alert(HANDSHAKE_FAILURE)));
            assert_eq!(lab.faulted(&before, 1), ["renegotiation_info"]);
        }
        drop(plain);
    }
    lab.settled();
    lab.stop();
}
