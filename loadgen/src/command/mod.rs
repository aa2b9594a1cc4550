//! From the command line to plans, and from outcomes to reports.

mod find_max;
mod output;

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use offramp_files as files;
use rustls::pki_types::ServerName;

use crate::arguments::{Common, Direction, Handshake, Latency, MSRP_GAP, Message, Transfer, TrustArguments};
use crate::console;
use crate::demo::Terminator;
use crate::interrupt::Interrupt;
use crate::latency::Experiment;
use crate::plan::{Ending, Load, Pace, Plan, Request, Target, Until, Version, Work};
use crate::profiles::{self, ClientIdentity, ClientProfile};
use crate::report::table::time;
use crate::report::verdict::{Allowed, exit};
use crate::report::{Environment, FORMAT, Report, Run};
use crate::runner::{Clients, Outcome, Second};
use crate::schedule::{Rate, Spacing};
use crate::trust::Trust;

use find_max::Limit;
use output::{complain, finish, prepare, publish};

/// Connections at once in a closed loop, for each thread, unless told otherwise.
const CONNECTIONS_PER_THREAD: usize = 8;
/// Connections at once in an open loop unless told otherwise.
const OPEN_CONNECTIONS_MAX: usize = 4096;
/// Most bytes of a report that is compared: above those of a day with an interval each second.
const REPORT_BYTES_MAX: usize = 64 << 20;
/// The rate that a search begins with unless told otherwise.
const SEARCH_FROM: f64 = 100.0;

/// Runs `loadgen handshake`; says the exit code.
///
/// # Errors
/// The plan contradicts itself or cannot be carried out.
pub fn handshake(arguments: &Handshake) -> Result<u8> {
    let common = &arguments.common;
    let mut plan = plan(common, Work::Handshake(arguments.request.clone()))?;
    plan.resume = arguments.resume;
    plan.until = arguments.samples.map_or(plan.until, Until::Counted);
    if let Some(rate) = arguments.rate.filter(|_| !arguments.find_max) {
        plan.load = open(common, rate, arguments.spacing);
    }
    ensure!(
        !(common.rst && arguments.resume > 0.0 && arguments.request == Request::None)
            || common.tls == [Version::Tls12],
        "TLS 1.3 tickets come after the handshake, and --rst does not wait for them: add --request echo or \
         http, or leave --rst out"
    );
    let allowed = Allowed { failures: common.allow_failures, full: arguments.allow_full };
    let mut session = Session::new(common, plan)?;
    if let Some(p99) = arguments.p99.filter(|_| arguments.find_max) {
        let rate = arguments.rate.unwrap_or(Rate::steady(SEARCH_FROM));
        ensure!(
            rate.from == rate.to,
            "--find-max begins with one --rate and looks for another: no ramp A..B"
        );
        return find_max::search(&mut session, Limit { p99 }, rate.from, arguments.spacing, allowed);
    }
    let targets = std::iter::once(&common.target).chain(&arguments.then_target);
    session.run_all(targets, allowed)
}

/// Runs `loadgen transfer`; says the exit code.
///
/// # Errors
/// The plan cannot be carried out.
pub fn transfer(arguments: &Transfer) -> Result<u8> {
    let work = match arguments.direction {
        Direction::Up => Work::FromClient,
        Direction::Down => Work::ToClient,
        Direction::Both => Work::BothWays,
    };
    lasting(&arguments.common, work)
}

/// Runs `loadgen message`; says the exit code.
///
/// # Errors
/// The plan cannot be carried out.
pub fn message(arguments: &Message) -> Result<u8> {
    let pace = match (arguments.msrp, arguments.every) {
        (true, every) => Pace::Around(every.unwrap_or(MSRP_GAP)),
        (false, Some(every)) => Pace::Every(every),
        (false, None) => Pace::AtOnce,
    };
    ensure!(pace.gap() != Some(Duration::ZERO), "--every must be more than nothing");
    let (request, answer) = (arguments.request_size, arguments.answer_size);
    ensure!(
        request > 0 || answer > 0,
        "a message has a byte to check: --request-size or --answer-size must be more than 0"
    );
    let work = if arguments.msrp { Work::Msrp { pace } } else { Work::Message { request, answer, pace } };
    lasting(&arguments.common, work)
}

fn lasting(common: &Common, work: Work) -> Result<u8> {
    let plan = plan(common, work)?;
    let allowed = Allowed { failures: common.allow_failures, full: false };
    Session::new(common, plan)?.run_all(std::iter::once(&common.target), allowed)
}

