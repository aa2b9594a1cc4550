//! The demonstration as one starts it.

use assert_cmd::Command;
use serde_json::Value;

mod ring;

#[test]
fn demo_reports_json_and_leaves_no_files_behind() {
    if !ring::is_there() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let output = Command::cargo_bin("loadgen")
        .unwrap()
        .args(["demo", "--json", "--seconds", "2"])
        .env("TMPDIR", temporary.path())
        .output()
        .unwrap();
    let progress = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{progress}");
    assert_eq!(progress.lines().count(), 8, "one line a phase: {progress}");

    let report: Value = serde_json::from_slice(&output.stdout).expect("nothing but JSON on standard output");
    assert_eq!(report["problems"], serde_json::json!([]));
    let phases = report["phases"].as_array().unwrap();
    assert_eq!(phases.len(), 8);
    for phase in phases {
        let (handshakes, bulk) = (&phase["handshakes"], &phase["bulk"]);
        assert_ne!(handshakes.is_null(), bulk.is_null(), "{phase}");
        if handshakes.is_null() {
            assert!(bulk["bytes"].as_u64().unwrap() > 0, "{phase}");
        } else {
            assert_eq!(handshakes["verified"], 1.0, "{phase}");
        }
        for direction in ["tx", "rx"] {
            let paths = &phase["by_path"][direction];
            assert!(
                paths["kernel"].as_u64().unwrap() + paths["userspace"].as_u64().unwrap() > 0,
                "somebody carried the records: {phase}"
            );
        }
    }
    assert_eq!(temporary.path().read_dir().unwrap().count(), 0, "no file is left");
}

#[test]
fn nonsense_is_refused_with_what_is_allowed() {
    for arguments in [&["demo", "--seconds", "0"][..], &["demo", "--seconds", "51"], &["dance"], &[]] {
        let output = Command::cargo_bin("loadgen").unwrap().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
    }
}
