//! Extensions that a listener is configured to negotiate: an application protocol, a name.

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::NAME;
use offramp_testing::peer::{s_client, trust_file};
use offramp_testing::server::Setup;
use offramp_testing::tools::{have, scratch, text};

#[test]
fn alpn_is_negotiated_or_the_client_is_refused() {
    if !have("openssl") {
        return;
    }
    let (backend, files) = (Backend::start(BackendBehavior::Echo), scratch());
    let server = Setup::new(backend.addr).flags("--alpn msrp,cpim").start();
    let trust = trust_file(files.path());
    for version in ["-tls1_2", "-tls1_3"] {
        let words = |offers: &str| format!("{version} -servername {NAME} {offers}");
        for (offers, negotiated) in [
            ("-alpn h2,cpim,msrp", "ALPN protocol: msrp"),
            ("-alpn cpim", "ALPN protocol: cpim"),
            ("", "No ALPN negotiated"),
        ] {
            let (output, echoed) = s_client(server.addr, &trust, &words(offers), Some("hello"));
            assert!(echoed && text(&output).contains(negotiated), "{offers}: {}", text(&output));
        }
        let before = server.metrics();
        let (output, echoed) = s_client(server.addr, &trust, &words("-alpn h2"), Some("hello"));
        assert!(!echoed && text(&output).contains("no application protocol"), "{}", text(&output));
        assert_eq!(server.faulted(&before, 1), ["nothing_in_common"]);
    }
    server.stop();
}

#[test]
fn unknown_server_name_is_refused_by_policy() {
    if !have("openssl") {
        return;
    }
    let (backend, files) = (Backend::start(BackendBehavior::Echo), scratch());
    let trust = trust_file(files.path());
    for (policy, is_refused) in [("first", false), ("refuse", true)] {
        let server = Setup::new(backend.addr).flags(&format!("--unknown-name {policy}")).start();
        for version in ["-tls1_2", "-tls1_3"] {
            let ask =
                |words: &str| s_client(server.addr, &trust, &format!("{version} {words}"), Some("hello"));
            assert!(ask(&format!("-servername {NAME}")).1 && ask("-noservername").1, "{policy} {version}");
            let before = server.metrics();
            let (output, echoed) = ask("-servername nobody.test");
            assert_eq!(echoed, !is_refused, "{policy} {version}: {}", text(&output));
            if is_refused {
                assert!(text(&output).contains("unrecognized name"), "{}", text(&output));
                assert_eq!(server.faulted(&before, 1), ["unknown_name"]);
            }
        }
        server.stop();
    }
}
