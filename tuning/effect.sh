#!/usr/bin/env bash
# Shows what a knob of sysctl.d/60-offramp.conf does: the same load with the kernel's default and with our value, in a
# network namespace of its own. Nothing of the host's network changes. As root, after `cargo build --release`.
#   effect.sh [KNOB …]        somaxconn ports reuse lowat idle uring; without a word, all of them
# Exit status: 0 shown or skipped with a reason, 1 a load could not be run, 2 the command line is wrong.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=${OFFRAMP_BIN:-$top/target/release}
all=(somaxconn ports reuse lowat idle uring)
[ $# -gt 0 ] || set -- "${all[@]}"
for knob; do
    [[ " ${all[*]} " == *" $knob "* ]] || { printf 'usage: effect.sh [%s]\n' "${all[*]}" >&2; exit 2; }
done
for program in "$bin/offramp" "$bin/loadgen"; do
    [ -x "$program" ] || { echo "$program is missing: cargo build --release" >&2; exit 1; }
done

dir=$(mktemp -d) started=() spaces=()
tidy() {
    # Those that we started, by their numbers.
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    for space in "${spaces[@]}"; do ip netns delete "$space" 2>/dev/null || true; done
    started=() spaces=()
}
trap 'tidy; rm -rf "$dir"' EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=effect.test \
    -keyout "$dir/key.pem" -out "$dir/cert.pem" 2>/dev/null

# space NAME: a network namespace with its loopback up.
space() { ip netns add "$1"; spaces+=("$1"); ip netns exec "$1" ip link set lo up; }
# set_in NAME KEY VALUE
set_in() { ip netns exec "$1" sysctl -q -w "$2=$3"; }
# await FILE TEXT: until a program has said so, at most 10 s.
await() { for _ in $(seq 200); do grep -q "$2" "$1" && return; sleep 0.05; done; cat "$1" >&2; exit 1; }
# pair NAME ENGINE_BACKEND_SPACE BACKEND_ADDRESS: backend and engine; the engine listens on 127.0.0.1:4433 of NAME.
pair() {
    ip netns exec "$2" "$bin/loadgen" backend --listen "$3:8080" >"$dir/backend.log" 2>&1 &
    started+=($!)
    for _ in $(seq 100); do ip netns exec "$2" ss -ltn | grep -q ':8080 ' && break; sleep 0.05; done
    ip netns exec "$1" "$bin/offramp" serve --listen 127.0.0.1:4433 --backend "$3:8080" --cert "$dir/cert.pem" \
        --key "$dir/key.pem" --workers 1 --admin 127.0.0.1:9100 >"$dir/offramp.log" 2>&1 &
    started+=($!)
    await "$dir/offramp.log" "offramp ready"
}
# load NAME loadgen-arguments: prints the JSON report; connections may fail, that is what is shown.
load() {
    local name=$1
    shift
    ip netns exec "$name" "$bin/loadgen" "$@" --target 127.0.0.1:4433 --insecure --quiet --json \
        --allow-failures 1 --give-up 1000000 2>/dev/null || true
}
# median PHASE: of the report on standard input, in µs.
median() {
    python3 -c 'import json, sys
print(round(json.load(sys.stdin)["runs"][0]["latency_us"][sys.argv[1]]["p50"]))' "$1"
}
# faults NAME: those of the engine in this namespace, all kinds.
faults() {
    ip netns exec "$1" curl -s http://127.0.0.1:9100/metrics |
        awk '/^offramp_faults_total/ && $2 > 0 { sub(/.*fault="/, "", $1); sub(/".*/, "", $1); printf "%s %d ", $1, $2 }'
}
shows() { printf '%-42s %-24s %s\n' "$1" "$2" "$3"; }

somaxconn() {
    for value in 128 4096; do
        space effect-a; set_in effect-a net.core.somaxconn "$value"; pair effect-a effect-a 127.0.0.1
        load effect-a handshake --tls 1.2 --connections 1500 --warm-up 0s --duration 3s --rst >"$dir/json"
        drops=$(ip netns exec effect-a nstat -asz TcpExtListenOverflows | awk '/Overflows/ { print $2 }')
        shows "net.core.somaxconn = $value" "1500 clients at once" "$drops connections did not fit and were tried again"
        tidy
    done
}
ports() {
    for value in "32768 33067" "15000 65000"; do
        space effect-a; set_in effect-a net.ipv4.ip_local_port_range "$value"; pair effect-a effect-a 127.0.0.1
        # The clients' own ports are not short: they come from several addresses.
        load effect-a message --connections 500 --every 500ms --warm-up 0s --duration 3s \
            --source 127.0.0.2,127.0.0.3,127.0.0.4 >"$dir/json"
        shows "net.ipv4.ip_local_port_range = $value" "500 connections held" "faults: $(faults effect-a)"
        tidy
    done
}
reuse() {
    for value in 2 1; do
        space effect-a; space effect-b
        ip link add effect-va netns effect-a type veth peer name effect-vb netns effect-b
        ip netns exec effect-a ip addr add 192.0.2.1/24 dev effect-va; ip netns exec effect-a ip link set effect-va up
        ip netns exec effect-b ip addr add 192.0.2.2/24 dev effect-vb; ip netns exec effect-b ip link set effect-vb up
        set_in effect-a net.ipv4.tcp_tw_reuse "$value"; set_in effect-a net.ipv4.ip_local_port_range "32768 33267"
        pair effect-a effect-b 192.0.2.2
        load effect-a handshake --tls 1.2 --rate 200 --warm-up 0s --duration 6s --source 127.0.0.2,127.0.0.3,127.0.0.4 \
            >"$dir/json"
        shows "net.ipv4.tcp_tw_reuse = $value" "200 connections/s, 500 ports" "faults: $(faults effect-a)"
        tidy
    done
}
lowat() {
    for value in 4294967295 131072; do
        space effect-a; set_in effect-a net.ipv4.tcp_notsent_lowat "$value"; pair effect-a effect-a 127.0.0.1
        ip netns exec effect-a python3 -c '
import socket, ssl, time
context = ssl._create_unverified_context()
held = []
for _ in range(50):
    s = context.wrap_socket(socket.create_connection(("127.0.0.1", 4433)))
    s.sendall(b"d"); s.recv(1); s.sendall((1 << 30).to_bytes(8, "big"))
    held.append(s)
time.sleep(3)
print("asked", flush=True)
time.sleep(60)' >"$dir/slow.log" 2>&1 &
        started+=($!)
        await "$dir/slow.log" asked
        kib=$(ip netns exec effect-a ss -tmnH 'sport = :4433' | grep -o 'w[0-9]*' | tr -d w | awk '{ sum += $1 } END { print int(sum / 50 / 1024) }')
        shows "net.ipv4.tcp_notsent_lowat = $value" "50 clients that do not read" "$kib KiB of kernel memory for what is queued to each"
        tidy
    done
}
idle() {
    for value in 1 0; do
        space effect-a
        if ! ip netns exec effect-a tc qdisc add dev lo root netem delay 25ms 2>/dev/null; then
            shows "net.ipv4.tcp_slow_start_after_idle" "" "SKIP: this kernel has no netem"
            tidy; return
        fi
        set_in effect-a net.ipv4.tcp_slow_start_after_idle "$value"; set_in effect-a net.ipv4.tcp_congestion_control cubic ||
            true
        pair effect-a effect-a 127.0.0.1
        load effect-a message --connections 2 --request-size 64 --answer-size 262144 --every 3s --warm-up 0s \
            --duration 16s >"$dir/json"
        p50=$(median message <"$dir/json")
        shows "net.ipv4.tcp_slow_start_after_idle = $value" "256 KiB every 3 s, 25 ms one way" "median $p50 µs"
        tidy
    done
}
uring() {
    was=$(sysctl -n kernel.io_uring_disabled)
    for value in 1 0; do
        sysctl -q -w "kernel.io_uring_disabled=$value"
        cp "$bin/offramp" "$dir/offramp"; chmod 755 "$dir" "$dir/offramp"
        said=$(setpriv --reuid nobody --clear-groups "$dir/offramp" probe 2>&1 | sed -n '/io_uring/,+1p' | tr -s ' \n' ' ' | head -c 90 || true)
        shows "kernel.io_uring_disabled = $value" "offramp probe, unprivileged" "$said"
    done
    sysctl -q -w "kernel.io_uring_disabled=$was"
}
for knob; do "$knob"; done