/// Runs `loadgen latency`; says the exit code.
///
/// # Errors
/// The experiment cannot be made.
pub fn latency(arguments: &Latency) -> Result<u8> {
    ensure!(arguments.request != Request::None, "the first byte at the server needs a --request");
    ensure!(!arguments.one_way.is_zero(), "--one-way must be more than nothing");
    let inside = match arguments.target {
        Some(_) => None,
        None => Some(Terminator::start()?),
    };
    let (target, trust) = match (&inside, &arguments.target) {
        (None, Some(target)) => (target.clone(), trust(&arguments.trust)?),
        (Some(inside), _) => (inside.target(), Trust::Authorities(vec![inside.identity.certificate.clone()])),
        (None, None) => bail!("--target is missing"),
    };
    let sni: Vec<_> = arguments.sni.iter().cloned().collect();
    let experiment = Experiment {
        names: names(&sni, &target)?,
        target,
        trust,
        one_way: arguments.one_way,
        samples: arguments.samples,
        request: arguments.request.clone(),
        interrupt: Interrupt::by_signal()?,
    };
    let report = experiment.run(|row| console::note(format_args!("{row} …")))?;
    let text = match arguments.json {
        true => format!("{}\n", serde_json::to_string_pretty(&report)?),
        false => report.table(),
    };
    let printed = console::print(&text);
    if let Some(inside) = inside {
        inside.end()?;
    }
    complain(&report.warnings, &report.problems);
    let code = match (report.interrupted, report.failed, report.problems.as_slice()) {
        (true, ..) => exit::INTERRUPTED,
        (false, true, _) => exit::FAILED,
        (false, false, [_, ..]) => exit::NOT_AS_ASKED,
        (false, false, []) => exit::AS_ASKED,
    };
    finish(code, printed)
}

/// Runs `loadgen report`.
///
/// # Errors
/// A file is no report.
pub fn compare(a: &Path, b: &Path) -> Result<String> {
    let read = |path: &Path| {
        let name = path.display().to_string();
        let content = files::read(path, REPORT_BYTES_MAX).with_context(|| name.clone())?;
        let json = content.text().with_context(|| name.clone())?;
        crate::report::compare::read(&name, json).map(|report| (name, report))
    };
    let ((name_a, a), (name_b, b)) = (read(a)?, read(b)?);
    Ok(crate::report::compare::table((&name_a, &a), (&name_b, &b)))
}

/// Runs `loadgen backend`, until a failure ends it.
///
/// # Errors
/// The address is not to be had, or the host has no io_uring.
pub fn backend(listen: SocketAddr, threads: usize) -> Result<()> {
    let backend = crate::backend::Backend::listen(listen, threads)
        .with_context(|| format!("{listen}: the backend cannot listen there"))?;
    console::print(&format!("backend ready: listening on {}\n", backend.address()))?;
    backend.wait().context("the backend")
}

/// The trust that arguments ask for.
///
/// # Errors
/// They ask for none, or a file cannot be read.
pub fn trust(arguments: &TrustArguments) -> Result<Trust> {
    match (&arguments.ca, arguments.fingerprint.as_slice(), arguments.insecure) {
        (Some(path), ..) => Ok(Trust::Authorities(profiles::read_certificates(path)?)),
        (None, [_, ..], _) => Ok(Trust::Fingerprints(arguments.fingerprint.clone())),
        (None, [], true) => Ok(Trust::Anybody),
        (None, [], false) => bail!("say whom to trust: --ca FILE, --fingerprint HEX or --insecure"),
    }
}

fn plan(common: &Common, work: Work) -> Result<Plan> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let asked = common.connections.map(usize::try_from).transpose()?;
    let most = asked.unwrap_or(usize::MAX);
    let threads = common.threads.map_or(Ok(cores.min(most)), usize::try_from)?;
    let connections = asked.unwrap_or(threads * CONNECTIONS_PER_THREAD);
    ensure!(connections >= threads, "{threads} threads need at least as many --connections");
    ensure!(!common.duration.is_zero(), "--duration must be more than nothing");
    ensure!(!common.timeout.is_zero(), "--timeout must be more than nothing");
    Ok(Plan {
        work,
        load: Load::Closed { connections },
        resume: 0.0,
        ending: if common.rst { Ending::Reset } else { Ending::Orderly },
        sources: common.source.clone(),
        threads,
        pin: common.pin,
        warm_up: common.warm_up,
        until: Until::Elapsed(common.duration),
        patience: common.timeout,
        give_up_after: common.give_up,
        seed: common.seed,
    })
}

fn open(common: &Common, rate: Rate, spacing: Spacing) -> Load {
    let most = common.connections.and_then(|most| usize::try_from(most).ok());
    Load::Open { rate, spacing, connections_max: most.unwrap_or(OPEN_CONNECTIONS_MAX) }
}

