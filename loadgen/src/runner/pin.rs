//! Where client threads run: each on a CPU of its own, so that the kernel moves none away from its caches.

use offramp::sys::affinity;

use crate::plan::{Pin, Plan};

/// The CPU of each thread; empty if they are not to be pinned.
pub(super) fn cpus(plan: &Plan) -> Vec<usize> {
    match plan.pin {
        Pin::Off => Vec::new(),
        Pin::Auto => match affinity::allowed() {
            Ok(allowed) => shared_out(allowed, plan.threads),
            Err(error) => {
                eprintln!("loadgen: warning: no thread is pinned: {error}");
                Vec::new()
            }
        },
    }
}

/// The first so many of those that this process may use; none if there are fewer: threads that must share are
/// better moved about.
fn shared_out(mut allowed: Vec<usize>, threads: usize) -> Vec<usize> {
    if allowed.len() < threads {
        return Vec::new();
    }
    allowed.truncate(threads);
    allowed
}

/// Keeps the calling thread, which is number `index`, on this CPU. Without that a run is no less right.
pub(super) fn to(cpu: usize, index: usize) {
    if let Err(error) = affinity::pin(cpu) {
        eprintln!("loadgen: warning: thread {index} is not pinned to CPU {cpu}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_has_a_cpu_of_its_own_or_none_has() {
        assert_eq!(shared_out(vec![1, 4, 6], 2), [1, 4]);
        assert_eq!(shared_out(vec![1, 4, 6], 3), [1, 4, 6]);
        assert_eq!(shared_out(vec![1, 4, 6], 4), [0; 0]);
    }

    #[test]
    fn a_thread_stays_on_its_cpu_and_goes_on_where_there_is_no_such() {
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
