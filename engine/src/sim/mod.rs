//! A world without sockets, from one seed: client, backend, a model of kernel TLS, and dice that choose how
//! bytes are cut, what is late, what fails and with which errno.
//!
//! The world does what the worker does, in whatever order the dice say, and holds the connection to its
//! contract: at most one receive and one send on a leg, no action after `Close`, every buffer given back, a
//! bounded number of steps.

#![expect(
    clippy::panic,
    reason = "a world panics where a connection breaks its contract: that is its purpose"
)]

mod apply;
mod chance;
mod client;
mod dice;
mod hostile;
mod kernel;
pub mod lab;
mod plan;
pub mod wire;
mod world;

pub use chance::world_of_chance;
pub use client::{Client, Script};
pub use dice::Dice;
pub use hostile::{Hostile, Say, Secrets, talkative};
pub use kernel::{Generation, Habits, Kernel, Received};
pub use plan::{Backend, Mishap, Outcome, Plan};
pub use world::World;
