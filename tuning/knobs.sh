# shellcheck shell=bash
# Sourced by the scripts beside it: which knobs there are, where this host has them, and when a value will do.
#
# The tests put other directories in the place of the kernel's: OFFRAMP_PROC, OFFRAMP_SYS; OFFRAMP_STATE is where
# apply.sh and nic.sh note what was there before.

tuning=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
proc=${OFFRAMP_PROC:-/proc}
# shellcheck disable=SC2034 # for nic.sh
sys=${OFFRAMP_SYS:-/sys}
state=${OFFRAMP_STATE:-/var/lib/offramp}
conf=$tuning/sysctl.d/60-offramp.conf
# A line for each file that was changed: path, value before, value set; tabs between.
before=$state/before-tuning.tsv

# Prints "RULE<tab>KEY<tab>VALUE" for each knob of the file.
knobs() {
    local line rule=equal
    while IFS= read -r line; do
        case $line in
            '#: '*) rule=${line#'#: '} ;;
            '' | '#'*) ;;
            *=*)
                printf '%s\t%s\t%s\n' "$rule" "$(squeeze "${line%%=*}")" "$(squeeze "${line#*=}")"
                rule=equal
                ;;
            *) complain "$conf: no KEY = VALUE: $line" ;;
        esac
    done <"$conf"
}

# The file of a key such as net.core.somaxconn.
path_of() { printf '%s/sys/%s\n' "$proc" "${1//.//}"; }

# One space between words and none around: the kernel separates numbers with tabs.
squeeze() {
    local -a words
    read -r -a words <<<"$1"
    printf '%s\n' "${words[*]}"
}

# The value in a file; fails if there is none to be read.
value_in() {
    local text
    text=$(cat "$1" 2>/dev/null) || return 1
    squeeze "$text"
}

# Whether what the host has is as good as what is wanted: will_do RULE HAS WANTS
will_do() {
    local -a there ours
    read -r -a there <<<"$2"
    read -r -a ours <<<"$3"
    case $1 in
        'at least') [ "${there[0]}" -ge "${ours[0]}" ] 2>/dev/null ;;
        covers) { [ "${there[0]}" -le "${ours[0]}" ] && [ "${there[1]}" -ge "${ours[1]}" ]; } 2>/dev/null ;;
        *) [ "$2" = "$3" ] ;;
    esac
}

# Writes a value and notes, the first time, what was there: change PATH VALUE. Says why if that cannot be done.
change() {
    local path=$1 wants=$2 was
    was=$(value_in "$path") || { complain "$path: cannot be read"; return 1; }
    if ! mkdir -p "$state" || ! touch "$before"; then
        complain "$state: cannot be written, so nothing could be undone: nothing is changed"
        return 1
    fi
    if ! printf '%s\n' "$wants" 2>/dev/null >"$path"; then
        complain "$path: cannot be written: not root, or a container that may not"
        return 1
    fi
    note "$path" "$was" "$wants"
    if [ "$(value_in "$path")" != "$wants" ]; then
        complain "$path: wrote $wants, and the kernel made $(value_in "$path") of it"
        return 1
    fi
}

# What stood there before the first change stays; what we set last is what revert.sh compares with.
note() {
    local path=$1 was=$2 set=$3 first
    first=$(awk -F'\t' -v path="$path" '$1 == path { print $2; exit }' "$before")
    if grep -qF "$path"$'\t' "$before"; then was=$first; fi
    { grep -vF "$path"$'\t' "$before" || true; printf '%s\t%s\t%s\n' "$path" "$was" "$set"; } >"$before.new"
    mv "$before.new" "$before"
}

complain() { printf '%s\n' "$*" >&2; }
