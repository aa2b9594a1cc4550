//! A TLS load generator: handshakes, bulk data and messages, verified sample by sample, on the same ring as
//! the engine.
//!
//! The path of one sample: [`plan`] and [`profiles`] say what is asked; [`schedule`] says when connections
//! begin and which moments count; the [`runner`] keeps them going, one thread and one
//! [ring](offramp_ring::ring) a core, each connection a [`session`] without sockets that does a [`task`];
//! [`tally`] adds up what happened while it counted and [`series`] what happened second by second; [`report`]
//! makes tables, JSON, CSV and a page of it, and the exit code.
//!
//! Latencies count from the *planned* start, in an open loop and for messages that are due at intervals: a
//! server that stalls delays what was planned meanwhile, and a client that waited politely would not see it.
//!
//! The other end of the connections is a TLS terminator with the [`backend`] behind it, or any TLS server
//! where handshakes are what counts. [`demo`] starts an engine inside this process; [`latency`] puts a long
//! line before one.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod arguments;
pub mod backend;
pub mod command;
pub mod console;
pub mod demo;
pub mod failure;
pub mod hello;
pub mod identity;
pub mod interrupt;
pub mod latency;
pub mod machine;
pub mod msrp;
pub mod pattern;
pub mod plan;
pub mod profiles;
pub mod report;
pub mod runner;
pub mod schedule;
pub mod search;
pub mod series;
pub mod session;
pub mod tally;
pub mod task;
pub mod tickets;
pub mod trust;
