//! Host names of backends, resolved by threads for which nobody waits: the C library's resolver
//! (getaddrinfo(3), with /etc/hosts and nsswitch.conf) has no bound of its own.
//!
//! A name that cannot be resolved keeps the addresses that it had.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::limits::ENDPOINTS;

/// Threads that resolve: as many names as that may hang without holding up the others.
const THREADS: usize = 4;

/// A name and the port behind it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Asks the system; replaced in tests.
pub(super) type Lookup = Arc<dyn Fn(&Name) -> io::Result<Vec<SocketAddr>> + Send + Sync>;
/// With what is dropped when it has its answer.
type Question = (Name, Option<Sender<()>>);
type Answer = (Name, io::Result<Vec<SocketAddr>>);

/// All names that were asked for.
pub(super) struct Resolver {
    lookup: Lookup,
    known: BTreeMap<Name, Known>,
    questions: Sender<Question>,
    /// The threads' end of it.
    asked: Arc<Mutex<Receiver<Question>>>,
    /// How many threads there are.
    threads: usize,
    /// A thread could not be started, which the log has.
    lacks_threads: bool,
    answers: Receiver<Answer>,
    answer: Sender<Answer>,
}

struct Known {
    addresses: Vec<SocketAddr>,
    interval: Duration,
    /// When it is to be asked for again; none while that is under way.
    due: Option<Instant>,
    is_failing: bool,
}

impl Resolver {
    pub(super) fn new() -> Self {
        Self::with(Arc::new(|name| Ok((&*name.host, name.port).to_socket_addrs()?.collect())))
    }

    pub(super) fn with(lookup: Lookup) -> Self {
        let (questions, asked) = channel();
        let (answer, answers) = channel();
        let asked = Arc::new(Mutex::new(asked));
        Self {
            lookup,
            known: BTreeMap::new(),
            questions,
            asked,
            threads: 0,
            lacks_threads: false,
            answers,
            answer,
        }
    }

    /// Names that are to be known beside those that are, each with how often it is resolved again. Nothing is
    /// sent to what it returns: it is disconnected when each name that is new has an answer.
    pub(super) fn want(&mut self, names: BTreeMap<Name, Duration>, now: Instant) -> Receiver<()> {
        for (name, interval) in names {
            let new = Known { addresses: Vec::new(), interval, due: Some(now), is_failing: false };
            self.known.entry(name).or_insert(new);
        }
        let (unanswered, answered) = channel();
        self.ask(now, Some(&unanswered));
        answered
    }

    /// Forgets all names but these, which are resolved again as often as this from now on.
    pub(super) fn keep(&mut self, names: &BTreeMap<Name, Duration>) {
        self.known.retain(|name, known| {
            let interval = names.get(name);
            known.interval = interval.copied().unwrap_or(known.interval);
            interval.is_some()
        });
    }

    /// What is known of a name: at most 64 addresses, in a fixed order.
    pub(super) fn addresses(&self, name: &Name) -> &[SocketAddr] {
        self.known.get(name).map_or(&[], |known| &known.addresses)
    }

