//! Sections C to E: certificates, the media gateway, resumption together with authentication.

use super::Level::{May, Note, Shall, ShallNot};
use super::Source::Read;
use super::Verdict::{Deviation, No, Yes};
use super::{
    ALLOWED, CLIENTS, CLIENTS_REFUSED, FORBIDDEN, PLANNED, Row, SERVERS_REFUSED, SHARED, TICKET_CONTENT, row,
};

const CERTIFICATES: &str = "TS 33.310 clause 6.1.1";
const GATEWAY: &str = "TS 23.334 clause 5.11";
const FINGERPRINT: &str = "wire peers::a_fingerprint_that_was_told_is_let_in_and_no_other";
const ANY_SERVER: &str =
    "profile servers::under_a_fingerprint_a_server_may_have_any_certificate_with_a_key_of_the_profile";
const OUTLIVED: &str = "wire peers::a_session_does_not_outlive_what_let_it_in";

/// Section C.
pub(super) static CERTIFICATION: &[Row] = &[
    row(
        "C1",
        (CERTIFICATES, Read),
        Shall,
        "X.509 version 3",
        Yes,
        &["profile certificates::a_certificate_of_version_1_is_refused_by_clause"],
    ),
    row(
        "C2",
        (CERTIFICATES, Read),
        Shall,
        "signatures with SHA-256, SHA-384 (should); never MD5, SHA-1",
        Yes,
        &[ALLOWED, FORBIDDEN, SERVERS_REFUSED, CLIENTS_REFUSED],
    ),
    row("C3", (CERTIFICATES, Read), Shall, "RSA and ECDSA", Yes, &[ALLOWED, CLIENTS[0]]),
    row(
        "C4",
        ("TS 33.310 clause 6.1.1, TS 33.210 clause 6.2", Read),
        ShallNot,
        "RSA under 2048 bits, other curves: a configuration error that names the clause; for peers \
         bad_certificate",
        Yes,
        &[FORBIDDEN, SERVERS_REFUSED, CLIENTS_REFUSED],
    ),
    row(
        "C5",
        ("RFC 8122 §6.2", Read),
        Note,
        "with fingerprints no path is validated: self-signed is normal, version 1 occurs",
        Yes,
        &[
            FINGERPRINT,
            "wire peers::a_certificate_of_version_1_is_let_in_by_its_fingerprint",
            "wire vouching::a_fingerprint_asks_neither_for_dates_nor_for_a_purpose_nor_for_an_authority",
            ANY_SERVER,
        ],
    ),
];

/// Section D.
pub(super) static MEDIA: &[Row] = &[
    row(
        "D1",
        (GATEWAY, Read),
        Shall,
        "both TLS roles, whatever the TCP direction",
        Deviation("both, by listener (`mode`), but who connects is the TLS client; planned"),
        &["wire originate::a_pair_carries_bulk_both_ways_and_resumes_when_it_connects_again"],
    ),
    row(
        "D2",
        (GATEWAY, Read),
        Shall,
        "a certificate of its own for each stream, its fingerprint returned",
        No("certificates belong to listeners; planned"),
        &[],
    ),
    row(
        "D3",
        (GATEWAY, Read),
        Shall,
        "the remote certificate is verified by the fingerprints that were told",
        Deviation("told for a listener, in its configuration, and not for each stream; planned"),
        &[FINGERPRINT, ANY_SERVER, "wire vouching::fingerprints_of_several_hashes_hold_side_by_side"],
    ),
    row(
        "D4",
        (GATEWAY, Read),
        Shall,
        "mismatch or missing certificate: bad_certificate, TLS ended, failure reported",
        Yes,
        &[FINGERPRINT, ANY_SERVER, CLIENTS_REFUSED],
    ),
    row(
        "D5",
        (GATEWAY, Read),
        May,
        "the handshake starts before the fingerprint arrives, and the stream is held until the verdict",
        PLANNED,
        &[],
    ),
    row(
        "D6",
        (GATEWAY, Read),
        Shall,
        "TCP is released when TLS is",
        Yes,
        &[
            "wire relay::a_client_that_ends_first_still_gets_its_answer",
            "sim shutdown::an_idle_connection_is_closed_in_order",
        ],
    ),
    row(
        "D7",
        (GATEWAY, Read),
        Shall,
        "forwarding that knows nothing of MSRP",
        Yes,
        &["wire relay::a_million_and_one_bytes_in_any_cut_both_directions_at_once"],
    ),
    row(
        "D8",
        (GATEWAY, Read),
        Shall,
        "two classes of listeners: media (client certificate requested) and access (not requested)",
        Yes,
        &[FINGERPRINT, "wire peers::a_request_lets_those_without_a_certificate_in"],
    ),
    row(
        "D9",
        (GATEWAY, Read),
        Note,
        "media sessions are long and idle",
        Yes,
        &["wire relay::a_connection_that_is_idle_too_long_is_ended_and_a_busy_one_is_not"],
    ),
];

/// Section E.
pub(super) static RESUMPTION: &[Row] = &[
    row(
        "E1",
        ("RFC 5077 §5", Read),
        Shall,
        "a ticket is bound to the authentication that its session was made under, to the names that clients \
         know the listener by, and to the peer's certificate, which is in the session that it seals",
        Yes,
        &[
            "lib tls::tickets::tests::a_ticket_does_not_cross_into_another_class",
            "lib tls::pair::tests::a_session_stays_with_the_names_that_it_was_made_under",
            TICKET_CONTENT,
            "profile tickets::a_ticket_does_not_cross_to_a_listener_with_other_names",
            OUTLIVED,
        ],
    ),
    row(
        "E2",
        ("RFC 8122 §6.2, RFC 8446 §4.6.1", Read),
        Shall,
        "the peer is judged after every handshake, resumed or not; no certificate is a failure",
        Yes,
        &[
            OUTLIVED,
            "wire vouching::a_certificate_that_ends_takes_the_sessions_made_under_it_along",
            "profile servers::a_servers_certificate_that_ends_takes_the_sessions_made_under_it_along",
            "wire vouching::an_authority_that_is_replaced_takes_the_sessions_that_it_vouched_for_along",
        ],
    ),
    row(
        "E3",
        ("RFC 5077 §5.6", Read),
        Shall,
        "the age of a session counts from its first full handshake",
        Yes,
        &[
            "lib tls::tickets::tests::the_age_of_a_session_counts_from_its_first_full_handshake",
            "profile tickets::a_session_is_over_at_its_age_however_often_it_was_resumed_and_a_new_one_begins",
            TICKET_CONTENT,
        ],
    ),
    row(
        "E4",
        ("RFC 5077 §5.5", Read),
        Shall,
        "ticket keys have names, are known everywhere before they seal, rotate without restart, and expire",
        Yes,
        &[
            SHARED,
            "hosts keys_rotate_under_load_without_a_failed_or_full_handshake",
            "lib tls::ticket_keys::tests::a_key_opens_at_once_seals_from_its_time_and_expires",
            "hosts a_key_dies_when_its_time_is_over_though_it_still_stands_in_the_file",
            "hosts sighup_reads_the_keys_again_where_nothing_shows_that_the_file_has_changed",
        ],
    ),
];
