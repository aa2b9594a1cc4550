//! A handshake flood beside an established connection.
//!
//! The measure is the flood itself: one handshake takes the server `1 / rate`, whatever the machine and
//! whoever else uses it. Who waits behind the flood waits for as many handshakes as there are clients.

use std::time::Duration;

use offramp_attack::flood::{Flood, Priority};
use offramp_attack::hello::{Hello, Key};

use crate::alone;
use crate::victim::{established, noticed};
use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::Identity;
use offramp_testing::server::Setup;

/// Clients at once.
const CLIENTS: usize = 2000;
/// How many handshakes' time the victim's 99th percentile may be: a tenth of what who waits behind all has.
const HANDSHAKES_MAX: u32 = CLIENTS as u32 / 10;
/// On a machine with others, what they cost the victim while there is no flood, and more of it.
const QUIET_FACTOR: u32 = 50;
const WATCHED: Duration = Duration::from_secs(3);

fn victim_is_not_starved(identity: &'static Identity, key: Key) {
    let _alone = alone();
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).identities(&[identity]).start();
    let mut victim = established(server.addr);
    let quiet = noticed(&mut victim, WATCHED);
    let flood =
        Flood::start(server.addr, CLIENTS, Hello { tls13: false, key }, Priority::Usual).expect("a flood");
    // All are on their way.
    noticed(&mut victim, WATCHED / 3);
    let before = flood.answered();
    let noticed = noticed(&mut victim, WATCHED);
    let answered = u32::try_from(flood.answered() - before).expect("a number of handshakes");
    flood.stop().expect("the flood goes on to its end");
    let said = format!(
        "{key:?}: p50 {:?} p99 {:?} max {:?}, quiet p99 {:?}; {answered} handshakes in {:?}",
        noticed.percentile(50),
        noticed.percentile(99),
        noticed.max(),
        quiet.percentile(99),
        noticed.length(),
    );
    println!("{said}");
    assert!(answered > 0, "{said}: the server makes handshakes");
    let handshake = noticed.length() / answered;
    let limit = (handshake * HANDSHAKES_MAX).max(quiet.percentile(99) * QUIET_FACTOR);
    assert!(noticed.percentile(99) <= limit, "{said}: p99 is above {limit:?}");
    drop(victim);
    server.stop();
}

#[test]
fn flood_of_ecdsa_handshakes_starves_no_victim() {
    victim_is_not_starved(Identity::ecdsa(), Key::Ecdsa);
}

#[test]
fn flood_of_rsa_handshakes_starves_no_victim() {
    victim_is_not_starved(Identity::rsa(), Key::Rsa);
}
