#!/usr/bin/env bash
# Real questions and a real checkpoint, end to end. The data is not part of the project: it skips.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
data=${FSTQ_SHARED:-$root/../shared}
model=(model.path="$data/models/stories260K/stories260K.bin"
    task.vocab="$data/models/stories260K/tok512.bin")
small=(fed.rounds=2 fed.clients=6 fed.clients_per_round=2 fed.local_steps=2 fed.batch=2 task.test=12
    task.max_tokens=128 trace.file=)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-real.XXXXXX")
trap 'rm -rf "$dir"' EXIT

one() # config path metric
{
    if [ ! -e "$2" ] || [ ! -e "$data/models/stories260K/stories260K.bin" ]; then
        skip "configs/$1.ini on real data" "no $2 or no stories260K: set FSTQ_SHARED"
        return
    fi
    (cd "$dir" && "$FSTQ" run "$root/configs/$1.ini" task.path="$2" "${model[@]}" "${small[@]}") \
        >"$dir/$1.1" 2>&1
    check "configs/$1.ini: one rank is valid" contains "$dir/$1.1" "# VALID"
    check "configs/$1.ini: its score is $3" grep -q "^# $3 " "$dir/$1.1"
    (cd "$dir" && mpirun --oversubscribe -np 3 "$FSTQ" run "$root/configs/$1.ini" task.path="$2" \
        "${model[@]}" "${small[@]}") >"$dir/$1.3" 2>&1
    check "configs/$1.ini: three ranks end the same" equal "$(adapter "$dir/$1.3")" \
        "$(adapter "$dir/$1.1")"
}
one xquad "$data/data/xquad" f1
one pubmedqa "$data/data/pubmedqa/ori_pqal.json" accuracy
finish
