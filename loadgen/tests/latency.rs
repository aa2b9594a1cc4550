//! The long line as one starts it. A program of its own: its times are no times where other tests keep the
//! processors busy.

#![expect(clippy::unwrap_used, reason = "a test stops at what must not fail")]

use std::net::{Ipv4Addr, TcpListener};

use assert_cmd::Command;
use serde_json::Value;

mod ring;

/// What resumption saves (round trips, and shares of the time until the client is ready and until its first
/// byte is at the server): TLS 1.2 without and with TCP's round trip, then TLS 1.3.
const SAVED: [(f64, f64, f64); 4] = [(1.0, 0.50, 0.40), (1.0, 0.33, 0.29), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)];
/// Processing takes time, too, and a busy machine's takes long: in one of so many experiments it does not.
const ATTEMPTS: usize = 4;

fn figure(of: &Value, what: &str) -> f64 {
    of[what].as_f64().unwrap()
}

/// Whether measured times are near predicted ones, and so what they save.
fn is_near(report: &Value) -> bool {
    let near = |a: f64, b: f64, by: f64| (a - b).abs() < by;
    let rows = report["rows"].as_array().unwrap().iter().all(|row| {
        let (predicted, measured) = (&row["predicted"], &row["measured"]);
        ["ready_ms", "first_byte_ms"]
            .iter()
            .all(|what| figure(measured, what) < 1.25 * figure(predicted, what))
    });
    let savings = report["savings"].as_array().unwrap();
    rows && savings.iter().zip(SAVED).all(|(saving, (round_trips, ready, first_byte))| {
        let measured = &saving["measured"];
        near(figure(measured, "round_trips"), round_trips, 0.25)
            && near(figure(measured, "ready"), ready, 0.1)
            && near(figure(measured, "first_byte"), first_byte, 0.1)
    })
}

/// What holds on any machine.
fn check(report: &Value) {
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 8);
    for row in rows {
        let (predicted, measured) = (&row["predicted"], &row["measured"]);
        assert_eq!(predicted["messages"], measured["messages"], "{row}");
        for what in ["ready_ms", "first_byte_ms"] {
            // The clock's resolution, and that of the histogram.
            assert!(figure(measured, what) > figure(predicted, what) * 0.995, "{row}");
        }
    }
    let savings = report["savings"].as_array().unwrap();
    assert_eq!(savings.len(), SAVED.len());
    for (saving, (round_trips, ready, first_byte)) in savings.iter().zip(SAVED) {
        let predicted = &saving["predicted"];
        for (what, expected) in [("round_trips", round_trips), ("ready", ready), ("first_byte", first_byte)] {
            assert!((figure(predicted, what) - expected).abs() < 0.01, "{what}: {saving}");
        }
    }
    assert_eq!(report["problems"], serde_json::json!([]));
}

#[test]
fn message_count_and_resumption_gain_match_prediction() {
    if !ring::is_there() {
        return;
    }
    // Long enough that processing is a small part of it.
    let arguments = ["latency", "--one-way", "50ms", "--samples", "5", "--json"];
    let mut last = Value::Null;
    for _ in 0..ATTEMPTS {
        let output = Command::cargo_bin("loadgen").unwrap().args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        last = serde_json::from_slice(&output.stdout).unwrap();
        check(&last);
        if is_near(&last) {
            return;
        }
    }
    panic!("{ATTEMPTS} experiments, and none is near what was predicted: {last}");
}

#[test]
fn failed_connection_is_not_a_full_handshake() {
    if !ring::is_there() {
        return;
    }
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().to_string();
    let arguments = ["latency", "--target", &nobody, "--insecure", "--one-way", "1ms", "--json"];
    let output = Command::cargo_bin("loadgen").unwrap().args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{errors}");
    assert!(errors.contains("too many connections fail"), "{errors}");
}
