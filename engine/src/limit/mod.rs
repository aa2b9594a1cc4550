//! Limits on what clients may use, shared by all workers.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::{Duration, Instant};

mod rate;
mod sources;

pub use rate::RateLimit;
pub use sources::{IDLE_MAX, SourceKey, SourceRefusal, SourceRules, Sources};

/// Sources for which memory is reserved at the start; there may be more.
const SOURCES_RESERVED: usize = 64;

/// What a configuration says of limits. `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitRules {
    /// Connections open at once per listener, exceeded by up to 16 for each worker but one: those whose
    /// accept is under way.
    pub listener_connections: Option<NonZeroU32>,
    /// What one source may use.
    pub sources: SourceRules,
    /// New connections per second, of all listeners; the burst is as many, and up to 16 for each worker.
    pub connection_rate: Option<NonZeroU32>,
    /// Full handshakes of clients per second, of all listeners; those that resume a session are not counted.
    pub full_handshake_rate: Option<NonZeroU32>,
    /// Bytes of buffers, of all workers, each of which has the same share: from there on nothing more is
    /// received. What is on its way then exceeds it, by less than 8 MiB per worker.
    pub buffer_memory: Option<NonZeroUsize>,
    /// Connections per second that get a line in the log; none gets one without.
    pub connection_log: Option<NonZeroU32>,
}

/// The limits in force.
#[derive(Debug)]
pub struct Limits {
    rules: LimitRules,
    sources: Arc<Sources>,
    connection_rate: Option<Arc<RateLimit>>,
    full_handshake_rate: Option<Arc<RateLimit>>,
    connection_log: Option<Arc<RateLimit>>,
}

impl Limits {
    /// With nothing counted yet. `origin` is before every later instant.
    #[must_use]
    pub fn new(rules: LimitRules, origin: Instant) -> Self {
        let sources = Arc::new(Sources::new(rules.sources, SOURCES_RESERVED, origin));
        Self::with(rules, sources, origin)
    }

    /// With other rules; what is open stays counted.
    #[must_use]
    pub fn changed(&self, rules: LimitRules, origin: Instant) -> Self {
        self.sources.set_rules(rules.sources);
        let mut changed = Self::with(rules, Arc::clone(&self.sources), origin);
        // A bucket whose rate is what it was stays as empty as it is.
        let keep = |is_same: bool, new: &mut Option<Arc<RateLimit>>, old: &Option<Arc<RateLimit>>| {
            if is_same {
                new.clone_from(old);
            }
        };
        let LimitRules { connection_rate, full_handshake_rate, connection_log, .. } = self.rules;
        let is_same = connection_rate == rules.connection_rate;
        keep(is_same, &mut changed.connection_rate, &self.connection_rate);
        let is_same = full_handshake_rate == rules.full_handshake_rate;
        keep(is_same, &mut changed.full_handshake_rate, &self.full_handshake_rate);
        let is_same = connection_log == rules.connection_log;
        keep(is_same, &mut changed.connection_log, &self.connection_log);
        changed
    }

    fn with(rules: LimitRules, sources: Arc<Sources>, origin: Instant) -> Self {
        let rate =
            |per_second: Option<NonZeroU32>| per_second.map(|it| Arc::new(RateLimit::per_second(it, origin)));
        Self {
            rules,
            sources,
            connection_rate: rate(rules.connection_rate),
            full_handshake_rate: rate(rules.full_handshake_rate),
            connection_log: rate(rules.connection_log),
        }
    }

    /// What was configured.
    #[must_use]
    pub fn rules(&self) -> &LimitRules {
        &self.rules
    }

    /// Whether it has to be known where connections come from.
    #[must_use]
    pub fn counts_sources(&self) -> bool {
        self.rules.sources.connections.is_some() || self.rules.sources.rate.is_some()
    }

    /// A connection from this source.
    ///
    /// # Errors
    /// [`SourceRefusal`].
    pub fn enter(&self, source: IpAddr, now: Instant) -> Result<SourceKey, SourceRefusal> {
        self.sources.enter(source, now)
    }

    /// One that has entered is over.
    pub fn leave(&self, key: SourceKey) {
        self.sources.leave(key);
    }

    /// How long no further connection is to be accepted; none if one may be now.
    #[must_use]
    pub fn next_connection(&self, now: Instant) -> Option<Duration> {
        self.connection_rate.as_ref()?.next_at(now)
    }

    /// A connection was accepted, and its source may open it.
    pub fn accepted(&self, now: Instant) {
        // Those whose accept was under way may exceed the burst: they are here by now.
        self.connection_rate.iter().for_each(|rate| rate.charge(now));
    }

    /// Whether connections get lines in the log at all.
    #[must_use]
    pub fn logs_connections(&self) -> bool {
        self.connection_log.is_some()
    }

    /// Whether one that is over gets a line.
    #[must_use]
    pub fn may_log(&self, now: Instant) -> bool {
        self.connection_log.as_ref().is_some_and(|rate| rate.try_take(now))
    }

    /// Whether a full handshake may be begun.
    #[must_use]
    pub fn may_begin_full(&self, now: Instant) -> bool {
        self.full_handshake_rate.as_ref().is_none_or(|rate| rate.next_at(now).is_none())
    }

    /// A full handshake was begun.
    pub fn began_full(&self, now: Instant) {
        self.full_handshake_rate.iter().for_each(|rate| rate.charge(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn limits(rules: LimitRules) -> (Limits, Instant) {
        let origin = Instant::now();
        (Limits::new(rules, origin), origin)
    }

    #[test]
    fn limits_that_are_not_set_bound_nothing() {
        let (limits, now) = limits(LimitRules::default());
        for _ in 0..1000 {
            assert!(limits.may_begin_full(now) && limits.next_connection(now).is_none());
            limits.began_full(now);
            limits.accepted(now);
        }
        assert!(!limits.counts_sources());
    }

    #[test]
    fn limits_of_rate_recover_within_a_second() {
        let two = NonZeroU32::new(2);
        let rules = LimitRules { connection_rate: two, full_handshake_rate: two, ..LimitRules::default() };
        let (limits, now) = limits(rules);
        for _ in 0..2 {
            assert!(limits.may_begin_full(now) && limits.next_connection(now).is_none());
            limits.began_full(now);
            limits.accepted(now);
        }
        assert!(!limits.may_begin_full(now));
        let pause = limits.next_connection(now).expect("the bucket is empty");
        assert!(pause <= Duration::from_millis(501), "{pause:?}");
        assert!(limits.may_begin_full(now + pause) && limits.next_connection(now + pause).is_none());
    }
}
