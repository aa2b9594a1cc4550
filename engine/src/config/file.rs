//! The configuration file as written: TOML, unknown keys refused.
//!
//! It is only read here; what the values may be is for [`Raw::check`](super::Raw::check) to say. Paths of
//! certificates and keys are relative to the directory of the file.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::option::{Kind, Scope};
use super::{ConfigError, ConfigOption, Given, Origin, Origins, Raw};
use offramp_files::{self as files, Problem};

mod tables;

/// Reads a configuration file.
///
/// # Errors
/// [`ConfigError::Unreadable`] or [`ConfigError::Malformed`]: each names the file, the second the line.
pub fn read(path: &Path) -> Result<Raw, ConfigError> {
    parse(path, &read_text(path)?)
}

/// The text of a configuration file.
///
/// # Errors
/// [`ConfigError::Unreadable`].
pub fn read_text(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |cause: Problem| ConfigError::Unreadable { path: path.to_owned(), cause: cause.into() };
    let content = files::read(path, files::BYTES_MAX).map_err(unreadable)?;
    Ok(content.text().map_err(unreadable)?.to_owned())
}

/// Reads the text of a configuration file; `path` is only for the messages and for what is relative to it.
///
/// # Errors
/// [`ConfigError::Malformed`].
pub fn parse(path: &Path, text: &str) -> Result<Raw, ConfigError> {
    parse_as(path, path.parent().unwrap_or(Path::new("")), text)
}

/// Reads the text of a configuration that is called `name`, and whose paths are relative to `directory`.
///
/// # Errors
/// [`ConfigError::Malformed`].
pub fn parse_as(name: &Path, directory: &Path, text: &str) -> Result<Raw, ConfigError> {
    let place = Place { path: name, directory, text, origins: RefCell::default() };
    let table = DeTable::parse(text).map_err(|error| {
        place.malformed(error.span().unwrap_or_default(), error.message().replace('\n', "; "))
    })?;
    let mut raw = Raw::default();
    for (name, value) in table.get_ref() {
        match name.get_ref().as_ref() {
            "identity" => {
                (raw.identities, raw.identity_directories) = place.identities("identity", value)?;
            }
            "backend_identity" => {
                raw.backend_identity = place.backend_identity("backend_identity", value)?;
            }
            "listener" => {
                let listeners = place.tables("listener", value)?.into_iter();
                raw.listeners =
                    listeners.map(|(at, table)| place.listener(at, table)).collect::<Result<_, _>>()?;
            }
            "pool" => {
                let pools = place.tables("pool", value)?.into_iter();
                raw.pools = pools.map(|(at, table)| place.pool(at, table)).collect::<Result<_, _>>()?;
            }
            "timeouts" => place.section(Section::Timeouts, value, &mut raw)?,
            "limits" => place.section(Section::Limits, value, &mut raw)?,
            _ => {
                let (key, given) = place.value(Section::Top, name, value)?;
                raw.give(key, given);
            }
        }
    }
    raw.origins = place.origins.into_inner();
    raw.origins.file = Some(name.to_owned());
    Ok(raw)
}

/// A part of the file, which has keys of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Top,
    Listener,
    Pool,
    Timeouts,
    Limits,
}

impl Section {
    /// The name of a key in this section, if it belongs there.
    fn name_of(self, key: ConfigOption) -> Option<&'static str> {
        let (section, bare) = key.name().split_once('.').unwrap_or(("", key.name()));
        match self {
            Self::Timeouts => (section == "timeouts").then_some(bare),
            Self::Limits => (section == "limits").then_some(bare),
            _ if !section.is_empty() => None,
            Self::Listener if key.description().scope == Scope::Process => None,
            Self::Pool if key != ConfigOption::Backend && key.description().scope != Scope::Pool => None,
            Self::Top | Self::Listener | Self::Pool => Some(key.name()),
        }
    }

    /// Names that stand for tables.
    fn tables(self) -> &'static [&'static str] {
        match self {
            Self::Top => &["backend_identity", "identity", "limits", "listener", "pool", "timeouts"],
            Self::Listener => &["backend_identity", "identity", "route"],
            Self::Pool => &["name"],
            Self::Timeouts | Self::Limits => &[],
        }
    }
}

