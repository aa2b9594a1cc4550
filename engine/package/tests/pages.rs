//! What `offramp-package` writes, held against the command lines and the table of options that it is made
//! of, and read by man, groff and bash.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory;
use offramp::config::ConfigOption;
use offramp_loadgen::arguments::Arguments;
use offramp_testing::tools::{have, scratch, text};
use tempfile::TempDir;

const AGENT: &str = "offramp-ticket-key-agent";

/// What one run wrote.
struct Written(TempDir);

impl Written {
    fn new() -> Self {
        let directory = scratch();
        let program = env!("CARGO_BIN_EXE_offramp-package");
        let output = Command::new(program).arg(directory.path()).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output));
        Self(directory)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.path().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn pages(&self) -> BTreeMap<String, PathBuf> {
        files(&self.0.path().join("man"))
    }

    /// The words that bash offers when the last of these is to be completed.
    fn completed(&self, words: &[&str]) -> BTreeSet<String> {
        let (last, before) = words.split_last().unwrap();
        let script = "source \"$1\"; shift
            function=$(complete -p \"$1\" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
            COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1))
            \"$function\" \"$1\" \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD - 1]}\"
            printf '%s\\n' \"${COMPREPLY[@]}\"";
        let file = self.0.path().join("completions/bash").join(words[0]);
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", script, "bash"]).arg(file).args(before).arg(last);
        let output = bash.output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }
}

fn files(directory: &Path) -> BTreeMap<String, PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path)).collect()
}

/// The command lines with every command that help shows, by the words that call them.
fn commands() -> Vec<(Vec<String>, clap::Command)> {
    let programs =
        [offramp::command::command_line(), offramp_ticket_key_agent::command_line(), Arguments::command()];
    let mut found = Vec::new();
    for mut program in programs {
        program.build();
        let mut waiting = vec![(vec![program.get_name().to_owned()], program)];
        while let Some((words, command)) = waiting.pop() {
            for one in command.get_subcommands().filter(|one| !one.is_hide_set()) {
                let name = one.get_name().to_owned();
                if name != "help" {
                    waiting.push(([words.clone(), vec![name]].concat(), one.clone()));
                }
            }
            found.push((words, command));
        }
    }
    assert!(found.len() > 15, "{}", found.len());
    found
}

/// The options that a help shows, as they are typed.
fn options(command: &clap::Command) -> BTreeSet<String> {
    let help = command.clone().render_long_help().to_string();
    // A dash alone is the bullet of a value.
    let is_option = |line: &&str| line.starts_with('-') && !line.starts_with("- ");
    let lines = help.lines().map(str::trim_start).filter(is_option);
    lines
        .flat_map(|line| line.split(", ").map_while(|word| word.starts_with('-').then_some(word)))
        .map(|word| word.split([' ', '<', '[']).next().unwrap().to_owned())
        .collect()
}

/// A page as a reader sees it, in one line.
fn shown(page: &Path) -> String {
    let mut groff = Command::new("groff");
    let output = groff.args(["-man", "-Tascii", "-P-cbou", "-rLL=100000n"]).arg(page).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    one_line(&String::from_utf8(output.stdout).unwrap())
}

fn one_line(text: &str) -> String {
    let text = text.replace('`', "").replace('…', "...").replace('–', "-");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn page_exists_per_command_and_no_other() {
    let written = Written::new();
    let mut expected: BTreeSet<_> =
        commands().into_iter().map(|(words, _)| format!("{}.1", words.join("-"))).collect();
    expected.insert("offramp.toml.5".to_owned());
    assert_eq!(written.pages().into_keys().collect::<BTreeSet<_>>(), expected);
    assert!(expected.contains("offramp-ticket-key-rotate.1") && expected.contains("loadgen-backend.1"));
}

#[test]
fn page_has_sections_and_all_of_the_help() {
    if !have("groff") {
        return;
    }
    let written = Written::new();
    let pages = written.pages();
    for (words, command) in commands() {
        let name = words.join("-");
        // The page of the agent is that of the program.
        if name == AGENT && words.len() > 1 {
            continue;
        }
        let page = &pages[&format!("{name}.1")];
        let roff = fs::read_to_string(page).unwrap();
        let headings: Vec<_> = roff.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
        for heading in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "\"EXIT STATUS\"", "\"SEE ALSO\""] {
            let count = headings.iter().filter(|other| **other == heading).count();
            assert_eq!(count, 1, "{name}: {heading} in {headings:?}");
        }
        let shown = shown(page);
        for option in options(&command) {
            assert!(shown.contains(&option), "{name}: {option}: {shown}");
        }
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let help = argument.get_long_help().or_else(|| argument.get_help()).unwrap().to_string();
            let help = one_line(&help);
            assert_eq!(shown.matches(&help).count(), 1, "{name}: {help:?} in {shown}");
        }
        let about = command.get_long_about().or_else(|| command.get_about()).unwrap().to_string();
        for paragraph in about.split("\n\n").map(one_line) {
            assert!(shown.contains(paragraph.trim_end_matches('.')), "{name}: {paragraph:?} in {shown}");
        }
    }
}

