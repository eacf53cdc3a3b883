#!/usr/bin/env bash
# README.md is true: its commands run, its files exist; parameters are in configs/README.md.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-readme.XXXXXX")
trap 'rm -rf "$dir"' EXIT
readme=$root/README.md
cd "$dir" || exit 1

options=$root/scripts/readme-options.sh
check "the parameters are up to date" "$options" --check
table=$root/configs/README.md
sed 's/^| `run\.seed` |/| `run.sede` |/' "$table" >stale.md
check "an old table is noticed" eval "! '$options' --check stale.md 2>/dev/null"
"$options" stale.md
check "and written anew" cmp stale.md "$table"
grep -v 'options:end' "$table" >cut.md
check "a missing marker is an error" eval "! '$options' cut.md 2>/dev/null"

# Blocks of "sh" are commands from a checkout's root; each has to succeed, or to end with the status
# that a comment behind it names. What installs, builds and tests is left to others.
# A language model learns and answers less than the README's reader waits for, and a bench's samples
# are short.
mkdir bin
fewer='case "$*" in *--help*) ;;
*configs/*quick*) set -- "$@" task.test=16 fed.local_steps=2 ;;
score*task.name* | *infer*prompts=task*) set -- "$@" task.test=16 ;;
*bench*samples*) set -- "$@" --min-time 0.001 ;;
esac'
printf '#!/bin/sh\n%s\nexec "%s" "$@"\n' "$fewer" "$FSTQ" >bin/fstq
printf '#!/bin/sh\n%s\nFSTQ="%s" exec "%s/scripts/fstq-run" "$@"\n' "$fewer" "$FSTQ" "$root" \
    >bin/fstq-run
chmod +x bin/fstq bin/fstq-run
ln -s "$root/configs" "$root/scripts" .
export PATH=$dir/bin:$PATH
sed -n '/^```sh$/,/^```$/p' "$readme" | grep -E '^(fstq|fstq-run) ' >commands
check "there are commands to try" test "$(wc -l <commands)" -ge 8
while IFS= read -r line; do
    expected=$(sed -n 's/.*# status \([0-9]*\).*/\1/p' <<<"$line")
    bash -c "${line%% # *}" >log 2>&1 </dev/null
    status=$?
    [ "$status" = "${expected:-0}" ] || sed 's/^/#   /' log | tail -n 20
    check "$(sed 's/#/no. /g' <<<"${line%% # *}")" equal "$status" "${expected:-0}"
done <commands

# Paths between backquotes or in links that look like ours.
grep -ohE '(src|scripts|configs|tests|bench|kernels)/[A-Za-z0-9_./-]*[A-Za-z0-9_]' \
    "$readme" "$root/bench/results/README.md" |
    sort -u >paths
ls "$root/configs"/*.ini | sed "s#$root/##" | sort >have
grep -oE '`[a-z0-9-]+\.ini`' "$table" | tr -d '`' | sed 's#^#configs/#' | sort -u >told
check "every config is in the list of configs/README.md" equal "$(cat told)" "$(cat have)"
while IFS= read -r path; do
    check "$path exists" test -e "$root/$path"
done <paths
finish
