//! Worlds without sockets: the bytes are the dice. See `offramp_sim::world_of_chance` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|choices: &[u8]| offramp_sim::world_of_chance(choices));
