#!/usr/bin/env bash
# Builds the Debian package and the SBOM of each program in it, into target/debian/.
#   build.sh [--no-build]
# --no-build: take the programs that are in target/release. Needs cargo and dpkg; the two tools of cargo are fetched.
# Exit status: 0 built, 1 something failed, 2 the command line is wrong.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

build=yes
case "$#:${1:-}" in
    0:) ;;
    1:--no-build) build=no ;;
    *) echo "usage: build.sh [--no-build]" >&2; exit 2 ;;
esac

step() { printf '== %s\n' "$*"; }

# Built once, kept beside cargo's own downloads. Without optimisation: they run for seconds.
tool() {
    local tools="${CARGO_HOME:-$HOME/.cargo}/offramp-tools/$1-$2"
    if [ ! -x "$tools/bin/$1" ]; then
        CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --profile dev --root "$tools" "$1" --version "$2"
    fi
    PATH="$tools/bin:$PATH"
}

packages=(offramp offramp-ticket-key-agent offramp-loadgen)
target=$(cargo metadata --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
out=$target/debian
version=$(cargo metadata --format-version 1 --no-deps |
    tr '{' '\n' | sed -n 's/^"name":"offramp","version":"\([^"]*\)".*/\1/p')
[ -n "$version" ] || { echo "cargo metadata names no version of offramp" >&2; exit 1; }

step "tools"
tool cargo-deb 3.8.0
tool cargo-cyclonedx 0.5.9

if [ "$build" = yes ]; then
    step "programs"
    cargo build --locked --release "${packages[@]/#/--package=}" --bins
fi

step "man pages and completions"
pages=target/package
rm -rf "$pages"
cargo run --locked --quiet --package offramp-package -- "$pages"

step "documents"
# Links to files that the package has lead to these; of others the text stays.
mkdir -p "$pages/doc/operate"
relink() {
    sed -E \
        -e 's#engine/docs/operate/#operate/#g' \
        -e 's#engine/offramp\.example#offramp.example#g' \
        -e 's#\]\((\.\./)*tuning/offramp\.service#](/usr/lib/systemd/system/offramp.service#g' \
        -e 's#\]\((\.\./)*tuning/#](/usr/share/offramp/tuning/#g' \
        -e 's#\]\(\.\./\.\./(offramp\.example)#](../\1#g' \
        -e 's#\]\(\.\./\.\./\.\./README\.md#](../README.md#g' \
        -e 's#\[([^]]*)\]\((\.\./)*(engine|loadgen|bench|decisions|ARCHITECTURE|measurements|SECURITY|CONTRIBUTING|CHANGELOG)[^)]*\)#\1#g' "$1"
}
relink README.md >"$pages/doc/README.md"
relink CHANGELOG.md >"$pages/doc/CHANGELOG.md"
relink tuning/README.md |
    sed -E 's#\]\((\.\./)*operate/#](/usr/share/doc/offramp/operate/#g' >"$pages/doc/tuning.md"
for page in engine/docs/operate/*; do
    relink "$page" >"$pages/doc/operate/$(basename "$page")"
done
# Debian's form of a changelog has an entry per version of the package; ours for users is CHANGELOG.md.
when=$(git log -1 --format=%cd --date=rfc2822 2>/dev/null || date --rfc-email)
maintainer=$(sed -n 's/^maintainer = "\(.*\)"$/\1/p' engine/Cargo.toml)
cat >"$pages/changelog.Debian" <<ENTRY
offramp ($version-1) unstable; urgency=medium

  * See changelog.gz for what has changed.

 -- $maintainer  $when
ENTRY

step "SBOM"
mkdir -p "$out"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
export SOURCE_DATE_EPOCH
# The tool writes one file beside the manifest of each package of the workspace.
cargo cyclonedx --quiet --format json --spec-version 1.5 --describe binaries
mkdir -p "$pages/sbom"
for program in engine/offramp engine/agent/offramp-ticket-key-agent loadgen/loadgen; do
    mv "${program}_bin.cdx.json" "$pages/sbom/$(basename "$program").cdx.json"
done
find . -path ./target -prune -o -name '*.cdx.json' -exec rm -f {} +
cp "$pages"/sbom/*.cdx.json "$out/"

step "package"
rm -f "$out"/offramp*deb
# The symbols are a package beside it, offramp-dbgsym.
cargo deb --quiet --no-build --dbgsym --package offramp --output "$out/"
ls -l "$out"/offramp*_"$version"*deb "$out"/*.cdx.json
