//! What is left to chance: the entries of the fuzz targets (`fuzz/`), which the tests go through as well.

use std::time::Instant;

use super::dice::{Choices, digest};
use super::header::Header;
use super::hostile::PeerAction;
use super::kernel::{Generation, KernelProfile};
use super::lab::{SUITES, bytes, client, originating, passing_through, rules, server};
use super::peer::{Role, Script};
use super::plan::{Backend, InjectedFault, Outcome, Plan};
use super::world::World;
use offramp_core::conn::fault::{Blame, Fault};
use offramp_core::conn::record_path::Offer;
use offramp_proto::CipherSet;

const ERRNOS: [i32; 5] = [libc::ENOENT, libc::ENOTCONN, libc::ENOMEM, libc::EBUSY, libc::EINVAL];
const MISHAPS: [InjectedFault; 9] = [
    InjectedFault::PeerReset,
    InjectedFault::PeerFin,
    InjectedFault::PlainPeerReset,
    InjectedFault::FlippedBit,
    InjectedFault::Drain,
    InjectedFault::NoMoreMemory,
    InjectedFault::NoMoreOffload,
    InjectedFault::NoMoreKeys(libc::ENOMEM),
    InjectedFault::NoMoreKeys(libc::EBUSY),
];

/// Runs the world that the bytes choose: the first few its beginning, the rest all that happens in it. It
/// panics if the connection breaks its contract; what must hold in every world is asserted.
///
/// # Panics
/// If it does not hold.
pub fn world_of_chance(choices: &[u8]) {
    outcome_of_chance(choices);
}

/// The same, and how it ended: the same way for the same bytes, down to the digest of all that happened in it
/// ([`Outcome::transcript`]).
///
/// # Panics
/// If it does not hold.
pub fn outcome_of_chance(choices: &[u8]) -> Outcome {
    let (beginning, rest) = choices.split_at(choices.len().min(32));
    let mut dice = Choices::bytes(beginning);
    let suite = SUITES[dice.below(SUITES.len())];
    let originates = dice.below(2) > 0;
    // The role does not follow from who opened the connection.
    let swaps = dice.below(4) == 0;
    let habits = habits(&mut dice);
    let offer = Offer {
        tx: if dice.below(4) > 0 { CipherSet::ALL } else { CipherSet::NONE },
        rx: if dice.below(4) > 0 { CipherSet::ALL } else { CipherSet::NONE },
        after_bytes: [0, 0, 1, 20_000][dice.below(4)],
        rekeys: habits.generation == Generation::Rekeying,
    };
    let sends = bytes(dice.below(50_000), 1);
    let mut plan = Plan::new(digest(choices), sends.clone());
    plan.refuses = (dice.below(16) == 0).then_some(libc::ECONNREFUSED);
    plan.first_is_silent = dice.below(16) == 0;
    plan.preamble = (dice.below(4) == 0).then(|| bytes(1 + dice.below(300), 2));
    plan.dice = Some(rest.to_vec());
    plan.habits = habits;
    plan.script = script(&mut dice, sends);
    plan.backend = backend(&mut dice);
    plan.cut = dice.below(600);
    plan.mishap = (dice.below(2) > 0).then(|| (1 + dice.below(300), MISHAPS[dice.below(MISHAPS.len())]));
    // Last, so that the throws before it mean what they meant in older seeds.
    let header = (dice.below(5) == 0).then(|| Header::of(&mut dice));
    plan.header = header.as_ref().map(|header| header.bytes.clone());
    plan.turns_away = (dice.below(16) == 0).then_some(Fault::SourceConnections);
    let passes = dice.below(5) == 0;
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning of a world")]
    let beginning = Instant::now();
    let (mut rules, peer): (_, Role) = if passes {
        plan.script = Script { says: Vec::new(), interrupts: None, ..plan.script };
        (passing_through(), client(suite).into())
    } else if originates {
        (originating(offer), server(suite).into())
    } else {
        (rules(offer), client(suite).into())
    };
    rules.record_limit = 1024;
    rules.accepts_proxy = header.is_some();
    if swaps {
        (rules.near, rules.far) = (rules.far, rules.near);
    }
    let outcome = World::new(plan.clone(), rules, peer, beginning).run();
    header.iter().for_each(|header| judge_header(header, &plan, &outcome));
    if !passes || judge_refusal(&outcome) {
        judge(&plan, &outcome);
    }
    outcome
}

