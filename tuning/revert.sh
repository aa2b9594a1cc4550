#!/usr/bin/env bash
# Undoes what apply.sh and nic.sh did: each file gets the value back that it had before the first of them. As root.
# What somebody has changed since is left as it is. The module tls stays loaded: others may use it.
# Exit status: 0 all is undone, 1 something could not be, 2 the command line is wrong.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=knobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/knobs.sh"
[ $# -eq 0 ] || { complain "usage: revert.sh"; exit 2; }

etc=${OFFRAMP_ETC:-/etc}
status=0
if [ -e "$before" ]; then
    left=$before.left
    : >"$left"
    while IFS=$'\t' read -r path was set; do
        if ! has=$(value_in "$path"); then
            printf 'gone     %s\n' "$path"
        elif [ "$has" != "$set" ]; then
            printf 'kept     %s = %s: changed since, by somebody else\n' "$path" "$has"
        elif printf '%s\n' "$was" 2>/dev/null >"$path"; then
            printf 'undone   %s = %s, was %s\n' "$path" "$was" "$has"
        else
            complain "$path: cannot be written: not root, or a container that may not"
            printf '%s\t%s\t%s\n' "$path" "$was" "$set" >>"$left"
            status=1
        fi
    done <"$before"
    if [ -s "$left" ]; then mv "$left" "$before"; else rm -f "$left" "$before"; fi
else
    printf 'nothing was applied: no %s\n' "$before"
fi
for file in sysctl.d/60-offramp.conf modules-load.d/offramp.conf; do
    if [ -e "$etc/$file" ] && cmp -s "$tuning/$file" "$etc/$file"; then
        rm -f "$etc/$file"
        printf 'undone   %s/%s is removed\n' "$etc" "$file"
    fi
done
exit "$status"
