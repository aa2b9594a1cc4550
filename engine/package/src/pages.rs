//! The pages of the programs and of each of their commands.

use anyhow::Result;
use clap::Command;
use clap_mangen::Man;

use crate::configuration;
use crate::page::Page;
use crate::programs::{self, AGENT, CONFIGURATION};

/// The heading of exit codes behind the help.
const EXIT_CODES: &str = "Exit codes";

/// All pages, by file name.
///
/// # Errors
/// A key of the configuration has no explanation.
pub(crate) fn all() -> Result<Vec<(String, String)>> {
    let mut pages = vec![(format!("{CONFIGURATION}.5"), configuration::page()?)];
    let mut programs = programs::all().map(|program| program.disable_help_subcommand(true));
    programs.iter_mut().for_each(Command::build);
    let [offramp, agent, loadgen] = &programs;
    add(&mut pages, [offramp, agent], offramp, vec![name(loadgen)])?;
    add(&mut pages, [loadgen, agent], loadgen, vec![name(offramp)])?;
    Ok(pages)
}

/// The page of a command of a program, and those of its own commands. The page of the agent as a command is
/// that of the program: as a command it only hands its options on.
fn add(
    pages: &mut Vec<(String, String)>,
    [program, agent]: [&Command; 2],
    command: &Command,
    related: Vec<&str>,
) -> Result<()> {
    let text = match name(command) {
        AGENT => page(agent, agent, &related)?,
        _ => page(program, command, &related)?,
    };
    pages.push((format!("{}.1", name(command)), text));
    let own: Vec<&Command> = shown(command).collect();
    for one in &own {
        let siblings = own.iter().map(|other| name(other)).filter(|other| *other != name(one));
        let related = std::iter::once(name(command)).chain(siblings).collect();
        add(pages, [program, agent], one, related)?;
    }
    Ok(())
}

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set())
}

/// `offramp-serve` for `offramp serve`.
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn page(program: &Command, command: &Command, related: &[&str]) -> Result<String> {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut page = Page::new(name(command), "1", &about);
    page.section("SYNOPSIS");
    for usage in usages(command) {
        page.usage(&usage);
    }
    page.section("DESCRIPTION");
    page.text(&description(command, &about));
    let man = Man::new(command.clone().subcommand_help_heading("COMMANDS"));
    let mut rendered = Vec::new();
    man.render_options_section(&mut rendered)?;
    if shown(command).next().is_some() {
        man.render_subcommands_section(&mut rendered)?;
    }
    page.rendered(&String::from_utf8(rendered)?);
    let (exit, others): (Vec<_>, Vec<_>) =
        sections(command).into_iter().partition(|(heading, _)| heading == EXIT_CODES);
    let inherited = sections(program).into_iter().filter(|(heading, _)| heading == EXIT_CODES);
    let exit = exit.into_iter().chain(inherited).next().map(|(_, items)| ("EXIT STATUS".to_owned(), items));
    for (heading, items) in others.into_iter().chain(exit) {
        page.section(&heading.to_uppercase());
        page.items(&items);
    }
    page.files(name(command));
    page.see_also(name(command), related);
    Ok(page.finish())
}

/// How the command is called: of the agent, as the program and as the command that runs it.
fn usages(command: &Command) -> Vec<String> {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    let called = command.get_bin_name().unwrap_or_default();
    match (name(command) == AGENT).then(|| usage.strip_prefix(called)).flatten() {
        Some(rest) => vec![format!("{AGENT}{rest}"), usage],
        None => vec![usage],
    }
}

/// The long form without the short one, with which it begins, as that stands above.
fn description(command: &Command, about: &str) -> String {
    let long = command.get_long_about().map(ToString::to_string).unwrap_or_default();
    match long.strip_prefix(about).unwrap_or(&long).trim_start() {
        "" => format!("{}.", about.trim_end_matches('.')),
        rest => rest.to_owned(),
    }
}

/// What stands behind the help, by heading: a term per line, and its text from the second column on.
fn sections(command: &Command) -> Vec<(String, Vec<(String, String)>)> {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut sections: Vec<(String, Vec<(String, String)>)> = Vec::new();
    for line in text.lines() {
        let items = sections.last_mut().map(|(_, items)| items);
        match (line.strip_prefix("  "), items) {
            (None, _) => sections.push((line.trim_end_matches(':').to_owned(), Vec::new())),
            (Some(line), Some(items)) => match (line.trim_start().split_once("  "), items.last_mut()) {
                (Some((term, text)), _) => items.push((term.to_owned(), text.trim().to_owned())),
                (None, Some((_, before))) => *before = format!("{before} {}", line.trim()),
                (None, None) => {}
            },
            (Some(_), None) => {}
        }
    }
    sections
}