fn habits(dice: &mut Choices) -> KernelProfile {
    let mut refusal = || (dice.below(8) == 0).then(|| ERRNOS[dice.below(ERRNOS.len())]);
    let (refuse_tx, refuse_rx) = (refusal(), refusal());
    let generation = Generation::ALL[dice.below(Generation::ALL.len())];
    KernelProfile { generation, refuse_tx, refuse_rx, hides_sequence: dice.below(8) == 0, slip: None }
}

fn script(dice: &mut Choices, sends: Vec<u8>) -> Script {
    let (sends_at_once, closes_first) = (dice.below(2) > 0, dice.below(4) > 0);
    let key_updates = [0, 0, 1, 40][dice.below(4)];
    let mut says = Vec::new();
    if dice.below(4) == 0 {
        for _ in 0..dice.below(40) {
            says.push(match dice.below(6) {
                0 => PeerAction::KeyUpdate { requested: dice.below(2) > 0 },
                1 => PeerAction::record(dice.below(256) as u8, &sends[..dice.below(20).min(sends.len())]),
                2 => PeerAction::Raw(sends[..dice.below(9).min(sends.len())].to_vec()),
                3 => PeerAction::Record { record_type: 23, payload: Vec::new(), padding: dice.below(300) },
                _ => PeerAction::data(&sends[..dice.below(16_385).min(sends.len())]),
            });
        }
    }
    let deaf_after = (dice.below(8) == 0).then(|| dice.below(20_000));
    let interrupts = (dice.below(8) == 0).then(|| (dice.below(3000), rubbish(dice, &sends)));
    Script { sends, sends_at_once, key_updates, closes_first, deaf_after, says, interrupts }
}

/// Bytes that may look like a record, of a type that there is.
fn rubbish(dice: &mut Choices, sends: &[u8]) -> Vec<u8> {
    let bytes = &sends[..dice.below(200).min(sends.len())];
    match dice.below(2) {
        0 => bytes.to_vec(),
        _ => [&[20 + dice.below(4) as u8, 3, 3, 0, bytes.len() as u8], bytes].concat(),
    }
}

fn backend(dice: &mut Choices) -> Backend {
    match dice.below(8) {
        2 => Backend::Stalls(dice.below(30_000)),
        0 => Backend::Greets(bytes(dice.below(5000), 2)),
        1 => Backend::AnswersAndCloses(bytes(dice.below(50_000), 3)),
        3 => Backend::ResetsAfter(1 + dice.below(30_000)),
        4 => Backend::Silent,
        _ => Backend::Echo,
    }
}

