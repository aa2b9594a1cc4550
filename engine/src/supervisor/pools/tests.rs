use std::net::TcpListener;
use std::sync::mpsc::channel;
use std::thread;

use super::super::probe::Probes;
use super::*;
use crate::config::{ConfigOption, Raw};

const PATIENCE: Duration = Duration::from_secs(60);

fn config(backends: &str, health_check: &str) -> Config {
    let mut raw = Raw::default();
    for (key, value) in [
        (ConfigOption::Listen, "127.0.0.1:0"),
        (ConfigOption::Backend, backends),
        (ConfigOption::Mode, "plain"),
        (ConfigOption::HealthCheck, health_check),
    ] {
        raw.give_flag(key, value.to_owned());
    }
    raw.check().expect("a configuration")
}

fn registry() -> Arc<Registry> {
    Arc::new(Registry::new(1, 0))
}

fn pool(config: &Config) -> Arc<Pool> {
    Arc::clone(config.listeners[0].routes.pools().next().expect("one"))
}

/// Each begins when the probes of the one before have ended.
fn rounds(pools: &Pools, seconds: std::ops::Range<u64>) {
    let (begin, mut probes, mut outcomes) = (pools.lock().origin, Probes::default(), Vec::new());
    for second in seconds {
        let round = pools.lock().round(begin + Duration::from_secs(second), std::mem::take(&mut outcomes));
        outcomes.extend(round.jobs.into_iter().filter_map(|job| probes.begin(job, now())));
        while !probes.is_empty() {
            outcomes.extend(probes.wait(PATIENCE, now));
        }
    }
    pools.lock().take(outcomes);
}

/// All endpoints of the pool, which is the one in force.
fn put_in_force(pools: &Pools, pool: &Arc<Pool>, config: &Config) -> Vec<Endpoint> {
    let mut pools = pools.lock();
    let endpoints = pools.endpoints(pool, config.timeouts);
    let addresses = endpoints.iter().map(|endpoint| endpoint.address.clone()).collect();
    pools.forget_others(&[(Arc::clone(pool), addresses)], [(pool.name.clone(), Arc::default())].into());
    endpoints
}

#[test]
fn endpoint_that_fails_is_down_and_comes_back_by_time() {
    let config = config("127.0.0.1:1, 127.0.0.1:2 weight=3", "off");
    let pools = Pools::new(1, registry());
    let endpoints = pools.lock().endpoints(&pool(&config), config.timeouts);
    assert_eq!(endpoints.iter().map(|it| it.weight).collect::<Vec<_>>(), [1, 3]);
    (0..FAILURES).for_each(|_| endpoints[0].state.failed());
    rounds(&pools, 1..2);
    assert!(!endpoints[0].state.is_up() && endpoints[1].state.is_up());
    rounds(&pools, 2..4);
    assert!(endpoints[0].state.is_up());
}

#[test]
fn endpoint_that_is_alone_is_tried_always() {
    let config = config("127.0.0.1:1", "off");
    let pools = Pools::new(1, registry());
    let endpoints = pools.lock().endpoints(&pool(&config), config.timeouts);
    (0..100).for_each(|_| endpoints[0].state.failed());
    rounds(&pools, 1..10);
    assert!(endpoints[0].state.is_up());
}

#[test]
fn endpoint_that_becomes_alone_is_not_on_trial() {
    let two = config("127.0.0.1:1, 127.0.0.1:2", "off");
    let pools = Pools::new(1, registry());
    let first = put_in_force(&pools, &pool(&two), &two).remove(0);
    (0..FAILURES).for_each(|_| first.state.failed());
    rounds(&pools, 1..4);
    assert!(first.state.is_up(), "for a trial");
    let one = config("127.0.0.1:1", "off");
    let alone = Arc::new(Pool { name: pool(&two).name.clone(), ..Pool::clone(&pool(&one)) });
    put_in_force(&pools, &alone, &one);
    first.state.failed();
    rounds(&pools, 4..6);
    assert!(first.state.is_up());
}

#[test]
fn endpoint_that_is_probed_is_down_until_it_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let config = config(&address.to_string(), "tcp");
    let pools = Pools::new(1, registry());
    let endpoints = put_in_force(&pools, &pool(&config), &config);
    rounds(&pools, 1..20);
    assert!(endpoints[0].state.is_up());
    drop(listener);
    rounds(&pools, 20..40);
    assert!(!endpoints[0].state.is_up());
    let _listener = TcpListener::bind(address).expect("the port is free again");
    rounds(&pools, 40..60);
    assert!(endpoints[0].state.is_up());
}

