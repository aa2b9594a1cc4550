//! The programs, and what their pages say that no table of the code has: files and relations.

use clap::{Command, CommandFactory};
use offramp_loadgen::arguments::Arguments;

/// The program that `offramp ticket-key agent` runs in its place, so that one page describes both.
pub(crate) const AGENT: &str = "offramp-ticket-key-agent";
/// The page of the configuration.
pub(crate) const CONFIGURATION: &str = "offramp.toml";

/// The three.
pub(crate) const NAMES: [&str; 3] = ["offramp", AGENT, "loadgen"];

/// Their command lines.
pub(crate) fn all() -> [Command; 3] {
    [offramp::command::command_line(), offramp_ticket_key_agent::command_line(), Arguments::command()]
}

const FILE: (&str, &str) =
    ("/etc/offramp/offramp.toml", "The configuration that offramp.service, the systemd unit, reads.");
const SOCKET: (&str, &str) =
    ("/run/offramp/admin.sock", "The admin socket, if `admin_socket` of the configuration names it.");
const CREDENTIAL: (&str, &str) = (
    "/run/credentials/offramp.service/key.pem",
    "The copy that systemd makes of /etc/offramp/key.pem, for `key` of an [[identity]].",
);
const TICKET_KEYS: (&str, &str) = (
    "/etc/offramp/ticket.keys",
    "The usual place of a file of ticket keys, `ticket_keys` of the configuration.",
);

/// The files that a page names: path, and what it is.
pub(crate) fn files(page: &str) -> &'static [(&'static str, &'static str)] {
    match page {
        "offramp" => &[FILE, SOCKET, TICKET_KEYS],
        "offramp-serve" | CONFIGURATION => &[FILE, CREDENTIAL, SOCKET],
        "offramp-check" => &[FILE],
        "offramp-upgrade" => &[FILE, SOCKET],
        AGENT => &[
            ("/run/offramp-ticket-keys/ticket.keys", "The file of ticket keys, as the systemd unit has it."),
            ("/etc/offramp/ticket-key.kek", "The key-encryption key, as the systemd unit has it."),
            ("/etc/offramp/ticket-key-agent.env", "`ETCD` and `OPTIONS` for the systemd unit."),
        ],
        _ if page.starts_with("offramp-ticket-key") => &[TICKET_KEYS],
        _ => &[],
    }
}

/// Whether a page leads to the page of the configuration.
pub(crate) fn is_configured(page: &str) -> bool {
    files(page).contains(&FILE)
}
