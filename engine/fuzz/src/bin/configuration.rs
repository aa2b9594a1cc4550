//! Configuration files: whatever the text says, there is an answer.
#![no_main]

use std::path::Path;

use offramp::config::{Raw, file};

libfuzzer_sys::fuzz_target!(|text: &str| drop(file::parse(Path::new("o.toml"), text).and_then(Raw::check)));
