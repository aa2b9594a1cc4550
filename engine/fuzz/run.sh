#!/usr/bin/env bash
# Runs a fuzz target with coverage for guidance, on the stable toolchain:  engine/fuzz/run.sh world -max_total_time=60
# What stands behind the target goes to libFuzzer; without anything it runs for a minute. What it finds is kept in engine/fuzz/target/found.
# It begins with the inputs in corpus/, which `cargo test --test fuzz` goes through:  engine/fuzz/run.sh world keep
# stores there, after a run, the short ones of as few as reach all that the inputs of this run and of earlier ones reached.
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
inputs="target/corpus/$target"
kept="corpus/$target.hex"
mkdir -p "$inputs" target/found corpus
# With --target the build scripts and macros are spared the instrumentation.
RUSTFLAGS="${coverage[*]}" cargo build --locked --release --target "$host" --bin "$target"
program="target/$host/release/$target"

if [ "$1" = keep ]; then
    rm -rf target/fewest
    mkdir target/fewest
    "$program" -set_cover_merge=1 target/fewest "$inputs"
    find target/fewest -type f -size -129c | while IFS= read -r input; do
        od -An -v -tx1 "$input" | tr -d ' \n'
        echo
    done | sort -u >"$kept"
    echo "$(wc -l <"$kept") inputs in engine/fuzz/$kept"
    exit
fi

[ ! -f "$kept" ] || while IFS= read -r input; do
    # A byte is an escape, and printf(1) writes it.
    # shellcheck disable=SC2001,SC2059
    printf "$(sed 's/../\\x&/g' <<<"$input")" >"$inputs/kept-$(cksum <<<"$input" | tr ' ' '-')"
done <"$kept"
exec "$program" -artifact_prefix=target/found/ "$@" "$inputs"
