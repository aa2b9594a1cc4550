//! The cage of the process: what it gives up at the start, for good.
//!
//! [`Cage::enter`] is called before threads are made, and before keys are read and addresses bound;
//! [`Cage::close`] behind that, before the first byte of a peer. Each layer is reported, and what is missing
//! is a warning or, with `confine = "require"`, the end of the start. Only the `offramp` command does this to
//! its process; whoever embeds the engine decides on their own process.

mod account;
mod files;
mod paths;
mod syscalls;

use std::fmt;
use std::fs::File;
use std::iter;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::config::{Config, Confine, RunAs};
use crate::log::Log;
use crate::sys::{errno, operations, process};
use crate::worker::WorkerCage;

use paths::Paths;

/// How long the start waits for the thread of the log, which may be writing.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// A process in its cage, or on the way into it.
#[derive(Debug)]
pub struct Cage {
    confine: Confine,
    report: Confinement,
    /// What Landlock leaves; none if it is not in force.
    paths: Option<Paths>,
    /// What must stay open for Landlock.
    _kept: Option<File>,
    /// Whom the process has become.
    user: Option<RunAs>,
}

/// Which layers are in force.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Confinement {
    /// In the order in which they were put in force; none with `confine = "off"`.
    pub layers: Vec<Layer>,
}

/// A layer of the confinement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// `user`, `no_new_privs`, `landlock`, `seccomp` or `io_uring restrictions`.
    pub name: &'static str,
    /// Whether it holds for the whole process.
    pub in_force: bool,
    /// What it is exactly; if it is not in force: why, and what to try.
    pub detail: String,
}

/// Why the process is not in the cage that was asked for, or cannot get a file from there.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// The system does not let it become the user.
    #[error(
        "this process cannot become the user {user}: {cause}; try: CapabilityBoundingSet=CAP_SETUID \
         CAP_SETGID in the systemd unit, --cap-add SETUID --cap-add SETGID for a container, or a start as \
         that user"
    )]
    User {
        /// As configured.
        user: String,
        /// What was refused, and the error's name.
        cause: String,
    },
    /// A layer is required and not in force.
    #[error("confine = \"require\", but {layer} is not in force: {why}; or: confine = \"auto\"")]
    Missing {
        /// Its name.
        layer: &'static str,
        /// Why, and what to try.
        why: String,
    },
    /// A file lies where the process cannot reach since the start.
    #[error(
        "{} is outside of the directories that the configuration of the start named, as they were then, and \
         Landlock lets the process reach no others; try: a path below one of them, or an upgrade or a \
         restart with this configuration, or with confine = \"off\"",
        .path.display()
    )]
    Outside {
        /// As configured.
        path: PathBuf,
    },
    /// A file is not for the user whom the process has become.
    #[error(
        "{} cannot be read by the user {user}, whom Offramp becomes after the start: no reload can use it; \
         try: chown {user} {}, and ls -ld for each directory above it",
        .path.display(), .path.display()
    )]
    Unreadable {
        /// As configured.
        path: PathBuf,
        /// As configured.
        user: String,
    },
    /// A backend is at an abstract name, which the process cannot reach since the start.
    #[error(
        "backend {address}: the configuration of the start named no abstract Unix socket, and Landlock lets \
         the process connect to none; try: an upgrade or a restart, or a backend at unix:PATH"
    )]
    Abstract {
        /// As configured.
        address: String,
    },
}

impl Cage {
    /// The first half: the file system. To be called while there is no thread but the caller's and the log's,
    /// since Landlock holds for a thread and for those that it starts.
    ///
    /// # Errors
    /// [`ConfineError::Missing`] with `confine = "require"`.
    pub fn enter(config: &Config, log: &Log) -> Result<Self, ConfineError> {
        let mut cage = Self {
            confine: config.confine,
            report: Confinement::default(),
            paths: None,
            _kept: None,
            user: None,
        };
        if cage.confine == Confine::Off {
            return Ok(cage);
        }
        let paths = Paths::of(config);
        match files::restrict(&paths, log) {
            Ok((what, kept)) => {
                (cage.paths, cage._kept) = (Some(paths), kept);
                cage.note("landlock", Ok(what))?;
            }
            Err(why) => cage.note("landlock", Err(why))?,
        }
        Ok(cage)
    }

