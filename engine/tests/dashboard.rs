//! What Prometheus makes of the metrics of a real run: the exposition is well formed, every query of the
//! dashboard has data, every alerting rule can be evaluated.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::{Identity, NAME};
use offramp_testing::metrics::ask;
use offramp_testing::peer::{BOTH, Peer, Version, end_of_dial, plain};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tls_server;
use offramp_testing::tools::{eventually, have, patiently, pause, scratch, text};
use rustls::CipherSuite;
use serde_json::Value;

/// Queries that have no data on every host, by a word in them, and why.
const MAY_BE_EMPTY: [(&str, &str); 1] =
    [("offramp_host_tls", "a kernel without TLS has no /proc/net/tls_stat")];

fn operate(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operate").join(name)
}

fn unused() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("it is bound")
}

/// Two listeners: one of a pool with health checks and an endpoint that is down, one with TLS on both legs;
/// and clients of each, until it is dropped.
struct Run {
    server: TestServer,
    stop: Arc<AtomicBool>,
    clients: Option<JoinHandle<()>>,
    _backend: Backend,
    _files: tempfile::TempDir,
}

impl Run {
    fn start() -> Self {
        let (backend, files) = (Backend::start(BackendBehavior::Echo), scratch());
        let (certificate, key) = Identity::ecdsa().write(files.path());
        let (dead, second) = (unused(), unused());
        let secure = tls_server::echo(Version::Tls13, CipherSuite::TLS13_AES_128_GCM_SHA256, usize::MAX);
        let config = format!(
            "[[identity]]\ncertificate = {certificate:?}\nkey = {key:?}\n\
             [[pool]]\nname = \"app\"\nbackend = \"{}, {dead}\"\nhealth_check = \"tcp\"\n\
             [[pool]]\nname = \"secure\"\nbackend = \"{secure}\"\n\
             [[listener]]\nlisten = \"127.0.0.1:0\"\nbackend = \"pool:app\"\n\
             [[listener]]\nlisten = \"{second}\"\nbackend = \"pool:secure\"\nmode = \"reencrypt\"\n\
             server_name = \"{NAME}\"\nserver_ca = {certificate:?}\n",
            backend.addr,
        );
        let file = files.path().join("offramp.toml");
        fs::write(&file, config).expect("it is ours");
        let server = Setup::from_file(&file).flags("--workers 2").start();
        let (stop, addresses) = (Arc::new(AtomicBool::new(false)), [server.addr, second]);
        let is_over = Arc::clone(&stop);
        let clients = thread::spawn(move || {
            let configs = BOTH.map(plain);
            while !is_over.load(Ordering::Relaxed) {
                for (config, address) in configs.iter().flat_map(|it| addresses.map(|address| (it, address)))
                {
                    let mut peer = Peer::open(address, config);
                    peer.ping(b"hello");
                    peer.close_notify();
                    peer.rest();
                }
                end_of_dial(addresses[0], b"GET / HTTP/1.0\r\n\r\n");
                // A hello that cannot be parsed gets an alert.
                end_of_dial(addresses[0], &[22, 3, 1, 0, 4, 1, 0, 0, 0]);
                pause();
            }
        });
        Self { server, stop, clients: Some(clients), _backend: backend, _files: files }
    }

    fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.take().map_or(Ok(()), JoinHandle::join).expect("the clients were served");
        self.server.stop();
    }
}

/// Prometheus on a port of its own, with the rules of the documentation.
struct Prometheus {
    process: Child,
    address: SocketAddr,
    _files: tempfile::TempDir,
}

impl Prometheus {
    fn start(target: SocketAddr) -> Self {
        let files = scratch();
        let path = |name: &str| files.path().join(name);
        let config = format!(
            "global: {{scrape_interval: 200ms, evaluation_interval: 500ms}}\nrule_files: [{:?}]\n\
             scrape_configs: [{{job_name: offramp, static_configs: [{{targets: ['{target}']}}]}}]\n",
            operate("offramp-alerts.yml"),
        );
        fs::write(path("prometheus.yml"), config).expect("it is ours");
        let log = fs::File::create(path("log")).expect("it is ours");
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", path("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", path("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .expect("it can be started");
        let address = patiently(|| {
            let log = fs::read_to_string(path("log")).ok()?;
            let (_, rest) = log.split_once("msg=\"Listening on\" address=")?;
            rest.lines().next()?.trim().parse().ok()
        });
        let address = address.expect("it listens");
        let ready = || ask(address, "GET /-/ready HTTP/1.0\r\nHost: localhost");
        eventually("it is ready", || ready().is_ok_and(|answer| answer.contains(" 200 OK\r\n")));
        Self { process, address, _files: files }
    }

    /// What its API answers, if that is a success.
    fn get(&self, path: &str) -> Result<Value, String> {
        let answer = ask(self.address, &format!("GET {path} HTTP/1.0\r\nHost: localhost"));
        let answer = answer.map_err(|error| error.to_string())?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(|| answer.clone())?;
        let body: Value = serde_json::from_str(body).map_err(|error| format!("{error}: {body}"))?;
        if body["status"] == "success" { Ok(body["data"].clone()) } else { Err(body.to_string()) }
    }

