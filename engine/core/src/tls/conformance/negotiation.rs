//! Sections A and B: what the contribution concludes, and what is negotiated.

use super::Level::{May, Note, Shall, ShallNot, Should};
use super::Source::{Believed, Cited, Read};
use super::Verdict::{Deviation, No, Yes};
use super::{
    ALLOWED, CLIENTS, CLIENTS_REFUSED, FORBIDDEN, PLANNED, Row, SERVERS_REFUSED, SHARED, TICKET_CONTENT, row,
};

const ANNEX_M: &str = "TS 33.328 Annex M";
const GENERAL: &str = "TS 33.210 clause 6.2.1";
const TLS13: &str = "TS 33.210 clause 6.2.2";
const TLS12: &str = "TS 33.210 clause 6.2.3";
const SUITES_REFUSED: &str =
    "profile negotiation::suites_without_aead_and_forward_secrecy_are_refused_with_handshake_failure";
const SUITES_ACCEPTED: &str = "profile negotiation::every_suite_of_the_profile_is_accepted_alone";
const GROUPS: &str = "profile negotiation::p256_p384_and_x25519_are_accepted_alone_and_no_other_group";
const CLIENT_OFFERS: &str = "profile originate::the_hello_offers_the_profile_and_nothing_else";
const HELLO_REQUEST: &str =
    "profile originate::a_hello_request_is_told_no_renegotiation_and_the_connection_goes_on_unharmed";
const CLIENT_REFUSES: &str = "profile originate::a_server_hello_outside_the_profile_is_refused";

/// Section A.
pub(super) static CONCLUSIONS: &[Row] = &[
    row(
        "A1",
        (ANNEX_M, Read),
        May,
        "the extensions of RFC 6066 are not restricted: server_name, max_fragment_length, \
         client_certificate_url, trusted_ca_keys, truncated_hmac, status_request",
        Yes,
        &[
            "profile extensions::each_extension_of_rfc_6066_alone_is_no_obstacle",
            CLIENTS[0],
            CLIENTS[1],
            "profile clients::what_openssl_does_not_know_of_rfc_6066_completes_and_is_not_echoed",
        ],
    ),
    row(
        "A2",
        (ANNEX_M, Read),
        Note,
        "parameters do not depend on the access network: one profile, nothing that loosens it",
        Yes,
        &["profile conformance::no_key_of_the_configuration_loosens_the_profile"],
    ),
    row(
        "A3a",
        (ANNEX_M, Read),
        Should,
        "session resumption in the server, by tickets (RFC 5077): no session on the server",
        Yes,
        &[
            "wire resumption::openssl_echoes_lines_and_resumes_by_ticket",
            "profile clients::sessions_of_gnutls_nss_and_java_resume",
            "profile clients::sessions_of_nss_resume_in_both_versions_where_it_reads_to_the_end",
            "wire memory::memory_is_flat_however_many_sessions_there_were",
        ],
    ),
    row(
        "A3b",
        (ANNEX_M, Read),
        Should,
        "session resumption in the client",
        Yes,
        &[
            "wire originate::a_pair_carries_bulk_both_ways_and_resumes_when_it_connects_again",
            "profile servers::gnutls_serves_and_its_sessions_resume",
            "profile servers::nss_serves_and_its_sessions_resume",
            "profile servers::java_serves_and_its_sessions_resume",
            "profile originate::a_ticket_in_pieces_is_kept_and_resumes",
        ],
    ),
    row(
        "A3c",
        (ANNEX_M, Read),
        Should,
        "tickets can be shared between hosts behind a balancer",
        Yes,
        &[SHARED, "hosts a_host_that_is_killed_under_load_costs_the_other_nothing"],
    ),
    row(
        "A4a",
        ("TS 33.328 Annex M, RFC 5077 §3.2", Read),
        Shall,
        "a server that does not resume leaves SessionTicket out and does a full handshake",
        Yes,
        &["wire resumption::without_tickets_every_handshake_is_full"],
    ),
    row(
        "A4b",
        ("TS 33.328 Annex M, RFC 5077 §3.1", Read),
        Shall,
        "so does one that cannot use the ticket, and it offers a fresh one",
        Yes,
        &[
            "profile extensions::a_foreign_ticket_means_a_full_handshake_and_a_fresh_one",
            "profile extensions::early_data_is_ignored_and_a_foreign_psk_means_a_full_handshake",
            "profile tickets::a_ticket_that_is_cut_or_damaged_is_not_taken",
            "profile tickets::a_ticket_of_a_foreign_key_or_of_the_other_version_is_not_taken",
            "profile tickets::a_ticket_of_a_session_that_is_over_is_not_taken",
            TICKET_CONTENT,
        ],
    ),
    row(
        "A5",
        (ANNEX_M, Read),
        Should,
        "commands to disable and enable resumption, enabled by default: `tickets`, re-read on SIGHUP",
        Yes,
        &[
            "wire resumption::without_tickets_every_handshake_is_full",
            "lib supervisor::reload::tests::what_can_change_does_and_what_cannot_is_said",
            "wire resumption::tickets_are_switched_off_and_on_while_it_runs",
            "profile originate::without_tickets_none_is_asked_for",
        ],
    ),
    row(
        "A6a",
        ("TS 33.328 Annex M, RFC 5746 §3.6", Read),
        Shall,
        "the server signals secure renegotiation, for the extension and for the signalling suite",
        Yes,
        &["profile extensions::\
             secure_renegotiation_is_signalled_for_the_extension_and_for_the_signalling_suite"],
    ),
    row(
        "A6b",
        ("RFC 5746 §3.6", Read),
        Shall,
        "a first hello with a renegotiation_info that is not empty is aborted: handshake_failure",
        Yes,
        &[
            "profile extensions::a_first_hello_that_claims_to_renegotiate_is_aborted_with_handshake_failure",
            "profile extensions::the_hello_after_a_retry_may_not_claim_to_renegotiate_either",
        ],
    ),
    row(
        "A6c",
        ("TS 33.328 Annex M, RFC 5746 §4.5", Read),
        Shall,
        "renegotiation only if secured: every one is refused (no_renegotiation), also on kernel records",
        Yes,
        &[
            "profile clients::openssl_renegotiates_in_vain",
            "wire control::renegotiation_is_warned_of_once_and_then_ends_the_connection",
            "sim control::renegotiation_is_warned_of_once_and_then_ends_the_connection",
            "profile servers::a_server_that_asks_to_renegotiate_is_told_no",
            HELLO_REQUEST,
        ],
    ),
    row(
        "A6d",
        ("TS 33.328 Annex M, RFC 5746 §3.4", Read),
        Shall,
        "clients signal it too, and abort where a first ServerHello has one that is not empty",
        Yes,
        &["profile originate::the_client_signals_and_aborts_where_the_server_claims_to_renegotiate"],
    ),
    row(
        "A7",
        (ANNEX_M, Read),
        Note,
        "what an abbreviated handshake saves is measured, both versions",
        Yes,
        &["loadgen the_demo_ends_well_says_everything_as_json_and_leaves_nothing_behind"],
    ),
    row("A8", (ANNEX_M, Read), Shall, "DTLS under the same profile, without RC4", PLANNED, &[]),
    row(
        "A9",
        (ANNEX_M, Read),
        Note,
        "MSRP e2e by TLS-PSK through a KMS ticket (for further study)",
        No("no PSK but resumption; the text leaves it for further study"),
        &[],
    ),
];