#[test]
fn probe_of_a_removed_endpoint_changes_nothing() {
    let config = config("127.0.0.1:1", "tcp");
    let pools = Pools::new(1, registry());
    let endpoint = &put_in_force(&pools, &pool(&config), &config)[0];
    endpoint.state.set_up(false, 0);
    let begin = pools.lock().origin;
    let round = |second, outcomes| pools.lock().round(begin + Duration::from_secs(second), outcomes);
    round(1, Vec::new());
    let serial = round(2, Vec::new()).jobs[0].serial;
    pools.lock().forget_others(&[], BTreeMap::new());
    let outcome = || vec![Outcome { serial, result: Some(Ok(())) }];
    assert!(round(3, outcome()).jobs.is_empty() && !endpoint.state.is_up());
    assert_eq!(pools.lock().under_way.len(), 0);
    // Down in `health` as well, it is forgotten when its pause is over.
    endpoint.state.set_up(true, 0);
    round(4, Vec::new());
    assert_eq!(pools.lock().endpoints.len(), 0);
    put_in_force(&pools, &pool(&config), &config);
    round(6, outcome());
    assert!(pools.lock().endpoints.values().all(|watched| watched.outcome.is_none()));
}

#[test]
fn endpoint_that_is_down_and_removed_is_forgotten() {
    let config = config("127.0.0.1:1, 127.0.0.1:2", "tcp");
    let pools = Pools::new(1, registry());
    let endpoints = put_in_force(&pools, &pool(&config), &config);
    (0..FAILURES).for_each(|_| endpoints[0].state.failed());
    rounds(&pools, 1..2);
    pools.lock().forget_others(&[], BTreeMap::new());
    assert_eq!(pools.lock().endpoints.len(), 1, "it may come back");
    rounds(&pools, 2..70);
    assert_eq!(pools.lock().endpoints.len(), 0);
}

#[test]
fn state_of_an_endpoint_outlasts_a_reload() {
    let config = config("127.0.0.1:1, 127.0.0.1:2", "off");
    let pools = Pools::new(1, registry());
    let get = || pools.lock().endpoints(&pool(&config), config.timeouts);
    let (first, again) = (get(), get());
    assert!(Arc::ptr_eq(&first[0].state, &again[0].state));
    let address = first[1].address.clone();
    pools.lock().forget_others(&[(pool(&config), vec![address])], BTreeMap::new());
    let later = get();
    assert!(!Arc::ptr_eq(&first[0].state, &later[0].state));
    assert!(Arc::ptr_eq(&first[1].state, &later[1].state));
}

/// Ten pools of sixty endpoints.
fn many() -> Pools {
    let (pools, mut checks) = (Pools::new(1, registry()), BTreeMap::new());
    let mut in_force = Vec::new();
    for pool_nth in 0..10 {
        let backends = (1..=60).map(|host| format!("127.0.{pool_nth}.{host}:1"));
        let config = config(&backends.collect::<Vec<_>>().join(","), "tcp");
        let named = Arc::new(Pool { name: pool_nth.to_string(), ..Pool::clone(&pool(&config)) });
        checks.insert(named.name.clone(), Arc::default());
        let endpoints = pools.lock().endpoints(&named, config.timeouts);
        in_force.push((named, endpoints.into_iter().map(|endpoint| endpoint.address).collect()));
    }
    pools.lock().forget_others(&in_force, checks);
    pools
}

#[test]
fn probes_that_hang_are_bounded_and_starve_nobody() {
    let pools = many();
    let begin = pools.lock().origin;
    let mut hanging: Vec<Vec<Job>> = Vec::new();
    for second in 1..12 {
        // Each lasts for two rounds.
        let ended = if hanging.len() < 2 { Vec::new() } else { hanging.remove(0) };
        let outcome = |job: Job| Outcome { serial: job.serial, result: Some(Err("late".to_owned())) };
        let outcomes = ended.into_iter().map(outcome).collect();
        hanging.push(pools.lock().round(begin + Duration::from_secs(second), outcomes).jobs);
        assert!(hanging.iter().map(Vec::len).sum::<usize>() <= PROBES_MAX);
    }
    let unprobed = pools.lock().endpoints.values().filter(|watched| watched.probed_in == 0).count();
    assert_eq!((pools.lock().endpoints.len(), unprobed), (600, 0));
}

#[test]
fn probes_go_on_while_a_new_name_is_resolved() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let probed = config(&address.to_string(), "tcp");
    let pools = Pools::new(1, registry());
    put_in_force(&pools, &pool(&probed), &probed);
    let ((release, held), (ask, asked)) = (channel::<()>(), channel());
    let held = Mutex::new(held);
    pools.lock().resolver = Resolver::with(Arc::new(move |name| {
        let _ = ask.send(());
        // Until the test has seen what it waits for.
        let _ = held.lock().unwrap_or_else(PoisonError::into_inner).recv();
        Ok(vec![([127, 0, 0, 1], name.port).into()])
    }));
    let named = config("new.example:80", "off");
    let waits = {
        let (pools, named) = (pools.clone(), named.clone());
        thread::spawn(move || pools.prepare_within(&named, PATIENCE))
    };
    asked.recv_timeout(PATIENCE).expect("it is asked for");
    rounds(&pools, 1..4);
    assert!(pools.lock().endpoints.values().all(|watched| watched.probed_in > 0), "they are probed");
    assert!(!waits.is_finished(), "the reload waits for the name");
    drop(release);
    waits.join().expect("it has waited");
    assert_eq!(pools.lock().endpoints(&pool(&named), named.timeouts).len(), 1);
}
