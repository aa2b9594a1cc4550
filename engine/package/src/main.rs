//! Writes the man pages and the shell completions of `offramp`, `offramp-ticket-key-agent` and `loadgen`:
//!
//! ```console
//! $ cargo run -p offramp-package -- DIR
//! ```
//!
//! makes `DIR/man/*.1`, `DIR/man/offramp.toml.5` and `DIR/completions/{bash,zsh,fish}/…`. All are made of the
//! tables that make `--help` (clap's) and the configuration (`ConfigOption`, with the explanations of
//! `offramp.example.toml`), so that they cannot differ from what the programs accept.
#![forbid(unsafe_code)]

mod completions;
mod configuration;
mod example;
mod page;
mod pages;
mod programs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("offramp-package: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [directory] = arguments.as_slice() else {
        bail!("name the directory to write to: cargo run -p offramp-package -- DIR");
    };
    let directory = PathBuf::from(directory);
    for (name, text) in pages::all()? {
        write(&directory.join("man").join(name), text.as_bytes())?;
    }
    for (name, text) in completions::all() {
        write(&directory.join("completions").join(name), &text)?;
    }
    Ok(())
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(|| format!("{}: cannot be made", parent.display()))?;
    fs::write(path, content).with_context(|| format!("{}: cannot be written", path.display()))
}
