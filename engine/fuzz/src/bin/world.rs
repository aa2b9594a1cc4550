//! Worlds without sockets: the bytes are the dice. See `offramp::sim::world_of_chance` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|choices: &[u8]| offramp::sim::world_of_chance(choices));
