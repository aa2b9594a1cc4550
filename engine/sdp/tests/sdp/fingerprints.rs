//! Rule 5, and rule 6 for forked answers.

use std::cell::RefCell;

use offramp_sdp::{FingerprintHash, FingerprintSet, first_match};

use crate::samples::{fingerprint, sha256, stream, with_lines};

/// The set that a stream with these fingerprints has, in the section and in the session.
fn set(media: &[&str], session: &[&str]) -> FingerprintSet {
    let lines =
        |values: &[&str]| values.iter().map(|value| format!("a=fingerprint:{value}")).collect::<Vec<_>>();
    let text = with_lines(&lines(media).iter().map(String::as_str).collect::<Vec<_>>());
    let session: String = lines(session).iter().map(|line| format!("{line}\r\n")).collect();
    stream(&text.replace("t=0 0\r\n", &format!("t=0 0\r\n{session}"))).fingerprints.unwrap()
}

/// The digests of a certificate whose digests are this byte repeated.
fn certificate(byte: u8) -> impl Fn(FingerprintHash) -> Vec<u8> {
    move |hash| vec![byte; hash.digest_bytes()]
}

#[test]
fn fingerprints_of_the_session_hold_for_media_without() {
    let (a, b) = (sha256(1).to_string(), sha256(2).to_string());
    assert!(set(&[], &[&a]).holds(certificate(1)));
    let own = set(&[&b], &[&a]);
    assert!(own.holds(certificate(2)) && !own.holds(certificate(1)), "the media has its own");
    assert_eq!(stream(&with_lines(&[])).fingerprints, None);
}

#[test]
fn certificate_holds_by_any_of_the_strongest_hash() {
    let strong = |byte| fingerprint(FingerprintHash::Sha512, byte).to_string();
    let set = set(&[&sha256(1).to_string(), &strong(2), &strong(3)], &[]);
    assert_eq!((set.hash(), set.fingerprints().len()), (FingerprintHash::Sha512, 2));
    assert!(set.holds(certificate(2)) && set.holds(certificate(3)));
    assert!(!set.holds(certificate(1)), "sha-256 is weaker than the others");
    assert!(!set.holds(certificate(4)));
}

#[test]
fn weak_and_unknown_hashes_are_passed_over_beside_others() {
    let set = set(&["sha-1 00", "md5 00", "sha3-256 00", &sha256(1).to_string()], &[]);
    assert_eq!(set.fingerprints(), [sha256(1)]);
}

#[test]
fn fingerprint_sets_are_equal_in_any_order() {
    let (a, b) = (sha256(1), sha256(2));
    let set = |list: &[_]| FingerprintSet::strongest(list.to_vec());
    assert_eq!(set(&[a.clone(), b.clone(), a.clone()]), set(&[b.clone(), a.clone()]));
    assert_ne!(set(&[a]), set(&[b]));
    assert_eq!(set(&[]), None);
}

#[test]
fn plain_streams_ignore_fingerprints() {
    let text = with_lines(&["a=fingerprint:md5 00", "a=tls-id:x"]).replace("TCP/TLS/", "TCP/");
    let remote = stream(&text);
    assert_eq!((remote.fingerprints, remote.tls_id), (None, None));
}

#[test]
fn first_fork_that_matches_wins() {
    let sets =
        [[sha256(1)].to_vec(), [fingerprint(FingerprintHash::Sha384, 2)].to_vec(), [sha256(2)].to_vec()]
            .map(|list| FingerprintSet::strongest(list).unwrap());
    let asked = RefCell::new(Vec::new());
    let digest = |hash| {
        asked.borrow_mut().push(hash);
        certificate(2)(hash)
    };
    assert_eq!(first_match(["a", "b", "c"].into_iter().zip(&sets), digest), Some("b"));
    assert_eq!(*asked.borrow(), [FingerprintHash::Sha256, FingerprintHash::Sha384]);
    assert_eq!(first_match(["a", "b", "c"].into_iter().zip(&sets), certificate(9)), None);
}