    /// The second half: the user, the system calls, the rings. To be called when addresses are bound and keys
    /// are read.
    ///
    /// # Errors
    /// [`ConfineError::User`], and with `confine = "require"` [`ConfineError::Missing`] and
    /// [`ConfineError::Unreadable`].
    pub fn close(&mut self, config: &Config) -> Result<(), ConfineError> {
        self.become_user(config)?;
        if self.confine == Confine::Off {
            return Ok(());
        }
        let privs = rustix::thread::set_no_new_privs(true).map_err(|error| errno::name(&error.into()));
        self.note("no_new_privs", privs.map(|()| String::new()))?;
        self.note("seccomp", syscalls::filter())?;
        let rings = operations::can_be_restricted();
        let why = |error| format!("{}; try: offramp probe", errno::name(&error));
        self.note("io_uring restrictions", rings.map(|()| String::new()).map_err(why))
    }

    /// Says in the log what is in force.
    pub fn announce(&self) {
        if self.confine == Confine::Off {
            tracing::info!("not confined: confine = \"off\"");
        } else if self.report.layers.iter().all(|layer| layer.in_force || layer.name == "user") {
            tracing::info!("{}", self.report);
        } else {
            tracing::warn!("{}", self.report);
        }
    }

    /// What is in force.
    #[must_use]
    pub fn report(&self) -> &Confinement {
        &self.report
    }

    /// What each worker gives up beside that.
    #[must_use]
    pub fn of_worker(&self) -> WorkerCage {
        let holds = |name| self.report.layers.iter().any(|layer| layer.name == name && layer.in_force);
        let filter =
            if holds("seccomp") { syscalls::of_worker().unwrap_or_default() } else { Arc::default() };
        WorkerCage { restricts_ring: holds("io_uring restrictions"), filter }
    }

    /// Whether the process can reach, and its user can read, what this configuration names.
    ///
    /// # Errors
    /// The first that it cannot.
    pub fn check(&self, config: &Config) -> Result<(), ConfineError> {
        paths::named(config).try_for_each(|file| self.reach(file))?;
        self.paths.as_ref().map_or(Ok(()), |paths| paths.check_sockets(config))
    }

    /// Why files that lie in directories of identities are not within reach: pairs that are left out.
    pub fn out_of_reach(&self, config: &Config) -> impl Iterator<Item = ConfineError> {
        paths::found(config).filter_map(|file| self.reach(file).err())
    }

    fn reach(&self, path: PathBuf) -> Result<(), ConfineError> {
        if self.paths.as_ref().is_some_and(|paths| paths.is_outside(&path)) {
            return Err(ConfineError::Outside { path });
        }
        if !paths::is_forbidden(&path) {
            return Ok(());
        }
        match &self.user {
            // Its directory has the name of one that was there at the start.
            _ if self.paths.is_some() && paths::is_permitted(&path) => Err(ConfineError::Outside { path }),
            Some(user) => Err(ConfineError::Unreadable { path, user: user.user.clone() }),
            // Whoever reads it has an error for that.
            None => Ok(()),
        }
    }

    /// The owner of what was made before the process became its user.
    #[must_use]
    pub fn owner(config: &Config) -> Option<(u32, u32)> {
        config.run_as.as_ref().filter(|_| account::is_root()).map(|user| (user.uid, user.gid))
    }

