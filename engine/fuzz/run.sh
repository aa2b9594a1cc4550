#!/usr/bin/env bash
# Runs a fuzz target with coverage for guidance, on the stable toolchain:  engine/fuzz/run.sh world -max_total_time=60
# What stands behind the target goes to libFuzzer; without anything it runs for a minute. What it finds is kept in engine/fuzz/target/found.
set -euo pipefail
cd "$(dirname "$0")"
target=${1:?"which target? $(basename -a -s .rs src/bin/*.rs | tr '\n' ' ')"}
shift
[ $# -gt 0 ] || set -- -max_total_time=60
coverage=(
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Ccodegen-units=1
    -Cdebug-assertions=on
)
host=$(rustc -vV | sed -n 's/^host: //p')
mkdir -p "target/corpus/$target" target/found
# With --target the build scripts and macros are spared the instrumentation.
RUSTFLAGS="${coverage[*]}" cargo build --locked --release --target "$host" --bin "$target"
exec "target/$host/release/$target" -artifact_prefix=target/found/ "$@" "target/corpus/$target"