/// Section B.
pub(super) static NEGOTIATION: &[Row] = &[
    row(
        "B1",
        (GENERAL, Read),
        ShallNot,
        "SSL, TLS 1.0, TLS 1.1: protocol_version",
        Yes,
        &[
            "profile negotiation::ssl_and_tls_before_1_2_are_refused_with_protocol_version",
            CLIENTS[0],
            CLIENTS[1],
            CLIENTS[2],
            CLIENTS[3],
            CLIENT_REFUSES,
        ],
    ),
    row(
        "B2",
        (GENERAL, Read),
        Shall,
        "TLS 1.2 and TLS 1.3",
        Yes,
        &[
            "profile negotiation::tls_1_2_and_1_3_are_negotiated_the_higher_where_both_are_offered",
            CLIENTS[0],
            CLIENTS[1],
            CLIENTS[2],
            CLIENTS[3],
            CLIENT_OFFERS,
        ],
    ),
    row(
        "B3a",
        ("TS 33.210 clause 6.2.2, RFC 8446 §9.1", Read),
        Shall,
        "TLS 1.3 suites: AES_128_GCM_SHA256, and as it should AES_256_GCM_SHA384, CHACHA20_POLY1305_SHA256",
        Yes,
        &[SUITES_ACCEPTED, "wire handshake::every_suite_and_every_group_carries_data"],
    ),
    row(
        "B3b",
        ("TS 33.210 clause 6.2.2, RFC 8446 §9.1", Read),
        Shall,
        "rsa_pss_rsae_sha256 and ecdsa_secp256r1_sha256: both identities on one listener, chosen by scheme",
        Yes,
        &[
            "profile negotiation::the_identity_is_chosen_by_signature_scheme",
            CLIENTS[0],
            CLIENTS[1],
            CLIENTS[2],
        ],
    ),
    row(
        "B4",
        (TLS13, Read),
        Should,
        "secp384r1, ecdsa_secp384r1_sha384",
        Yes,
        &[
            GROUPS,
            ALLOWED,
            "lib tls::identity::tests::the_choice_goes_by_name_and_then_by_what_the_client_verifies",
            "profile clients::an_identity_on_p384_is_served_to_clients_that_are_not_ours",
        ],
    ),
    row(
        "B5a",
        ("TS 33.210 clause 6.2.2, RFC 8446 §9.2", Read),
        Shall,
        "the mandatory extensions; a hello without one is refused with missing_extension",
        Yes,
        &["profile extensions::tls_1_3_without_a_mandatory_extension_is_refused_with_missing_extension"],
    ),
    row(
        "B5b",
        ("TS 33.210 clause 6.2.2, RFC 8446 §4.2.3", Read),
        Shall,
        "signature_algorithms_cert",
        Deviation(
            "not looked at (rustls has it not): signature_algorithms decides; a chain is sent as configured",
        ),
        &["profile extensions::signature_algorithms_cert_is_no_obstacle"],
    ),
    row(
        "B6",
        (TLS13, Cited),
        ShallNot,
        "psk_ke, integrity-only suites, FFDHE in TLS 1.3",
        Yes,
        &["profile clients::a_session_is_not_resumed_without_a_key_exchange", SUITES_REFUSED, GROUPS],
    ),
    row(
        "B7",
        (TLS13, Read),
        Note,
        "0-RTT has no profile for media: off; early data is ignored, and the handshake completes",
        Yes,
        &["profile clients::early_data_of_openssl_is_ignored_and_the_session_resumes"],
    ),
    row(
        "B8a",
        (TLS12, Read),
        Shall,
        "TLS 1.2: only AEAD with forward secrecy",
        Yes,
        &[SUITES_REFUSED, CLIENTS[0], CLIENT_OFFERS, CLIENT_REFUSES],
    ),
    row(
        "B8b",
        (TLS12, Believed),
        Shall,
        "ECDHE_ECDSA_AES_128_GCM; ECDHE_{ECDSA,RSA} with AES_{128,256}_GCM and CHACHA20 allowed",
        Yes,
        &[SUITES_ACCEPTED],
    ),
    row(
        "B9",
        ("TS 33.210 clause 6.2.3 up to Rel-18", Cited),
        Shall,
        "DHE_RSA_AES_128_GCM",
        Deviation("not offered: gone after Rel-18, and forbidden by RFC 10015"),
        &[SUITES_REFUSED],
    ),
    row(
        "B10a",
        (TLS12, Cited),
        Shall,
        "TLS 1.2: extended_master_secret; handshake_failure without it",
        Yes,
        &[
            "profile extensions::tls_1_2_without_extended_master_secret_is_refused_with_handshake_failure",
            CLIENTS[1],
            CLIENTS[3],
            CLIENT_REFUSES,
        ],
    ),
    row(
        "B10b",
        (TLS12, Cited),
        Shall,
        "TLS 1.2: signature_algorithms, supported_groups, server_name",
        Yes,
        &[
            "profile negotiation::the_identity_is_chosen_by_signature_scheme",
            "profile negotiation::in_tls_1_2_a_certificate_off_the_clients_curves_is_not_shown",
            GROUPS,
            "wire handshake::the_certificate_is_chosen_by_the_name_that_the_client_asks_for",
            CLIENT_OFFERS,
        ],
    ),
    row(
        "B11a",
        (GENERAL, Believed),
        Shall,
        "secp256r1, secp384r1 (should), x25519 (may)",
        Yes,
        &[GROUPS, CLIENTS[0], CLIENT_OFFERS],
    ),
    row("B11b", (GENERAL, Cited), ShallNot, "groups under 255 bits", Yes, &[GROUPS, FORBIDDEN]),
    row(
        "B11c",
        (GENERAL, Cited),
        ShallNot,
        "SHA-1 signatures",
        Yes,
        &[
            "profile negotiation::sha_1_and_md5_signatures_are_refused_with_handshake_failure",
            CLIENTS[0],
            CLIENTS[1],
            CLIENTS[2],
            SERVERS_REFUSED,
            CLIENTS_REFUSED,
        ],
    ),
    row(
        "B12a",
        (GENERAL, Read),
        ShallNot,
        "compression",
        Yes,
        &["profile negotiation::compression_is_null_and_nothing_else"],
    ),
    row(
        "B12b",
        (GENERAL, Cited),
        ShallNot,
        "RC4, NULL, CBC, static RSA",
        Yes,
        &[SUITES_REFUSED, CLIENTS[3], CLIENT_OFFERS],
    ),
    row(
        "B13",
        ("TS 33.210 clauses 6.2.2, 6.2.3", Cited),
        Should,
        "OCSP stapling (status_request)",
        Deviation("stapled while current and for the certificate: its signature is for clients to verify"),
        &[
            "wire stapling::an_ocsp_response_is_stapled_for_clients_that_ask",
            "wire stapling::an_ocsp_response_is_replaced_while_it_runs_and_a_bad_one_is_not_taken",
            "wire stapling::an_ocsp_response_that_runs_out_is_stapled_no_more",
        ],
    ),
];