    /// Whether an expression has a value that is a number.
    fn has_data(&self, expression: &str) -> Result<bool, String> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let data = self.get(&format!("/api/v1/query?query={encoded}"))?;
        let is_number = |series: &Value| series["value"][1].as_str().is_some_and(|it| it != "NaN");
        Ok(data["result"].as_array().is_some_and(|series| series.iter().any(is_number)))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn dashboard() -> Value {
    let text = fs::read_to_string(operate("grafana-dashboard.json")).expect("it can be read");
    serde_json::from_str(&text).expect("it is JSON")
}

/// Title of the panel, and expression.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().expect("it has panels");
    let of = |panel: &Value| {
        let title = panel["title"].as_str().expect("it has a title").to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        let expression = |target: Value| target["expr"].as_str().expect("it has a query").to_owned();
        targets.into_iter().map(|target| (title.clone(), expression(target))).collect::<Vec<_>>()
    };
    panels.iter().flat_map(of).collect()
}

/// As Grafana does, with every variable at "All".
fn substituted(expression: &str) -> String {
    let mut text = expression.replace("$__rate_interval", "10s");
    for variable in ["$job", "$instance", "$listener", "$pool"] {
        text = text.replace(variable, ".*");
    }
    text
}

#[test]
fn dashboard_queries_have_data_in_prometheus() {
    if !have("prometheus") {
        return;
    }
    let run = Run::start();
    let prometheus = Prometheus::start(run.server.admin());
    let queries = queries(&dashboard());
    assert!(queries.len() > 40, "{}", queries.len());
    for (title, expression) in &queries {
        let expression = substituted(expression);
        assert!(!expression.contains('$'), "{title}: an unknown variable in {expression}");
        if MAY_BE_EMPTY.iter().any(|(word, _)| expression.contains(word)) {
            prometheus.has_data(&expression).unwrap_or_else(|error| panic!("{title}: {error}"));
            continue;
        }
        eventually(&format!("{title}: {expression} has data"), || {
            prometheus.has_data(&expression).unwrap_or_else(|error| panic!("{title}: {error}"))
        });
    }
    let targets = prometheus.get("/api/v1/targets").expect("it answers");
    assert_eq!(targets["activeTargets"][0]["lastError"], "", "{targets}");
    eventually("every rule was evaluated", || {
        let rules = prometheus.get("/api/v1/rules").expect("it answers");
        let rules = rules["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        assert!(rules.iter().all(|rule| rule["health"] != "err"), "{rules:?}");
        rules.len() > 10 && rules.iter().all(|rule| rule["health"] == "ok")
    });
    // The endpoint that does not listen is what one of them is for.
    eventually("it is seen to be down", || {
        prometheus.has_data("ALERTS{alertname=\"OfframpEndpointDown\"}") == Ok(true)
    });
    drop(prometheus);
    run.stop();
}

#[test]
fn dashboard_panels_have_places_of_their_own() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("it has panels");
    let number = |value: &Value| value.as_u64().expect("a number");
    let mut taken = std::collections::BTreeSet::new();
    let mut ids = std::collections::BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(number(&panel["id"])), "{panel}");
        let place = &panel["gridPos"];
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| number(&place[key]));
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(cell.0 < 24 && taken.insert(cell), "{panel}");
        }
    }
}

/// Gives promtool a text, and returns what it says if it finds fault with it.
fn promtool(words: &[&str], input: &str) -> Result<(), String> {
    let mut command = Command::new("promtool");
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().expect("it can be started");
    let mut stdin = process.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = process.wait_with_output().expect("it ends");
    if output.status.success() { Ok(()) } else { Err(text(&output)) }
}

#[test]
fn metrics_of_a_run_pass_the_lint_of_promtool() {
    if !have("promtool") {
        return;
    }
    let run = Run::start();
    let metrics = patiently(|| {
        let metrics = run.server.metrics();
        let has_all = metrics.raw.contains("offramp_probes_total{") && metrics.faults().len() > 1;
        (has_all && metrics.sum("offramp_handshakes_total", &[("kind", "resumed")]) > 0).then_some(metrics)
    });
    let metrics = metrics.expect("all has happened");
    let (_, exposition) = metrics.raw.split_once("\r\n\r\n").expect("a header and a body");
    // promtool reads the older format alone, in which the name of a counter has its suffix everywhere.
    let counters: Vec<&str> = exposition
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let classic = |line: &str| {
        let head = line.strip_prefix("# TYPE ").or_else(|| line.strip_prefix("# HELP "));
        match head.and_then(|rest| rest.split_once(' ')) {
            Some((name, rest)) if counters.contains(&name) => format!("{}{name}_total {rest}\n", &line[..7]),
            _ => format!("{line}\n"),
        }
    };
    let text: String = exposition.lines().filter(|line| *line != "# EOF").map(classic).collect();
    assert_eq!(promtool(&["check", "metrics"], &text), Ok(()), "{text}");
    run.stop();
}

#[test]
fn alerting_rules_pass_the_check_of_promtool() {
    if have("promtool") {
        let file = operate("offramp-alerts.yml");
        let file = file.to_str().expect("UTF-8");
        assert_eq!(promtool(&["check", "rules", "--lint-fatal", file], ""), Ok(()));
    }
}
