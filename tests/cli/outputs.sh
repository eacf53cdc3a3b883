#!/usr/bin/env bash
# Files that commands make: whole or not at all, and never in place of something else of the user's.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-outputs.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1

"$FSTQ" run "$root/configs/quadratic.ini" fed.rounds=1 trace.file=a.h5 >log 2>&1
check "there is a trace" test -s a.h5
cp a.h5 trace
printf 'my notes\n' >notes
mkfifo pipe
cat >tiny.ini <<'TINY'
[fed]
rounds = 1
[compare]
base = a
seeds = 1
method = a | fedavg/fp32
TINY
bench=(bench memcpy memcpy.max_bytes=4096 --min-time 1e-6 --samples 3)
score=(score task.name=synth-qa task.test=1)
compare=(compare tiny.ini --no-run)
# What makes a file, and the flag that names it.
declare -A makes=([chrome]="export a.h5 --chrome" [bench]="${bench[*]} --json"
    [score]="${score[*]} --json" [json]="${compare[*]} --json" [csv]="${compare[*]} --csv"
    [markdown]="${compare[*]} --markdown")
make_it() { # kind file
    # shellcheck disable=SC2086
    timeout 20 "$FSTQ" ${makes[$1]} "$2" >out 2>err
}
for kind in "${!makes[@]}"; do
    make_it "$kind" "$kind.1"
    check "$kind: made" test -s "$kind.1"
    cp "$kind.1" old
    make_it "$kind" "$kind.1"
    check "$kind: made anew in place of an earlier one" test -s "$kind.1"
    for other in notes a.h5; do
        make_it "$kind" $other
        status=$?
        check "$kind: not in place of $other" test $status -ge 2
        check "$kind: and says so" contains err "$other: is there and is not an earlier file"
    done
    make_it "$kind" pipe
    check "$kind: does not wait for who reads a FIFO" contains err "a FIFO that nobody reads"
    make_it "$kind" nowhere/file
    check "$kind: no such directory" contains err "nowhere/file"
    make_it "$kind" /dev/full
    check "$kind: a full disk is noticed" contains err "No space left on device"
done
check "a note is what it was" equal "$(cat notes)" "my notes"
check "a trace is what it was" cmp a.h5 trace
make_it chrome - && check "- is stdout" contains out '"ph"'
ln -s chrome.1 link
make_it chrome link
check "through a link the file behind it is made anew" test -L link -a -s chrome.1
"$FSTQ" export a.h5 --csv tables >out 2>&1
check "--csv: made" test -s tables/rounds.csv
"$FSTQ" export a.h5 --csv tables >out 2>&1
check "--csv: made anew" equal "$?" 0
printf 'x,y\n1,2\n' >tables/rounds.csv
"$FSTQ" export a.h5 --csv tables >out 2>&1
check "--csv: a table of somebody else stays" equal "$(cat tables/rounds.csv)" $'x,y\n1,2'
for _ in 1 2; do
    "$FSTQ" run "$root/configs/quadratic.ini" fed.rounds=1 trace.file=u.h5 trace.updates=1 >out 2>&1
done
check "updates of an earlier run go aside with its trace" \
    equal "$(ls -d u.*)" "$(printf '%s\n' u.1.h5 u.1.h5.updates u.h5 u.h5.updates)"
"$FSTQ" "${score[@]}" --to-peft peft >out 2>&1
check "--to-peft: an adapter" test -s peft/adapter_model.safetensors -a -s peft/adapter_config.json
cp peft/adapter_model.safetensors before
"$FSTQ" "${score[@]}" --to-peft peft >out 2>err
check "--to-peft: not in place of another" equal "$?" 2
check "--to-peft: and says so before any work" contains err "peft/adapter_config.json: is there"
check "--to-peft: which is what it was" cmp before peft/adapter_model.safetensors
check "nothing half made lies about" equal "$(find . -name '*.part')" ""
finish
