//! What the generator must not take for a sample: it has to find the faults that are put there.

#![expect(clippy::unwrap_used, reason = "a test stops at what must not fail")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use offramp_loadgen::backend::Backend;
use offramp_loadgen::identity::{Identity, SERVER_NAME};
use offramp_loadgen::plan::{Ending, Load, Pin, Plan, Request, Target, Until, Version, Work};
use offramp_loadgen::profiles::ClientProfile;
use offramp_loadgen::runner::{Clients, Outcome};
use rustls::pki_types::CertificateDer;

mod engine;
mod ring;

/// Two connections at once for a moment.
fn plan(work: Work, resume: f64) -> Plan {
    Plan {
        work,
        load: Load::Closed { connections: 2 },
        resume,
        ending: Ending::Reset,
        sources: Vec::new(),
        threads: 1,
        pin: Pin::Off,
        warm_up: Duration::ZERO,
        until: Until::Elapsed(Duration::from_millis(300)),
        patience: Duration::from_secs(5),
        give_up_after: 20,
        seed: 1,
    }
}

/// Until too many have failed: what is to fail every time has no use for a clock.
fn failing(work: Work) -> Plan {
    Plan { until: Until::Elapsed(Duration::from_secs(120)), ..plan(work, 0.0) }
}

fn run(plan: &Plan, version: Version, target: SocketAddr, trusted: &CertificateDer<'static>) -> Outcome {
    let target = Target { host: SERVER_NAME.to_owned(), address: target };
    let profile = ClientProfile::equal(version, SERVER_NAME, trusted).unwrap();
    Clients::new(plan, &profile).unwrap().run(plan, &target, |_| {}).unwrap()
}

fn broken_off(outcome: Outcome) -> String {
    let tally = &outcome.tally;
    let told = format!("{:?} {} {}", tally.failures(), tally.handshakes(), tally.done);
    assert!(outcome.broken_off.is_some(), "{told}");
    outcome.broken_off.expect("a run in which every connection fails is broken off")
}

/// A TCP server that reads what comes, and answers every reading with `answer` of it.
fn liar(answer: fn(&[u8]) -> Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's process.
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = socket.read(&mut buffer) {
                    if socket.write_all(&answer(&buffer[..count])).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn a_full_handshake_is_not_counted_as_resumed() {
    let (backend, identity) = (Backend::start(8).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, false) else { return };
    for version in Version::BOTH {
        let plan = plan(Work::Handshake(Request::Echo), 1.0);
        let tally = run(&plan, version, engine.local_addr().unwrap(), &identity.certificate).tally;
        assert!(tally.handshakes() > 0);
        assert_eq!(tally.as_asked(), 0, "without tickets nothing is resumed");
    }
}

#[test]
fn all_handshakes_resume_where_there_are_tickets() {
    let (backend, identity) = (Backend::start(8).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    for version in Version::BOTH {
        let plan = plan(Work::Handshake(Request::Echo), 1.0);
        let tally = run(&plan, version, engine.local_addr().unwrap(), &identity.certificate).tally;
        assert!(tally.handshakes() > 0);
        assert_eq!((tally.as_asked(), tally.failed()), (tally.handshakes(), 0), "{:?}", tally.failures());
    }
}

#[test]
fn bytes_that_are_not_the_right_ones_are_failures() {
    let identity = Identity::generate().unwrap();
    let echo = liar(<[u8]>::to_vec);
    let Some(engine) = engine::start(echo, &identity, true) else { return };
    // To the client the length comes back in place of the pattern; from it, the other way round.
    for work in [Work::ToClient, Work::FromClient] {
        let outcome =
            run(&failing(work), Version::Tls13, engine.local_addr().unwrap(), &identity.certificate);
        assert!(outcome.tally.changed > 0, "{:?}", outcome.tally.failures());
        assert!(broken_off(outcome).contains("too many connections fail"));
    }
}

#[test]
fn a_changed_echo_is_a_failure() {
    let identity = Identity::generate().unwrap();
    let Some(engine) = engine::start(liar(|bytes| vec![b'?'; bytes.len()]), &identity, true) else { return };
    let plan = failing(Work::Handshake(Request::Echo));
    let outcome = run(&plan, Version::Tls12, engine.local_addr().unwrap(), &identity.certificate);
    assert!(broken_off(outcome).contains("came back changed"));
}

#[test]
fn a_stranger_s_certificate_is_a_failure() {
    let (backend, identity) = (Backend::start(8).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    let stranger = Identity::generate().unwrap();
    let plan = failing(Work::Handshake(Request::Echo));
    let outcome = run(&plan, Version::Tls13, engine.local_addr().unwrap(), &stranger.certificate);
    assert!(broken_off(outcome).contains("certificate"));
}

#[test]
fn a_target_that_is_not_there_or_no_tls_is_a_failure() {
    if !ring::is_there() {
        return;
    }
    let identity = Identity::generate().unwrap();
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let plan = failing(Work::Handshake(Request::Echo));
    let http = liar(|_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    for (target, name) in [(nobody, "refused"), (http, "tls: ")] {
        let said = broken_off(run(&plan, Version::Tls12, target, &identity.certificate));
        assert!(said.contains(name), "{said}");
    }
}

/// A relay to `target` that passes one flight each way and breaks the connection when the client says more.
fn breaking(target: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's process.
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut server = TcpStream::connect(target)?;
                let mut buffer = [0; 16 * 1024];
                let count = client.read(&mut buffer)?;
                server.write_all(&buffer[..count])?;
                let count = server.read(&mut buffer)?;
                client.write_all(&buffer[..count])?;
                // What is not read when it is closed makes the kernel send a reset.
                client.peek(&mut buffer[..1])
            });
        }
    });
    address
}

#[test]
fn server_that_resets_before_any_data_accepts_nobody() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    let target = breaking(engine.local_addr().unwrap());
    let plan = Plan { ending: Ending::Orderly, ..failing(Work::Handshake(Request::None)) };
    let outcome = run(&plan, Version::Tls13, target, &identity.certificate);
    assert_eq!(outcome.tally.done, 0);
    assert!(broken_off(outcome).contains("reset (close)"));
}
