//! How many workers there are, and where they run.

use std::num::NonZero;

use super::limits::WORKERS;

/// As many as this process may use cores, quotas of its cgroup included.
pub(super) fn default_workers() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    cores.clamp(*WORKERS.start(), *WORKERS.end())
}

/// On which CPUs workers run, and which connections they are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pinning {
    /// Where the kernel puts them; its hash of addresses and ports says who gets a connection.
    #[default]
    Off,
    /// Each on a CPU of its own; the hash says who gets a connection.
    On,
    /// Each on a CPU of its own, where it gets the connections whose first packet that CPU handles
    /// (SO_INCOMING_CPU, socket(7)).
    IncomingCpu,
}

impl Pinning {
    /// How a configuration writes it.
    pub const ALLOWED: &'static str = "off, on or incoming-cpu";

    /// Reads it as a configuration writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "off" => Some(Self::Off),
            "on" => Some(Self::On),
            "incoming-cpu" => Some(Self::IncomingCpu),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_allowed_is_read_and_nothing_else() {
        let read = ["off", "on", "incoming-cpu", "auto", ""].map(Pinning::parse);
        let wanted = [Some(Pinning::Off), Some(Pinning::On), Some(Pinning::IncomingCpu), None, None];
        assert_eq!(read, wanted);
    }
}
