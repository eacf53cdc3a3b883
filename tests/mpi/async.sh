#!/usr/bin/env bash
# Schemes without rounds: the same adapter on any number of ranks, simulated and after a resume; a
# lost client does not stop them; and where nobody is late they are federated averaging.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
here=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-async.XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir" || exit 1
# Unequal links and devices, and clients with state: momentum, and what a codec left out.
base=(task.name=quadratic optim.kind=sgd optim.lr=0.01 fed.local_steps=5 fed.batch=20
    fed.rounds=30 fed.clients=20 fed.clients_per_round=8 client.step_ns=1000000
    optim.momentum=0.5 fed.opt_state=keep client.profile=slow net.link=lte-hetero trace.file=)
# All that is not measured: round, arrived, lost, loss, score, uplink, modelled.
rounds() { awk '/^ +[0-9]+ .*[/]/ { print $1, $2, $3, $4, $5, $6 $7, $(NF - 1) $NF }' "$1"; }
newest() # run-dir: round of its newest checkpoint
{
    for f in "$1"/server.?.ckpt; do
        [ -f "$f" ] && od -An -tu4 -j8 -N4 "$f"
    done | sort -n | tail -1 | tr -d ' '
}

for method in fedbuff:k=3 fedasync; do
    codec=topk:ratio=0.2+ef
    run 1 "$method" fed.method=$method/$codec
    check "$method: valid" contains "$method" "# VALID"
    check "$method: a line per version" equal "$(rounds "$method" | wc -l)" 31
    run 3 "$method-3" fed.method=$method/$codec
    check "$method: the same on 3 ranks" equal "$(rounds "$method-3"; adapter "$method-3")" \
        "$(rounds "$method"; adapter "$method")"
    run 1 "$method-sim" fed.method=$method/$codec net.transport=sim net.sim_workers=4
    check "$method: the same simulated" equal "$(rounds "$method-sim"; adapter "$method-sim")" \
        "$(rounds "$method"; adapter "$method")"

    # Killed while clients are under way, gone on with on another number of ranks.
    run 1 long fed.method=$method/$codec fed.rounds=120
    "$FSTQ" run "${base[@]}" fed.method=$method/$codec fed.rounds=120 run.dir=r-$method \
        >killed 2>&1 &
    pid=$!
    for _ in $(seq 400); do
        at=$(newest r-$method)
        [ "${at:-0}" -ge 6 ] && break
        sleep 0.01
    done
    kill -KILL $pid
    wait $pid 2>/dev/null
    check "$method: killed on its way" test "$(newest r-$method)" -lt 120
    run 3 resumed fed.method=$method/$codec fed.rounds=120 run.dir=r-$method run.resume=on
    check "$method: it says where it went on" contains resumed "# resumed after round"
    check "$method: the resumed run ends the same" equal "$(adapter resumed)" "$(adapter long)"
    check "$method: and its books do" equal "$(rounds resumed | tail -20)" \
        "$(rounds long | tail -20)"
done

# With a buffer as large as the cohort, and all equally fast, nobody is late.
for clients in 8 20; do
    for method in fedavg fedbuff:k=8; do
        run 1 "eq-$method" fed.method=$method/qsgd:bits=4 fed.clients=$clients \
            client.profile=same net.link=fixed net.up_bps=1e6 net.down_bps=4e6
    done
    check "8 of $clients, equally fast: fedbuff:k=8 is fedavg" \
        equal "$(rounds eq-fedbuff:k=8; adapter eq-fedbuff:k=8)" \
        "$(rounds eq-fedavg; adapter eq-fedavg)"
done

# The slowest no longer hold up the others.
slow=net.link=lte-hetero:slow=0.3,slow_min=0.05,slow_max=0.1
run 1 avg fed.method=fedavg/fp32 "$slow"
run 1 buff fed.method=fedbuff:k=8/fp32 "$slow"
total() { sed -n 's/.*measured, \(.*\) s modelled$/\1/p' "$1"; }
check "8 updates a version take less time than rounds of 8" \
    test "$(awk -v a="$(total avg)" -v b="$(total buff)" 'BEGIN { print (b < 0.7 * a) }')" = 1

FSTQ_FAULT=kill:client=17,round=1 timeout 60 "$here/scripts/fstq-run" -np 3 --grace 2 run \
    "${base[@]}" fed.method=fedbuff:k=3/fp32 net.timeout_s=1.5 run.seed=2 >lost 2>&1
check "a killed rank: status 3" equal "$?" 3
check "a killed rank: it is named" contains lost "died; its clients are lost"
check "a killed rank: versions go on to the last" \
    equal "$(rounds lost | tail -1 | cut -d' ' -f1)" 30

refused() # name option text
{
    run 1 refused fed.method=fedbuff/fp32 "$2"
    check "$1: refused" equal "$?" 2
    check "$1: named" contains refused "$3"
}
refused "a deadline" fed.deadline_s=1 "fed.deadline_s"
refused "a shared port" net.port_up_bps=1e6 "net.port_up_bps"
refused "too small an arena" net.arena_bytes=4096 "net.arena_bytes"
run 1 refused fed.method=fedasync/signsgd
check "a vote among models: refused" contains refused "fedasync mixes models"
finish
