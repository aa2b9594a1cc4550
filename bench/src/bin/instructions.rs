//! `instructions`: what the engine's core needs for each scenario, and whether that is more than it was.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use offramp_bench::instructions::{Change, Counts, RISE_MAX_PERCENT, count};
use offramp_bench::scenario::Scenario;
use offramp_loadgen::machine;

/// Count the instructions of the engine's core, scenario by scenario, with valgrind's callgrind.
#[derive(Debug, Parser)]
struct Arguments {
    /// Fail if a count is more than 3 % above the one in this file.
    #[arg(long, value_name = "FILE", conflicts_with = "write")]
    check: Option<PathBuf>,
    /// Write the counts to this file.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Do the work that is counted: what runs under valgrind.
    #[arg(long, hide = true, requires = "units")]
    inside: Option<String>,
    /// How many units of it.
    #[arg(long, hide = true)]
    units: Option<u32>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match (&arguments.inside, arguments.units) {
        (Some(name), Some(units)) => inside(name, units).map(|()| true),
        _ => outside(&arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("instructions: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn inside(name: &str, units: u32) -> Result<()> {
    let scenario = Scenario::all().into_iter().find(|scenario| scenario.name() == name);
    scenario.with_context(|| format!("no scenario is called {name:?}"))?.run(units)
}

/// Whether nothing has risen.
fn outside(arguments: &Arguments) -> Result<bool> {
    ensure!(
        !cfg!(debug_assertions),
        "a debug build says nothing: cargo run --release -p offramp-bench --bin instructions"
    );
    let program = env::current_exe()?;
    let stored = arguments.check.as_deref().map(Counts::read).transpose()?;
    let mut instructions = BTreeMap::new();
    let mut good = true;
    println!("{:<14} {:>12} {:>12}", "scenario", "instructions", "stored");
    for scenario in Scenario::all() {
        let name = scenario.name();
        let now = count(&program, scenario)?;
        let verdict = stored.as_ref().map(|stored| verdict(stored, &name, now, &mut good));
        println!("{name:<14} {now:>12} {}", verdict.unwrap_or_default());
        instructions.insert(name, now);
    }
    if let Some(path) = &arguments.write {
        let counter = machine::says(Path::new("valgrind"), &["--version"]);
        Counts { compiler: machine::rustc(), counter, instructions }.write(path)?;
    }
    Ok(good)
}

fn verdict(stored: &Counts, name: &str, now: u64, good: &mut bool) -> String {
    let was = stored.instructions.get(name).map_or_else(|| "none".to_owned(), u64::to_string);
    let percent = |change: f64| format!("{:+.1} %", change * 100.0);
    let said = match stored.change(name, now) {
        Change::Within(change) => percent(change),
        Change::Fallen(change) => format!("{}: store it with --write", percent(change)),
        Change::Risen(change) => {
            *good = false;
            format!("{}: more than {RISE_MAX_PERCENT} % above what is stored", percent(change))
        }
        Change::New => {
            *good = false;
            "nothing is stored: --write".to_owned()
        }
    };
    format!("{was:>12} {said}")
}
