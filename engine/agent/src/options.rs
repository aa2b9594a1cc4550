//! The command line, and what it names.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use nix::unistd::{Group, gethostname};
use offramp_core::tls::{KeyFileError, read_secret};
use offramp_files::pem;
use rustls::pki_types::CertificateDer;
use tracing::level_filters::LevelFilter;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};
use zeroize::Zeroizing;

use crate::agent::ROUNDS_PER_LEASE;
use crate::etcd::{Etcd, User};
use crate::rotation::Schedule;
use crate::seal::KEYS_MAX;

/// Requests to etcd while a lease lives, at least: those that fail must leave time for another.
const REQUESTS_PER_LEASE: u32 = 5;

/// The exit codes, for `--help` and the man page.
const EXIT_CODES: &str = "\
Exit codes:
  0  SIGTERM or SIGINT ended it
  1  the start failed; the last line has the reason
  2  the command line is wrong";

/// Keeps the file of ticket keys in step with etcd, and rotates the keys: run one agent on every host.
#[derive(Parser)]
#[command(
    name = "offramp-ticket-key-agent",
    bin_name = "offramp ticket-key agent",
    version,
    max_term_width = 110,
    after_help = EXIT_CODES
)]
pub(crate) struct Options {
    /// The file of ticket keys that Offramp reads (`ticket_keys`); better on a tmpfs, as keys are not to
    /// reach a disk
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The group that may read the file, which then has mode 0440; without it the mode is 0600
    #[arg(long)]
    pub(crate) group: Option<String>,
    /// The members of etcd, as http(s)://HOST:PORT, separated by commas
    #[arg(long, value_name = "URL", value_delimiter = ',', required = true)]
    pub(crate) etcd: Vec<String>,
    /// The authorities that may have signed etcd's certificates (PEM); needed for https
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd_ca: Option<PathBuf>,
    /// The agent's certificate for etcd (PEM)
    #[arg(long, value_name = "FILE", requires = "etcd_key")]
    pub(crate) etcd_cert: Option<PathBuf>,
    /// The private key of that certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    pub(crate) etcd_key: Option<PathBuf>,
    /// The agent's user in etcd
    #[arg(long, value_name = "NAME", requires = "etcd_password_file")]
    pub(crate) etcd_user: Option<String>,
    /// The file with that user's password
    #[arg(long, value_name = "FILE", requires = "etcd_user")]
    pub(crate) etcd_password_file: Option<PathBuf>,
    /// The keys PREFIX/ring and PREFIX/leader in etcd; hosts with the same prefix share their ticket keys
    #[arg(long, default_value = "/offramp/ticket-keys")]
    pub(crate) prefix: String,
    /// The key-encryption key: a file of 32 bytes, the same on every host. Given twice, the first seals and
    /// both open, for a change of the key
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) kek: Vec<PathBuf>,
    /// The name of this agent in the others' logs; the host's name by default
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The interval at which a new key begins to seal
    #[arg(long, value_name = "TIME", default_value = "8h", value_parser = humantime::parse_duration)]
    pub(crate) rotate_every: Duration,
    /// How long before it seals a new key is published: the time that hosts have to read it. It must be at
    /// least twice --lease, and longer than the difference between the hosts' clocks
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    pub(crate) lead: Duration,
    /// How long a key still opens tickets after the next one seals
    #[arg(long, value_name = "TIME", default_value = "16h", value_parser = humantime::parse_duration)]
    pub(crate) open_for: Duration,
    /// How long the leader may be silent before another agent leads; etcd is asked three times in that time
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = humantime::parse_duration)]
    pub(crate) lease: Duration,
    /// How often an alarm that lasts is logged again
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    pub(crate) alarm_every: Duration,
    /// A file of metrics for node_exporter's textfile collector
    #[arg(long, value_name = "FILE")]
    pub(crate) metrics_file: Option<PathBuf>,
    /// What is written to stderr: error, warn, info, debug or trace, and everything more severe
    #[arg(long, value_name = "LEVEL", default_value = "info", overrides_with = "log_level")]
    pub(crate) log_level: LevelFilter,
}

