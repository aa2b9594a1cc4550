//! Where the values of a configuration were given, for errors that come up when the values are used: a file
//! that cannot be read, an address that is in use.

use std::fmt;
use std::path::{Path, PathBuf};

use super::{ConfigOption, Given, Origin};

/// Of a whole configuration.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    /// The file, if there is one, as messages name it.
    pub(super) file: Option<PathBuf>,
    values: Vec<Value>,
}

#[derive(Clone, Debug)]
struct Value {
    key: &'static str,
    given: Given,
}

/// Two configurations that say the same are equal, wherever they say it.
impl PartialEq for Origins {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Origins {}

impl Origins {
    pub(super) fn note(&mut self, key: &'static str, given: Given) {
        self.values.push(Value { key, given });
    }

    /// The same with those of the command line, which come first.
    pub(super) fn behind(mut self, mut flags: Self) -> Self {
        flags.values.append(&mut self.values);
        Self { values: flags.values, file: self.file.or(flags.file) }
    }

    /// Where a file was named, and by which key: `FILE:LINE: KEY`, or the flag.
    #[must_use]
    pub fn of_path(&self, path: &Path) -> Option<String> {
        let is_it = |value: &&Value| Path::new(&value.given.value) == path;
        self.values.iter().find(is_it).map(|value| match &value.given.origin {
            origin @ Origin::File { .. } => format!("{origin}: {}", value.key),
            origin => origin.to_string(),
        })
    }

    /// Where a key was given a value that `is_it`.
    #[must_use]
    pub fn of_key(&self, key: &str, is_it: impl Fn(&str) -> bool) -> Option<String> {
        let found = self.values.iter().find(|value| value.key == key && is_it(&value.given.value));
        found.map(|value| value.given.origin.to_string())
    }

    /// Where each item of a list was given: of a key that several tables have, in their order.
    pub(super) fn of_each(&self, key: ConfigOption) -> Vec<&Origin> {
        let of_key = self.values.iter().filter(|value| value.key == key.name());
        of_key.flat_map(|value| value.given.value.split(',').map(|_| &value.given.origin)).collect()
    }

    /// The path of the file, if there is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The file, if there is one.
    #[must_use]
    pub fn file(&self) -> Option<impl fmt::Display> {
        self.file.as_ref().map(|file| file.display())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Raw, file};
    use super::*;

    #[test]
    fn origins_name_file_line_and_key_or_the_flag() {
        let text = "listen = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\nbackend = \"127.0.0.1:3\"\n\
                    [[identity]]\ncertificate = \"c.pem\"\nkey = \"k.pem\"\n\
                    [[listener]]\nlisten = \"[::1]:4\"\nbackend = \"[::1]:5\"\n\
                    client_auth = \"request\"\nclient_ca = \"ca.pem\"\n";
        let mut flags = Raw::default();
        flags.give_identities(&["f.pem".into()], &["g.pem".into()]).unwrap();
        let raw = file::parse(Path::new("dir/o.toml"), text).unwrap();
        let config = raw.clone().check().unwrap();
        let of = |path: &str| config.origins.of_path(Path::new(path)).unwrap();
        assert_eq!(of("dir/c.pem"), "dir/o.toml:4: certificate");
        assert_eq!(of("dir/k.pem"), "dir/o.toml:5: key");
        assert_eq!(of("dir/ca.pem"), "dir/o.toml:10: client_ca");
        assert_eq!(config.origins.of_path(Path::new("other")), None);
        let listens = |one: &str| config.origins.of_key("listen", |value| value.contains(one)).unwrap();
        assert_eq!((&*listens("0.1:2"), &*listens("[::1]")), ("dir/o.toml:1", "dir/o.toml:7"));
        let config = raw.overridden_by(flags).check().unwrap();
        assert_eq!(config.origins.of_path(Path::new("g.pem")).unwrap(), "--key");
        assert_eq!(config.origins.file().unwrap().to_string(), "dir/o.toml");
    }
}
