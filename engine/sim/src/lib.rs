//! A world without sockets, from one seed: the peer on the TLS leg, the backend on the plain one, a model of
//! kernel TLS, and dice that choose how bytes are cut, what is late, what fails and with which errno.
//!
//! The connection is in either role: accepted with TLS from a client, or accepted in clear and connected to a
//! server. The backend is whoever stands at the plain leg; in the client's role the one that was accepted.
//! Or it passes TLS through: the peer is then a client that has sent its hello. A balancer may stand before
//! the leg that is accepted, and begin it with a PROXY header.
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
mod dice;
mod header;
mod hostile;
mod kernel;
pub mod lab;
mod moves;
mod peer;
mod plan;
mod schedule;
mod sources;
mod transcript;
mod watch;
mod wire;
mod world;

pub use chance::{outcome_of_chance, world_of_chance};
pub use dice::Choices;
pub use hostile::{Hostile, PeerAction, talkative, talkative_server};
pub use kernel::{Generation, Kernel, KernelBug, KernelProfile, Received};
pub use peer::{Peer, Role, Script};
pub use plan::{Backend, InjectedFault, Outcome, Plan};
pub use schedule::Secrets;
pub use watch::{Misuse, Watched, Wire};
pub use world::World;
