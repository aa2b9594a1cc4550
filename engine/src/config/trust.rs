//! The check of who is trusted by a listener, in either role. What cannot mean what was meant is refused: a
//! rule that is passed over lets everybody in.

use std::collections::BTreeMap;
use std::path::PathBuf;

use offramp_core::tls::is_server_name;

use super::{
    ClientAuth, ConfigError, ConfigOption, Fingerprint, Given, Mode, Origin, Originate, PeerName, PeerRules,
    Raw, TrustAnchor,
};

const TERMINATE: &str = "terminate";

/// What is more specific (a `[[listener]]`, the command line) wins over what it would inherit. With one of
/// the keys of trust those go that it replaces or that belong to the other role: who vouches for clients says
/// nothing of servers.
pub(super) fn override_with(
    inherited: &mut BTreeMap<ConfigOption, Given>,
    own: BTreeMap<ConfigOption, Given>,
) {
    let has = |key| own.contains_key(&key);
    let mode = |given: &BTreeMap<ConfigOption, Given>| {
        given.get(&ConfigOption::Mode).map_or_else(|| TERMINATE.to_owned(), |mode| mode.value.clone())
    };
    let changes_role = has(ConfigOption::Mode) && mode(inherited) != mode(&own);
    let asks_nobody = own.get(&ConfigOption::ClientAuth).is_some_and(|auth| auth.value == "none");
    let names_trust =
        has(ConfigOption::ClientCa) || has(ConfigOption::ServerCa) || has(ConfigOption::Fingerprints);
    inherited.retain(|key, _| match key {
        ConfigOption::ClientAuth | ConfigOption::ServerName | ConfigOption::ForwardServerName => {
            !changes_role
        }
        ConfigOption::ClientCa
        | ConfigOption::ClientCrl
        | ConfigOption::ClientNames
        | ConfigOption::ServerCa
        | ConfigOption::Fingerprints => !changes_role && !asks_nobody && !names_trust,
        _ => true,
    });
    inherited.extend(own);
}

impl Raw {
    pub(super) fn mode(&mut self) -> Result<Mode, ConfigError> {
        let written = self.given.get(&ConfigOption::Mode).map(|mode| mode.origin.clone());
        let name = self.parsed(ConfigOption::Mode, Mode::ALLOWED, |value| {
            ["terminate", "originate", "reencrypt", "passthrough", "plain"]
                .into_iter()
                .find(|name| *name == value)
        })?;
        let name = name.unwrap_or(TERMINATE);
        let server_name = self.given.remove(&ConfigOption::ServerName);
        let forward_server_name = self.forward_server_name(name)?;
        if matches!(name, "terminate" | "passthrough" | "plain") {
            if let Some(given) = server_name {
                return Err(given.refused(ConfigOption::ServerName, Originate::ALLOWED_NAME));
            }
            return match self.given.remove(&ConfigOption::ServerCa) {
                None => Ok(match name {
                    "plain" => Mode::Plain,
                    "passthrough" => Mode::Passthrough,
                    _ => Mode::Terminate,
                }),
                Some(given) => Err(given.refused(
                    ConfigOption::ServerCa,
                    "a file of authorities, and only with mode = \"originate\" or \"reencrypt\"; for \
                     clients: client_ca",
                )),
            };
        }
        let missing = || {
            let error = ConfigError::Missing { key: ConfigOption::ServerName };
            match &written {
                Some(origin) => error.at(origin),
                None => error,
            }
        };
        let server_name = server_name.ok_or_else(missing)?;
        if !is_server_name(&server_name.value) {
            return Err(server_name.refused(ConfigOption::ServerName, Originate::ALLOWED_NAME));
        }
        let server_name = server_name.value;
        let listed = self.given.get(&ConfigOption::Fingerprints).cloned();
        let authorities = self.path(ConfigOption::ServerCa)?;
        let trust = match (authorities, self.fingerprints()?, listed) {
            (Some(_), Some(_), Some(listed)) => {
                return Err(
                    listed.refused(ConfigOption::Fingerprints, "either server_ca or fingerprints, not both")
                );
            }
            (Some(file), ..) => TrustAnchor::Authorities(file),
            (None, Some(told), _) => TrustAnchor::Fingerprints(told),
            (None, None, _) => {
                return Err(ConfigError::NoServerTrust {
                    mode: name,
                    origin: written.unwrap_or(Origin::Default),
                });
            }
        };
        let server = Originate { server_name, forward_server_name, trust };
        Ok(if name == "originate" { Mode::Originate(server) } else { Mode::Reencrypt(server) })
    }

