//! The configuration file as written: TOML, unknown keys refused.
//!
//! It is only read here; what the values may be is for [`Raw::check`](super::Raw::check) to say. Paths of
//! certificates and keys are relative to the directory of the file.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::{ConfigError, Given, IdentityFiles, Key, Origin, Raw, RawListener};
use crate::files::{self, Problem};

/// Reads a configuration file.
///
/// # Errors
/// [`ConfigError::Unreadable`] or [`ConfigError::Malformed`]: each names the file, the second the line.
pub fn read(path: &Path) -> Result<Raw, ConfigError> {
    let unreadable = |cause: Problem| ConfigError::Unreadable { path: path.to_owned(), cause: cause.into() };
    let content = files::read(path, files::BYTES_MAX).map_err(unreadable)?;
    parse(path, content.text().map_err(unreadable)?)
}

/// Reads the text of a configuration file; `path` is only for the messages and for what is relative to it.
///
/// # Errors
/// [`ConfigError::Malformed`].
pub fn parse(path: &Path, text: &str) -> Result<Raw, ConfigError> {
    let written: Written = toml::from_str(text).map_err(|error| ConfigError::Malformed {
        path: path.to_owned(),
        line: line_at(text, error.span().map_or(0, |span| span.start)),
        message: error.message().replace('\n', "; "),
    })?;
    Ok(raw(path, text, written))
}

