//! Where this machine gets its own packages from: the address and the signing key of its distribution, as
//! apt's configuration names them (sources.list(5)). Other suites of the distribution are at the same place.

use std::fs;
use std::path::{Path, PathBuf};

/// A source of packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    uri: String,
    /// The path of a keyring, or a key itself in lines that begin with a space; apt's own keys if absent.
    signed_by: Option<String>,
}

impl Origin {
    /// The one that has the suite of this machine.
    pub(crate) fn of_this_machine() -> Result<Self, String> {
        let release =
            fs::read_to_string("/etc/os-release").map_err(|error| format!("/etc/os-release: {error}"))?;
        let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        let codename = codename.ok_or("/etc/os-release has no VERSION_CODENAME: is this Debian?")?;
        let codename = codename.trim_matches('"');
        let found = files().iter().find_map(|file| {
            let text = fs::read_to_string(file).ok()?;
            if file.extension().is_some_and(|extension| extension == "sources") {
                in_stanzas(&text, codename)
            } else {
                in_lines(&text, codename)
            }
        });
        found.ok_or_else(|| {
            format!("no source of the suite {codename}, component main, in /etc/apt: see sources.list(5)")
        })
    }

    /// Another suite of it, as a file of sources.
    pub(crate) fn suite(&self, suite: &str) -> String {
        let Self { uri, signed_by } = self;
        let key = signed_by.as_ref().map_or_else(String::new, |key| format!("Signed-By: {key}\n"));
        format!("Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\n{key}")
    }
}

/// In the order in which apt reads them.
fn files() -> Vec<PathBuf> {
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let mut files: Vec<_> = parts.map(|entry| entry.path()).collect();
    files.retain(|file| {
        file.extension().is_some_and(|extension| extension == "sources" || extension == "list")
    });
    files.sort();
    files.insert(0, Path::new("/etc/apt/sources.list").to_owned());
    files
}

/// `*.sources`: stanzas of fields, whose values go on in lines that begin with a space.
fn in_stanzas(text: &str, codename: &str) -> Option<Origin> {
    let text: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let mut stanzas = text.split(|line| line.trim().is_empty());
    stanzas.find_map(|stanza| {
        let field = |name: &str| {
            let is_it =
                |line: &&str| line.split_once(':').is_some_and(|(has, _)| has.eq_ignore_ascii_case(name));
            let at = stanza.iter().position(is_it)?;
            let first = stanza[at].split_once(':')?.1.trim();
            let more = stanza[at + 1..].iter().take_while(|line| line.starts_with([' ', '\t']));
            Some(more.fold(first.to_owned(), |value, line| format!("{value}\n{line}")))
        };
        let has = |name: &str, word: &str| {
            field(name).is_some_and(|value| value.split_whitespace().any(|has| has == word))
        };
        let is_off = has("Enabled", "no");
        let fits = has("Types", "deb") && has("Suites", codename) && has("Components", "main");
        let uri = field("URIs")?.split_whitespace().next()?.to_owned();
        (fits && !is_off).then(|| Origin { uri, signed_by: field("Signed-By") })
    })
}

/// `*.list`: `deb [OPTION=VALUE …] URI SUITE COMPONENT…`.
fn in_lines(text: &str, codename: &str) -> Option<Origin> {
    text.lines().find_map(|line| {
        let line = line.trim().strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim();
        let (options, rest) = match line.strip_prefix('[') {
            Some(line) => line.split_once(']')?,
            None => ("", line),
        };
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
        (suite == codename && words.any(|component| component == "main"))
            .then(|| Origin { uri: uri.to_owned(), signed_by: signed_by.map(str::to_owned) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(signed_by: Option<&str>) -> Option<Origin> {
        Some(Origin { uri: "http://a.test/debian".to_owned(), signed_by: signed_by.map(str::to_owned) })
    }

    #[test]
    fn an_origin_is_found_in_stanzas() {
        let text = "Types: deb\nURIs: http://a.test/security\nSuites: x-security\nComponents: main\n\n\
            # a comment\nEnabled: no\nTypes: deb\nURIs: http://off.test\nSuites: x\nComponents: main\n\n\
            Types: deb deb-src\n# another\nURIs: http://a.test/debian http://b.test\nsuites: x x-updates\n\
            Components: main contrib\nSigned-By: /k.gpg\n";
        assert_eq!(in_stanzas(text, "x"), origin(Some("/k.gpg")));
        assert_eq!(in_stanzas(text, "y"), None);
        let key = "Types: deb\nURIs: http://a.test/debian\nSuites: x\nComponents: main\n\
            Signed-By:\n -----BEGIN\n .\n AB\n";
        let found = in_stanzas(key, "x");
        assert_eq!(found, origin(Some("\n -----BEGIN\n .\n AB")));
        assert!(found.unwrap().suite("z").ends_with("Components: main\nSigned-By: \n -----BEGIN\n .\n AB\n"));
    }

    #[test]
    fn this_machine_has_an_origin_or_says_what_is_missing() {
        match Origin::of_this_machine() {
            Ok(origin) => {
                assert!(origin.uri.contains(':') && origin.suite("sid").contains("\nSuites: sid\n"))
            }
            Err(why) => assert!(why.contains("/etc/"), "{why}"),
        }
    }

    #[test]
    fn an_origin_is_found_in_lines() {
        let text = "# deb http://off.test x main\ndeb-src http://src.test x main\n\
            deb http://a.test/security x-security main\n\
            deb [arch=amd64 signed-by=/k.gpg] http://a.test/debian x main contrib\n";
        assert_eq!(in_lines(text, "x"), origin(Some("/k.gpg")));
        assert_eq!(in_lines("deb http://a.test/debian x contrib main", "x"), origin(None));
        assert_eq!(in_lines(text, "x-updates"), None);
        let sources = origin(None).unwrap().suite("sid");
        assert_eq!(sources, "Types: deb\nURIs: http://a.test/debian\nSuites: sid\nComponents: main\n");
    }
}
