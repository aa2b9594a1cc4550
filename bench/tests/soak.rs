//! The soak as anybody runs it: ten minutes, and its verdict is good.

use std::process::Command;

const MINUTES: &str = "10";

#[test]
#[ignore = "takes ten minutes"]
fn soak_of_ten_minutes_is_good() {
    let output = Command::new(env!("CARGO_BIN_EXE_soak"))
        .args(["--minutes", MINUTES])
        .output()
        .expect("the soak can be started; offramp and loadgen are built beside it (cargo build --workspace)");
    let (said, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}");
    assert!(output.status.success() && said.contains("soak: GOOD"), "{said}{why}");
}
