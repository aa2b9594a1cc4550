//! The check of what the file of a listener's Unix socket is given.

use std::path::PathBuf;

use offramp_ring::account;
use offramp_ring::socket::Address;

use super::limits::UNIX_PATH_BYTES;
use super::pool::is_unix_address;
use super::{ConfigError, ConfigOption, Raw};

/// Who may connect to a Unix socket: who may write to its file (unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketAccess {
    /// The permission bits.
    pub mode: u32,
    /// The number of the user that owns it; the process's if absent.
    pub user: Option<u32>,
    /// The number of its group; the process's if absent.
    pub group: Option<u32>,
}

impl SocketAccess {
    /// With this user and group where none are given.
    #[must_use]
    pub fn or_owner(self, owner: Option<(u32, u32)>) -> Self {
        let (user, group) = owner.unzip();
        Self { user: self.user.or(user), group: self.group.or(group), ..self }
    }
}

impl Default for SocketAccess {
    /// The owner and the group, so that a group is all that a balancer needs, and nobody else.
    fn default() -> Self {
        Self { mode: 0o660, user: None, group: None }
    }
}

impl Raw {
    pub(super) fn socket_access(&mut self, all: &[Address]) -> Result<SocketAccess, ConfigError> {
        self.refuse_socket_options(all)?;
        let default = SocketAccess::default();
        let allowed = "the mode of a file in octal, such as \"0660\", up to \"0777\"";
        let mode = self.parsed(ConfigOption::SocketMode, allowed, mode)?.unwrap_or(default.mode);
        let (user, group) = self.socket_owner()?;
        Ok(SocketAccess { mode, user, group })
    }

    /// The socket of the admin interface: one with a file, whose mode says who may connect.
    ///
    /// # Errors
    /// It is no path of a Unix socket.
    pub fn admin_socket(&mut self) -> Result<Option<PathBuf>, ConfigError> {
        let allowed = format!(
            "the path of a Unix socket, such as /run/offramp/admin.sock, of {} to {} bytes and without unix: \
             in front",
            UNIX_PATH_BYTES.start(),
            UNIX_PATH_BYTES.end()
        );
        self.parsed(ConfigOption::AdminSocket, allowed, |value| {
            let is_path = is_unix_address(value) && !value.starts_with('@') && !value.contains("unix:/");
            is_path.then(|| PathBuf::from(value))
        })
    }

    /// Where there is no file, nothing is to be given to it.
    pub(super) fn refuse_socket_options(&self, all: &[Address]) -> Result<(), ConfigError> {
        if all.iter().any(|address| address.file().is_some()) {
            return Ok(());
        }
        let options = [ConfigOption::SocketMode, ConfigOption::SocketOwner];
        match options.into_iter().find_map(|key| Some((key, self.given.get(&key)?))) {
            Some((key, given)) => {
                let allowed =
                    "nothing here: it is for the file of a Unix socket, beside listen = \"unix:PATH\"";
                Err(given.clone().refused(key, allowed))
            }
            None => Ok(()),
        }
    }

    fn socket_owner(&mut self) -> Result<(Option<u32>, Option<u32>), ConfigError> {
        let Some(given) = self.given.remove(&ConfigOption::SocketOwner) else { return Ok((None, None)) };
        let found = owner(&given.value);
        found.map_err(|why| {
            let allowed = format!("USER, USER:GROUP or :GROUP of this host, by name or number: {why}");
            given.refused(ConfigOption::SocketOwner, allowed)
        })
    }
}

fn mode(text: &str) -> Option<u32> {
    let is_octal = text.bytes().all(|byte| byte.is_ascii_digit());
    u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777)
}

/// The numbers of a user and a group.
///
/// # Errors
/// Which of the two is none, and why.
fn owner(text: &str) -> Result<(Option<u32>, Option<u32>), String> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let user = match user {
        "" if group.is_some() => None,
        user => Some(number("user", user, account::user_id)?),
    };
    Ok((user, group.map(|group| number("group", group, account::group_id)).transpose()?))
}

fn number(
    what: &str,
    text: &str,
    look_up: impl Fn(&str) -> std::io::Result<Option<u32>>,
) -> Result<u32, String> {
    // The highest number stands for none (chown(2)).
    if let Some(number) = text.parse().ok().filter(|number| *number != u32::MAX) {
        return Ok(number);
    }
    match look_up(text) {
        Ok(Some(number)) => Ok(number),
        Ok(None) => Err(format!("there is no {what} {text:?}")),
        Err(error) => Err(format!("the {what} {text:?} cannot be looked up: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::minimal;
    use super::*;

    fn access(options: &[(ConfigOption, &str)]) -> Result<SocketAccess, String> {
        let mut raw = minimal();
        raw.give_flag(ConfigOption::Listen, "127.0.0.1:0,unix:/s".to_owned());
        options.iter().for_each(|(key, value)| raw.give_flag(*key, (*value).to_owned()));
        let config = raw.check().map_err(|error| error.to_string())?;
        Ok(config.listeners[1].socket_access)
    }

    #[test]
    fn socket_mode_and_owner_are_read_like_chmod_chown() {
        use ConfigOption::{SocketMode as Mode, SocketOwner as Owner};

        let default = SocketAccess { mode: 0o660, user: None, group: None };
        assert_eq!(access(&[]), Ok(default));
        for (value, mode) in [("0600", 0o600), ("666", 0o666), ("0", 0), ("0777", 0o777)] {
            assert_eq!(access(&[(Mode, value)]), Ok(SocketAccess { mode, ..default }));
        }
        for (value, user, group) in [
            ("root", Some(0), None),
            ("7", Some(7), None),
            ("7:root", Some(7), Some(0)),
            (":8", None, Some(8)),
        ] {
            assert_eq!(access(&[(Owner, value)]), Ok(SocketAccess { user, group, ..default }), "{value}");
        }
    }

    #[test]
    fn socket_mode_and_owner_that_are_none_are_refused() {
        use ConfigOption::{Listen, SocketMode as Mode, SocketOwner as Owner};

        for value in ["", "rw", "+660", "0o660", "668", "1777", "-1"] {
            let error = access(&[(Mode, value)]).unwrap_err();
            assert!(error.contains("allowed is the mode of a file in octal"), "{value}: {error}");
        }
        for (value, why) in [
            ("nobody-here", "there is no user \"nobody-here\""),
            ("root:nobody-here", "there is no group \"nobody-here\""),
            ("root:", "there is no group \"\""),
            (":", "there is no group \"\""),
            ("4294967295", "there is no user"),
        ] {
            let error = access(&[(Owner, value)]).unwrap_err();
            assert!(error.starts_with("--socket-owner: socket_owner = ") && error.contains(why), "{error}");
        }
        for (listen, key) in [("127.0.0.1:0", Mode), ("unix:@name", Owner)] {
            let error = access(&[(Listen, listen), (key, "0")]).unwrap_err();
            assert!(error.contains("allowed is nothing here: it is for the file of a Unix"), "{error}");
        }
    }
}
