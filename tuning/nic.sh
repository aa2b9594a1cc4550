#!/usr/bin/env bash
# One queue of a network card for one worker: interrupt N of the card to CPU N, and what CPU N sends to queue N.
#   nic.sh INTERFACE            says what is, and what it would do; changes nothing
#   nic.sh INTERFACE --apply    does it; revert.sh undoes it. As root.
# Stop irqbalance first, or it will undo the half of it.
# Exit status: 0 done or shown, 1 something could not be set, 2 the command line is wrong.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=knobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/knobs.sh"

usage() { complain "usage: nic.sh INTERFACE [--apply]"; exit 2; }
if [ $# -lt 1 ] || [ $# -gt 2 ]; then usage; fi
interface=$1
[ "${2:---apply}" = --apply ] || usage
device=$sys/class/net/$interface
[ -d "$device" ] || { complain "no interface $interface; there are: $(ls "$sys/class/net")"; exit 2; }
cpus=${OFFRAMP_CPUS:-$(nproc)}
status=0

# set_or_show PATH VALUE MEANING
set_or_show() {
    local path=$1 wants=$2 meaning=$3 was
    if ! was=$(value_in "$path"); then
        printf 'absent   %s (%s)\n' "$path" "$meaning"
    elif [ "$((16#${was//,/}))" = "$((16#$wants))" ]; then
        printf 'good     %s: %s\n' "$meaning" "$was"
    elif [ "$apply" = no ]; then
        printf 'would    %s: %s, now %s\n' "$meaning" "$wants" "$was"
    elif change "$path" "$wants"; then
        printf 'set      %s: %s, was %s\n' "$meaning" "$wants" "$was"
    else
        status=1
    fi
}
apply=no
[ $# -eq 2 ] && apply=yes

# The bit of a CPU in a mask of up to 32, which is how the kernel writes it.
mask_of() { printf '%x\n' "$((1 << ($1 % cpus % 32)))"; }
[ "$cpus" -le 32 ] || complain "$cpus CPUs: this script places interrupts on the first 32 alone"

# Interrupts of the card carry its name, or that of its device, and at their end the queue's number: eth0-TxRx-3,
# virtio0-input.0. Those without a number (virtio0-config) are not for traffic.
name=$interface
[ -e "$device/device" ] && name="$interface|$(basename "$(readlink -f "$device/device")")"
found=0
while read -r irq queue; do
    set_or_show "$proc/irq/$irq/smp_affinity" "$(mask_of "$queue")" "interrupt $irq, queue $queue, to CPU $((queue % cpus))"
    found=$((found + 1))
done < <(awk '
    $1 ~ /^[0-9]+:$/ && $NF ~ "^(" name ")[^a-z0-9].*[-.][0-9]+$" {
        irq = $1; queue = $NF; sub(/:/, "", irq); sub(/.*[-.]/, "", queue); print irq, queue
    }' name="$name" "$proc/interrupts")
[ "$found" -gt 0 ] || printf 'absent   no interrupt in %s names %s\n' "$proc/interrupts" "$interface"

queue=0
for path in "$device"/queues/tx-*/xps_cpus; do
    [ -e "$path" ] || continue
    set_or_show "$path" "$(mask_of "$queue")" "what CPU $((queue % cpus)) sends, to queue $queue"
    queue=$((queue + 1))
done

if command -v ethtool >/dev/null; then
    ethtool -k "$interface" 2>/dev/null |
        awk '/tls-hw-(tx|rx)-offload|generic-receive-offload|tcp-segmentation-offload/ { print "feature  " $0 }' || true
    printf 'By hand: ethtool -L %s combined %s (a queue a worker), ethtool -K %s tls-hw-tx-offload on (if not fixed)\n' \
        "$interface" "$cpus" "$interface"
else
    printf 'absent   ethtool: apt-get install ethtool, to see what the card offloads\n'
fi
exit "$status"