/// What must hold whatever happened: no byte is invented, exchanged or told twice, and an orderly end stands
/// for a whole stream.
fn judge(plan: &Plan, outcome: &Outcome) {
    let (fault, passes) = (outcome.report.fault, outcome.peer.is_passed_through());
    assert_ne!(fault, Some(Fault::Internal), "an invariant of our own");
    // What it cannot open was sealed out of its turn: under a nonce that was spent, or left out.
    let unopened = outcome.peer.error == Some(rustls::Error::DecryptError);
    assert!(!unopened || outcome.was_altered, "a record under the wrong key or nonce: {fault:?}");
    let is_damaged =
        matches!(plan.mishap, Some((_, InjectedFault::FlippedBit))) || plan.script.interrupts.is_some();
    if plan.script.says.is_empty() {
        let sends = outcome.peer.sends();
        // Where TLS is passed through, a flipped bit is as well.
        let is_same =
            |got: &[u8]| got == &sends[..got.len().min(sends.len())] || passes && outcome.was_altered;
        assert!(is_same(&outcome.to_backend), "the backend got what was not sent");
        if outcome.backend_saw_end && !outcome.backend_was_reset && fault.is_none() {
            // Behind our close_notify a FIN alone is an orderly end too; without TLS it always is.
            let early = passes || matches!(plan.backend, Backend::AnswersAndCloses(_));
            let fin = matches!(plan.mishap, Some((_, InjectedFault::PeerFin)));
            let whole = outcome.to_backend.len() == sends.len();
            assert!(whole || early && fin, "an end that came too soon");
        }
        assert!(outcome.peer.error.is_none() || fault.is_some() || is_damaged, "{:?}", outcome.peer.error);
    }
    let answer: Vec<u8> = match &plan.backend {
        Backend::Echo => outcome.to_backend.clone(),
        Backend::Greets(greeting) => [greeting, &outcome.to_backend[..]].concat(),
        Backend::AnswersAndCloses(answer) => answer.clone(),
        Backend::ResetsAfter(_) | Backend::Silent | Backend::Stalls(_) => Vec::new(),
    };
    assert!(answer.starts_with(&outcome.peer.received), "the client got what was not sent");
    if outcome.peer.saw_close {
        let received = outcome.peer.received.len();
        assert_eq!(received, outcome.from_backend, "a close_notify behind what was lost: {fault:?}");
        let whole = fault.is_some() || !plan.script.says.is_empty() || outcome.peer.received == answer;
        assert!(whole, "a close_notify that came too soon");
    }
    judge_delivery(plan, outcome);
    if fault == Some(Fault::IdleTimeout) && !outcome.backend_was_reset && plan.script.says.is_empty() {
        let delivered = outcome.to_backend.len() + outcome.in_socket;
        assert_eq!(delivered, outcome.peer.sent(), "an end behind what was lost");
    }
}

/// However the peer's stream ended: all that came of it whole and authentic is with a backend that takes it.
fn judge_delivery(plan: &Plan, outcome: &Outcome) {
    use Backend as B;
    let takes = matches!(plan.backend, B::Echo | B::Greets(_) | B::AnswersAndCloses(_) | B::Silent);
    use InjectedFault as I;
    let has_time = !matches!(plan.mishap, Some((_, I::PlainPeerReset | I::Drain | I::NoMoreMemory)));
    let is_established = outcome.established.is_some() || outcome.peer.is_passed_through();
    let is_relayed = outcome.plain_was_open && is_established;
    let fault = outcome.report.fault;
    // What still comes when the end is ours is read for the alert's sake alone.
    let is_ours = |fault: Fault| matches!(fault, Fault::RecordLimit | Fault::RekeyRefused);
    let ends_above = fault.is_none_or(|fault| fault.blame() != Blame::Plain && !is_ours(fault));
    if plan.script.says.is_empty() && takes && has_time && is_relayed && ends_above {
        assert_eq!(outcome.to_backend.len(), outcome.authentic, "what came was not delivered: {fault:?}");
    }
}

/// A header that is whole is taken, and names the client; who is turned away because of it gets nothing.
fn judge_header(header: &Header, plan: &Plan, outcome: &Outcome) {
    let fault = outcome.report.fault;
    let is_damaged = !header.is_whole || plan.mishap.is_some();
    use Fault as F;
    let is_refused =
        matches!(fault, Some(F::ProxyHeaderMissing | F::ProxyHeaderMalformed | F::ProxyHeaderTimeout));
    assert!(is_damaged || !is_refused, "a header as it should be: {fault:?}");
    let client = outcome.proxied.as_ref().map(|addresses| addresses.client);
    assert!(is_damaged || client == header.client, "{client:?} and not {:?}", header.client);
    let has_begun = outcome.established.is_some() || !outcome.to_backend.is_empty();
    assert!(!has_begun || !is_refused, "something was done behind {fault:?}");
    if let Some(reason) = plan.turns_away.filter(|_| client.is_some()) {
        assert!(fault == Some(reason) && !has_begun, "turned away, and yet: {fault:?}");
        assert!(outcome.peer.received.is_empty(), "something was said");
    }
}

/// TLS that is passed through is refused with an alert, and before anything was passed on. Whether it was
/// not.
fn judge_refusal(outcome: &Outcome) -> bool {
    let is_alert = matches!(outcome.peer.received[..], [21, 3, _, 0, 2, 2, _]);
    if !is_alert || !outcome.to_backend.is_empty() {
        return true;
    }
    assert!(outcome.report.fault.is_some(), "an alert for nothing");
    false
}