type Name<'a> = Spanned<Cow<'a, str>>;
type Value<'a> = Spanned<DeValue<'a>>;

/// The file, for the messages and for what is relative to it.
struct Place<'a> {
    path: &'a Path,
    directory: &'a Path,
    text: &'a str,
    /// Of identities, which have several values.
    origins: RefCell<Origins>,
}

impl Place<'_> {
    fn malformed(&self, at: Range<usize>, message: String) -> ConfigError {
        ConfigError::Malformed { path: self.path.to_owned(), line: line_at(self.text, at.start), message }
    }

    fn value(
        &self,
        section: Section,
        name: &Name<'_>,
        value: &Value<'_>,
    ) -> Result<(ConfigOption, Given), ConfigError> {
        let is_meant = |key: &ConfigOption| section.name_of(*key) == Some(name.get_ref());
        let Some(key) = ConfigOption::ALL.iter().copied().find(is_meant) else {
            let known = ConfigOption::ALL.iter().filter_map(|key| section.name_of(*key));
            let known: Vec<_> = known.chain(section.tables().iter().copied()).collect();
            let message = format!("unknown key {}: allowed here are {}", name.get_ref(), known.join(", "));
            return Err(self.malformed(name.span(), message));
        };
        let (kind, found) = (key.description().kind, value.get_ref());
        let text = match (kind, found) {
            (Kind::Text, DeValue::String(text)) => Some(text.to_string()),
            (Kind::Path, DeValue::String(path)) => Some(self.relative(path)),
            (Kind::Number, DeValue::Integer(number)) => {
                // One that is too long is refused with its bounds, as others are.
                let value = i64::from_str_radix(number.as_str(), number.radix());
                Some(value.map_or_else(|_| number.as_str().to_owned(), |value| value.to_string()))
            }
            (Kind::Texts, DeValue::String(text)) => Some(text.to_string()),
            (Kind::List | Kind::Texts, DeValue::Array(items)) => {
                let items: Option<Vec<_>> = items.iter().map(|item| item.get_ref().as_str()).collect();
                items.map(|items| items.join(", "))
            }
            _ => None,
        };
        let Some(text) = text else {
            let wrong = found.as_array().and_then(|items| items.iter().find(|item| !item.get_ref().is_str()));
            let (at, has) = match wrong {
                Some(item) if matches!(kind, Kind::List | Kind::Texts) => (item, "one with "),
                _ => (value, ""),
            };
            let message = format!("{key} must be {}, not {has}{}", key.wanted(), type_of(at.get_ref()));
            return Err(self.malformed(at.span(), message));
        };
        Ok((key, self.given(text, name)))
    }

    fn given(&self, value: String, name: &Name<'_>) -> Given {
        self.given_at(value, name.span())
    }

    fn given_at(&self, value: String, at: Range<usize>) -> Given {
        let line = line_at(self.text, at.start);
        Given { value, origin: Origin::File { path: self.path.to_owned(), line } }
    }

    /// A table of values.
    fn section(&self, section: Section, value: &Value<'_>, raw: &mut Raw) -> Result<(), ConfigError> {
        let name = if section == Section::Limits { "[limits]" } else { "[timeouts]" };
        for (name, value) in self.table(name, value)? {
            let (key, given) = self.value(section, name, value)?;
            raw.give(key, given);
        }
        Ok(())
    }

    fn table<'t>(&self, what: &str, value: &'t Value<'t>) -> Result<&'t DeTable<'t>, ConfigError> {
        let found = value.get_ref();
        found.as_table().ok_or_else(|| {
            self.malformed(value.span(), format!("{what} must be a table, not {}", type_of(found)))
        })
    }

    /// The tables of an array of tables, and where each begins.
    fn tables<'t>(
        &self,
        name: &str,
        value: &'t Value<'t>,
    ) -> Result<Vec<(Range<usize>, &'t DeTable<'t>)>, ConfigError> {
        let what = format!("[[{name}]]");
        let DeValue::Array(tables) = value.get_ref() else {
            let message = format!("{name} must be written {what}, not as {}", type_of(value.get_ref()));
            return Err(self.malformed(value.span(), message));
        };
        tables.iter().map(|table| Ok((table.span(), self.table(&what, table)?))).collect()
    }

    /// A path of the file, as one of this process; an empty one stays empty, to be refused.
    fn relative(&self, path: &str) -> String {
        let joined = || self.directory.join(path).to_string_lossy().into_owned();
        if path.is_empty() { String::new() } else { joined() }
    }
}

