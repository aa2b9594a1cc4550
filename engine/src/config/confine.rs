//! Whom Offramp becomes after the start, and how it confines the process.

use offramp_ring::account::{self, Account};

use super::{ConfigError, ConfigOption, Given, Raw};

/// Whether the process gives up what it does not need: Landlock, seccomp, rings that are restricted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confine {
    /// As far as the kernel can; what is missing is logged.
    #[default]
    Auto,
    /// Entirely, or Offramp does not start.
    Require,
    /// Not at all. `user` and `group` are obeyed.
    Off,
}

impl Confine {
    /// How a configuration writes it.
    pub const ALLOWED: &'static str = "auto, require or off";

    /// Reads it as a configuration writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "require" => Some(Self::Require),
            "off" => Some(Self::Off),
            _ => None,
        }
    }
}

/// Whom a process becomes that was started as root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// As messages call the user.
    pub user: String,
    /// The user's number, which is not 0.
    pub uid: u32,
    /// The number of the group.
    pub gid: u32,
    /// Whether the user has an account here, and by that supplementary groups.
    pub has_account: bool,
}

impl Raw {
    pub(super) fn confine(&mut self) -> Result<Confine, ConfigError> {
        Ok(self.parsed(ConfigOption::Confine, Confine::ALLOWED, Confine::parse)?.unwrap_or_default())
    }

    pub(super) fn run_as(&mut self) -> Result<Option<RunAs>, ConfigError> {
        let group = self.given.remove(&ConfigOption::Group);
        let Some(user) = self.given.remove(&ConfigOption::User) else {
            let alone =
                |group: Given| group.refused(ConfigOption::Group, "a group beside a user: give user too");
            return group.map_or(Ok(None), |group| Err(alone(group)));
        };
        let gid = match &group {
            Some(group) => Some(group_number(&group.value).map_err(|why| {
                let allowed = format!("a group of this host, by name or number: {why}");
                group.clone().refused(ConfigOption::Group, allowed)
            })?),
            None => None,
        };
        let found = account_of(&user.value).and_then(|found| run_as(&user.value, found, gid));
        found.map(Some).map_err(|why| {
            let allowed = format!("a user of this host other than root, by name or number: {why}");
            user.refused(ConfigOption::User, allowed)
        })
    }
}

fn run_as(text: &str, found: Option<Account>, gid: Option<u32>) -> Result<RunAs, String> {
    let has_account = found.is_some();
    let (uid, gid) = match (found, number(text), gid) {
        (Some(Account { uid, gid: own }), _, gid) => (uid, gid.unwrap_or(own)),
        (None, Some(uid), Some(gid)) => (uid, gid),
        (None, Some(_), None) => {
            return Err(format!(
                "the number {text} has no account, by which its group is known; give group too"
            ));
        }
        (None, None, _) => {
            return Err(format!("there is no user {text:?}; try: getent passwd {text}, or useradd --system"));
        }
    };
    if uid == 0 {
        return Err("without user Offramp stays root".to_owned());
    }
    Ok(RunAs { user: text.to_owned(), uid, gid, has_account })
}

fn account_of(text: &str) -> Result<Option<Account>, String> {
    let found = match number(text) {
        Some(uid) => account::by_number(uid),
        None => account::by_name(text),
    };
    found.map_err(|error| format!("the user {text:?} cannot be looked up: {error}"))
}

fn group_number(text: &str) -> Result<u32, String> {
    match number(text).map_or_else(|| account::group_id(text), |gid| Ok(Some(gid))) {
        Ok(Some(gid)) => Ok(gid),
        Ok(None) => Err(format!("there is no group {text:?}; try: getent group {text}")),
        Err(error) => Err(format!("the group {text:?} cannot be looked up: {error}")),
    }
}

/// The highest number stands for none (setuid(2)).
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::minimal;
    use super::*;

    fn run_as(options: &[(ConfigOption, &str)]) -> Result<Option<RunAs>, String> {
        let mut raw = minimal();
        options.iter().for_each(|(key, value)| raw.give_flag(*key, (*value).to_owned()));
        raw.check().map(|config| config.run_as).map_err(|error| error.to_string())
    }

    #[test]
    fn user_and_group_are_found_by_name_and_by_number() {
        use ConfigOption::{Group, User};

        let numbers = |options: &[(ConfigOption, &str)]| {
            let found = run_as(options).expect("it is good").expect("a user");
            (found.uid, found.gid, found.has_account)
        };
        assert_eq!(run_as(&[]), Ok(None));
        let nobody = numbers(&[(User, "nobody")]);
        assert_eq!(numbers(&[(User, &nobody.0.to_string())]), nobody);
        assert_eq!(numbers(&[(User, "nobody"), (Group, "root")]), (nobody.0, 0, true));
        assert_eq!(numbers(&[(User, "4000000000"), (Group, "7")]), (4_000_000_000, 7, false));
    }

    #[test]
    fn user_or_group_that_is_none_is_refused() {
        use ConfigOption::{Group, User};

        let cases: [(&[(ConfigOption, &str)], &str); 6] = [
            (&[(User, "nobody-here")], "--user: user = \"nobody-here\" is refused: allowed is a user"),
            (&[(User, "4000000000")], "the number 4000000000 has no account"),
            (&[(User, "root")], "other than root"),
            (&[(User, "4294967295")], "there is no user"),
            (&[(User, "nobody"), (Group, "nobody-here")], "there is no group \"nobody-here\""),
            (&[(Group, "root")], "give user too"),
        ];
        for (options, why) in cases {
            let error = run_as(options).expect_err("it is refused");
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn confine_reads_what_is_allowed_and_nothing_else() {
        let read = ["auto", "require", "off", "on", ""].map(Confine::parse);
        assert_eq!(read, [Some(Confine::Auto), Some(Confine::Require), Some(Confine::Off), None, None]);
    }
}
