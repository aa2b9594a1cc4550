//! The fuzz targets without the fuzzer, which takes minutes to build: the inputs that it kept, and thousands
//! that chance makes, through the same entries.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::Path;

use fastrand::Rng;
use offramp::config::{Raw, file};
use offramp_sim::world_of_chance;

/// What is given the input of a target.
type Entry = fn(&[u8]);

const TARGETS: [(&str, Entry); 2] = [("configuration", configuration), ("world", world_of_chance)];

/// As libFuzzer gives it: what is no text is passed over.
fn configuration(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(file::parse(Path::new("o.toml"), text).and_then(Raw::check));
    }
}

fn run(entry: Entry, input: &[u8]) {
    if catch_unwind(|| entry(input)).is_err() {
        panic!("on the input {}", hex(input));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One input a line.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let path = Path::new("fuzz/corpus").join(target).with_extension("hex");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    text.lines().map(|line| line.as_bytes().chunks(2).map(byte).collect()).collect()
}

#[test]
fn every_target_is_here() {
    let files = std::fs::read_dir("fuzz/src/bin").unwrap();
    let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let files: BTreeSet<_> = files.map(|entry| stem(&entry.unwrap().path())).collect();
    assert_eq!(files, TARGETS.map(|(target, _)| target.to_owned()).into());
}

#[test]
fn the_inputs_that_the_fuzzer_kept_hold() {
    for (target, entry) in TARGETS {
        let inputs = corpus(target);
        assert!(inputs.len() > 100, "{target}: {}", inputs.len());
        inputs.iter().for_each(|input| run(entry, input));
    }
}

/// Worlds of few choices, where a seed goes on, and of many.
#[test]
fn worlds_of_any_bytes_hold() {
    let mut rng = Rng::with_seed(1);
    for _ in 0..2000 {
        let most = [8, 64, 4000][rng.usize(..3)];
        let input: Vec<u8> = (0..rng.usize(..most)).map(|_| rng.u8(..)).collect();
        run(world_of_chance, &input);
    }
}

/// The example with pieces of itself out of place: its lines, its words, any bytes.
#[test]
fn configurations_out_of_order_are_answered() {
    let example = std::fs::read("offramp.example.toml").unwrap();
    let lines: Vec<&[u8]> = example.split_inclusive(|byte| *byte == b'\n').collect();
    let mut rng = Rng::with_seed(2);
    for _ in 0..10_000 {
        let mut input: Vec<u8> = match rng.usize(..2) {
            0 => example.clone(),
            _ => (0..rng.usize(..40)).flat_map(|_| lines[rng.usize(..lines.len())].to_vec()).collect(),
        };
        for _ in 0..rng.usize(..8) {
            // A comment is no comment any more.
            while let Some(at) = input.iter().position(|byte| *byte == b'#').filter(|_| rng.bool()) {
                input.remove(at);
            }
            let at = rng.usize(..=input.len());
            let from = rng.usize(..example.len());
            let piece = &example[from..(from + rng.usize(..20)).min(example.len())];
            let end = (at + rng.usize(..20)).min(input.len());
            input.splice(at..end, piece.iter().copied());
        }
        run(configuration, &input);
    }
}