/// With its article.
fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
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
        for key in ConfigOption::ALL {
            let name = key.name();
            let (table, bare) = name.split_once('.').unwrap_or(("", name));
            assert!(text.contains(&format!("{bare} = ")), "{table} {bare} is not in the example");
            let flag = |end| text.contains(&format!("{}{end}", key.flag()));
            assert!(flag(',') || flag(')'), "{} is not in the example", key.flag());
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
    fn unknown_key_is_refused_with_line_and_known_keys() {
        let error = error_with("worker = 2");
        assert!(
            error.starts_with("dir/o.toml:1: unknown key worker: allowed here are listen, socket_mode, "),
            "{error}"
        );
        for key in ["listen", "backend", "workers", "offload", "tickets", "admin", "max_connections"] {
            assert!(error.contains(&format!("{key}, ")), "{key} in: {error}");
        }
        let error = error_of_timeouts("handshakes = \"1s\"");
        assert!(error.contains(":7: unknown key handshakes: allowed here are handshake, connect"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_with_its_line() {
        let error = error_with("workers = \"two\"");
        assert!(
            error.starts_with("dir/o.toml:1: workers must be a whole number, without quotes, not a string"),
            "{error}"
        );
    }

    #[test]
    fn a_value_that_cannot_be_is_refused_with_what_it_is() {
        let long = error_with("max_connections = 99999999999999999999");
        assert!(long.contains("allowed is a whole number from 1 to"), "{long}");
        let mixed = error_with("alpn = [\"msrp\",\n1]");
        assert!(mixed.starts_with("dir/o.toml:2: alpn must be an array of strings"), "{mixed}");
        assert!(mixed.ends_with("not one with an integer"), "{mixed}");
        let text = format!("{MINIMAL}[[listener]]\nlisten = \"127.0.0.1:1\"\nidentity = \"x\"\n");
        assert!(error(&text).contains(":8: listener.identity must be written [[listener.identity]]"));
    }

    #[test]
    fn what_is_not_toml_is_refused_with_its_line() {
        let error = error(&format!("{MINIMAL}listen\n"));
        assert!(error.starts_with("dir/o.toml:6: "), "{error}");
    }

    #[test]
    fn value_error_names_line_key_and_allowed_values() {
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
    fn top_level_socket_options_need_a_top_level_listen() {
        let identity = MINIMAL.split_once("[[").map(|(_, rest)| format!("[[{rest}")).unwrap();
        let listener = "[[listener]]\nlisten = \"unix:/s\"\nbackend = \"127.0.0.1:3\"\n";
        let error = error(&format!("socket_mode = \"0600\"\n{identity}{listener}"));
        let start = "dir/o.toml:1: socket_mode = \"0600\" is refused: allowed is nothing here";
        assert!(error.starts_with(start), "{error}");
    }

    #[test]
    fn a_listener_has_no_key_of_the_whole_process() {
        let error = error(&format!("{MINIMAL}[[listener]]\nworkers = 2\n"));
        assert!(error.starts_with("dir/o.toml:7: unknown key workers: allowed here are listen"), "{error}");
    }

    #[test]
    fn an_identity_needs_both_files() {
        let error = error("listen = \"127.0.0.1:0\"\n[[identity]]\ncertificate = \"c.pem\"\n");
        assert!(error.ends_with(":2: this [[identity]] has no key"), "{error}");
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
