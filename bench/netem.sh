#!/usr/bin/env bash
# Full against abbreviated handshakes over a link with a delay of 50 ms one way, made by the kernel (netem): the
# experiment of `loadgen latency` without its relay. Two network namespaces and a veth; as root, after
# `cargo build --release`. Prints a Markdown table: medians in ms, predicted beside measured.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=${OFFRAMP_BIN:-$top/target/release}
dir=$(mktemp -d) started=()
tidy() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    ip netns delete netem-near 2>/dev/null || true
    ip netns delete netem-far 2>/dev/null || true
    rm -rf "$dir"
}
trap tidy EXIT
ip netns add netem-near
ip netns add netem-far
ip link add netem-vn netns netem-near type veth peer name netem-vf netns netem-far
far() { ip netns exec netem-far "$@"; }
near() { ip netns exec netem-near "$@"; }
near ip addr add 192.0.2.1/24 dev netem-vn
far ip addr add 192.0.2.2/24 dev netem-vf
near ip link set netem-vn up
far ip link set netem-vf up
far ip link set lo up
for side in "near netem-vn" "far netem-vf"; do
    if ! ${side% *} tc qdisc add dev "${side#* }" root netem delay 50ms 2>/dev/null; then
        echo "SKIP: this kernel has no netem (User-Mode Linux from Debian has)" >&2
        exit 0
    fi
done
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=netem.test \
    -keyout "$dir/key.pem" -out "$dir/cert.pem" 2>/dev/null
far "$bin/loadgen" backend --listen 127.0.0.1:8080 >"$dir/backend.log" 2>&1 &
started+=($!)
sleep 1
far "$bin/offramp" serve --listen 192.0.2.2:4433 --backend 127.0.0.1:8080 --cert "$dir/cert.pem" --key "$dir/key.pem" \
    --workers 1 >"$dir/offramp.log" 2>&1 &
started+=($!)
for _ in $(seq 100); do grep -q "offramp ready" "$dir/offramp.log" && break; sleep 0.1; done
grep -q "offramp ready" "$dir/offramp.log" || { cat "$dir/offramp.log" >&2; exit 1; }

echo "| handshake | round trips | client ready, with TCP: predicted | measured | without TCP | first byte of the answer |"
echo "| --- | --- | --- | --- | --- | --- |"
for case in "1.2 0 2 300" "1.2 1 1 200" "1.3 0 1 200" "1.3 1 1 200"; do
    read -r version resume trips predicted <<<"$case"
    near "$bin/loadgen" handshake --target 192.0.2.2:4433 --insecure --groups X25519,secp256r1 --tls "$version" \
        --resume "$resume" --request echo --connections 2 --warm-up 2s --duration 8s --quiet --json >"$dir/json"
    python3 - "$dir/json" "$version" "$resume" "$trips" "$predicted" <<'PY'
import json, sys
report, version, resume, trips, predicted = sys.argv[1:]
latency = json.load(open(report))["runs"][0]["latency_us"]
p50 = {part: latency[part]["p50"] / 1000 for part in latency}
kind = "abbreviated" if resume == "1" else "full"
print(f"| TLS {version} {kind} | {trips} | {predicted} | {p50['ready']:.1f} | {p50['handshake']:.1f} | {p50['total']:.1f} |")
PY
done
