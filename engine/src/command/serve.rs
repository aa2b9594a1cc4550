//! The flags of `offramp serve`: those of the options of the configuration, and those of identities.

use std::path::{Path, PathBuf};

use crate::config::{Config, ConfigError, ConfigOption, Kind, Loaded, Raw, file};
use crate::supervisor::SENT;
use clap::error::Error;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

/// The flags; the documentation of the task stands in for this in `--help`.
#[derive(Args)]
pub(super) struct Serve {
    /// The configuration file, which offramp.toml(5) describes. A flag replaces the same key at the top of
    /// the file, not one below [[listener]]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A certificate chain; repeat with --key, paired in order
    #[arg(long, value_name = "PEM")]
    cert: Vec<PathBuf>,
    /// The private key of the certificate at the same position
    #[arg(long, value_name = "PEM")]
    key: Vec<PathBuf>,
    /// Write the TLS secrets of every connection to FILE, in the format of SSLKEYLOGFILE: for debugging only,
    /// because whoever reads FILE can decrypt the traffic
    #[arg(long, value_name = "FILE")]
    key_log: Option<PathBuf>,
    #[command(flatten)]
    values: Values,
}

impl Serve {
    /// The configuration by file and flags; as often as it is asked: the file may have changed. A text that
    /// was `sent` takes the place of the file, in the file's directory; the flags still win.
    pub(super) fn load(&self, sent: Option<&str>) -> Result<Loaded, ConfigError> {
        let path = self.config.as_deref();
        let (file, text) = match (sent, path) {
            (Some(text), _) => {
                let directory = path.and_then(Path::parent).unwrap_or(Path::new(""));
                (file::parse_as(Path::new(SENT), directory, text)?, Some(text.to_owned()))
            }
            (None, Some(path)) => {
                let text = file::read_text(path)?;
                (file::parse(path, &text)?, Some(text))
            }
            (None, None) => (Raw::default(), None),
        };
        let mut flags = Raw::default();
        for (key, value) in &self.values.0 {
            flags.give_flag(*key, value.clone());
        }
        flags.give_identities(&self.cert, &self.key)?;
        let config = file.overridden_by(flags).check()?;
        Ok(Loaded { config: Config { key_log: self.key_log.clone(), ..config }, text })
    }
}

/// What was given for the keys that have one value.
#[derive(Clone)]
struct Values(Vec<(ConfigOption, String)>);

impl Args for Values {
    fn augment_args(command: Command) -> Command {
        command.args(ConfigOption::ALL.iter().map(|key| {
            let key = key.description();
            let default =
                if key.default.is_empty() { String::new() } else { format!(" [default: {}]", key.default) };
            let long = key.flag.trim_start_matches('-');
            let separated =
                if matches!(key.kind, Kind::List | Kind::Texts) { " (separated by commas)" } else { "" };
            let help = format!("{}{separated}{default}", key.help);
            Arg::new(key.name).long(long).value_name(key.values).help(help)
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Values {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let given =
            |key: &ConfigOption| matches.get_one::<String>(key.name()).map(|value| (*key, value.clone()));
        Ok(Self(ConfigOption::ALL.iter().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