/// The keys of the file. A value's type is checked here, its meaning is not.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    listen: Option<Spanned<String>>,
    backend: Option<Spanned<String>>,
    mode: Option<Spanned<String>>,
    server_name: Option<Spanned<String>>,
    server_ca: Option<Spanned<String>>,
    workers: Option<Spanned<i64>>,
    pin_workers: Option<Spanned<String>>,
    offload: Option<Spanned<String>>,
    offload_directions: Option<Spanned<String>>,
    keyupdate: Option<Spanned<String>>,
    expect_no_pad: Option<Spanned<String>>,
    record_limit: Option<Spanned<i64>>,
    tickets: Option<Spanned<String>>,
    keepalive: Option<Spanned<String>>,
    ticket_keys: Option<Spanned<String>>,
    session_lifetime: Option<Spanned<String>>,
    client_auth: Option<Spanned<String>>,
    client_ca: Option<Spanned<String>>,
    fingerprints: Option<Spanned<Vec<String>>>,
    alpn: Option<Spanned<Vec<String>>>,
    unknown_name: Option<Spanned<String>>,
    truncation: Option<Spanned<String>>,
    admin: Option<Spanned<String>>,
    max_connections: Option<Spanned<i64>>,
    #[serde(default)]
    identity: Vec<Identity>,
    #[serde(default)]
    listener: Vec<Spanned<Listener>>,
    #[serde(default)]
    timeouts: Timeouts,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listener {
    listen: Option<Spanned<String>>,
    backend: Option<Spanned<String>>,
    mode: Option<Spanned<String>>,
    server_name: Option<Spanned<String>>,
    server_ca: Option<Spanned<String>>,
    offload: Option<Spanned<String>>,
    offload_directions: Option<Spanned<String>>,
    keyupdate: Option<Spanned<String>>,
    expect_no_pad: Option<Spanned<String>>,
    record_limit: Option<Spanned<i64>>,
    tickets: Option<Spanned<String>>,
    keepalive: Option<Spanned<String>>,
    client_auth: Option<Spanned<String>>,
    client_ca: Option<Spanned<String>>,
    fingerprints: Option<Spanned<Vec<String>>>,
    alpn: Option<Spanned<Vec<String>>>,
    unknown_name: Option<Spanned<String>>,
    truncation: Option<Spanned<String>>,
    #[serde(default)]
    identity: Vec<Identity>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    ocsp: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Timeouts {
    handshake: Option<Spanned<String>>,
    connect: Option<Spanned<String>>,
    idle: Option<Spanned<String>>,
    linger: Option<Spanned<String>>,
    drain: Option<Spanned<String>>,
}

fn raw(path: &Path, text: &str, written: Written) -> Raw {
    let place = Place { path, text };
    let mut raw = Raw::default();
    let values = [
        (Key::Listen, written.listen),
        (Key::Backend, written.backend),
        (Key::Mode, written.mode),
        (Key::ServerName, written.server_name),
        (Key::ServerCa, written.server_ca.map(|path| place.relative(path))),
        (Key::Offload, written.offload),
        (Key::OffloadDirections, written.offload_directions),
        (Key::KeyUpdate, written.keyupdate),
        (Key::ExpectNoPad, written.expect_no_pad),
        (Key::RecordLimit, written.record_limit.map(digits)),
        (Key::Tickets, written.tickets),
        (Key::Keepalive, written.keepalive),
        (Key::TicketKeys, written.ticket_keys.map(|path| place.relative(path))),
        (Key::SessionLifetime, written.session_lifetime),
        (Key::ClientAuth, written.client_auth),
        (Key::ClientCa, written.client_ca.map(|path| place.relative(path))),
        (Key::Fingerprints, written.fingerprints.map(joined)),
        (Key::Alpn, written.alpn.map(joined)),
        (Key::UnknownName, written.unknown_name),
        (Key::Truncation, written.truncation),
        (Key::Admin, written.admin),
        (Key::Workers, written.workers.map(digits)),
        (Key::PinWorkers, written.pin_workers),
        (Key::MaxConnections, written.max_connections.map(digits)),
        (Key::Handshake, written.timeouts.handshake),
        (Key::Connect, written.timeouts.connect),
        (Key::Idle, written.timeouts.idle),
        (Key::Linger, written.timeouts.linger),
        (Key::Drain, written.timeouts.drain),
    ];
    for (key, given) in values.into_iter().filter_map(|(key, value)| place.given(key, value)) {
        raw.give(key, given);
    }
    raw.identities = place.identities(written.identity);
    raw.listeners = written.listener.into_iter().map(|listener| place.listener(listener)).collect();
    raw
}

fn digits(value: Spanned<i64>) -> Spanned<String> {
    Spanned::new(value.span(), value.get_ref().to_string())
}

fn joined(values: Spanned<Vec<String>>) -> Spanned<String> {
    Spanned::new(values.span(), values.get_ref().join(", "))
}

/// The file, for the messages and for what is relative to it.
struct Place<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Place<'_> {
    fn given(&self, key: Key, value: Option<Spanned<String>>) -> Option<(Key, Given)> {
        let value = value?;
        let origin =
            Origin::File { path: self.path.to_owned(), line: line_at(self.text, value.span().start) };
        Some((key, Given { value: value.into_inner(), origin }))
    }

    fn relative(&self, path: Spanned<String>) -> Spanned<String> {
        let directory = self.path.parent().unwrap_or(Path::new(""));
        let joined = directory.join(path.get_ref()).to_string_lossy().into_owned();
        let is_empty = path.get_ref().is_empty();
        Spanned::new(path.span(), if is_empty { String::new() } else { joined })
    }

    fn identities(&self, written: Vec<Identity>) -> Vec<IdentityFiles> {
        let directory = self.path.parent().unwrap_or(Path::new(""));
        let files = |identity: Identity| IdentityFiles {
            certificate: directory.join(identity.certificate),
            key: directory.join(identity.key),
            ocsp: identity.ocsp.map(|ocsp| directory.join(ocsp)),
        };
        written.into_iter().map(files).collect()
    }

    fn listener(&self, written: Spanned<Listener>) -> RawListener {
        let line = line_at(self.text, written.span().start);
        let written = written.into_inner();
        let values = [
            (Key::Listen, written.listen),
            (Key::Backend, written.backend),
            (Key::Mode, written.mode),
            (Key::ServerName, written.server_name),
            (Key::ServerCa, written.server_ca.map(|path| self.relative(path))),
            (Key::Offload, written.offload),
            (Key::OffloadDirections, written.offload_directions),
            (Key::KeyUpdate, written.keyupdate),
            (Key::ExpectNoPad, written.expect_no_pad),
            (Key::RecordLimit, written.record_limit.map(digits)),
            (Key::Tickets, written.tickets),
            (Key::Keepalive, written.keepalive),
            (Key::ClientAuth, written.client_auth),
            (Key::ClientCa, written.client_ca.map(|path| self.relative(path))),
            (Key::Fingerprints, written.fingerprints.map(joined)),
            (Key::Alpn, written.alpn.map(joined)),
            (Key::UnknownName, written.unknown_name),
            (Key::Truncation, written.truncation),
        ];
        RawListener {
            path: self.path.to_owned(),
            line,
            given: values.into_iter().filter_map(|(key, value)| self.given(key, value)).collect(),
            identities: self.identities(written.identity),
        }
    }
}

