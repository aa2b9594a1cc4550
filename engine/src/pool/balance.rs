//! Which endpoint of a pool gets the next connection.
//!
//! Each worker has a [`Balancer`] of its own per pool, so that no worker waits for another. The hash policies
//! need no state: all workers and processes with the same endpoints map a key to the same endpoint.

use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// The most endpoints of a pool.
pub const ENDPOINTS_MAX: usize = 64;

/// How a pool chooses an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Each endpoint in turn, smoothly by weight, as nginx does.
    #[default]
    RoundRobin,
    /// The endpoint with the fewest open connections per weight; endpoints that tie take turns.
    LeastConnections,
    /// Of two endpoints drawn by weight, the one with fewer open connections per weight.
    RandomOfTwo,
    /// By the address of the client: the same address goes to the same endpoint while that endpoint is up.
    HashClient,
    /// By the name in the client's `server_name` extension: the same name goes to the same endpoint.
    HashSni,
}

impl Balance {
    /// The names that a configuration may use.
    pub const ALLOWED: &'static str =
        "round-robin, least-connections, random-of-two, hash-client or hash-sni";

    /// The policy with this name in a configuration; `None` if there is no such policy.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "round-robin" => Some(Self::RoundRobin),
            "least-connections" => Some(Self::LeastConnections),
            "random-of-two" => Some(Self::RandomOfTwo),
            "hash-client" => Some(Self::HashClient),
            "hash-sni" => Some(Self::HashSni),
            _ => None,
        }
    }

    /// The name of the policy in a configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::LeastConnections => "least-connections",
            Self::RandomOfTwo => "random-of-two",
            Self::HashClient => "hash-client",
            Self::HashSni => "hash-sni",
        }
    }
}

/// An endpoint that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The configured weight, 1 to 256, times the share of it in per mille, 100 to 1000: 100 to 256,000. An
    /// endpoint of weight 0 is not chosen.
    pub weight: u32,
    /// The open connections of all workers to the endpoint.
    pub connections: u32,
}

impl Candidate {
    /// Whether this one has fewer connections per weight: both fractions over a common denominator.
    fn is_less_loaded(self, than: Self) -> bool {
        let load = u64::from(self.connections) * u64::from(than.weight);
        load < u64::from(than.connections) * u64::from(self.weight)
    }
}

/// What the hash policies hash of a connection. A policy whose part is absent falls back to round robin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key<'a> {
    /// The address of the client. An IPv4-mapped IPv6 address counts as the IPv4 address.
    pub client: Option<IpAddr>,
    /// The server name that the client asked for. ASCII case does not matter.
    pub server_name: Option<&'a str>,
}

/// One worker's balancer for one pool.
///
/// The atomics serve interior mutability only: one worker writes them, with relaxed loads and stores. Aligned
/// to two cache lines: no two workers' balancers share a line, nor a pair that is fetched together.
#[derive(Debug)]
#[repr(align(128))]
pub struct Balancer {
    balance: Balance,
    count: usize,
    /// The endpoint that is looked at first. It wins ties, so workers begin with different endpoints.
    first: usize,
    random: AtomicU64,
    /// nginx's `current_weight` of each endpoint.
    current: [AtomicI64; ENDPOINTS_MAX],
    identities: [u64; ENDPOINTS_MAX],
}

/// A candidate with the index of its endpoint.
type Indexed = (usize, Candidate);

impl Balancer {
    /// A balancer for the endpoints with these identities, at most [`ENDPOINTS_MAX`]; endpoints beyond them
    /// are never chosen.
    ///
    /// - `identities`: a hash of each endpoint by which the hash policies know it, such as [`identity`] of
    ///   its address. Equal in all workers and distinct within the pool.
    /// - `seed`: any number, different in each worker, such as the worker's index: it decides the random
    ///   draws and at which endpoint the turns begin, and has no influence on hashing.
    #[must_use]
    pub fn new(balance: Balance, identities: &[u64], seed: u64) -> Self {
        let count = identities.len().min(ENDPOINTS_MAX);
        let first = usize::try_from(seed % 64).ok().and_then(|seed| seed.checked_rem(count));
        let mut mixed = [0; ENDPOINTS_MAX];
        for (mixed, identity) in mixed.iter_mut().zip(identities) {
            *mixed = mix(*identity);
        }
        Self {
            balance,
            count,
            first: first.unwrap_or(0),
            random: AtomicU64::new(seed),
            current: [const { AtomicI64::new(0) }; ENDPOINTS_MAX],
            identities: mixed,
        }
    }

