//! The completions of the shells.

use clap::builder::PossibleValuesParser;
use clap::{Arg, Command};
use clap_complete::{Shell, generate};
use offramp::config::ConfigOption;

use crate::programs;

/// All completions, by file name below the directory of completions.
pub(crate) fn all() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for (name, program) in programs::NAMES.into_iter().zip(programs::all()) {
        let command = with_choices(with_agent(without_hidden(name, &program)));
        for (shell, file) in [
            (Shell::Bash, format!("bash/{name}")),
            (Shell::Zsh, format!("zsh/_{name}")),
            (Shell::Fish, format!("fish/{name}.fish")),
        ] {
            let mut text = Vec::new();
            generate(shell, &mut command.clone(), name, &mut text);
            all.push((file, text));
        }
    }
    all
}

/// The command without the commands that `--help` does not show: the generators show all.
fn without_hidden(name: &'static str, command: &Command) -> Command {
    Command::new(name)
        .about(command.get_about().cloned().unwrap_or_default())
        .version(env!("CARGO_PKG_VERSION"))
        .groups(command.get_groups().cloned())
        .args(command.get_arguments().cloned())
        .subcommands(command.get_subcommands().filter(|one| !one.is_hide_set()).cloned())
}

/// `offramp ticket-key agent` with the options of the program that it runs.
fn with_agent(command: Command) -> Command {
    if command.find_subcommand("ticket-key").is_none() {
        return command;
    }
    let agent = offramp_ticket_key_agent::command_line().name("agent");
    command.mut_subcommand("ticket-key", |command| command.mut_subcommand("agent", |_| agent))
}

/// The words that an option of the configuration may have, where there are such.
fn with_choices(command: Command) -> Command {
    if command.find_subcommand("serve").is_none() {
        return command;
    }
    command.mut_subcommand("serve", |serve| {
        serve.mut_args(|argument| match choices(&argument) {
            Some(choices) => argument.value_parser(PossibleValuesParser::new(choices)),
            None => argument,
        })
    })
}

fn choices(argument: &Arg) -> Option<Vec<&'static str>> {
    let key = ConfigOption::ALL.iter().find(|key| key.name() == argument.get_id().as_str())?;
    let values = key.description().values.split('|');
    let is_word =
        |value: &&str| value.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    let words: Vec<_> = values.clone().filter(is_word).collect();
    (words.len() > 1).then_some(words)
}
