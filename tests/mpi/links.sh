#!/usr/bin/env bash
# Links that change with time and lose segments: the same times, losses and adapters on any number
# of ranks, simulated, and after a resume.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-links.XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir" || exit 1
mkdir traces
awk 'BEGIN { srand(4); for (k = 0; k < 6; k++) { t = 0
    for (i = 0; i < 90; i++) { t += .05 + rand() / 5
        printf "%.3f %.3f\n", t, rand() < .1 ? 0 : .05 + rand() * 2 >("traces/t" k) } } }'
base=(task.name=quadratic optim.kind=sgd optim.lr=0.01 fed.local_steps=5 fed.batch=20 fed.rounds=40
    fed.clients=12 fed.clients_per_round=4 client.step_ns=1000000 net.link=trace net.trace=traces
    net.loss=gemodel:p=0.05,r=0.5 trace.file=)
times() # log: of every round, then what the run came to
{
    awk '/^ +[0-9]/ { print $1, $2, $(NF - 1), $NF }' "$1"
    sed -n 's/^# uplink.*, \(.*\) modelled$/\1/p; s/^# adapter/&/p' "$1"
}

uplink() # trace: bytes
{
    "$FSTQ" export "$1.h5" --csv "$1.csv" >/dev/null
    awk -F, 'NR > 1 { n += $4 } END { print n }' "$1.csv/rounds.csv"
}

run 1 one
check "a trace folder with losses is valid" contains one "# VALID"
check "rounds take different times" \
    test "$(awk '/^ +[0-9]/ { print $(NF - 1) }' one | sort -u | wc -l)" -gt 20
for np in 2 3; do
    run $np "np$np"
    check "the same times and adapter on $np ranks" equal "$(times "np$np")" "$(times one)"
done
run 1 sim net.transport=sim net.sim_workers=3
check "and simulated" equal "$(times sim)" "$(times one)"
run 1 other run.seed=2
check "another seed has other times" test "$(times other)" != "$(times one)"
run 1 lossless net.loss=none
check "losses cost time" test "$(times lossless)" != "$(times one)"
check "but no update" equal "$(adapter lossless)" "$(adapter one)"

# A resumed run goes on where its links were.
stop_at_checkpoint TERM d "$FSTQ" run "${base[@]}" run.dir=d
check "stopped on its way" contains stopped "INTERRUPTED"
run 1 resumed run.dir=d run.resume=on
check "a resumed run goes on in its traces" equal \
    "$(times resumed | tail -n 12)" "$(times one | tail -n 12)"

# Datagrams: of an update that lacks segments the others count; uncut it is none.
lost() # log: updates that did not count
{
    awk '/^ +[0-9]/ { split($2, a, "/"); n += a[2] - a[1] } END { print n }' "$1"
}
gram=(net.delivery=datagram net.loss=random:p=0.1 task.features=60 task.outputs=20)
run 1 whole "${gram[@]}" net.blocks=off
check "whole messages are lost as datagrams" test "$(lost whole)" -gt 40
check "which is no fault" contains whole "# VALID"
run 1 gram "${gram[@]}"
check "blocks of them are not" test "$(lost gram)" -lt $(($(lost whole) / 4))
run 3 gram3 "${gram[@]}"
check "the same ones on 3 ranks" equal "$(times gram3)" "$(times gram)"
run 1 gramsim "${gram[@]}" net.transport=sim
check "and simulated ones" equal "$(times gramsim)" "$(times gram)"
stop_at_checkpoint TERM dgram "$FSTQ" run "${base[@]}" "${gram[@]}" run.dir=dgram
run 1 gramagain "${gram[@]}" run.dir=dgram run.resume=on
check "and after a resume" equal "$(adapter gramagain)" "$(adapter gram)"
for method in fedavg/seg:parts=2@sign+ef scaffold/int:bits=8 fedbuff/fp32 \
    fedavg/fstq:importance=magnitude; do
    few=(net.loss=none task.features=60 task.outputs=20 fed.rounds=3 fed.method="$method")
    rm -rf all.h5 cut.h5 all.csv cut.csv
    run 1 all "${few[@]}" trace.file=all.h5
    run 1 cut "${few[@]}" net.delivery=datagram trace.file=cut.h5
    check "$method: where nothing is lost blocks come to the same adapter" \
        equal "$(adapter cut)" "$(adapter all | grep .)"
    check "$method: in more bytes" test "$(uplink cut)" -gt "$(uplink all)"
done
run 1 zstd "${few[@]}" fed.method=fedavg/fp32+zstd trace.file=zstd.h5
run 1 zstdgram "${few[@]}" fed.method=fedavg/fp32+zstd net.delivery=datagram trace.file=zstdgram.h5
check "what cannot be cut is not" equal "$(uplink zstdgram)" "$(uplink zstd)"
run 1 dead net.loss=random:p=1 fed.rounds=2
check "a link that lets nothing through ends rounds without updates" \
    equal "$(awk '/^ +[0-9]/ { print $2 }' dead | tr '\n' ' ')" "0/0 0/4 0/4 "
finish
