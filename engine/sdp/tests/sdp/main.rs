//! The public face of the crate, on documents written by hand and by chance.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod chance;
mod errors;
mod fingerprints;
mod paths;
mod rewriting;
mod roles;
mod samples;
mod second_opinion;
mod views;