    /// Chooses an endpoint for a connection, by its index; `None` if there is no candidate. Only the worker
    /// that the balancer belongs to may call this.
    ///
    /// `candidates` is called once per endpoint, with its index. It returns `None` for an endpoint that is
    /// down, full or already tried. Where a hash policy loses its endpoint in this way, it chooses the
    /// endpoint that is next for the same key.
    #[must_use]
    pub fn choose(&self, candidates: impl Fn(usize) -> Option<Candidate>, key: Key<'_>) -> Option<usize> {
        let mut space = [(0, Candidate { weight: 0, connections: 0 }); ENDPOINTS_MAX];
        let candidates = self.collect(candidates, &mut space);
        match (self.balance, key) {
            (Balance::LeastConnections, _) => self.least_connections(candidates),
            (Balance::RandomOfTwo, _) => self.random_of_two(candidates),
            (Balance::HashClient, Key { client: Some(client), .. }) => {
                self.highest_score(candidates, hash_client(client))
            }
            (Balance::HashSni, Key { server_name: Some(name), .. }) => {
                self.highest_score(candidates, hash(name.bytes().map(|byte| byte.to_ascii_lowercase())))
            }
            _ => self.round_robin(candidates.iter().copied()),
        }
    }

    fn collect<'a>(
        &self,
        candidate: impl Fn(usize) -> Option<Candidate>,
        space: &'a mut [Indexed; ENDPOINTS_MAX],
    ) -> &'a [Indexed] {
        let indices = (self.first..self.count).chain(0..self.first);
        let some = indices.filter_map(|index| Some((index, candidate(index)?)));
        let mut count = 0;
        for (place, next) in space.iter_mut().zip(some.filter(|(_, candidate)| candidate.weight > 0)) {
            *place = next;
            count += 1;
        }
        &space[..count]
    }

    /// nginx's smooth weighted round robin: each candidate gains its weight, and the winner pays the sum of
    /// all weights. Over as many choices as that sum, each candidate wins as often as its weight says, and
    /// its turns are spread evenly.
    fn round_robin(&self, candidates: impl Iterator<Item = Indexed>) -> Option<usize> {
        let mut total = 0;
        let mut winner: Option<(usize, i64)> = None;
        for (index, candidate) in candidates {
            let weight = i64::from(candidate.weight);
            let current = self.current[index].load(Ordering::Relaxed).saturating_add(weight);
            self.current[index].store(current, Ordering::Relaxed);
            total += weight;
            if winner.is_none_or(|(_, most)| current > most) {
                winner = Some((index, current));
            }
        }
        let (index, current) = winner?;
        self.current[index].store(current.saturating_sub(total), Ordering::Relaxed);
        Some(index)
    }

    fn least_connections(&self, candidates: &[Indexed]) -> Option<usize> {
        let all = candidates.iter().map(|(_, candidate)| *candidate);
        let least = all.reduce(|least, next| if next.is_less_loaded(least) { next } else { least })?;
        let tied = candidates.iter().filter(|(_, candidate)| !least.is_less_loaded(*candidate));
        self.round_robin(tied.copied())
    }

    /// The second draw is among the others. Where both are equally loaded, the first draw wins: it was drawn
    /// by weight.
    fn random_of_two(&self, candidates: &[Indexed]) -> Option<usize> {
        let (first, chosen) = self.draw(candidates.iter().copied())?;
        let others = candidates.iter().copied().filter(|(index, _)| *index != first);
        match self.draw(others) {
            Some((second, other)) if other.is_less_loaded(chosen) => Some(second),
            _ => Some(first),
        }
    }

    /// Draws a candidate at random, by weight.
    fn draw(&self, candidates: impl Iterator<Item = Indexed> + Clone) -> Option<Indexed> {
        let total: u64 = candidates.clone().map(|(_, candidate)| u64::from(candidate.weight)).sum();
        // A remainder favours small values by less than total / 2^64: this cannot be measured.
        let mut left = self.next_random().checked_rem(total)?;
        for (index, candidate) in candidates {
            match left.checked_sub(u64::from(candidate.weight)) {
                Some(rest) => left = rest,
                None => return Some((index, candidate)),
            }
        }
        None
    }

    /// splitmix64. The numbers spread load and are no secret: a client that predicts them gains nothing that
    /// opening more connections would not give.
    fn next_random(&self) -> u64 {
        let state = self.random.load(Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.store(state, Ordering::Relaxed);
        mix(state)
    }

    /// Weighted rendezvous hashing, "highest random weight": each endpoint has a score for the key that
    /// depends on no other endpoint. So an endpoint that leaves loses its own keys only, and one that comes
    /// takes only the keys that it wins. With scores of -weight / ln(h), h uniform in (0, 1), the keys are
    /// split by weight.
    fn highest_score(&self, candidates: &[Indexed], key: u64) -> Option<usize> {
        let scores = candidates.iter().map(|(index, candidate)| {
            let unit = unit_interval(mix(self.identities[*index] ^ key));
            (*index, -f64::from(candidate.weight) / unit.ln())
        });
        scores.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(index, _)| index)
    }
}

