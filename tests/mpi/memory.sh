#!/usr/bin/env bash
# Aggregation holds one accumulator beside the model, and as many packed updates as the arena takes:
# a hundred clients cost the server what ten do.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-memory.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
values=$((400 * 250))
arena=$((1 << 20))

# Peak bytes of a purpose on rank 0.
peak() # clients purpose
{
    awk -F, -v name="mem_peak_bytes_$2" '
        FNR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        /^#/ { next }
        $at["rank"] == 0 { print $at[name] }' "$1.csv/ranks.csv"
}

for clients in 10 100; do
    mpirun --oversubscribe -np 2 "$FSTQ" run "$root/configs/quadratic.ini" task.features=400 \
        task.outputs=250 task.samples=2 fed.batch=2 fed.local_steps=1 fed.rounds=2 \
        fed.clients=100 fed.clients_per_round=$clients net.arena_bytes=$arena \
        fed.method=fstq:budget=0.15,importance=magnitude trace.file=$clients.h5 \
        >$clients 2>&1
    check "$clients clients: valid" contains $clients "# VALID"
    "$FSTQ" export $clients.h5 --csv $clients.csv >/dev/null
done
# A sampled client has its rows and times in the books of the round: 2 KiB of them at most.
few=$(peak 10 server) many=$(peak 100 server)
check "server: model and accumulator, $many bytes for 100 clients, $few for 10" \
    test "$many" -lt $((2 * 4 * values + (1 << 18))) -a $((many - few)) -lt $((90 * 2048))
few=$(peak 10 net) many=$(peak 100 net)
check "net: $many bytes for 100 clients, $few for 10; the model and the arena" \
    test "$many" -lt $((2 * 4 * values + arena + (1 << 18))) -a $((many - few)) -lt $((1 << 18))
few=$(peak 10 codec) many=$(peak 100 codec)
check "codec: $many bytes for 100 clients, $few for 10" test "$many" = "$few"
finish
