//! Every bound, in one place, with its default and the range that is allowed.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use offramp_core::config::IDENTITIES_MAX;
pub use offramp_core::config::Timeouts;

use crate::pool::ENDPOINTS_MAX;

/// Worker threads.
pub const WORKERS: RangeInclusive<usize> = 1..=1024;

/// Connections open at once in the whole process.
pub const MAX_CONNECTIONS: RangeInclusive<usize> = 1..=4_000_000;

/// Connections open at once in the whole process, unless told otherwise.
pub const MAX_CONNECTIONS_DEFAULT: usize = 10_000;

/// Certificate chains with their keys: signatures are tried over all of them at start.
pub const IDENTITIES: RangeInclusive<usize> = 1..=IDENTITIES_MAX;

/// Bytes in the name of an application protocol (RFC 7301 §3.1).
pub const ALPN_BYTES: RangeInclusive<usize> = 1..=255;

/// Pools of one process, beside those of listeners.
pub const POOLS: RangeInclusive<usize> = 0..=256;

/// Endpoints of a pool; of a host name as many addresses are used as there is room for.
pub const ENDPOINTS: RangeInclusive<usize> = 1..=ENDPOINTS_MAX;

/// The weight of an endpoint.
pub const WEIGHT: RangeInclusive<u32> = 1..=256;

/// Rules of a listener.
pub const ROUTES: RangeInclusive<usize> = 0..=1024;

/// Probes of backends under way at once; others wait for a later round.
pub const PROBES_MAX: usize = 128;

/// How long a probe may last, from its connect to the end of the answer. So of N endpoints that do not answer
/// each is probed every N * 2 s / [`PROBES_MAX`].
pub const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// Bytes of `health_send` and of `health_expect`.
pub const HEALTH_TEXT_BYTES: RangeInclusive<usize> = 1..=1024;

/// Bytes of an answer in which `health_expect` is looked for.
pub const HEALTH_ANSWER_BYTES_MAX: usize = 4096;

/// A limit of the section `[limits]`.
pub const LIMIT: RangeInclusive<usize> = 1..=1_000_000_000;

/// Bytes of `limits.buffer_memory`.
pub const BUFFER_MEMORY: RangeInclusive<usize> = BUFFER_MEMORY_PER_WORKER..=1 << 40;

/// The least of it per worker: twice what the ring of a worker can keep ready to receive into.
pub const BUFFER_MEMORY_PER_WORKER: usize = 8 << 20;

/// Lines of connections in the log, per second; 0 for none.
pub const CONNECTION_LOG: RangeInclusive<usize> = 0..=1_000_000;

/// How often host names are resolved again, unless told otherwise.
pub const RESOLVE_INTERVAL_DEFAULT: Duration = Duration::from_secs(10);

/// Listeners of one process.
pub const LISTENERS: RangeInclusive<usize> = 1..=64;

/// Listeners that a reload can add in any case: where RLIMIT_NOFILE bounds the connections, descriptors are
/// left for so many.
pub const SPARE_LISTENERS: usize = 8;

/// Bytes of `offload = after-bytes(N)`.
pub const AFTER_BYTES: RangeInclusive<u64> = 1..=1 << 40;

/// Records that one key may protect: at most what AES-GCM allows (RFC 8446 §5.5, rounded down), at least so
/// many that what is in flight when the limit comes near has room.
pub const RECORD_LIMIT: RangeInclusive<u64> = 1024..=1 << 24;

/// Bytes in a Unix socket's path (unix(7): `sun_path` holds 108 with the closing zero).
pub const UNIX_PATH_BYTES: RangeInclusive<usize> = 1..=107;

/// Connections that the kernel keeps per listener until they are accepted; it caps this at
/// `net.core.somaxconn`.
pub const LISTEN_BACKLOG: i32 = 4096;

/// How long TCP waits for an acknowledgment, unless told otherwise: as long as keepalive does.
pub const TCP_USER_TIMEOUT_DEFAULT: Duration = Duration::from_secs(240);

/// How long a session may be resumed, counted from its first full handshake, unless told otherwise.
pub const SESSION_LIFETIME_DEFAULT: Duration = Duration::from_secs(24 * 3600);

/// How often the control plane looks at the clock, at the file of ticket keys and at the workers.
pub const TICK: Duration = Duration::from_secs(1);

/// A worker that has not turned for so long, although it was woken each [`TICK`], is stuck.
pub const STUCK_SECONDS: u64 = 5;

/// How long the workers may take to say whether they could start.
pub const START_DEADLINE: Duration = Duration::from_secs(30);

/// How long a process that is to take over may take until it is ready: as long as the workers may take to
/// start, and what is done before.
pub const UPGRADE_DEADLINE: Duration = Duration::from_secs(45);

/// Connections to the admin address open at once; one more ends the oldest whose request has not come.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;

/// Bytes in the head of a request to the admin address.
pub const ADMIN_REQUEST_BYTES_MAX: usize = 8 * 1024;

/// Bytes of a configuration that is sent to the admin address: as many as a file may have.
pub const ADMIN_BODY_BYTES_MAX: usize = offramp_files::BYTES_MAX;

