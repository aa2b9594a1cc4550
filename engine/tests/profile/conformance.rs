//! The conformance statement: its copy is what the command prints, and every test that it names is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use offramp::conformance::{Verdict, markdown, rows, sections};

use offramp_testing::tools::{scratch, text};

fn offramp(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_offramp")).args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_copy_is_what_the_command_prints() {
    let printed = offramp(&["conformance"]);
    let copy = Path::new(env!("CARGO_MANIFEST_DIR")).join("CONFORMANCE.md");
    let remedy = "try: cargo run --bin offramp -- conformance > engine/CONFORMANCE.md";
    assert!(
        std::fs::read_to_string(&copy).unwrap_or_default() == printed,
        "{} differs; {remedy}",
        copy.display()
    );
    assert_eq!(markdown(), printed);
}

#[test]
fn a_program_is_told_the_same() {
    let told: serde_json::Value = serde_json::from_str(&offramp(&["conformance", "--json"])).unwrap();
    let told = told.as_array().unwrap();
    assert_eq!(told.len(), rows().len());
    for (told, row) in told.iter().zip(rows()) {
        assert_eq!(told["id"], row.id);
        assert_eq!(told["requirement"], row.requirement);
        assert_eq!(told["tests"].as_array().unwrap().len(), row.tests.len());
    }
}

#[test]
fn rows_have_names_of_their_own_reasons_and_tests() {
    let (rows, sections) = (rows(), sections());
    let ids: BTreeSet<&str> = rows.iter().map(|row| &*row.id).collect();
    assert_eq!(ids.len(), rows.len());
    for (section, row) in
        sections.iter().flat_map(|section| section.rows.iter().map(move |row| (section, row)))
    {
        assert!(row.id.starts_with(section.letter), "{} stands in section {}", row.id, section.letter);
        let held = !row.tests.is_empty();
        match &row.verdict {
            Verdict::Yes => assert!(held, "{}: yes, and no test that holds it", row.id),
            Verdict::Deviation(how) => assert!(held && !how.is_empty(), "{}: how, and held by what?", row.id),
            Verdict::No(why) => assert!(!held && !why.is_empty(), "{}: why not?", row.id),
        }
        assert!(!format!("{row:?}").contains('|'), "{}: it would break the table", row.id);
    }
}

#[test]
fn every_test_that_is_named_is_there() {
    let rows = rows();
    let named: BTreeSet<&str> = rows.iter().flat_map(|row| &row.tests).map(String::as_str).collect();
    let missing: Vec<&&str> = named.iter().filter(|name| !is_test(name)).collect();
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
    for wrong in [
        "profile negotiation::server",
        "profile extensions::ssl_and_tls_before_1_2_get_protocol_version_alert",
        "lib tls::tickets::a_ticket_does_not_cross_into_another_class",
        "nowhere x",
    ] {
        assert!(!is_test(wrong), "{wrong} was taken for a test");
    }
}

/// Whether there is a test of this name: cargo's target, then its path.
fn is_test(name: &str) -> bool {
    let Some((target, path)) = name.split_once(' ') else { return false };
    let mut modules: Vec<&str> = path.split("::").collect();
    let Some(function) = modules.pop() else { return false };
    let engine = Path::new(env!("CARGO_MANIFEST_DIR"));
    let in_tests = modules.last() == Some(&"tests");
    let files: Vec<PathBuf> = match target {
        "lib" if in_tests => {
            let path = modules[..modules.len() - 1].join("/");
            let modules = ["src", "core/src"].map(|package| engine.join(package).join(&path));
            modules.iter().flat_map(|module| [module.with_extension("rs"), module.join("mod.rs")]).collect()
        }
        "lib" => return false,
        "loadgen" => vec![engine.join("../loadgen/tests/demo.rs")],
        target => {
            let module = if modules.is_empty() { "main".to_owned() } else { modules.join("/") };
            vec![engine.join("tests").join(target).join(module).with_extension("rs")]
        }
    };
    let text: String = files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect();
    let mut lines = text.lines().map(str::trim_start);
    let start = format!("fn {function}(");
    while lines.any(|line| line == "#[test]") {
        if lines.next().is_some_and(|line| line.starts_with(&start)) {
            return true;
        }
    }
    false
}

#[test]
fn no_key_of_the_configuration_loosens_the_profile() {
    let directory = scratch();
    let file = directory.path().join("offramp.toml");
    for key in
        ["versions = [\"1.1\"]", "cipher_suites = []", "groups = []", "compression = true", "access = \"3g\""]
    {
        std::fs::write(&file, format!("{key}\n")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_offramp"));
        let output = command.args(["check", "--config"]).arg(&file).output().unwrap();
        let name = key.split(' ').next().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).contains(&format!("unknown key {name}:")), "{}", text(&output));
    }
}
