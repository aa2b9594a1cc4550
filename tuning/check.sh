#!/usr/bin/env bash
# Says which kernel settings of this host differ from sysctl.d/60-offramp.conf. Changes nothing; needs no privilege.
# Exit status: 0 nothing differs, 1 something does, 2 the command line is wrong.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=knobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/knobs.sh"
[ $# -eq 0 ] || { complain "usage: check.sh"; exit 2; }

status=0
while IFS=$'\t' read -r rule key wants; do
    if ! has=$(value_in "$(path_of "$key")"); then
        printf 'absent   %s: this kernel has none, or hides it from this namespace\n' "$key"
    elif will_do "$rule" "$has" "$wants"; then
        printf 'good     %s = %s\n' "$key" "$has"
    else
        printf 'differs  %s = %s, wanted %s (%s)\n' "$key" "$has" "$wants" "$rule"
        status=1
    fi
done < <(knobs)

if ulp=$(value_in "$(path_of net.ipv4.tcp_available_ulp)") && [[ " $ulp " == *" tls "* ]]; then
    printf 'good     module tls is loaded\n'
else
    printf 'differs  module tls is not loaded: modprobe tls\n'
    status=1
fi
[ "$status" -eq 0 ] || printf 'apply.sh sets what differs, revert.sh undoes it.\n'
exit "$status"