#[test]
fn page_of_the_configuration_has_every_key() {
    if !have("groff") {
        return;
    }
    let shown = shown(&Written::new().pages()["offramp.toml.5"]);
    for key in ConfigOption::ALL {
        let name = key.name().split_once('.').map_or(key.name(), |(_, name)| name);
        let term = one_line(&format!("{name} = {}", key.description().values));
        assert_eq!(shown.matches(&format!(" {term} ")).count(), 1, "{term}: {shown}");
        assert!(shown.contains(key.flag()), "{}: {shown}", key.flag());
    }
    for table in
        ["[[identity]]", "[backend_identity]", "[[listener.route]]", "[[pool]]", "[timeouts]", "[limits]"]
    {
        assert!(shown.contains(table), "{table}: {shown}");
    }
}

#[test]
fn page_of_the_configuration_loses_no_explanation() {
    if !have("groff") {
        return;
    }
    let shown = shown(&Written::new().pages()["offramp.toml.5"]);
    let example = include_str!("../../offramp.example.toml");
    // The introduction is that of an example.
    let (_, explained) = example.split_once("\n\n").unwrap();
    let mut compared = 0;
    for line in explained.lines() {
        let text = line.trim_start_matches(['#', ' ']);
        // The flags stand with the form of a key.
        let text = one_line(text.split("(--").next().unwrap()).replace('§', "section ");
        let is_code = !line.starts_with('#') && !line.starts_with('[');
        if is_code || text.is_empty() || text.starts_with("--") {
            continue;
        }
        assert!(shown.contains(&text), "{text:?}: {shown}");
        compared += 1;
    }
    assert!(compared > 200, "{compared}");
}

#[test]
fn pages_are_read_without_warnings() {
    if !have("man") || !have("groff") {
        return;
    }
    for (name, page) in Written::new().pages() {
        let ascii = fs::read(&page).unwrap().is_ascii();
        assert!(ascii, "{name} is not ASCII, which man shows on every terminal");
        for mut reader in [Command::new("man"), Command::new("groff")] {
            let is_man = reader.get_program() == "man";
            let arguments =
                if is_man { ["--warnings", "-P", "cat", "-l"] } else { ["-man", "-ww", "-z", "-Tutf8"] };
            let output = reader.args(arguments).arg(&page).env("LC_ALL", "C.UTF-8").output().unwrap();
            let is_good = output.status.success() && output.stderr.is_empty();
            assert!(is_good && output.stdout.is_empty() != is_man, "{name}: {}", text(&output));
        }
    }
}

#[test]
fn bash_offers_the_options_of_the_help() {
    let written = Written::new();
    for (words, command) in commands() {
        let mut typed: Vec<&str> = words.iter().map(String::as_str).collect();
        typed.push("-");
        let mut offered = written.completed(&typed);
        let expected = match words.iter().any(|word| word == "agent") {
            true => options(&offramp_ticket_key_agent::command_line()),
            false => options(&command),
        };
        offered.retain(|word| word.starts_with('-'));
        assert_eq!(offered, expected, "{words:?}");
        for long in expected.iter().filter_map(|option| option.strip_prefix("--")) {
            for shell in [format!("zsh/_{}", words[0]), format!("fish/{}.fish", words[0])] {
                let text = written.read(&format!("completions/{shell}"));
                let is_there = text.contains(&format!("--{long}")) || text.contains(&format!("-l {long}"));
                assert!(is_there, "{shell}: --{long}");
            }
        }
    }
}

#[test]
fn bash_completes_commands_options_and_values() {
    let written = Written::new();
    for (words, expected) in [
        ("offramp se", &["serve"][..]),
        ("offramp ticket-key ro", &["rotate"]),
        ("offramp ticket-key agent --ke", &["--kek"]),
        ("offramp serve --mode pass", &["passthrough"]),
        ("offramp serve --post-quantum ", &["off", "allow", "prefer"]),
        ("offramp upgrade --adm", &["--admin-socket"]),
        ("offramp-ticket-key-agent --metr", &["--metrics-file"]),
        ("loadgen hand", &["handshake"]),
        ("loadgen transfer --direction u", &["up"]),
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        let expected = expected.iter().map(|word| (*word).to_owned()).collect();
        assert_eq!(written.completed(&words), expected, "{words:?}");
    }
}

#[test]
fn hidden_command_is_nowhere() {
    let written = Written::new();
    let is_hidden = |command: &&clap::Command| command.is_hide_set();
    let offramp = offramp::command::command_line();
    let hidden: Vec<_> = offramp.get_subcommands().filter(is_hidden).map(clap::Command::get_name).collect();
    assert_eq!(hidden, ["launcher"]);
    for directory in ["man", "completions/bash", "completions/zsh", "completions/fish"] {
        for (name, path) in files(&written.0.path().join(directory)) {
            assert!(!fs::read_to_string(path).unwrap().contains("launcher"), "{directory}/{name}");
        }
    }
}

#[test]
fn without_a_directory_nothing_is_written() {
    let output = Command::new(env!("CARGO_BIN_EXE_offramp-package")).output().unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    let expected = "offramp-package: name the directory to write to: cargo run -p offramp-package -- DIR\n";
    assert_eq!(error, expected);
}
