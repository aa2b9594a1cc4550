//! The rules of `ARCHITECTURE.md` that neither cargo nor clippy holds: the tree, the sizes, what the load
//! generator shares with the engine.
//!
//! Each rule is a function from text to violations, in `rules`, tested on text that breaks it: a check that
//! cannot fail is a defect. What is here applies them to the tree.
#![expect(clippy::unwrap_used, reason = "clippy takes only the test functions themselves for tests")]

mod cycles;
mod rules;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use source::Source;

#[test]
fn the_top_level_is_what_the_architecture_says() {
    let names = entries(&root()).iter().map(|path| name(path)).collect::<Vec<_>>();
    assert_none(rules::strangers_at_the_top(&names));
}

#[test]
fn files_functions_and_lines_are_short() {
    assert_none(all_sources().iter().flat_map(rules::sizes).collect());
}

#[test]
fn no_files_of_a_crate_import_each_other_in_a_circle() {
    assert_none(cycles::cycles(&all_sources()));
}

#[test]
fn load_generator_shares_no_code_with_the_engine() {
    assert_none(all_sources().iter().flat_map(rules::shared_code).collect());
}

#[test]
fn no_host_of_the_world_is_named() {
    assert_none(all_sources().iter().flat_map(rules::hosts).collect());
}

#[test]
fn nothing_is_left_undone_or_unwrapped() {
    assert_none(all_sources().iter().flat_map(rules::leftovers).collect());
}

#[test]
fn the_scan_finds_the_tree() {
    let paths: Vec<String> = all_sources().into_iter().map(|source| source.path).collect();
    for known in [
        "engine/src/main.rs",
        "engine/ring/src/ktls.rs",
        "engine/tests/architecture/main.rs",
        "loadgen/src/lib.rs",
    ] {
        assert!(paths.iter().any(|path| path == known), "{known} is not among {paths:?}");
    }
}

/// `fuzz/run.sh` builds with `--locked`, and is no member of the workspace.
#[test]
fn fuzz_lock_has_every_dependency_of_the_engine() {
    let engine = root().join("engine");
    let lock = fs::read_to_string(engine.join("fuzz/Cargo.lock")).unwrap();
    let mut missing = Vec::new();
    for package in [".", "core", "files", "proto", "ring", "sim"] {
        let manifest = fs::read_to_string(engine.join(package).join("Cargo.toml")).unwrap();
        let Some((_, rest)) = manifest.split_once("[dependencies]\n") else { continue };
        let section = rest.split("\n[").next().unwrap_or_default();
        let names = section.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
        let is_missing = |name: &&str| {
            !name.is_empty() && !name.starts_with('#') && !lock.contains(&format!("name = \"{name}\"\n"))
        };
        missing.extend(names.filter(is_missing).map(|name| format!("{name}, of engine/{package}")));
    }
    assert_none(missing);
}

fn assert_none(violations: Vec<String>) {
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every Rust file of the packages, by its path from the root.
fn all_sources() -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    let mut waiting: Vec<PathBuf> =
        ["engine", "loadgen", "bench"].iter().map(|package| root.join(package)).collect();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(entries(&path).into_iter().filter(|path| name(path) != "target"));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(&root).unwrap().to_str().unwrap();
            found.push(Source::new(relative, &fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}