    /// Takes the answers that have come, and asks for what is due. Whether an address has changed.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        let mut has_changed = false;
        while let Ok(answer) = self.answers.try_recv() {
            has_changed |= self.take(answer, now);
        }
        self.ask(now, None);
        has_changed
    }

    /// Asks for what is due; the question for a name that is new keeps an `unanswered` until its answer.
    fn ask(&mut self, now: Instant, unanswered: Option<&Sender<()>>) {
        let is_due = |known: &Known| known.due.is_some_and(|due| due <= now);
        if !self.known.values().any(is_due) || !self.has_threads() {
            return;
        }
        for (name, known) in self.known.iter_mut().filter(|(_, known)| is_due(known)) {
            known.due = None;
            let is_new = known.addresses.is_empty() && !known.is_failing;
            // The threads last as long as we do.
            drop(self.questions.send((name.clone(), unanswered.filter(|_| is_new).cloned())));
        }
    }

    /// Starts the threads with the first question, and those that could not be started with a later one.
    fn has_threads(&mut self) -> bool {
        self.start(|name, resolve| thread::Builder::new().name(name).spawn(resolve).map(drop))
    }

    fn start(&mut self, spawn: impl Fn(String, Box<dyn FnOnce() + Send>) -> io::Result<()>) -> bool {
        for nth in self.threads..THREADS {
            let (asked, answer) = (Arc::clone(&self.asked), self.answer.clone());
            let lookup = Arc::clone(&self.lookup);
            let resolve = move || {
                loop {
                    let question = asked.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((name, unanswered)) = question else { return };
                    let found = lookup(&name);
                    if answer.send((name, found)).is_err() {
                        return;
                    }
                    drop(unanswered);
                }
            };
            if let Err(error) = spawn(format!("offramp-dns-{nth}"), Box::new(resolve)) {
                if !std::mem::replace(&mut self.lacks_threads, true) {
                    tracing::error!("no thread to resolve names: {error}");
                }
                break;
            }
            self.threads = nth + 1;
        }
        self.lacks_threads &= self.threads < THREADS;
        self.threads > 0
    }

    fn take(&mut self, (name, found): Answer, now: Instant) -> bool {
        let Some(known) = self.known.get_mut(&name) else { return false };
        known.due = Some(now + known.interval);
        let problem = match found {
            Ok(mut addresses) if !addresses.is_empty() => {
                addresses.sort_unstable();
                addresses.dedup();
                if addresses.len() > *ENDPOINTS.end() && known.addresses.is_empty() {
                    let (count, most) = (addresses.len(), ENDPOINTS.end());
                    tracing::warn!("{name} has {count} addresses, of which {most} are used");
                }
                addresses.truncate(*ENDPOINTS.end());
                if std::mem::take(&mut known.is_failing) {
                    tracing::info!("{name} is resolved again");
                }
                if known.addresses == addresses {
                    return false;
                }
                let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                tracing::info!("{name} is at {}", texts.join(", "));
                known.addresses = addresses;
                return true;
            }
            Ok(_) => "it has no address".to_owned(),
            Err(error) => error.to_string(),
        };
        if !std::mem::replace(&mut known.is_failing, true) {
            let rest = if known.addresses.is_empty() {
                "there is no connection to it until it is"
            } else {
                "the addresses that it had stay"
            };
            tracing::warn!("{name} cannot be resolved: {problem}; {rest}; try: getent ahosts {}", name.host);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{RecvTimeoutError, TryRecvError};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    const INTERVAL: Duration = Duration::from_secs(10);

    fn name(host: &str) -> Name {
        Name { host: host.to_owned(), port: 80 }
    }

    fn wanted(hosts: &[&str]) -> BTreeMap<Name, Duration> {
        hosts.iter().map(|host| (name(host), INTERVAL)).collect()
    }

    fn addresses(count: u32) -> Vec<SocketAddr> {
        (0..count).rev().map(|nth| (std::net::Ipv4Addr::from_bits(0x0a00_0000 + nth), 80).into()).collect()
    }

    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn beginning() -> Instant {
        Instant::now()
    }

    /// Wants names, and takes an answer for each that is new.
    fn resolved(resolver: &mut Resolver, hosts: &[&str]) {
        let all = resolver.want(wanted(hosts), beginning()).recv_timeout(PATIENCE);
        assert_eq!(all, Err(RecvTimeoutError::Disconnected));
        resolver.tick(beginning());
    }

    /// Ticks until an answer has been taken.
    fn answered(resolver: &mut Resolver, now: Instant) -> bool {
        let answer = resolver.answers.recv_timeout(PATIENCE).expect("an answer");
        resolver.take(answer, now)
    }

    #[test]
    fn resolver_keeps_the_addresses_of_a_lost_name() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let mut resolver = Resolver::with(Arc::new(move |_| match count.fetch_add(1, Ordering::SeqCst) {
            0 => Ok(addresses(2)),
            1 => Err(io::Error::other("no such host")),
            2 => Ok(Vec::new()),
            _ => Ok(addresses(1)),
        }));
        resolved(&mut resolver, &["a"]);
        let mut now = beginning();
        assert_eq!(resolver.addresses(&name("a")).len(), 2);
        assert!(!resolver.tick(now) && asked.load(Ordering::SeqCst) == 1, "nothing is due");
        for _ in 0..2 {
            now += INTERVAL;
            resolver.tick(now);
            assert!(!answered(&mut resolver, now));
            assert_eq!(resolver.addresses(&name("a")).len(), 2, "they stay");
        }
        now += INTERVAL;
        resolver.tick(now);
        assert!(answered(&mut resolver, now));
        assert_eq!(resolver.addresses(&name("a")).len(), 1);
    }

    #[test]
    fn resolver_takes_64_of_a_thousand_addresses() {
        let mut resolver = Resolver::with(Arc::new(|_| Ok(addresses(1000))));
        resolved(&mut resolver, &["many"]);
        let found = resolver.addresses(&name("many"));
        assert!(found.len() == 64 && found.is_sorted());
    }

    #[test]
    fn resolver_that_hangs_holds_up_no_other_name() {
        let (release, held) = channel::<()>();
        let held = Mutex::new(held);
        let mut resolver = Resolver::with(Arc::new(move |name| {
            if name.host == "hangs" {
                // Until the test is over.
                let _ = held.lock().unwrap_or_else(PoisonError::into_inner).recv();
            }
            Ok(addresses(1))
        }));
        let all = resolver.want(wanted(&["a", "hangs"]), beginning());
        assert!(answered(&mut resolver, beginning()));
        assert_eq!(all.try_recv(), Err(TryRecvError::Empty), "one has no answer");
        assert!(resolver.addresses(&name("hangs")).is_empty());
        assert_eq!(resolver.addresses(&name("a")).len(), 1);
        drop(release);
        assert!(answered(&mut resolver, beginning()));
        assert_eq!(resolver.addresses(&name("hangs")).len(), 1);
    }

    #[test]
    fn resolver_forgets_names_that_nobody_wants() {
        let mut resolver = Resolver::with(Arc::new(|_| Ok(addresses(1))));
        resolved(&mut resolver, &["a", "b"]);
        resolved(&mut resolver, &["b"]);
        assert!(!resolver.addresses(&name("a")).is_empty(), "it may be refused yet what wants b alone");
        resolver.keep(&wanted(&["b"]));
        assert!(resolver.addresses(&name("a")).is_empty() && !resolver.addresses(&name("b")).is_empty());
    }

    #[test]
    fn resolver_keeps_the_interval_until_it_is_in_force() {
        let mut resolver = Resolver::with(Arc::new(|_| Ok(addresses(1))));
        let daily = || BTreeMap::from([(name("a"), Duration::from_secs(86_400))]);
        resolved(&mut resolver, &["a"]);
        resolver.want(daily(), beginning());
        assert_eq!(resolver.known[&name("a")].interval, INTERVAL, "it may be refused yet");
        resolver.keep(&daily());
        assert_eq!(resolver.known[&name("a")].interval, daily()[&name("a")]);
    }

    #[test]
    fn resolver_asks_again_after_no_thread_could_start() {
        let mut resolver = Resolver::with(Arc::new(|_| Ok(addresses(1))));
        assert!(!resolver.start(|_, _| Err(io::Error::other("no thread"))));
        resolved(&mut resolver, &["a"]);
        assert_eq!(resolver.addresses(&name("a")).len(), 1);
        assert_eq!(resolver.threads, THREADS);
    }
}