fn profile(common: &Common) -> Result<ClientProfile> {
    let certificates = common.client_cert.len();
    ensure!(
        certificates == common.client_key.len(),
        "each --client-cert has its --client-key, in the same order"
    );
    let mut clients: Vec<_> = common
        .client_cert
        .iter()
        .zip(&common.client_key)
        .map(|(certificate, key)| ClientIdentity::read(certificate, key))
        .collect::<Result<_>>()?;
    for index in 0..common.client_certs {
        clients.push(ClientIdentity::generate(&format!("client-{index}.invalid"))?);
    }
    let suites: Result<Vec<_>> = common.suites.iter().map(|name| profiles::suite(name)).collect();
    let groups: Result<Vec<_>> = common.groups.iter().map(|name| profiles::group(name)).collect();
    let (suites, groups) = (suites?, groups?);
    Ok(ClientProfile {
        versions: common.tls.clone(),
        suites: if suites.is_empty() { profiles::default_suites() } else { suites },
        groups: if groups.is_empty() { profiles::default_groups() } else { groups },
        names: names(&common.sni, &common.target)?,
        trust: trust(&common.trust)?,
        clients,
    })
}

/// The names to ask for.
///
/// # Errors
/// One is none.
pub fn names(names: &[String], target: &Target) -> Result<Vec<ServerName<'static>>> {
    let own = [target.host.clone()];
    let names = if names.is_empty() { &own[..] } else { names };
    let parse =
        |name: &String| ServerName::try_from(name.clone()).with_context(|| format!("{name}: no server name"));
    names.iter().map(parse).collect()
}

/// An invocation with its clients, whose tickets outlive a run.
struct Session<'a> {
    common: &'a Common,
    plan: Plan,
    clients: Clients,
    report: Report,
    interrupt: Interrupt,
}

impl<'a> Session<'a> {
    fn new(common: &'a Common, plan: Plan) -> Result<Self> {
        let interrupt = Interrupt::by_signal()?;
        let clients = Clients::new(&plan, &profile(common)?)?.interrupted_by(interrupt.clone());
        prepare(&common.output)?;
        let report = Report {
            format: FORMAT,
            command: command_line(),
            environment: Environment::this(),
            runs: Vec::new(),
            search: None,
            warnings: Vec::new(),
            problems: Vec::new(),
        };
        Ok(Self { common, plan, clients, report, interrupt })
    }

    fn run(&mut self, target: &Target) -> Result<(Run, Outcome)> {
        let quiet = self.common.output.quiet;
        let threads = self.plan.threads;
        let progress = |second: Second<'_>| {
            if !quiet {
                console::note(line(&second, threads));
            }
        };
        let outcome = self.clients.run(&self.plan, target, progress)?;
        let name = format!("{} ({})", target.host, target.address);
        Ok((Run::new(name, &self.plan, &self.common.tls, &outcome), outcome))
    }

    fn run_all<'t>(mut self, targets: impl Iterator<Item = &'t Target>, allowed: Allowed) -> Result<u8> {
        for target in targets {
            let (run, _) = self.run(target)?;
            self.report.runs.push(run);
            if self.interrupt.is_set() {
                break;
            }
        }
        let code = self.report.judge(allowed);
        publish(&self.report, &self.common.output, code)
    }
}

/// A second of progress.
fn line(second: &Second<'_>, threads: usize) -> String {
    let interval = second.interval;
    let latency = |quantile| match interval.latency.len() {
        0 => "–".to_owned(),
        _ => time(interval.latency.value_at_quantile(quantile)),
    };
    let bytes = interval.up + interval.down;
    let data = match (interval.messages, bytes) {
        (0, 0) => String::new(),
        (0, bytes) => format!("  {:.1} MB", bytes as f64 / 1e6),
        (messages, _) => format!("  {messages} messages"),
    };
    let not_resumed = match interval.not_resumed {
        0 => String::new(),
        count => format!("  NOT RESUMED {count}"),
    };
    format!(
        "{:>4} s{}  started {}  done {}  failed {}{not_resumed}  open {}  {}/s{data}  \
         p50 {}  p99 {}  own CPU {:.0} %",
        second.index + 1,
        if second.warm_up { " warm-up" } else { "" },
        interval.started,
        interval.done,
        interval.failed,
        interval.open,
        interval.handshakes,
        latency(0.5),
        latency(0.99),
        interval.cpu_ns as f64 / 1e7 / threads as f64,
    )
}

/// As it was typed, the program's own path shortened to its name.
fn command_line() -> String {
    let words = std::env::args().skip(1);
    std::iter::once("loadgen".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}
