#!/usr/bin/env bash
# Stopped by SIGTERM at 20 moments of all kinds, five in a row, on one rank and on two, runs go on
# to the very adapter of the run that was left alone; at 200 in make test-long.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-sigterm.XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir" || exit 1
# Client state on: momentum is kept between rounds, and what topk left out.
args=(task.name=quadratic optim.kind=sgd optim.lr=0.01 fed.local_steps=5 fed.batch=20
    fed.rounds=200 fed.clients=12 fed.clients_per_round=5 fed.dropout=0.1 optim.momentum=0.5
    fed.opt_state=keep fed.method=fedavg/topk:ratio=0.2+ef trace.file= run.seed=9)
"$FSTQ" run "${args[@]}" >whole 2>&1
check "the run left alone is valid" contains whole "# VALID"

start() # ranks run-dir log option...: in the background
{
    local launch=()
    [ "$1" = 1 ] || launch=(mpirun --oversubscribe -np "$1")
    "${launch[@]}" "$FSTQ" run "${args[@]}" run.dir="$dir/$2" "${@:4}" >"$3" 2>&1 &
}
runs=${FSTQ_TEST_LONG:+40}
runs=${runs:-4} same=0 early=0
for i in $(seq "$runs"); do
    np=$((1 + i % 2))
    start $np "d$i" "log$i"
    for again in 1 2 3 4 5; do
        pid=$!
        begun $pid
        sleep "0.$(printf '%03d' $((i * 37 * again % 300)))"
        kill -TERM $pid 2>/dev/null
        wait $pid
        [ $? = 143 ] && early=$((early + 1))
        start $np "d$i" "log$i" run.resume=on
    done
    wait $!
    [ "$(adapter "log$i")" = "$(adapter whole)" ] && same=$((same + 1)) || tail -n 5 "log$i"
    rm -rf "d$i"
done
check "SIGTERM at $((5 * runs)) moments: always the same adapter" equal "$same" "$runs"
check "some of them before the end" test "$early" -ge 1
echo "# $early of $((5 * runs)) ended early"
finish
