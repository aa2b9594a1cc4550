//! A program with a C library that is not this machine's.
//!
//! User-Mode Linux of a newer Debian wants a newer C library, and it must be started by the kernel itself:
//! begun by its loader, as `ld.so program`, it would find the end of its data where the loader's is, and it
//! lays out the guest's memory from there. So a copy of it names a loader in its working directory.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

/// The loader that every program names (System V ABI, AMD64 supplement, §5.2.1), and one in the working
/// directory.
const NAMED: &[u8] = b"/lib64/ld-linux-x86-64.so.2\0";
const NEAR: &[u8] = b"./ld-linux-x86-64.so.2\0\0\0\0\0\0";

/// A command that starts a copy of `program`, made in `directory`, in that directory and with the libraries
/// beside `loader`.
pub(crate) fn command(program: &Path, loader: &Path, directory: &Path) -> Result<Command, String> {
    let failed = |at: &Path| format!("{}: ", at.display());
    let mut bytes = fs::read(program).map_err(|error| failed(program) + &error.to_string())?;
    rename_loader(&mut bytes).map_err(|why| failed(program) + &why)?;
    let copy = directory.join(program.file_name().unwrap_or_default());
    let made = fs::write(&copy, bytes)
        .and_then(|()| fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)))
        .and_then(|()| symlink(loader, directory.join(loader.file_name().unwrap_or_default())));
    made.map_err(|error| failed(directory) + &error.to_string())?;
    let mut command = Command::new(copy);
    command.current_dir(directory).env("LD_LIBRARY_PATH", loader.parent().unwrap_or(loader));
    Ok(command)
}

fn rename_loader(program: &mut [u8]) -> Result<(), String> {
    let places = program.windows(NAMED.len()).enumerate().filter(|(_, bytes)| *bytes == NAMED);
    let places: Vec<usize> = places.map(|(at, _)| at).collect();
    let [at] = places[..] else { return Err(format!("names its loader {} times, not once", places.len())) };
    program[at..at + NEAR.len()].copy_from_slice(NEAR);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_runs_with_the_loader_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        // This machine's own: that it is found where it was put is seen by taking it away.
        let loader = Path::new("/lib64/ld-linux-x86-64.so.2");
        let output = command(Path::new("/bin/echo"), loader, directory.path()).unwrap().arg("here").output();
        assert_eq!(output.unwrap().stdout, b"here\n");
        fs::remove_file(directory.path().join("ld-linux-x86-64.so.2")).unwrap();
        assert!(Command::new(directory.path().join("echo")).current_dir(directory.path()).output().is_err());
    }

    #[test]
    fn program_without_exactly_one_loader_is_rejected() {
        assert!(rename_loader(&mut b"static".to_vec()).is_err_and(|why| why.contains("0 times")));
        assert!(rename_loader(&mut NAMED.repeat(2)).is_err_and(|why| why.contains("2 times")));
    }
}
