#!/usr/bin/env bash
# Edge servers that add up: the adapter of a tree is that of a star, to the bit, whatever the tree,
# the number of ranks, the network and what was lost; all that goes over a link is counted.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-relays.XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir" || exit 1
base=(task.name=quadratic task.features=60 optim.kind=sgd optim.lr=0.01 fed.local_steps=3
    fed.batch=20 fed.rounds=8 fed.clients=24 fed.clients_per_round=12 net.link=lte-20
    fed.sum=exact fed.dropout=0.2 fed.method=fedavg/int:bits=4+ef trace.file=)
rounds() # log: of every round who arrived, the loss and the adapter
{
    awk '/^ +[0-9]/ { print $1, $2, $4 }' "$1"
    adapter "$1"
}
total() # trace, column of its rounds
{
    [ -d "$1.csv" ] || "$FSTQ" export "$1.h5" --csv "$1.csv" >/dev/null
    awk -F, -v want="$2" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == want) c = i; next }
        { n += $c } END { printf "%.0f\n", n }' "$1.csv/rounds.csv"
}

run 1 flat trace.file=flat.h5
check "a star with exact sums is valid" contains flat "# VALID"
run 1 order fed.sum=order
check "and not far from the ordinary sum" equal "$(awk '/^ +8 /{ print $5 }' order)" \
    "$(awk '/^ +8 /{ print $5 }' flat)"
for relays in 1 4 12; do
    run 1 "r$relays" fed.relays=$relays trace.file=r$relays.h5
    check "$relays relays come to the same" equal "$(rounds "r$relays")" "$(rounds flat)"
done
run 3 r4np3 fed.relays=4 trace.file=r4np3.h5
check "on 3 ranks, too" equal "$(rounds r4np3)" "$(rounds flat)"
run 1 sim fed.relays=4 net.transport=sim net.sim_workers=4
check "and simulated" equal "$(rounds sim)" "$(rounds flat)"
run 1 lossyflat net.delivery=datagram net.loss=random:p=0.2 net.blocks=off
run 1 lossy net.delivery=datagram net.loss=random:p=0.2 net.blocks=off fed.relays=4
check "what the links lost a relay has not" equal "$(rounds lossy)" "$(rounds lossyflat)"
check "which is something" test "$(rounds lossy)" != "$(rounds flat)"
run 1 seg fed.method=fedavg/seg:parts=2@topk:ratio=0.2+ef
run 1 segr fed.method=fedavg/seg:parts=2@topk:ratio=0.2+ef fed.relays=4
check "with views whose parts differ by client" equal "$(rounds segr)" "$(rounds seg)"
stop_at_checkpoint TERM d "$FSTQ" run "${base[@]}" fed.rounds=40 fed.relays=4 run.dir=d
run 1 long fed.rounds=40
run 1 resumed fed.rounds=40 fed.relays=4 run.dir=d run.resume=on
check "and after a resume" equal "$(adapter resumed)" "$(adapter long)"

check "clients send the same bytes" equal "$(total r4 uplink_bytes)" "$(total flat uplink_bytes)"
check "a star has no relays' bytes" equal \
    "$(total flat relay_up_bytes) $(total flat relay_down_bytes)" "0 0"
check "fewer relays send less on" \
    test "$(total r1 relay_up_bytes)" -lt "$(total r4 relay_up_bytes)"
# Both workers have clients in each of the 8 rounds; one relay gets one model a round.
check "what relays send on is what leaves their ranks, beside models and control" equal \
    "$(($(total r4np3 relay_up_bytes) + 2 * $(total r1 relay_down_bytes)))" \
    "$(($(total r4np3 wire_bytes) - $(total r4np3 control_bytes)))"

# 12 fp32 updates through one port, or 2 sums.
port=(fed.method=fedavg/fp32 net.port_up_bps=1e6 task.outputs=40 fed.dropout=0)
run 1 portflat "${port[@]}" trace.file=portflat.h5
run 1 port "${port[@]}" fed.relays=2 trace.file=port.h5
check "a port that relays share takes less time" \
    test "$(($(total port time_modelled_ns) * 2))" -lt "$(total portflat time_modelled_ns)"
run 1 slow fed.relays=2 net.relay_link=lte-20:latency=1000 trace.file=slow.h5
check "the relays' link takes time" test "$(total slow time_modelled_ns)" -gt 16000000000

# A relay that dies in the middle of a round takes its clients with it, and what it had added up.
FSTQ_FAULT=kill:client=21,round=3 "$root/scripts/fstq-run" -np 3 run "${base[@]}" \
    fed.relays=4 fed.clients_per_round=24 fed.dropout=0 >killed 2>&1
check "a dead relay: status 3" equal $? 3
check "its clients are lost, and nobody else" equal \
    "$(awk '/^ +[1-9]/ { print $2, $3 }' killed | tr '\n' ' ')" \
    "24/24 0 24/24 0 12/24 12 12/24 12 12/24 12 12/24 12 12/24 12 12/24 12 "

refuses() # text, keys
{
    "$FSTQ" run "${base[@]}" "${@:2}" >refused 2>&1
    check "refused: ${*:2}" contains refused "$1"
}
refuses "set fed.sum = exact" fed.relays=4 fed.sum=order
refuses "waits for all of its clients" fed.relays=4 fed.deadline_s=1
refuses "no more than there are clients" fed.relays=40
refuses "adds up its own way" fed.method=fedavg/signsgd
finish
