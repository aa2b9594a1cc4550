//! `offramp ticket-key`: makes the file of ticket keys that several hosts share, adds a key to it, shows what
//! is in it.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use tracing::level_filters::LevelFilter;

use crate::tls::KeyFileError;
use crate::tls::ticket_keys::{KeyRing, UnixSeconds, Use};

/// What to do with the file.
#[derive(Subcommand)]
pub(super) enum TicketKeyTask {
    /// Make a file with one key that seals at once
    New {
        /// The file to make; it must not exist yet
        file: PathBuf,
    },
    /// Add a key that seals from some time on, and leave out those that have expired
    ///
    /// Copy the file to every host before that time: whoever reads it opens with the new key at once.
    Rotate {
        /// The file of ticket keys
        file: PathBuf,
        /// When the key begins to seal, from now
        #[arg(long, value_name = "TIME", default_value = "10m", value_parser = start_in)]
        start_in: Duration,
    },
    /// Keep the file in step with etcd on every host, and rotate the keys
    ///
    /// Runs offramp-ticket-key-agent, a separate program; `agent --help` shows its options.
    #[command(disable_help_flag = true)]
    Agent {
        /// Options of offramp-ticket-key-agent
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTION")]
        options: Vec<OsString>,
    },
    /// Show the names of the keys and what each is for; never a secret
    ShowIds {
        /// The file of ticket keys
        file: PathBuf,
    },
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum TaskError {
    #[error(transparent)]
    File(#[from] KeyFileError),
    #[error(
        "{AGENT} is not installed: it is neither beside offramp nor in PATH; the Debian package has it; try: \
         cargo build --release --package {AGENT}"
    )]
    NoAgent,
    #[error("{AGENT} cannot be run: {0}")]
    Agent(io::Error),
}

/// Furthest ahead that a key may begin to seal.
const START_IN_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

fn start_in(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time > START_IN_MAX {
        return Err("allowed is up to 365d".to_owned());
    }
    Ok(time)
}

const AGENT: &str = "offramp-ticket-key-agent";

impl TicketKeyTask {
    /// Does it and says what was done.
    pub(super) fn run(self, log_level: LevelFilter) -> Result<String, TaskError> {
        let now = now();
        match self {
            Self::Agent { options } => Err(become_agent(&options, log_level)),
            Self::New { file } => {
                KeyRing::generate(now).map_err(KeyFileError::from)?.create(&file)?;
                Ok(format!("{}: made\n{}", file.display(), ids(&file, now)?))
            }
            Self::Rotate { file, start_in } => {
                let from = now.saturating_add(start_in.as_secs());
                let ring = KeyRing::update(&file, |ring| ring.add(now, from))?;
                Ok(format!(
                    "{}: a key added\n{}{}",
                    file.display(),
                    ids(&file, now)?,
                    warning(&file, &ring, now)
                ))
            }
            Self::ShowIds { file } => {
                Ok(format!("{}{}", ids(&file, now)?, warning(&file, &KeyRing::read(&file)?, now)))
            }
        }
    }
}

/// Runs the agent in place of this process; returns only if that fails.
fn become_agent(options: &[OsString], log_level: LevelFilter) -> TaskError {
    let beside =
        std::env::current_exe().ok().map(|own| own.with_file_name(AGENT)).filter(|path| path.is_file());
    let program = beside.unwrap_or_else(|| PathBuf::from(AGENT));
    let error = Command::new(program).args(["--log-level", &log_level.to_string()]).args(options).exec();
    if error.kind() == ErrorKind::NotFound { TaskError::NoAgent } else { TaskError::Agent(error) }
}

fn ids(file: &Path, now: UnixSeconds) -> Result<String, KeyFileError> {
    let ring = KeyRing::read(file)?;
    let line = |(key, purpose): (&crate::tls::ticket_keys::TicketKey, Use)| {
        let (from, until) = key.span();
        let purpose = match purpose {
            Use::Waits => format!("opens, seals from {from}"),
            Use::Seals => format!("seals, opens until {until}"),
            Use::Opens => format!("opens until {until}"),
            Use::Expired => format!("expired at {until}"),
        };
        format!("{}  {purpose}\n", key.id())
    };
    Ok(ring.uses(now).map(line).collect())
}

/// Of a time in which no key of the file seals: a line, or nothing. The engine serves nevertheless.
pub(super) fn warning(file: &Path, ring: &KeyRing, now: UnixSeconds) -> String {
    let seals = ring.uses(now).any(|(_, purpose)| purpose == Use::Seals);
    let file = file.display();
    match ring.gap(now) {
        None if seals => String::new(),
        None => format!(
            "warning: {file}: no key seals, and every handshake is a full one; add one with: offramp \
             ticket-key rotate {file} --start-in 0s\n"
        ),
        Some((begin, end)) => format!(
            "warning: {file}: no key seals from {begin} until {end}, and every handshake will be a full one; \
             add one with an earlier --start-in\n"
        ),
    }
}

#[expect(clippy::disallowed_methods, reason = "a command of its own, and the wall clock is what keys go by")]
pub(super) fn now() -> UnixSeconds {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use crate::tls::ticket_keys::KEYS_MAX;

    use super::*;

    #[test]
    fn rotating_past_the_end_of_the_last_key_is_warned_of() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ticket.keys");
        let made = TicketKeyTask::New { file: file.clone() }.run(LevelFilter::INFO).unwrap();
        assert!(made.contains("seals") && !made.contains("warning"), "{made}");
        let rotate = |hours: u64| {
            let start_in = Duration::from_secs(hours * 3600);
            TicketKeyTask::Rotate { file: file.clone(), start_in }.run(LevelFilter::INFO).unwrap()
        };
        let rotated = rotate(47);
        assert!(rotated.contains("ticket.keys: no key seals from"), "{rotated}");
        let closed = rotate(23);
        assert!(!closed.contains("warning"), "{closed}");
    }

    #[test]
    fn a_key_begins_to_seal_within_a_year() {
        assert_eq!(start_in("365d"), Ok(START_IN_MAX));
        for refused in ["366d", "8000y", "soon"] {
            assert!(start_in(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_full_file_takes_no_more_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ticket.keys");
        TicketKeyTask::New { file: file.clone() }.run(LevelFilter::INFO).unwrap();
        let rotate = || {
            let start_in = Duration::from_secs(600);
            TicketKeyTask::Rotate { file: file.clone(), start_in }
                .run(LevelFilter::INFO)
                .map_err(|error| error.to_string())
        };
        assert!((1..KEYS_MAX).all(|_| rotate().is_ok()));
        let error = rotate().unwrap_err();
        assert!(error.contains("ticket.keys: there are 32 keys that seal or wait to"), "{error}");
    }
}