/// Requests for the configuration that wait for their turn, or have it; one more is refused.
pub const ADMIN_CHANGES_MAX: usize = 4;

/// How long who asks for the configuration, or has sent one, waits for the answer.
pub const ADMIN_CHANGE_DEADLINE: Duration = Duration::from_secs(30);

/// Bytes of the file of a key log; what comes behind is not written.
pub const KEY_LOG_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Connections in a page of `/v1/connections`: unless asked otherwise, and at most.
pub const ADMIN_PAGE_DEFAULT: usize = 100;
/// See [`ADMIN_PAGE_DEFAULT`].
pub const ADMIN_PAGE_MAX: usize = 1000;

/// A connection to the admin address ends this long after it was accepted, whatever its state.
pub const ADMIN_DEADLINE: Duration = Duration::from_secs(5);

/// The shortest and the longest that a deadline may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The shortest.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

impl Span {
    /// `timeouts.handshake`.
    pub const HANDSHAKE: Self = Self::new(Duration::from_millis(100), Duration::from_secs(300));
    /// `timeouts.connect`.
    pub const CONNECT: Self = Self::new(Duration::from_millis(10), Duration::from_secs(300));
    /// `timeouts.idle`.
    pub const IDLE: Self = Self::new(Duration::from_millis(100), Duration::from_secs(7 * 24 * 3600));
    /// `timeouts.linger`.
    pub const LINGER: Self = Self::new(Duration::from_millis(10), Duration::from_secs(60));
    /// `session_lifetime`; RFC 8446 §4.6.1 allows no ticket more than a week.
    pub const SESSION: Self = Self::new(Duration::from_secs(1), Duration::from_secs(7 * 24 * 3600));
    /// `tcp_user_timeout`.
    pub const TCP_USER: Self = Self::new(Duration::from_secs(1), Duration::from_secs(24 * 3600));
    /// `timeouts.lifetime`.
    pub const LIFETIME: Self = Self::new(Duration::from_secs(1), Duration::from_secs(30 * 24 * 3600));
    /// `slow_start`; zero for none.
    pub const SLOW_START: Self = Self::new(Duration::ZERO, Duration::from_secs(3600));
    /// `resolve_interval`.
    pub const RESOLVE: Self = Self::new(Duration::from_secs(1), Duration::from_secs(24 * 3600));
    /// `timeouts.drain`.
    pub const DRAIN: Self = Self::new(Duration::from_millis(10), Duration::from_secs(24 * 3600));

    const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max }
    }

    /// Whether `duration` is allowed.
    #[must_use]
    pub fn contains(self, duration: Duration) -> bool {
        self.min <= duration && duration <= self.max
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", in_words(self.min), in_words(self.max))
    }
}

/// As the configuration writes it, in the largest unit that it is a multiple of.
fn in_words(duration: Duration) -> String {
    let ms = duration.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")];
    let unit = units.into_iter().find(|(length, _)| ms.is_multiple_of(*length));
    unit.map_or_else(String::new, |(length, unit)| format!("{}{unit}", ms / length))
}

/// Open descriptors that `max_connections` on `workers` threads need, beside those that are open already: two
/// sockets per connection, so that accepting stops before a backend would find none; ring, event descriptor
/// and `listeners` per worker; 384 for the control plane: [`PROBES_MAX`], 64 connections each to `admin` and
/// `admin_socket`, files that a reload reads and sockets that are being closed.
#[must_use]
pub fn descriptors_needed(max_connections: usize, workers: usize, listeners: usize) -> u64 {
    let by_worker = workers.saturating_mul(listeners.saturating_add(3));
    let count = max_connections.saturating_mul(2).saturating_add(by_worker).saturating_add(384);
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// The most connections that `descriptors` open descriptors allow on `workers` threads: the inverse of
/// [`descriptors_needed`].
#[must_use]
pub fn connections_within(descriptors: u64, workers: usize, listeners: usize) -> usize {
    let rest = descriptors.saturating_sub(descriptors_needed(0, workers, listeners));
    usize::try_from(rest / 2).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_allowed() {
        let timeouts = Timeouts::default();
        assert!(Span::HANDSHAKE.contains(timeouts.handshake) && Span::CONNECT.contains(timeouts.connect));
        assert!(Span::IDLE.contains(timeouts.idle) && Span::LINGER.contains(timeouts.linger));
        assert!(Span::DRAIN.contains(timeouts.drain) && MAX_CONNECTIONS.contains(&MAX_CONNECTIONS_DEFAULT));
        assert!(!Span::LINGER.contains(Duration::ZERO));
        assert_eq!(
            (Span::CONNECT.to_string(), Span::IDLE.to_string()),
            ("10ms to 5m".into(), "100ms to 168h".into())
        );
    }

    #[test]
    fn connections_and_descriptors_convert_both_ways() {
        for workers in [1, 2, 64, 1024] {
            for (connections, listeners) in [(1, 1), (10_000, 2), (1_000_000, 64)] {
                let needed = descriptors_needed(connections, workers, listeners);
                assert_eq!(connections_within(needed, workers, listeners), connections);
            }
        }
        assert_eq!(connections_within(10, 1, 1), 0);
    }
}
