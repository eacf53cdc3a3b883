#!/usr/bin/env bash
# Writes the reference of parameters in configs/README.md from the program's own tables.
#   scripts/readme-options.sh [--check] [FILE]    --check: change nothing, status 1 when stale
# The program is $FSTQ, else build/release/fstq.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
check=
if [ "${1:-}" = --check ]; then
    check=1
    shift
fi
readme=${1:-$root/configs/README.md}
fstq=${FSTQ:-$root/build/release/fstq}
begin='<!-- options:begin -->' end='<!-- options:end -->'
for marker in "$begin" "$end"; do
    [ "$(grep -cxF -e "$marker" "$readme")" = 1 ] || {
        echo "$readme: there has to be one line '$marker'" >&2
        exit 2
    }
done

new=$(mktemp)
trap 'rm -f "$new"' EXIT
{
    sed "/^$begin\$/q" "$readme"
    echo
    "$fstq" list options -o md
    echo
    sed -n "/^$end\$/,\$p" "$readme"
} >"$new"
if cmp -s "$new" "$readme"; then
    exit 0
fi
if [ -n "$check" ]; then
    echo "$readme: its parameters are not those of $fstq; run scripts/readme-options.sh" >&2
    diff "$readme" "$new" >&2 || true
    exit 1
fi
cat "$new" >"$readme"
