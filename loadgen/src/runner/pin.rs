//! Where client threads run: each on a CPU of its own, so that the kernel moves none away from its caches.

use offramp_ring::affinity;

use crate::console;
use crate::plan::{Pin, Plan};

/// The CPU of each thread; empty if they are not to be pinned.
pub(super) fn cpus(plan: &Plan) -> Vec<usize> {
    match plan.pin {
        Pin::Off => Vec::new(),
        Pin::Auto => affinity::one_each(plan.threads).unwrap_or_else(|error| {
            console::note(format_args!("loadgen: warning: no thread is pinned: {error}"));
            Vec::new()
        }),
    }
}

/// Keeps the calling thread, which is number `index`, on this CPU. Without that a run is no less right.
pub(super) fn to(cpu: usize, index: usize) {
    if let Err(error) = affinity::pin(cpu) {
        let why = format_args!("thread {index} is not pinned to CPU {cpu}: {error}");
        console::note(format_args!("loadgen: warning: {why}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_is_pinned_and_an_absent_cpu_is_tolerated() {
        let allowed = affinity::allowed().unwrap();
        let last = *allowed.last().unwrap();
        let after = |cpu| {
            std::thread::spawn(move || {
                to(cpu, 0);
                affinity::allowed()
            })
            .join()
            .unwrap()
            .unwrap()
        };
        assert_eq!(after(last), [last]);
        assert_eq!(after(usize::MAX), allowed);
    }
}
