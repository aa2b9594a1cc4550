//! Configuration files. See `offramp::sim::configuration_of_chance` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| offramp::sim::configuration_of_chance(text));
