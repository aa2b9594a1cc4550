//! What the package has: by lintian's rules, and by cargo's own list of crates.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::machine::target;
use crate::{package, run};

#[test]
#[ignore = "needs engine/package/build.sh before"]
fn lintian_finds_no_error_and_no_warning() {
    let said = run(Command::new("lintian").args(["--no-cfg", "--fail-on", "error"]).arg(package()));
    let faults: Vec<_> =
        said.lines().filter(|line| line.starts_with("E:") || line.starts_with("W:")).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
#[ignore = "needs engine/package/build.sh before"]
fn sbom_names_every_crate_of_a_program() {
    for (package, program) in [
        ("offramp", "offramp"),
        ("offramp-ticket-key-agent", "offramp-ticket-key-agent"),
        ("offramp-loadgen", "loadgen"),
    ] {
        let path = target().join("debian").join(format!("{program}.cdx.json"));
        let text = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}: run engine/package/build.sh", path.display()));
        let sbom: serde_json::Value = serde_json::from_str(&text).unwrap();
        let named: BTreeSet<String> = sbom["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|component| {
                let part = |key: &str| component[key].as_str().unwrap().to_owned();
                assert!(component["licenses"].is_array(), "{} has no licence", part("name"));
                format!("{} {}", part("name"), part("version"))
            })
            .collect();
        let missing: Vec<_> = crates(package).into_iter().filter(|it| !named.contains(it)).collect();
        assert!(missing.is_empty(), "{program}: {missing:?}");
    }
}

/// Name and version of what a package is linked with, by cargo, without the package.
fn crates(package: &str) -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut command = Command::new(env!("CARGO"));
    command.args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    let output = command.args(["--package", package]).current_dir(root).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty());
    let found: BTreeSet<String> = lines
        .map(|line| {
            let (name, rest) = line.split_once(" v").unwrap();
            format!("{name} {}", rest.split(' ').next().unwrap())
        })
        .filter(|it| it.split(' ').next() != Some(package))
        .collect();
    assert!(found.len() > 20, "{found:?}");
    found
}
