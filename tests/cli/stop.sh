#!/usr/bin/env bash
# One signal is enough at any moment, and what would take for ever does not begin.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-stop.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
quadratic=("$root/configs/quadratic.ini" trace.file=)
until_said() # text: in what the run wrote to stderr
{
    for _ in $(seq 600); do
        grep -q "$1" err && return 0
        sleep 0.1
    done
    return 1
}

# The optimum of so many clients takes a minute before the first round.
"$FSTQ" run "${quadratic[@]}" fed.clients=200000 >out 2>err &
check "the optimum of many clients: how long it takes is said" \
    until_said "the known optimum takes the data of all clients, some [0-9]* s for fed.clients"
kill -TERM $!
wait $!
check "TERM meanwhile: status 143" equal "$?" 143
check "TERM meanwhile: no round" contains out "# INTERRUPTED: after round 0"
# Few clients, but as many columns to solve for.
"$FSTQ" run "${quadratic[@]}" fed.clients=1 fed.clients_per_round=1 fed.rounds=1 task.samples=5 \
    task.features=4096 task.outputs=2048 >out 2>err &
sleep 2
kill -INT $!
wait $!
check "INT while it solves: status 143" equal "$?" 143

# The first score of a language model, over more questions than are answered in half a minute.
"$FSTQ" run "$root/configs/quick.ini" trace.file= task.test=100000 fed.rounds=1 >out 2>err &
for _ in $(seq 600); do
    grep -q '^# *round ' out && break
    sleep 0.1
done
start=$SECONDS
kill -TERM $!
wait $!
check "TERM during the first evaluation: status 143" equal "$?" 143
check "TERM during the first evaluation: no round" contains out "# INTERRUPTED: after round 0"
check "TERM during the first evaluation: it ends early" test $((SECONDS - start)) -lt 10

timeout 20 "$FSTQ" run "${quadratic[@]}" fed.clients=1e7 >out 2>err
check "more clients than anybody waits for: status 2" equal "$?" 2
check "more clients: how many fit" \
    grep -q "fed.clients = 10000000: .* minutes of computing; give at most [0-9]*, or lower" err
fit=$(sed -n 's/.*give at most \([0-9]*\),.*/\1/p' err)
timeout 20 "$FSTQ" run "${quadratic[@]}" fed.clients=$((fit + 1)) >out 2>err
check "one more than fit: status 2" equal "$?" 2
timeout 20 "$FSTQ" run "${quadratic[@]}" task.samples=1e6 task.features=2000 >out 2>err
check "too much of one client: named" grep -q "task.features = 2000, .*; lower them" err

# A worker that dies inside MPI_Init, where the others would wait for it.
if ! command -v mpirun >/dev/null; then
    skip "a worker that dies during the start" "no mpirun"
    finish
fi
cat >dies <<'RANK'
#!/bin/bash
if [ "$OMPI_COMM_WORLD_RANK" = 2 ]; then
    perl -e 'select undef, undef, undef, .05; kill KILL => $ARGV[0]' $$ &
fi
exec "$REAL_FSTQ" "$@"
RANK
chmod +x dies
start=$SECONDS
REAL_FSTQ=$FSTQ FSTQ=$dir/dies timeout 60 "$root/scripts/fstq-run" -np 3 run "${quadratic[@]}" \
    fed.rounds=100000 >out 2>err
check "a worker that dies during the start: status 4" equal "$?" 4
check "a worker that dies: said" contains err "ended before the first round: ending the others"
check "a worker that dies: in time" test $((SECONDS - start)) -lt 30
finish