/// The hash of an endpoint's address as text. It is the same in every process and every version.
#[must_use]
pub fn identity(name: &str) -> u64 {
    hash(name.bytes())
}

fn hash_client(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(address) => hash(address.octets().into_iter()),
        IpAddr::V6(address) => hash(address.octets().into_iter()),
    }
}

/// FNV-1a, then mixed. It has no secret: all processes map a key alike, and a client that chooses its key can
/// reach any endpoint by trial anyway.
fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    let fnv = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(bytes.fold(0xcbf2_9ce4_8422_2325, fnv))
}

/// The finalizer of splitmix64: a bijection in which every bit depends on every bit.
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Random bits as a number between 0 and 1, both excluded: the upper 52 bits are the mantissa of a number in
/// 1..2, and half of the distance between two such numbers is added.
fn unit_interval(random: u64) -> f64 {
    f64::from_bits(1.0_f64.to_bits() | (random >> 12)) - 1.0 + f64::EPSILON / 2.0
}

#[cfg(test)]
mod tests {
    use super::Balance::{HashClient, HashSni, LeastConnections, RandomOfTwo, RoundRobin};
    use super::*;

    const NO_KEY: Key<'static> = Key { client: None, server_name: None };
    const SNI: Key<'static> = Key { server_name: Some("a.example"), ..NO_KEY };
    const BOTH: Key<'static> = Key { client: Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)), ..SNI };
    const ALL: [Balance; 5] = [RoundRobin, LeastConnections, RandomOfTwo, HashClient, HashSni];

    fn balancer(balance: Balance, count: usize) -> Balancer {
        let identities: Vec<_> = (0..count).map(|index| identity(&format!("192.0.2.{index}:443"))).collect();
        Balancer::new(balance, &identities, 192)
    }

    fn idle<const N: usize>(weights: [u32; N]) -> impl Fn(usize) -> Option<Candidate> {
        move |index| Some(Candidate { weight: weights[index] * 1000, connections: 0 })
    }

    fn busy<const N: usize>(weights: [u32; N], open: [u32; N]) -> impl Fn(usize) -> Option<Candidate> {
        move |index| Some(Candidate { weight: weights[index] * 1000, connections: open[index] })
    }