    fn become_user(&mut self, config: &Config) -> Result<(), ConfineError> {
        let layer = match &config.run_as {
            Some(user) if account::is_root() => {
                let refused = |cause| ConfineError::User { user: user.user.clone(), cause };
                let kept = account::become_user(user).map_err(refused)?;
                // The kernel makes a process dumpable again that changes its user (PR_SET_DUMPABLE(2const)).
                if let Err(error) = process::forbid_dumps() {
                    tracing::warn!(%error, "a core dump or another process may show private keys");
                }
                self.user = Some(user.clone());
                Ok(kept)
            }
            user => account::as_started(user.as_ref()),
        };
        if self.confine != Confine::Off {
            self.note("user", layer)?;
        } else if let Err(why) = layer
            && config.run_as.is_some()
        {
            tracing::warn!("user: {why}");
        }
        match iter::once(self.check(config)).chain(self.out_of_reach(config).map(Err)).collect() {
            Err(error) if self.confine == Confine::Require => Err(error),
            Err(error) => {
                tracing::warn!("{error}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn note(&mut self, name: &'static str, outcome: Result<String, String>) -> Result<(), ConfineError> {
        let (in_force, detail) = match outcome {
            Ok(what) => (true, what),
            Err(why) if self.confine == Confine::Require => {
                return Err(ConfineError::Missing { layer: name, why });
            }
            Err(why) => (false, why),
        };
        self.report.layers.push(Layer { name, in_force, detail });
        Ok(())
    }
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (held, missing): (Vec<_>, Vec<_>) = self.layers.iter().partition(|layer| layer.in_force);
        let names = |layers: &[&Layer]| layers.iter().map(ToString::to_string).collect::<Vec<_>>();
        match held.is_empty() {
            true => f.write_str("not confined")?,
            false => write!(f, "confined: {}", names(&held).join(", "))?,
        }
        missing.iter().try_for_each(|layer| write!(f, "; not in force: {layer}"))
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, in_force, detail } = self;
        match (detail.as_str(), in_force) {
            ("", _) => f.write_str(name),
            (detail, true) if *name == "user" => write!(f, "user {detail}"),
            (detail, true) => write!(f, "{name} ({detail})"),
            (detail, false) => write!(f, "{name}: {detail}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cage(confine: Confine) -> Cage {
        Cage { confine, report: Confinement::default(), paths: None, _kept: None, user: None }
    }

    #[test]
    fn confinement_says_what_is_in_force_and_what_is_not() {
        let mut cage = cage(Confine::Auto);
        assert_eq!(cage.report().to_string(), "not confined");
        cage.note("user", Ok("offramp".to_owned())).expect("auto");
        cage.note("no_new_privs", Ok(String::new())).expect("auto");
        cage.note("landlock", Err("ENOSYS; try: a kernel".to_owned())).expect("auto");
        cage.note("seccomp", Ok("9 system calls".to_owned())).expect("auto");
        let said = "confined: user offramp, no_new_privs, seccomp (9 system calls); not in force: landlock: \
                    ENOSYS; try: a kernel";
        assert_eq!(cage.report().to_string(), said);
        assert!(!cage.of_worker().restricts_ring && !cage.of_worker().filter.is_empty());
        cage.note("io_uring restrictions", Ok(String::new())).expect("auto");
        assert!(cage.of_worker().restricts_ring);
        let json = serde_json::to_string(&cage.report().layers[2]).expect("JSON");
        assert_eq!(json, r#"{"name":"landlock","in_force":false,"detail":"ENOSYS; try: a kernel"}"#);
    }

    #[test]
    fn required_confinement_names_the_first_missing_layer() {
        let mut cage = cage(Confine::Require);
        cage.note("user", Ok("offramp".to_owned())).expect("it is in force");
        let error = cage.note("landlock", Err("ENOSYS; try: a kernel".to_owned())).expect_err("required");
        let said = "confine = \"require\", but landlock is not in force: ENOSYS; try: a kernel; or: \
                    confine = \"auto\"";
        assert_eq!(error.to_string(), said);
    }
}
