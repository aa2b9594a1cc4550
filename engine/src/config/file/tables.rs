//! The tables of the file that are not made of options alone: identities, listeners, pools and routes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::{Name, Place, Section, Value, line_at, type_of};
use crate::config::option::Kind;
use crate::config::{ConfigError, Given, IdentityFiles, RawListener, RawPool, RawRoute};

impl Place<'_> {
    /// Of the top, or of a listener: `what` is the name of the table. The pairs, and the directories of more.
    pub(super) fn identities(
        &self,
        what: &str,
        value: &Value<'_>,
    ) -> Result<(Vec<IdentityFiles>, Vec<PathBuf>), ConfigError> {
        let (mut pairs, mut directories) = (Vec::new(), Vec::new());
        for (at, table) in self.tables(what, value)? {
            let directory = table.iter().find(|(name, _)| name.get_ref() == "directory");
            match directory {
                None => pairs.push(self.identity(what, at, table)?),
                Some((name, value)) if table.len() == 1 => {
                    let path = PathBuf::from(self.relative(&self.text("directory", value)?.value));
                    self.note("directory", name, &path);
                    directories.push(path);
                }
                Some(_) => {
                    let message = format!("[[{what}]] has either directory, or certificate and key");
                    return Err(self.malformed(at, message));
                }
            }
        }
        Ok((pairs, directories))
    }

    fn identity(
        &self,
        what: &str,
        at: Range<usize>,
        table: &DeTable<'_>,
    ) -> Result<IdentityFiles, ConfigError> {
        let [mut certificate, mut key, mut ocsp] = [None, None, None];
        for (name, value) in table {
            let (name_of_key, slot) = match name.get_ref().as_ref() {
                "certificate" => ("certificate", &mut certificate),
                "key" => ("key", &mut key),
                "ocsp" => ("ocsp", &mut ocsp),
                other => {
                    let message =
                        format!("unknown key {other}: allowed in [[{what}]] are certificate, key, ocsp");
                    return Err(self.malformed(name.span(), message));
                }
            };
            let DeValue::String(path) = value.get_ref() else {
                let (wanted, found) = (Kind::Path.written(), type_of(value.get_ref()));
                let message = format!("{} must be {wanted}, not {found}", name.get_ref());
                return Err(self.malformed(value.span(), message));
            };
            let path = self.directory.join(path.as_ref());
            self.note(name_of_key, name, &path);
            *slot = Some(path);
        }
        let missing = |name| self.malformed(at.clone(), format!("this [[{what}]] has no {name}"));
        let certificate = certificate.ok_or_else(|| missing("certificate"))?;
        Ok(IdentityFiles { certificate, key: key.ok_or_else(|| missing("key"))?, ocsp })
    }

    fn note(&self, key: &'static str, name: &Name<'_>, path: &Path) {
        let given = self.given(path.to_string_lossy().into_owned(), name);
        self.origins.borrow_mut().note(key, given);
    }

    /// At most one.
    pub(super) fn backend_identity(
        &self,
        what: &str,
        value: &Value<'_>,
    ) -> Result<Option<IdentityFiles>, ConfigError> {
        let table = self.table(&format!("[{what}]"), value)?;
        let identity = self.identity(what, value.span(), table)?;
        if identity.ocsp.is_some() {
            let message = format!("unknown key ocsp: allowed in [{what}] are certificate, key");
            return Err(self.malformed(value.span(), message));
        }
        Ok(Some(identity))
    }

    pub(super) fn listener(&self, at: Range<usize>, table: &DeTable<'_>) -> Result<RawListener, ConfigError> {
        let mut listener = RawListener {
            path: self.path.to_owned(),
            line: line_at(self.text, at.start),
            given: BTreeMap::new(),
            identities: Vec::new(),
            identity_directories: Vec::new(),
            backend_identity: None,
            routes: Vec::new(),
        };
        for (name, value) in table {
            match name.get_ref().as_ref() {
                "identity" => {
                    (listener.identities, listener.identity_directories) =
                        self.identities("listener.identity", value)?;
                }
                "backend_identity" => {
                    listener.backend_identity = self.backend_identity("listener.backend_identity", value)?;
                }
                "route" => {
                    let routes = self.tables("listener.route", value)?.into_iter();
                    listener.routes =
                        routes.map(|(at, table)| self.route(at, table)).collect::<Result<_, _>>()?;
                }
                _ => {
                    let (key, given) = self.value(Section::Listener, name, value)?;
                    listener.given.insert(key, given);
                }
            }
        }
        Ok(listener)
    }

    pub(super) fn pool(&self, at: Range<usize>, table: &DeTable<'_>) -> Result<RawPool, ConfigError> {
        let line = line_at(self.text, at.start);
        let (mut pool_name, mut given) = (None, BTreeMap::new());
        for (name, value) in table {
            if name.get_ref() == "name" {
                pool_name = Some(self.text("name", value)?);
            } else {
                let (key, value) = self.value(Section::Pool, name, value)?;
                given.insert(key, value);
            }
        }
        let name = pool_name.ok_or_else(|| self.malformed(at, "this [[pool]] has no name".to_owned()))?;
        Ok(RawPool { path: self.path.to_owned(), line, name, given })
    }

    fn route(&self, at: Range<usize>, table: &DeTable<'_>) -> Result<RawRoute, ConfigError> {
        let line = line_at(self.text, at.start);
        let (mut server_names, mut alpn, mut pool) = (Vec::new(), Vec::new(), None);
        for (name, value) in table {
            match name.get_ref().as_ref() {
                "sni" => server_names = self.texts("sni", value)?,
                "alpn" => alpn = self.texts("alpn", value)?,
                "pool" => pool = Some(self.text("pool", value)?),
                other => {
                    let message = format!("unknown key {other}: allowed here are sni, alpn, pool");
                    return Err(self.malformed(name.span(), message));
                }
            }
        }
        let missing = || self.malformed(at, "this [[listener.route]] has no pool".to_owned());
        let pool = pool.ok_or_else(missing)?;
        Ok(RawRoute { path: self.path.to_owned(), line, server_names, alpn, pool })
    }

    fn text(&self, name: &str, value: &Value<'_>) -> Result<Given, ConfigError> {
        let found = value.get_ref();
        let text = found.as_str().ok_or_else(|| {
            let message = format!("{name} must be {}, not {}", Kind::Text.written(), type_of(found));
            self.malformed(value.span(), message)
        })?;
        Ok(self.given_at(text.to_owned(), value.span()))
    }

    /// Of an array of strings, or one string.
    fn texts(&self, name: &str, value: &Value<'_>) -> Result<Vec<Given>, ConfigError> {
        match value.get_ref() {
            DeValue::Array(items) => items.iter().map(|item| self.text(name, item)).collect(),
            _ => Ok(vec![self.text(name, value)?]),
        }
    }
}
