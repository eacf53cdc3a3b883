#!/usr/bin/env bash
# Fed-ToMe: tokens that merge inside the layers while clients train.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-tome.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
common=("$root/configs/quick.ini" fed.rounds=2 fed.clients=6 fed.clients_per_round=3
    fed.local_steps=2 task.test=8 dev.threads=1 trace.file=)
run() { "$FSTQ" run "${common[@]}" "$@"; }
bytes() { sed -n "s/^# uplink \([^,]*\), downlink \([^,]*\),.*/\1 \2/p" "$1"; }

run fed.method=tome-train trace.file=tome-train.h5 >tome-train 2>&1
check "tome-train: valid" contains tome-train "# VALID"
run fed.method=fedavg~tome:ratio=0/fp32 >alone 2>&1
run fed.method=fedavg/fp32 >plain 2>&1
check "where nothing merges the adapter is fedavg's" equal "$(adapter alone)" "$(adapter plain)"
check "where prompts merge it is another" test "$(adapter tome-train)" != "$(adapter plain)"
check "of as many bytes" equal "$(bytes tome-train)" "$(bytes plain)"
mpirun --oversubscribe -np 3 "$FSTQ" run "${common[@]}" fed.method=tome-train dev.threads=2 \
    >tome.3 2>&1
check "merging is the same for any ranks and threads" \
    equal "$(adapter tome.3)" "$(adapter tome-train)"
merged=$("$FSTQ" export tome-train.h5 --csv tome.csv >/dev/null && awk -F, '
    FNR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
    /^#/ { next }
    $at["stage"] ~ /^merge/ { spans++; in_ += $at["bytes_in"]; out += $at["bytes_out"] }
    END { print spans, (out < 0.8 * in_ && out > 0.4 * in_) }' tome.csv/events.csv)
check "every step's merging has a span with the tokens before and after" equal "$merged" "12 1"
finish
