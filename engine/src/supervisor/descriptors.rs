//! How many connections there are descriptors for.

use std::num::NonZeroUsize;

use super::StartError;
use crate::config::Config;
use crate::config::limits::{
    BUFFER_MEMORY_PER_WORKER, SPARE_LISTENERS, connections_within, descriptors_needed,
};
use crate::sys::socket;

/// What there is of descriptors for the connections of a configuration.
#[derive(Debug)]
pub(super) struct Affordable {
    pub(super) max_connections: usize,
    /// What to do if these are fewer than were asked for.
    pub(super) warning: Option<String>,
}

/// Those that are open now, for `inherited` of [`affordable`].
pub(super) fn open() -> u64 {
    // Without /proc nobody knows; the reserve of the control plane has room for a few.
    socket::open_descriptors().unwrap_or(0)
}

/// As many connections as were asked for, or as many as there are descriptors for on so many workers, with
/// those that were open at the start. The same at the start and at a reload: a file that starts reloads.
pub(super) fn affordable(config: &Config, workers: usize, inherited: u64) -> Result<Affordable, StartError> {
    if config.max_connections < workers {
        return Err(StartError::TooFewConnections { asked: config.max_connections, workers });
    }
    check_buffer_memory(config, workers)?;
    let limit =
        socket::raise_nofile_limit().map_err(|error| StartError::resource("the descriptor limit", &error))?;
    let listeners = config.listeners.len() + SPARE_LISTENERS;
    let affordable = connections_within(limit.saturating_sub(inherited), workers, listeners);
    if affordable >= config.max_connections {
        return Ok(Affordable { max_connections: config.max_connections, warning: None });
    }
    let needed = descriptors_needed(config.max_connections, workers, listeners).saturating_add(inherited);
    if affordable < workers {
        return Err(StartError::Descriptors { limit, needed });
    }
    let warning = format!(
        "max_connections lowered from {} to {affordable}: it needs {needed} descriptors and RLIMIT_NOFILE is \
         {limit}; try: LimitNOFILE={needed} in the systemd unit, or ulimit -Hn {needed} as root",
        config.max_connections
    );
    Ok(Affordable { max_connections: affordable, warning: Some(warning) })
}

/// A file may ask for fewer workers, with less memory, than run until there is a new process.
fn check_buffer_memory(config: &Config, workers: usize) -> Result<(), StartError> {
    let least = BUFFER_MEMORY_PER_WORKER.saturating_mul(workers);
    match config.limits.buffer_memory.map(NonZeroUsize::get).filter(|asked| *asked < least) {
        Some(asked) => {
            Err(StartError::LittleBufferMemory { asked_mib: asked >> 20, least_mib: least >> 20, workers })
        }
        None => Ok(()),
    }
}

/// What falls to one worker of `total` connections: the first ones get what does not divide.
pub(super) fn share(total: usize, workers: usize, index: usize) -> usize {
    total / workers + usize::from(index < total % workers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_differ_by_at_most_one() {
        for (total, workers) in [(10_000, 3), (7, 7), (1000, 64)] {
            let shares: Vec<usize> = (0..workers).map(|index| share(total, workers, index)).collect();
            assert_eq!(shares.iter().sum::<usize>(), total);
            assert!(shares[0] - shares[workers - 1] <= 1);
        }
    }

    #[test]
    fn descriptors_bound_the_connections_or_refuse_them() {
        let mut config = Config::new(Vec::new());
        config.max_connections = 8;
        let few = affordable(&config, 2, 0).unwrap();
        assert!(few.max_connections == 8 && few.warning.is_none());
        assert!(matches!(
            affordable(&config, 9, 0),
            Err(StartError::TooFewConnections { asked: 8, workers: 9 })
        ));
        config.limits.buffer_memory = NonZeroUsize::new(16 << 20);
        assert!(affordable(&config, 2, 0).is_ok());
        let error = affordable(&config, 3, 0).unwrap_err().to_string();
        assert!(error.contains("24MiB or more") && error.contains("3 workers run"), "{error}");
        config.limits.buffer_memory = None;
        let limit = socket::raise_nofile_limit().unwrap();
        let spare = descriptors_needed(4, 2, SPARE_LISTENERS);
        let lowered = affordable(&config, 2, limit - spare).unwrap();
        assert_eq!(lowered.max_connections, 4);
        assert!(lowered.warning.unwrap().starts_with("max_connections lowered from 8 to 4: "));
        assert!(matches!(affordable(&config, 2, limit), Err(StartError::Descriptors { .. })));
    }
}
