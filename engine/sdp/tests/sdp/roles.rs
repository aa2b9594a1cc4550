//! Rules 4, 6 and 7: who connects, whether the association goes on, ports 0 and 9.

use offramp_sdp::{
    Agreement, Association, Party, Remote, Renewal, Roles, Setup, SetupError, TcpDirection, TlsRole, agree,
    answered_setup, association, offered_setup,
};

use crate::samples::{TLS_ID, phone, sha256, stream, with_lines};

const ALL: [Option<Setup>; 5] =
    [None, Some(Setup::Active), Some(Setup::Passive), Some(Setup::Actpass), Some(Setup::Holdconn)];

/// Who connects, for each offer (in a row) and answer, in the order of `ALL`.
#[test]
fn every_offer_and_answer_has_a_verdict() {
    use SetupError::{ActpassInAnswer, BothActive, BothPassive, HoldNotAnswered};
    let (offerer, answerer) = (Ok(Some(Party::Offerer)), Ok(Some(Party::Answerer)));
    let (open, hold) = (Err(ActpassInAnswer), Ok(None));
    let table = [
        [offerer, Err(BothActive), offerer, open, hold],
        [offerer, Err(BothActive), offerer, open, hold],
        [Err(BothPassive), answerer, Err(BothPassive), open, hold],
        [offerer, answerer, offerer, open, hold],
        [Err(HoldNotAnswered), Err(HoldNotAnswered), Err(HoldNotAnswered), open, hold],
    ];
    let ours = Agreement::Roles(Roles { tcp: TcpDirection::Connect, tls: TlsRole::Client });
    let theirs = Agreement::Roles(Roles { tcp: TcpDirection::Accept, tls: TlsRole::Server });
    for (offer, row) in ALL.into_iter().zip(table) {
        for (answer, connects) in ALL.into_iter().zip(row) {
            for we in [Party::Offerer, Party::Answerer] {
                let expected = connects.map(|party| match party {
                    None => Agreement::Hold,
                    Some(party) if party == we => ours,
                    Some(_) => theirs,
                });
                assert_eq!(agree(offer, answer, we), expected, "{offer:?} {answer:?} {we:?}");
            }
        }
    }
}

#[test]
fn own_answer_fits_every_offer() {
    for offer in ALL {
        for preferred in [TcpDirection::Connect, TcpDirection::Accept] {
            let answer = answered_setup(offer, preferred);
            let agreement = agree(offer, Some(answer), Party::Answerer).unwrap();
            match offer {
                Some(Setup::Holdconn) => assert_eq!(agreement, Agreement::Hold),
                Some(Setup::Actpass) => {
                    assert!(matches!(agreement, Agreement::Roles(roles) if roles.tcp == preferred));
                }
                Some(Setup::Passive) => assert_eq!(answer, Setup::Active),
                None | Some(Setup::Active) => assert_eq!(answer, Setup::Passive),
            }
        }
    }
    assert_eq!(offered_setup(None), Setup::Actpass);
    assert_eq!(offered_setup(Some(Setup::Passive)), Setup::Passive);
}

#[test]
fn setup_errors_have_names_of_their_own() {
    let all = [
        SetupError::BothActive,
        SetupError::BothPassive,
        SetupError::ActpassInAnswer,
        SetupError::HoldNotAnswered,
        SetupError::NoTarget,
    ];
    for (index, error) in all.into_iter().enumerate() {
        assert!(error.name().starts_with("setup_") && error.to_string().contains("a=setup"), "{error}");
        assert!(all[..index].iter().all(|other| other.name() != error.name()), "{error}");
    }
}

#[test]
fn port_9_is_normal_for_whoever_connects() {
    let discard = stream(&phone().replace("m=message 7654", "m=message 9"));
    assert_eq!(discard.target(TcpDirection::Accept), Ok(None));
    assert_eq!(discard.target(TcpDirection::Connect), Err(SetupError::NoTarget));
    let nowhere = stream(&with_lines(&["c=IN IP4 0.0.0.0"]));
    assert_eq!(nowhere.target(TcpDirection::Connect), Err(SetupError::NoTarget));
    let target = "192.0.2.7:7654".parse().unwrap();
    assert_eq!(stream(&phone()).target(TcpDirection::Connect), Ok(Some(target)));
}

/// The phone's stream without the line that asks for a new connection.
fn before() -> (String, Remote) {
    let text = phone().replace("a=connection:new\r\n", "");
    let remote = stream(&text);
    (text, remote)
}

#[test]
fn reoffer_with_the_same_tls_id_keeps_the_association() {
    let (text, before) = before();
    let moved = text.replace("7654", "7655").replace("actpass", "active");
    let existing = text.replace("a=setup", "a=connection:existing\r\na=setup");
    let twice = text.replace("a=tls-id", &format!("a=fingerprint:{}\r\na=tls-id", sha256(0xAB)));
    for now in [&text, &moved, &existing, &twice] {
        assert_eq!(association(&before, &stream(now)), Association::Same, "{now}");
    }
}

#[test]
fn reoffer_that_changes_identity_starts_a_new_one() {
    let (text, before) = before();
    let other = sha256(0xCD).to_string();
    for (now, renewal) in [
        (phone(), Renewal::Connection),
        (text.replace(TLS_ID, "phone-association-0002"), Renewal::TlsId),
        (text.replace(&format!("a=tls-id:{TLS_ID}\r\n"), ""), Renewal::TlsId),
        (text.replace(&sha256(0xAB).to_string(), &other), Renewal::Fingerprints),
        (text.replace("a=tls-id", &format!("a=fingerprint:{other}\r\na=tls-id")), Renewal::Fingerprints),
        (text.replace("TCP/TLS/MSRP", "TCP/MSRP"), Renewal::Transport),
    ] {
        assert_eq!(association(&before, &stream(&now)), Association::New(renewal), "{now}");
    }
}
