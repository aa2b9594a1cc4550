//! Where reports go: files, each there whole or not at all, and standard output.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::{Builder, NamedTempFile};

use crate::arguments::Output;
use crate::console;
use crate::report::Report;
use crate::report::verdict::exit;

/// Whether a report can be written where it was asked for, as a run may take long and what it found would be
/// lost. What an earlier run left there goes: a run that does not end well must not pass for that one.
pub(super) fn prepare(output: &Output) -> Result<()> {
    let json = output.json.iter().filter(|path| path.as_os_str() != "-");
    for path in json.chain(&output.csv).chain(&output.html) {
        prepare_file(path).with_context(|| format!("{}: cannot be written", path.display()))?;
    }
    Ok(())
}

fn prepare_file(path: &Path) -> Result<()> {
    match destination(path)? {
        Destination::Special => {
            OpenOptions::new().write(true).open(path)?;
        }
        Destination::File(file) => {
            drop(beside(&file)?);
            match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Writes a report where it was asked for, what is wrong with it to standard error, and says the exit code:
/// `code`, unless that says that all is well and standard output does not take its part.
pub(super) fn publish(report: &Report, output: &Output, code: u8) -> Result<u8> {
    let (mut text, mut files) = (String::new(), Vec::new());
    match &output.json {
        Some(path) if path.as_os_str() == "-" => text = format!("{}\n", report.json()?),
        path => {
            text.push_str(&report.table());
            files.extend(path.as_ref().map(|path| report.json().map(|json| (path, json))).transpose()?);
        }
    }
    files.extend(output.csv.as_ref().map(|path| (path, report.csv())));
    files.extend(output.html.as_ref().map(|path| report.html().map(|html| (path, html))).transpose()?);
    for (path, content) in files {
        write(path, &content).with_context(|| format!("{}: cannot be written", path.display()))?;
    }
    let printed = console::print(&text);
    complain(&report.warnings, &report.problems);
    finish(code, printed)
}

/// The exit code of a command that found `code`.
pub(super) fn finish(code: u8, printed: Result<(), console::StdoutLost>) -> Result<u8> {
    if code == exit::AS_ASKED {
        printed?;
    }
    Ok(code)
}

pub(super) fn complain(warnings: &[String], problems: &[String]) {
    for warning in warnings {
        console::note(format_args!("loadgen: warning: {warning}"));
    }
    for problem in problems {
        console::note(format_args!("loadgen: {problem}"));
    }
}

enum Destination {
    /// A pipe, a terminal, /dev/null: it is written to as it is, and not replaced.
    Special,
    /// Behind symbolic links, if it is there.
    File(PathBuf),
}

fn destination(path: &Path) -> Result<Destination> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Destination::File(path.to_owned())),
        Err(error) => Err(error.into()),
        Ok(there) if there.is_file() => Ok(Destination::File(fs::canonicalize(path)?)),
        Ok(_) => Ok(Destination::Special),
    }
}

fn write(path: &Path, content: &str) -> Result<()> {
    match destination(path)? {
        Destination::Special => OpenOptions::new().write(true).open(path)?.write_all(content.as_bytes())?,
        Destination::File(file) => {
            let mut whole = beside(&file)?;
            whole.write_all(content.as_bytes())?;
            whole.as_file().sync_all()?;
            whole.persist(&file)?;
        }
    }
    Ok(())
}

/// In the directory of `file`, so that it can take its place; gone unless it does.
fn beside(file: &Path) -> Result<NamedTempFile> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // As for any file that is made new: the umask takes away from it.
    let mut builder = Builder::new();
    builder.prefix(".loadgen-").permissions(Permissions::from_mode(0o666));
    Ok(builder.tempfile_in(directory)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_report_goes_and_a_new_one_is_there_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.json");
        fs::write(&path, "of an earlier run").unwrap();
        prepare_file(&path).unwrap();
        assert_eq!(directory.path().read_dir().unwrap().count(), 0, "nothing that passes for this run's");
        write(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(directory.path().read_dir().unwrap().count(), 1, "and nothing beside it");
        let link = directory.path().join("latest.json");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        write(&link, "newer").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "newer");
        assert!(link.is_symlink(), "a link stays one");
    }

    #[test]
    fn what_is_no_file_is_written_to_and_stays() {
        prepare_file(Path::new("/dev/null")).unwrap();
        write(Path::new("/dev/null"), "x").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().len() == 0 && Path::new("/dev/null").exists());
        assert!(write(Path::new("/dev/full"), "x").is_err());
        assert!(prepare_file(Path::new("/nowhere/run.json")).is_err());
        assert!(prepare_file(Path::new("/")).is_err(), "a directory");
    }
}