    /// Only a client with TLS has asked for a name.
    fn forward_server_name(&mut self, mode: &str) -> Result<bool, ConfigError> {
        let given = self.given.get(&ConfigOption::ForwardServerName).cloned();
        let is_on = self.switch(ConfigOption::ForwardServerName)?.unwrap_or(false);
        match given.filter(|_| is_on && mode != "reencrypt") {
            Some(given) => Err(given.refused(
                ConfigOption::ForwardServerName,
                "on with mode = \"reencrypt\" alone: other clients ask for no name, or their TLS is passed \
                 through",
            )),
            None => Ok(is_on),
        }
    }

    fn fingerprints(&mut self) -> Result<Option<Vec<Fingerprint>>, ConfigError> {
        self.parsed(ConfigOption::Fingerprints, Fingerprint::ALLOWED, |value| {
            value.split(',').map(Fingerprint::parse).collect()
        })
    }

    /// A certificate that is asked for needs somebody who vouches for it, and one alone; and whoever vouches
    /// needs a certificate that is asked for.
    pub(super) fn peers(&mut self, mode: &Mode) -> Result<PeerRules, ConfigError> {
        let given = |raw: &Self, key| raw.given.get(&key).cloned();
        let (asked, listed) =
            (given(self, ConfigOption::ClientAuth), given(self, ConfigOption::Fingerprints));
        let file = given(self, ConfigOption::ClientCa);
        let auth = self
            .parsed(ConfigOption::ClientAuth, ClientAuth::ALLOWED, ClientAuth::parse)?
            .unwrap_or_default();
        let authorities = self.path(ConfigOption::ClientCa)?;
        if !mode.is_server() {
            // With "originate" they were the server's, and are taken.
            if let Some(listed) = listed {
                return Err(listed.refused(
                    ConfigOption::Fingerprints,
                    "nothing with mode = \"plain\" or \"passthrough\": there is no TLS of ours",
                ));
            }
            let for_servers = "nothing with mode = \"originate\", \"passthrough\" or \"plain\", where \
                               clients are not asked; for the server: server_ca or fingerprints";
            return match (asked, file) {
                (Some(asked), _) if auth != ClientAuth::None => {
                    Err(asked.refused(ConfigOption::ClientAuth, for_servers))
                }
                (_, Some(file)) => Err(file.refused(ConfigOption::ClientCa, for_servers)),
                _ => self.narrowed(false).map(|_| PeerRules::default()),
            };
        }
        let fingerprints = self.fingerprints()?;
        let unasked = "what is given beside client_auth = \"request\" or \"require\": without, no client is \
                       asked for a certificate and everybody is let in";
        match (file, listed) {
            (Some(_), Some(listed)) => {
                return Err(
                    listed.refused(ConfigOption::Fingerprints, "either client_ca or fingerprints, not both")
                );
            }
            (Some(file), None) if auth == ClientAuth::None => {
                return Err(file.refused(ConfigOption::ClientCa, unasked));
            }
            (None, Some(listed)) if auth == ClientAuth::None => {
                return Err(listed.refused(ConfigOption::Fingerprints, unasked));
            }
            _ => {}
        }
        let trust_anchor = match (authorities, fingerprints) {
            (Some(file), _) => TrustAnchor::Authorities(file),
            (None, Some(told)) => TrustAnchor::Fingerprints(told),
            (None, None) => TrustAnchor::Nobody,
        };
        let nobody = match mode {
            Mode::Reencrypt(_) => {
                "\"none\", or one more key: client_ca (with \"reencrypt\", fingerprints are the server's)"
            }
            _ => "\"none\", or one more key: client_ca or fingerprints",
        };
        match asked {
            Some(asked) if auth != ClientAuth::None && trust_anchor == TrustAnchor::Nobody => {
                Err(asked.refused(ConfigOption::ClientAuth, nobody))
            }
            _ => {
                let has_authorities = matches!(trust_anchor, TrustAnchor::Authorities(_));
                let (revocation, names) = self.narrowed(has_authorities)?;
                Ok(PeerRules { auth, trust_anchor, revocation, names })
            }
        }
    }

