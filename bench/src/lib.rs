//! Offramp beside other TLS terminators: what one unit of work costs the terminator's own CPU.
//!
//! A slow client hides nothing here, because only the terminator's CPU time is counted. The path of one
//! figure: [`terminator`] starts a fresh one on its own CPU, [`client`] and
//! [backend](offramp_loadgen::backend) keep it busy from the other CPU, [`workload`] takes the sample between
//! two readings of [`process`], and [`report`] makes the table, with what [machine](offramp_loadgen::machine)
//! says about where it was taken. Where the kernel carries the records, instructions are [`counted`], in a
//! guest, [`suite`] by suite. What the engine's core needs for one [`scenario`], without a socket, is in
//! [`instructions`]; the floor beside its sessions and ciphers is a [`pair`] of rustls's own connections.
//! What load costs the [`generator`] itself is compared as well, and what a [`flood`] of handshakes does to
//! who has a connection already.

pub mod chart;
pub mod client;
pub mod flood;
pub mod generator;
pub mod guest_cost;
pub mod handover;
pub mod instructions;
pub mod latency;
pub mod message;
pub mod pair;
pub mod plain;
pub mod process;
pub mod report;
pub mod scenario;
pub mod soak;
pub mod suite;
pub mod terminator;
pub mod workload;