    fn client(number: u32) -> Key<'static> {
        Key { client: Some(IpAddr::V4((0x0a00_0000 + number).into())), server_name: None }
    }

    /// The endpoints of connections without a key, one after the other.
    fn turns(at: &Balancer, among: impl Fn(usize) -> Option<Candidate>) -> impl Iterator<Item = usize> {
        std::iter::from_fn(move || at.choose(&among, NO_KEY))
    }

    /// The endpoint of each of 10,000 clients.
    fn placed(balancer: &Balancer, candidates: impl Fn(usize) -> Option<Candidate>) -> Vec<usize> {
        (0..10_000).filter_map(|number| balancer.choose(&candidates, client(number))).collect()
    }

    /// How often each endpoint was chosen.
    fn tally<const N: usize>(chosen: impl IntoIterator<Item = usize>) -> [usize; N] {
        let mut tally = [0; N];
        chosen.into_iter().for_each(|index| tally[index] += 1);
        tally
    }

    fn assert_about<const N: usize>(counts: [usize; N], expected: [usize; N]) {
        let mut pairs = counts.iter().zip(expected);
        assert!(pairs.all(|(count, expected)| count.abs_diff(expected) <= expected / 10), "{counts:?}");
    }

    #[test]
    fn balance_names_parse_to_themselves() {
        assert!(ALL.iter().all(|balance| Balance::parse(balance.name()) == Some(*balance)));
        let [first @ .., last] = ALL.map(Balance::name);
        assert_eq!(Balance::ALLOWED, format!("{} or {last}", first.join(", ")));
        assert_eq!((Balance::parse("random"), Balance::parse("")), (None, None));
    }

    #[test]
    fn choose_without_candidates_is_none() {
        for balance in ALL {
            assert_eq!(balancer(balance, 3).choose(|_| None, BOTH), None, "{balance:?}");
            assert_eq!(balancer(balance, 0).choose(idle([]), BOTH), None, "{balance:?}");
            assert_eq!(balancer(balance, 2).choose(idle([0, 0]), BOTH), None, "{balance:?}");
        }
    }

    #[test]
    fn choose_with_one_candidate_returns_it() {
        let only = |index| (index == 63).then_some(Candidate { weight: 100, connections: 9 });
        for balance in ALL {
            let balancer = balancer(balance, ENDPOINTS_MAX);
            assert!((0..10).all(|_| balancer.choose(only, BOTH) == Some(63)), "{balance:?}");
        }
    }

    #[test]
    fn round_robin_over_a_cycle_is_exact() {
        let balancer = balancer(RoundRobin, 3);
        assert!((0..5).all(|_| tally(turns(&balancer, idle([5, 1, 3])).take(9)) == [5, 1, 3]));
        assert!(balancer.current.iter().all(|current| current.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn round_robin_spreads_turns_as_nginx_does() {
        let balancer = balancer(RoundRobin, 3);
        let turns: Vec<_> = turns(&balancer, idle([5, 1, 1])).take(7).collect();
        assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn round_robin_of_workers_begins_apart() {
        let worker = |seed| Balancer::new(RoundRobin, &[1, 2, 3], seed);
        let first = |seed| worker(seed).choose(idle([1, 1, 1]), NO_KEY);
        assert_eq!([0, 1, 2, 3].map(first), [Some(0), Some(1), Some(2), Some(0)]);
    }

    #[test]
    fn round_robin_after_a_return_has_no_burst() {
        let balancer = balancer(RoundRobin, 3);
        assert_eq!(turns(&balancer, idle([2, 1, 1])).take(3).count(), 3);
        let others = |index| idle([2, 1, 1])(index).filter(|_| index != 0);
        assert_about(tally(turns(&balancer, others).take(100)), [0, 50, 50]);
        let [returned, ..] = tally::<3>(turns(&balancer, idle([2, 1, 1])).take(40));
        assert!(returned.abs_diff(20) <= 1, "{returned}");
    }

    #[test]
    fn least_connections_picks_the_least_loaded() {
        let balancer = balancer(LeastConnections, 3);
        let max = u32::MAX;
        assert_eq!(tally(turns(&balancer, busy([1, 1, 1], [5, 4, 6])).take(9)), [0, 9, 0]);
        assert_eq!(tally(turns(&balancer, busy([1, 1, 2], [5, 4, 6])).take(9)), [0, 0, 9]);
        let nearly_tied = busy([256; 3], [max, max, max - 1]);
        assert_eq!(tally(turns(&balancer, nearly_tied).take(9)), [0, 0, 9]);
    }

    #[test]
    fn least_connections_tied_take_turns() {
        let one = balancer(LeastConnections, 3);
        let in_turn: Vec<_> = turns(&one, busy([1, 1, 1], [2, 3, 2])).take(6).collect();
        assert_eq!(in_turn, [0, 2, 0, 2, 0, 2]);
        let other = balancer(LeastConnections, 3);
        assert_eq!(tally(turns(&other, idle([3, 1, 2])).take(6)), [3, 1, 2], "by weight");
    }

    #[test]
    fn least_connections_fill_by_weight() {
        let balancer = balancer(LeastConnections, 3);
        let mut open = [0; 3];
        for _ in 0..700 {
            open[balancer.choose(busy([4, 2, 1], open), NO_KEY).expect("a candidate")] += 1;
        }
        assert_eq!(open, [400, 200, 100]);
    }

    #[test]
    fn random_of_two_honours_weights() {
        let balancer = balancer(RandomOfTwo, 4);
        let counts = tally(turns(&balancer, idle([1, 2, 3, 4])).take(10_000));
        assert_about(counts, [1_000, 2_000, 3_000, 4_000]);
        let [one, other] = [0, 64].map(|seed| Balancer::new(RandomOfTwo, &[1, 2, 3, 4], seed));
        assert!(turns(&one, idle([1; 4])).take(50).ne(turns(&other, idle([1; 4])).take(50)), "by seed");
    }

    #[test]
    fn random_of_two_draws_two_different() {
        let balancer = balancer(RandomOfTwo, 3);
        let counts = tally(turns(&balancer, busy([1, 1, 1], [1, 9, 2])).take(10_000));
        // Two of three pairs have the first; the most loaded loses in both of its pairs.
        assert_about(counts, [6_667, 0, 3_333]);
    }

    #[test]
    fn hash_honours_weights() {
        let counts = tally(placed(&balancer(HashClient, 4), idle([1, 2, 3, 4])));
        assert_about(counts, [1_000, 2_000, 3_000, 4_000]);
    }

    #[test]
    fn hash_one_removed_moves_only_its_keys() {
        let balancer = balancer(HashClient, 5);
        let weights = [1, 2, 1, 2, 4];
        let before = placed(&balancer, idle(weights));
        let after = placed(&balancer, |index| idle(weights)(index).filter(|_| index != 3));
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after);
        let moved = tally(moved.map(|(before, _)| *before));
        assert_eq!(moved, [0, 0, 0, tally::<5>(before)[3], 0]);
        assert_about(moved, [0, 0, 0, 2_000, 0]);
        assert_about(tally(after), [1_250, 2_500, 1_250, 0, 5_000]);
    }

    #[test]
    fn hash_changed_set_keeps_keys_of_the_rest() {
        let (old, new) = ([10, 11, 12], [13, 12, 10]);
        let before = placed(&Balancer::new(HashClient, &old, 1), idle([1; 3]));
        let after = placed(&Balancer::new(HashClient, &new, 2), idle([1; 3]));
        let all = before.iter().zip(&after).map(|(before, after)| (old[*before], new[*after]));
        let moved: Vec<_> = all.filter(|(before, after)| before != after).collect();
        assert!(moved.iter().all(|(before, after)| *before == 11 || *after == 13));
        // 1/3 of the keys were those of 11; 13 wins 1/4 of the others.
        assert_about([moved.len()], [5_000]);
    }

    #[test]
    fn hash_rising_share_takes_keys_only_to_it() {
        let balancer = balancer(HashClient, 3);
        let (before, after) = (placed(&balancer, idle([1, 10, 10])), placed(&balancer, idle([10; 3])));
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after);
        let [to_it, to_others @ ..] = tally::<3>(moved.map(|(_, after)| *after));
        assert!(to_it > 2_000 && to_others == [0, 0], "{to_it} {to_others:?}");
    }

    #[test]
    fn hash_of_equal_keys_is_equal_in_all_workers() {
        let [one, other] = [1, 2].map(|seed| Balancer::new(HashSni, &[1, 2, 3, 4, 5], seed));
        for name in ["a.example", "b.example", "c.example", "d.example"] {
            let key = Key { client: None, server_name: Some(name) };
            let upper = Key { client: None, server_name: Some(&name.to_ascii_uppercase()) };
            assert_eq!(one.choose(idle([1; 5]), key), other.choose(idle([1; 5]), upper));
        }
        let [plain, mapped] = ["192.0.2.1", "::ffff:192.0.2.1"].map(|text| text.parse().expect("an address"));
        assert_eq!(hash_client(plain), hash_client(mapped));
    }

    #[test]
    fn hash_without_its_key_is_round_robin() {
        for (balance, key) in [(HashClient, SNI), (HashSni, client(1))] {
            let balancer = balancer(balance, 3);
            let turns: Vec<_> = (0..4).filter_map(|_| balancer.choose(idle([1; 3]), key)).collect();
            assert_eq!(turns, [0, 1, 2, 0], "{balance:?}");
        }
    }

    #[test]
    fn identity_is_the_same_in_every_version() {
        assert_eq!(identity("192.0.2.1:443"), 0xef53_c56e_65ff_c5b7);
    }

    #[test]
    fn unit_interval_excludes_its_ends() {
        assert!(unit_interval(0) > 0.0 && unit_interval(u64::MAX) < 1.0);
    }
}