/// The 1-based line of a byte of `text`.
fn line_at(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "listen = \"127.0.0.1:0\"\nbackend = \"127.0.0.1:80\"\n\
                           [[identity]]\ncertificate = \"c.pem\"\nkey = \"/abs/k.pem\"\n";

    fn error(text: &str) -> String {
        parse(Path::new("dir/o.toml"), text).and_then(Raw::check).unwrap_err().to_string()
    }

    fn error_with(line: &str) -> String {
        error(&format!("{line}\n{MINIMAL}"))
    }

    fn error_of_timeouts(line: &str) -> String {
        error(&format!("{MINIMAL}[timeouts]\n{line}\n"))
    }

    #[test]
    fn the_example_is_accepted_and_shows_every_key() {
        let text = include_str!("../../offramp.example.toml");
        let config = parse(Path::new("offramp.example.toml"), text).and_then(Raw::check).unwrap();
        assert_eq!(
            config.timeouts,
            crate::config::limits::Timeouts::default(),
            "the example shows the defaults"
        );
        for key in Key::ALL {
            let name = key.to_string();
            let (table, name) = name.split_once('.').unwrap_or(("", &name));
            assert!(text.contains(&format!("{name} = ")), "{table} {name} is not in the example");
        }
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let config = parse(Path::new("dir/o.toml"), MINIMAL).and_then(Raw::check).unwrap();
        let identity = &config.listeners[0].identities[0];
        assert_eq!(
            (&*identity.certificate, &*identity.key),
            (Path::new("dir/c.pem"), Path::new("/abs/k.pem"))
        );
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_keys_there_are() {
        let error = error_with("worker = 2");
        assert!(error.starts_with("dir/o.toml:1: unknown field `worker`"), "{error}");
        for key in ["listen", "backend", "workers", "offload", "tickets", "admin", "max_connections"] {
            assert!(error.contains(&format!("`{key}`")), "{key} in: {error}");
        }
        let error = error_of_timeouts("handshakes = \"1s\"");
        assert!(error.contains(":7: unknown field `handshakes`") && error.contains("`handshake`"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_with_its_line() {
        let error = error_with("workers = \"two\"");
        assert!(error.starts_with("dir/o.toml:1: invalid type: string \"two\""), "{error}");
    }

    #[test]
    fn what_is_not_toml_is_refused_with_its_line() {
        let error = error(&format!("{MINIMAL}listen\n"));
        assert!(error.starts_with("dir/o.toml:6: "), "{error}");
    }

    #[test]
    fn each_value_out_of_bounds_is_refused_with_line_key_value_and_what_is_allowed() {
        let refused = [
            ("workers = 0", "workers = \"0\" is refused: allowed is a whole number from 1 to 1024"),
            ("workers = 1025", "workers = \"1025\""),
            ("workers = -1", "workers = \"-1\""),
            (
                "max_connections = 0",
                "max_connections = \"0\" is refused: allowed is a whole number from 1 to 4000000",
            ),
            (
                "offload = \"maybe\"",
                "offload = \"maybe\" is refused: allowed is auto, always, never or after-bytes(N)",
            ),
            (
                "offload_directions = \"up\"",
                "offload_directions = \"up\" is refused: allowed is both, tx or rx",
            ),
            ("keyupdate = \"no\"", "keyupdate = \"no\" is refused: allowed is offload or userspace"),
            ("expect_no_pad = \"no\"", "expect_no_pad = \"no\" is refused: allowed is on or off"),
            (
                "record_limit = 1023",
                "record_limit = \"1023\" is refused: allowed is a whole number from 1024 to 16777216",
            ),
            ("truncation = \"cut\"", "truncation = \"cut\" is refused: allowed is reset or fin"),
            ("tickets = \"true\"", "tickets = \"true\" is refused: allowed is on or off"),
            ("keepalive = \"60s\"", "keepalive = \"60s\" is refused: allowed is on or off"),
            ("pin_workers = \"1\"", "pin_workers = \"1\" is refused: allowed is off, on or incoming-cpu"),
            (
                "admin = \"localhost\"",
                "admin = \"localhost\" is refused: allowed is an IP address and a port",
            ),
        ];
        for (line, text) in refused {
            let error = error_with(line);
            assert!(error.starts_with(&format!("dir/o.toml:1: {text}")), "{line}: {error}");
        }
    }

    #[test]
    fn each_deadline_out_of_bounds_is_refused() {
        let bad = [
            "handshake = \"0s\"",
            "connect = \"1h\"",
            "idle = \"8\"",
            "linger = \"2 s\"",
            "drain = \"99999h\"",
        ];
        for line in bad {
            let error = error_of_timeouts(line);
            let key = line.split(' ').next().unwrap();
            let start = format!("dir/o.toml:7: timeouts.{key} = ");
            assert!(error.starts_with(&start) && error.contains("allowed is"), "{error}");
        }
    }

    #[test]
    fn a_listener_says_what_differs_from_the_top() {
        let text = format!(
            "offload = \"never\"\ntickets = \"off\"\n{MINIMAL}\
             [[listener]]\nlisten = \"127.0.0.1:1\"\nbackend = \"unix:/b\"\noffload = \"after-bytes(9)\"\n\
             [[listener]]\nlisten = \"127.0.0.1:2\"\nbackend = \"127.0.0.1:3\"\ntickets = \"on\"\n\
             [[listener.identity]]\ncertificate = \"d.pem\"\nkey = \"l.pem\"\n"
        );
        let listeners = parse(Path::new("dir/o.toml"), &text).and_then(Raw::check).unwrap().listeners;
        let policies: Vec<_> = listeners.iter().map(|one| (one.offload.policy, one.tickets)).collect();
        use crate::config::OffloadPolicy as P;
        assert_eq!(policies, [(P::Never, false), (P::AfterBytes(9), false), (P::Never, true)]);
        let certificates: Vec<_> = listeners.iter().map(|one| &*one.identities[0].certificate).collect();
        assert_eq!(certificates, ["dir/c.pem", "dir/c.pem", "dir/d.pem"].map(Path::new));
    }

    #[test]
    fn the_top_need_not_listen_itself_where_others_do() {
        let identity = MINIMAL.split_once("[[").map(|(_, rest)| format!("[[{rest}")).unwrap();
        let text = format!("{identity}[[listener]]\nlisten = \"127.0.0.1:1\"\nbackend = \"127.0.0.1:3\"\n");
        let config = parse(Path::new("dir/o.toml"), &text).and_then(Raw::check).unwrap();
        assert_eq!(config.listeners.len(), 1);
        let error = error(&format!("{identity}[[listener]]\nlisten = \"127.0.0.1:1\"\n"));
        assert_eq!(error, "dir/o.toml:4: this [[listener]] has no backend: write `backend = …` below it");
    }

    #[test]
    fn a_listener_has_no_key_of_the_whole_process() {
        let error = error(&format!("{MINIMAL}[[listener]]\nworkers = 2\n"));
        assert!(error.starts_with("dir/o.toml:7: unknown field `workers`"), "{error}");
    }

    #[test]
    fn an_identity_needs_both_files() {
        let error = error("listen = \"127.0.0.1:0\"\n[[identity]]\ncertificate = \"c.pem\"\n");
        assert!(error.contains("missing field `key`"), "{error}");
    }

    #[test]
    fn a_file_that_is_too_long_is_not_read_by_half() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("o.toml");
        std::fs::write(&path, vec![b'#'; files::BYTES_MAX + 1]).unwrap();
        let error = read(&path).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("longer than 1048576 bytes"), "{error}");
        let error = read(Path::new("/dev/zero")).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("/dev/zero: cannot be read: it is a device"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = read(Path::new("/nowhere/o.toml")).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/o.toml: cannot be read: No such file"), "{error}");
    }
}
