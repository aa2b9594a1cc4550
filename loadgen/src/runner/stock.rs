//! How many connections and tickets a run collects before it counts.

use crate::plan::{Load, Plan};
use crate::tickets::TLS13_KEPT;

/// Connections of a closed loop that are on their way for the first time at once.
pub(super) const OPENING_MAX: usize = 64;
/// TLS 1.3 tickets of a kind that the warm-up of an open loop collects at least, time permitting.
const STOCK_MIN: usize = 64;

/// TLS 1.3 tickets of each of so many `kinds` that one thread's warm-up collects in an open loop. Each serves
/// one connection, so that a moment in which the target is slow takes as many as begin meanwhile: the stock
/// has those of half the warm-up, which leaves its other half to be like the load that counts, and no more
/// than there are places.
pub(super) fn stock(plan: &Plan, places: usize, kinds: usize) -> usize {
    let Load::Open { rate, .. } = plan.load else { return 0 };
    let per_second = rate.from.max(rate.to) * plan.resume / (plan.threads * kinds) as f64;
    let begun = (per_second * plan.warm_up.as_secs_f64() / 2.0).ceil() as usize;
    begun.min(places).clamp(STOCK_MIN, TLS13_KEPT)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan::{Ending, Pin, Request, Until, Work};
    use crate::schedule::{Rate, Spacing};

    #[test]
    fn rate_and_warm_up_set_a_bounded_ticket_stock() {
        let of = |rate, warm_up, places, kinds| {
            let plan = Plan {
                work: Work::Handshake(Request::Echo),
                load: Load::Open {
                    rate: Rate { from: 1.0, to: rate },
                    spacing: Spacing::Even,
                    connections_max: 2 * places,
                },
                resume: 0.5,
                ending: Ending::Orderly,
                sources: Vec::new(),
                threads: 2,
                pin: Pin::Off,
                warm_up: Duration::from_secs(warm_up),
                until: Until::Elapsed(Duration::from_secs(1)),
                patience: Duration::from_secs(1),
                give_up_after: 1,
                seed: 0,
            };
            stock(&plan, places, kinds)
        };
        assert_eq!(of(4000.0, 2, 2048, 1), 1000);
        assert_eq!(of(4000.0, 4, 2048, 1), 2000);
        assert_eq!(of(4000.0, 4, 2048, 4), 500);
        assert_eq!(of(4000.0, 8, 2048, 1), 2048);
        assert_eq!(of(10.0, 2, 2048, 1), STOCK_MIN);
    }
}
