#!/usr/bin/env bash
# Sets what check.sh says differs, and notes what was there before so that revert.sh can undo it. As root.
#   apply.sh [--dry-run] [--boot]
# --dry-run: only say what would be done. --boot: put the files where they are read at every start, too.
# Exit status: 0 all is as wanted, 1 something could not be set, 2 the command line is wrong.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=knobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/knobs.sh"

dry=no boot=no
for argument; do
    case $argument in
        --dry-run) dry=yes ;;
        --boot) boot=yes ;;
        *) complain "usage: apply.sh [--dry-run] [--boot]"; exit 2 ;;
    esac
done
etc=${OFFRAMP_ETC:-/etc}
status=0

while IFS=$'\t' read -r rule key wants; do
    path=$(path_of "$key")
    has=$(value_in "$path") || { printf 'absent   %s\n' "$key"; continue; }
    if will_do "$rule" "$has" "$wants"; then
        printf 'good     %s = %s\n' "$key" "$has"
    elif [ "$dry" = yes ]; then
        printf 'would    %s = %s, now %s\n' "$key" "$wants" "$has"
    elif change "$path" "$wants"; then
        printf 'set      %s = %s, was %s\n' "$key" "$wants" "$has"
    else
        status=1
    fi
done < <(knobs)

ulp=$(value_in "$(path_of net.ipv4.tcp_available_ulp)") || ulp=
if [[ " $ulp " == *" tls "* ]]; then
    printf 'good     module tls is loaded\n'
elif [ "$dry" = yes ]; then
    printf 'would    modprobe tls\n'
elif modprobe tls 2>/dev/null; then
    printf 'set      module tls is loaded\n'
else
    complain "module tls: modprobe cannot load it; userspace carries the records of this host"
    status=1
fi

if [ "$boot" = yes ]; then
    for file in sysctl.d/60-offramp.conf modules-load.d/offramp.conf; do
        if [ "$dry" = yes ]; then
            printf 'would    install %s/%s\n' "$etc" "$file"
        elif install -D -m 644 "$tuning/$file" "$etc/$file"; then
            printf 'set      %s/%s\n' "$etc" "$file"
        else
            status=1
        fi
    done
fi
exit "$status"