/// Why the command line cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OptionError {
    #[error("--{option}: {problem}")]
    Value { option: &'static str, problem: String },
    #[error(transparent)]
    Secret(#[from] KeyFileError),
    #[error("{}: {problem}", .path.display())]
    File { path: PathBuf, problem: String },
}

fn value(option: &'static str, problem: impl Into<String>) -> OptionError {
    OptionError::Value { option, problem: problem.into() }
}

impl Options {
    /// The times, if they fit together.
    pub(crate) fn schedule(&self) -> Result<Schedule, OptionError> {
        if !(2..=3600).contains(&self.lease.as_secs()) {
            return Err(value("lease", "allowed is 2s to 1h"));
        }
        if self.lead < 2 * self.lease {
            let least = humantime::format_duration(2 * self.lease);
            return Err(value(
                "lead",
                format!(
                    "must be at least twice --lease ({least}), or a host might not know a \
                                              key that already seals"
                ),
            ));
        }
        if self.rotate_every <= self.lead {
            return Err(value("rotate-every", "must be longer than --lead"));
        }
        if self.alarm_every.is_zero() {
            return Err(value("alarm-every", "must not be 0"));
        }
        let seconds = |duration: Duration| duration.as_secs();
        let schedule = Schedule {
            every: seconds(self.rotate_every),
            lead: seconds(self.lead),
            opens: seconds(self.open_for),
        };
        if !schedule.fits() {
            return Err(value(
                "open-for",
                format!(
                    "with --rotate-every {} there would be {} keys at once, and a file has 32 at most; \
                     rotate less often, or let keys open for a shorter time",
                    humantime::format_duration(self.rotate_every),
                    schedule.keys()
                ),
            ));
        }
        Ok(schedule)
    }

    pub(crate) fn interval(&self) -> Duration {
        self.lease / ROUNDS_PER_LEASE
    }

    pub(crate) fn check_keks(&self) -> Result<(), OptionError> {
        if self.kek.len() > KEYS_MAX {
            return Err(value("kek", format!("{} are given, and {KEYS_MAX} are allowed", self.kek.len())));
        }
        Ok(())
    }

    /// The number of the group that may read the file.
    pub(crate) fn group(&self) -> Result<Option<u32>, OptionError> {
        let Some(name) = &self.group else { return Ok(None) };
        if let Ok(number) = name.parse() {
            return Ok(Some(number));
        }
        match Group::from_name(name) {
            Ok(Some(group)) => Ok(Some(group.gid.as_raw())),
            Ok(None) => {
                Err(value("group", format!("there is no group {name}; try: groupadd --system {name}")))
            }
            Err(error) => Err(value("group", error.to_string())),
        }
    }

    pub(crate) fn name(&self) -> String {
        let host = || gethostname().ok().map(|name| name.to_string_lossy().into_owned());
        self.name.clone().or_else(host).unwrap_or_else(|| "unknown".to_owned())
    }

    /// The prefix without a slash at its end.
    pub(crate) fn prefix(&self) -> Result<&str, OptionError> {
        match self.prefix.trim_end_matches('/') {
            "" => Err(value("prefix", "must name something, such as /offramp/ticket-keys")),
            prefix => Ok(prefix),
        }
    }

    /// A client of etcd that follows what the command line says.
    pub(crate) fn etcd(&self) -> Result<Etcd, OptionError> {
        let mut endpoints = Vec::new();
        for url in &self.etcd {
            endpoints.push(self.endpoint(url)?);
        }
        let user = match self.etcd_user.clone().zip(self.etcd_password_file.as_deref()) {
            Some((name, path)) => Some(User { name, password: password(path)? }),
            None => None,
        };
        if user.is_some() && endpoints.iter().any(|url| url.starts_with("http:")) {
            tracing::warn!("--etcd: the password of --etcd-user is sent in the clear; use https");
        }
        let timeout = Some(self.lease / REQUESTS_PER_LEASE);
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent("offramp-ticket-key-agent")
            .tls_config(self.tls()?)
            .timeout_global(timeout)
            .timeout_connect(timeout)
            .timeout_resolve(timeout)
            .timeout_recv_response(timeout)
            .build();
        Ok(Etcd::new(config.new_agent(), endpoints, user))
    }

    fn endpoint(&self, url: &str) -> Result<String, OptionError> {
        let bad = |problem: &str| Err(value("etcd", format!("{url}: {problem}")));
        let url = url.trim().trim_end_matches('/');
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        if rest.is_empty() || rest.contains(['/', '@', '?', '#']) {
            return bad("expected http://HOST:PORT or https://HOST:PORT");
        }
        match scheme {
            "http" => Ok(url.to_owned()),
            "https" if self.etcd_ca.is_some() => Ok(url.to_owned()),
            "https" => bad("https needs --etcd-ca"),
            _ => bad("expected http://HOST:PORT or https://HOST:PORT"),
        }
    }

    fn tls(&self) -> Result<TlsConfig, OptionError> {
        let mut roots = rustls::RootCertStore::empty();
        let authorities = self.etcd_ca.as_deref().map(certificates).transpose()?.unwrap_or_default();
        for authority in &authorities {
            let path = self.etcd_ca.clone().unwrap_or_default();
            roots
                .add(authority.clone())
                .map_err(|error| OptionError::File { path, problem: error.to_string() })?;
        }
        let client = match (&self.etcd_cert, &self.etcd_key) {
            (Some(certificate), Some(key)) => Some(client(certificate, key, roots)?),
            _ => None,
        };
        Ok(TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .root_certs(RootCerts::new_with_certs(&of_ureq(&authorities)))
            .client_cert(client)
            .build())
    }
}

fn of_ureq(certificates: &[CertificateDer<'_>]) -> Vec<Certificate<'static>> {
    certificates.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect()
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, OptionError> {
    let bad = |problem: String| OptionError::File { path: path.to_owned(), problem };
    let content =
        offramp_files::read(path, offramp_files::BYTES_MAX).map_err(|error| bad(error.to_string()))?;
    pem::certificates(content.bytes()).map_err(|error| bad(error.to_string()))
}

/// The agent's certificate with its key. rustls looks whether they fit together, as ureq takes it for
/// granted.
fn client(certificate: &Path, key: &Path, roots: rustls::RootCertStore) -> Result<ClientCert, OptionError> {
    let chain = certificates(certificate)?;
    let content = read_secret(key, offramp_files::BYTES_MAX)?;
    let bad = |problem: String| OptionError::File { path: key.to_owned(), problem };
    let secret = pem::private_key(content.bytes()).map_err(|error| bad(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|config| {
            config
                .with_root_certificates(roots)
                .with_client_auth_cert(chain.clone(), secret.der().clone_key())
        })
        .map_err(|error| bad(format!("cannot be used with {}: {error}", certificate.display())))?;
    let secret = PrivateKey::from_pem(content.bytes()).map_err(|error| bad(error.to_string()))?;
    Ok(ClientCert::new_with_certs(&of_ureq(&chain), secret))
}

fn password(path: &Path) -> Result<Zeroizing<String>, OptionError> {
    let bad = |problem: &str| OptionError::File { path: path.to_owned(), problem: problem.to_owned() };
    let content = read_secret(path, 4096)?;
    let text = content.text().map_err(|_| bad("a password is text in UTF-8"))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(bad("it has no password")),
        password => Ok(Zeroizing::new(password.to_owned())),
    }
}
