//! The shape of the JSON: whoever reads reports relies on it. When it changes on purpose, `tests/schema.txt`
//! changes with it, and if a field goes or means something else, so does `report::FORMAT`.

use std::collections::BTreeSet;
use std::time::Duration;

use offramp_loadgen::backend::Backend;
use offramp_loadgen::identity::{Identity, SERVER_NAME};
use offramp_loadgen::latency::{Kind, LatencyReport, Row, Saved, Saving};
use offramp_loadgen::plan::{Ending, Load, Pace, Pin, Plan, Target, Until, Version, Work};
use offramp_loadgen::profiles::ClientProfile;
use offramp_loadgen::report::{Environment, FORMAT, Report, Run, SearchStep};
use offramp_loadgen::runner::{Clients, Outcome};
use offramp_loadgen::schedule::{Rate, Spacing};
use serde_json::Value;

mod engine;
mod ring;

/// Objects whose keys are data.
const MAPS: [&str; 4] = ["latency_us", "failures", "suites", "http_statuses"];

/// Every path of a value with the type that is found there.
fn paths(value: &Value, path: &str, out: &mut BTreeSet<String>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(items) => {
            for item in items {
                paths(item, &format!("{path}[]"), out);
            }
            "array"
        }
        Value::Object(fields) => {
            let is_map = MAPS.iter().any(|map| path.ends_with(map));
            for (name, field) in fields {
                let name = if is_map { "*" } else { name };
                paths(field, &format!("{path}.{name}"), out);
            }
            "object"
        }
    };
    out.insert(format!("{path}: {kind}"));
}

/// What `loadgen latency` prints.
fn long_line() -> LatencyReport {
    let kind = Kind { version: Version::Tls12, tcp: true, resumed: true };
    let predicted = kind.predicted(Duration::from_millis(50));
    let saved = Saved { round_trips: 1.0, ready: 0.5, first_byte: 0.4 };
    LatencyReport {
        began: "2026-01-01T00:00:00Z".to_owned(),
        environment: Environment::this(),
        target: "a target".to_owned(),
        one_way_ms: 50.0,
        rows: vec![Row { kind, predicted, measured: predicted, samples: 1 }],
        savings: vec![Saving { version: kind.version, tcp: kind.tcp, predicted: saved, measured: saved }],
        warnings: vec!["x".to_owned()],
        problems: vec!["x".to_owned()],
        failed: true,
        interrupted: false,
    }
}

#[test]
fn the_shape_of_the_json_is_the_one_on_file() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    let mut plan = Plan {
        work: Work::Message { request: 1, answer: 1, pace: Pace::AtOnce },
        // Counting begins when its connection is active, however slow the machine.
        load: Load::Closed { connections: 1 },
        resume: 0.0,
        ending: Ending::Orderly,
        sources: Vec::new(),
        threads: 1,
        pin: Pin::Off,
        warm_up: Duration::ZERO,
        until: Until::Elapsed(Duration::from_millis(300)),
        patience: Duration::from_secs(5),
        give_up_after: 1,
        seed: 1,
    };
    let profile = ClientProfile::equal(Version::Tls13, SERVER_NAME, &identity.certificate).unwrap();
    let run = |plan: &Plan, address| {
        let target = Target { host: SERVER_NAME.to_owned(), address };
        let outcome = Clients::new(plan, &profile).unwrap().run(plan, &target, |_| {}).unwrap();
        (plan.clone(), outcome)
    };
    let told =
        |(plan, outcome): &(Plan, Outcome)| Run::new("a target".to_owned(), plan, &[Version::Tls13], outcome);
    let mut good = run(&plan, engine.local_addr().unwrap());
    plan.until = Until::Elapsed(Duration::from_millis(1));
    let broken = told(&run(&plan, ([127, 0, 0, 1], 1).into()));
    good.0.load = Load::Open { rate: Rate::steady(50.0), spacing: Spacing::Even, connections_max: 50 };
    let mut good = told(&good);
    good.http_statuses.insert(200, 1);
    let step = SearchStep { rate: 1.0, achieved: 1.0, p99_us: 1, refused: Some("x".to_owned()) };
    let report = Report {
        format: FORMAT,
        command: "loadgen".to_owned(),
        environment: Environment::this(),
        runs: vec![good, broken],
        search: Some(vec![step.clone(), SearchStep { refused: None, ..step }]),
        warnings: vec!["x".to_owned()],
        problems: vec!["x".to_owned()],
    };
    let json = report.json().unwrap();
    let mut found = BTreeSet::new();
    paths(&serde_json::from_str(&json).unwrap(), "", &mut found);
    paths(&serde_json::to_value(long_line()).unwrap(), "latency", &mut found);
    let on_file: BTreeSet<String> = include_str!("schema.txt").lines().map(str::to_owned).collect();
    let fresh: Vec<_> = found.difference(&on_file).collect();
    let gone: Vec<_> = on_file.difference(&found).collect();
    assert!(fresh.is_empty() && gone.is_empty(), "not on file: {fresh:#?}\ngone: {gone:#?}");
    let read: Report = serde_json::from_str(&json).unwrap();
    assert!(read.table() == report.table() && read.csv() == report.csv(), "what was written is read back");
    let locked = include_str!("../../Cargo.lock");
    let package = format!("name = \"rustls\"\nversion = \"{}\"", report.environment.rustls);
    assert!(locked.contains(&package), "the report names the rustls that was built");
}