    /// What narrows whom authorities vouch for; without authorities it would be passed over.
    fn narrowed(&mut self, has_authorities: bool) -> Result<(Option<PathBuf>, Vec<PeerName>), ConfigError> {
        for key in [ConfigOption::ClientCrl, ConfigOption::ClientNames] {
            if let Some(given) = self.given.get(&key).filter(|_| !has_authorities) {
                return Err(given.clone().refused(key, "nothing without client_ca"));
            }
        }
        let names = self.parsed(ConfigOption::ClientNames, PeerName::ALLOWED, |value| {
            value.split(',').map(|name| PeerName::parse(name.trim())).collect::<Option<Vec<_>>>()
        })?;
        Ok((self.path(ConfigOption::ClientCrl)?, names.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::check::tests::minimal;
    use crate::config::{Config, file};

    fn told() -> String {
        format!("sha-256 {}", ["AB"; 32].join(":"))
    }

    fn with(keys: &[(ConfigOption, &str)]) -> Result<Config, String> {
        let mut raw = minimal();
        keys.iter().for_each(|(key, value)| raw.give_flag(*key, (*value).into()));
        raw.check().map_err(|error| error.to_string())
    }

    #[test]
    fn client_auth_requires_exactly_one_trust_anchor() {
        let with = |keys: &[(ConfigOption, &str)]| with(keys).map(|config| config.listeners[0].peers.clone());
        let told = told();
        let two = format!("{told}, {}", told.replace("AB", "cd"));
        let peers =
            with(&[(ConfigOption::ClientAuth, "require"), (ConfigOption::Fingerprints, &two)]).unwrap();
        assert!(matches!(&peers.trust_anchor, TrustAnchor::Fingerprints(told) if told.len() == 2));
        let peers =
            with(&[(ConfigOption::ClientAuth, "request"), (ConfigOption::ClientCa, "ca.pem")]).unwrap();
        assert_eq!(peers.trust_anchor, TrustAnchor::Authorities("ca.pem".into()));
        let error = with(&[(ConfigOption::ClientAuth, "require")]).unwrap_err();
        assert!(error.contains("or one more key: client_ca or fingerprints"), "{error}");
        let both = [
            (ConfigOption::ClientAuth, "require"),
            (ConfigOption::ClientCa, "ca.pem"),
            (ConfigOption::Fingerprints, &*told),
        ];
        let error = with(&both).unwrap_err();
        assert!(error.contains("either client_ca or fingerprints"), "{error}");
        let error = with(&[(ConfigOption::Fingerprints, "md5 AA:BB")]).unwrap_err();
        assert!(error.contains("md5 and sha-1 are too weak"), "{error}");
    }

    #[test]
    fn trust_anchor_without_client_auth_is_refused() {
        let told = told();
        for trust_anchor in [(ConfigOption::ClientCa, "ca.pem"), (ConfigOption::Fingerprints, &*told)] {
            for keys in [&[trust_anchor][..], &[trust_anchor, (ConfigOption::ClientAuth, "none")]] {
                let error = with(keys).unwrap_err();
                let named = format!("{}: {} = ", trust_anchor.0.flag(), trust_anchor.0);
                assert!(error.starts_with(&named) && error.contains("everybody is let in"), "{error}");
            }
            assert!(with(&[trust_anchor, (ConfigOption::ClientAuth, "request")]).is_ok());
        }
    }

    #[test]
    fn what_belongs_to_the_other_role_is_refused_by_name() {
        let told = told();
        let error = with(&[(ConfigOption::ServerCa, "ca.pem")]).unwrap_err();
        assert!(error.starts_with("--server-ca: server_ca = ") && error.contains("client_ca"), "{error}");
        let origin = [
            (ConfigOption::Mode, "originate"),
            (ConfigOption::ServerName, "a.example"),
            (ConfigOption::ServerCa, "ca.pem"),
        ];
        assert!(with(&origin).is_ok());
        assert!(with(&[&origin[..], &[(ConfigOption::ClientAuth, "none")]].concat()).is_ok());
        for (more, start) in [
            ((ConfigOption::ClientAuth, "require"), "--client-auth: client_auth = "),
            ((ConfigOption::ClientCa, "c.pem"), "--client-ca: client_ca = "),
            ((ConfigOption::Fingerprints, &*told), "--fingerprints: fingerprints = "),
        ] {
            let error = with(&[&origin[..], &[more]].concat()).unwrap_err();
            assert!(error.starts_with(start) && error.contains("server_ca"), "{error}");
        }
        let error = with(&origin[..2]).unwrap_err();
        assert!(error.contains("server_ca") && error.contains("fingerprints"), "{error}");
    }

    #[test]
    fn listener_inherits_trust_by_role_or_replaces_it() {
        let told = told();
        let check = |top: &str, listener: &str| {
            let text = format!(
                "{top}\n[[identity]]\ncertificate = \"c\"\nkey = \"k\"\n[[listener]]\nlisten = \
                 \"127.0.0.1:0\"\nbackend = \"127.0.0.1:1\"\n{listener}\n"
            );
            let config = file::parse(Path::new("o.toml"), &text).and_then(Raw::check);
            config.map(|mut config| config.listeners.remove(0)).map_err(|error| error.to_string())
        };
        let asks = "client_auth = \"require\"\nclient_ca = \"/ca\"";
        let peers = check(asks, "").unwrap().peers;
        assert_eq!(
            (peers.auth, peers.trust_anchor),
            (ClientAuth::Require, TrustAnchor::Authorities("/ca".into()))
        );
        let peers = check(asks, &format!("fingerprints = [\"{told}\"]")).unwrap().peers;
        assert!(matches!(peers.trust_anchor, TrustAnchor::Fingerprints(_)));
        assert_eq!(check(asks, "client_auth = \"none\"").unwrap().peers, PeerRules::default());
        let error = check("client_auth = \"none\"", "client_ca = \"/ca\"").unwrap_err();
        assert!(error.starts_with("o.toml:8: client_ca = "), "{error}");
        let origin = "mode = \"originate\"\nserver_name = \"a.example\"";
        let listed = format!("client_auth = \"require\"\nfingerprints = [\"{told}\"]");
        let error = check(&listed, origin).unwrap_err();
        assert!(
            error.starts_with("o.toml:9: mode = \"originate\": nothing says which"),
            "the clients' fingerprints are not the server's: {error}"
        );
        let listener = check(&listed, &format!("{origin}\nserver_ca = \"/ca\"")).unwrap();
        assert_eq!(listener.peers, PeerRules::default());
    }

    #[test]
    fn forward_server_name_needs_reencrypt() {
        let server = [(ConfigOption::ServerName, "a.example"), (ConfigOption::ServerCa, "ca.pem")];
        let forward = |mode, value| {
            with(
                &[&server[..], &[(ConfigOption::Mode, mode), (ConfigOption::ForwardServerName, value)]]
                    .concat(),
            )
        };
        assert!(forward("reencrypt", "on").is_ok() && forward("originate", "off").is_ok());
        let error = forward("originate", "on").unwrap_err();
        assert!(error.starts_with("--forward-server-name: ") && error.contains("reencrypt"), "{error}");
        let error = with(&[(ConfigOption::ForwardServerName, "on")]).unwrap_err();
        assert!(error.starts_with("--forward-server-name: ") && error.contains("reencrypt"), "{error}");
    }

    #[test]
    fn plain_listener_ignores_global_tls_and_refuses_own() {
        let check = |listener: &str| {
            let text = format!(
                "[[identity]]\ncertificate = \"c\"\nkey = \"k\"\n[[listener]]\nlisten = \
                 \"127.0.0.1:0\"\nbackend = \"127.0.0.1:1\"\nmode = \"plain\"\n{listener}\n"
            );
            let config = file::parse(Path::new("o.toml"), &text).and_then(Raw::check);
            config.map(|config| config.listeners[0].identities.len()).map_err(|error| error.to_string())
        };
        assert_eq!(check(""), Ok(0));
        let error = check("[[listener.identity]]\ncertificate = \"c\"\nkey = \"k\"").unwrap_err();
        assert!(error.contains("uses at most 0 identities, and 1 are given"), "{error}");
        let error = check(&format!("fingerprints = [\"{}\"]", told())).unwrap_err();
        assert!(error.starts_with("o.toml:8: fingerprints = ") && error.contains("no TLS"), "{error}");
    }
}
