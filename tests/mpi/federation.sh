#!/usr/bin/env bash
# The federation over real ranks: the same adapter and the same bytes for any number of ranks,
# threads and either transport; schemes, codecs, links; the bytes counted are the bytes sent.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-fed.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
common=(task.name=quadratic optim.kind=sgd optim.lr=0.01 fed.local_steps=5 fed.batch=20
    fed.rounds=12 fed.clients=20 fed.clients_per_round=8 fed.dropout=0.15 optim.momentum=0.5
    fed.opt_state=keep trace.file= run.seed=5)

run() # ranks log args...
{
    local np=$1 log=$2
    shift 2
    if [ "$np" = 1 ]; then
        "$FSTQ" run "${common[@]}" "$@" >"$log" 2>&1
    else
        mpirun --oversubscribe -np "$np" "$FSTQ" run "${common[@]}" "$@" >"$log" 2>&1
    fi
}
score() { sed -n 's/^# error \([^,]*\),.*/\1/p' "$1"; }
uplink() { sed -n 's/^# uplink \([^,]*\),.*/\1/p' "$1"; }
# All but measured times.
rounds() { grep -E '^ +[0-9]' "$1" | awk '{print $1, $2, $3, $4, $5, $6, $7}'; }

run 1 p1
check "one rank runs to the end" contains p1 "# VALID"
for np in 2 3 5; do
    run "$np" "p$np"
    check "$np ranks end with the same adapter" equal "$(adapter "p$np")" "$(adapter p1)"
    check "$np ranks send the same bytes, round by round" equal "$(rounds "p$np")" "$(rounds p1)"
done
run 3 t2 dev.threads=2
check "two threads end with the same adapter" equal "$(adapter t2)" "$(adapter p1)"
for w in 1 4; do
    run 1 "s$w" net.transport=sim net.sim_workers=$w
    check "sim with $w workers ends with the same adapter" equal "$(adapter "s$w")" "$(adapter p1)"
    check "sim with $w workers sends the same bytes" equal "$(rounds "s$w")" "$(rounds p1)"
done
run 3 window net.arena_bytes=4096
check "one update at a time in the arena: the same adapter" \
    equal "$(adapter window)" "$(adapter p1)"
run 3 sum net.checksum=off
check "without checksums: the same adapter" equal "$(adapter sum)" "$(adapter p1)"
long=(task.features=600 task.outputs=100 task.samples=20 fed.rounds=3)
run 1 long1 "${long[@]}"
for sum in on off; do
    run 3 "long$sum" "${long[@]}" net.checksum=$sum
    check "long frames, checksum $sum: the same adapter" \
        equal "$(adapter "long$sum")" "$(adapter long1)"
    check "long frames, checksum $sum: the same bytes" \
        equal "$(rounds "long$sum")" "$(rounds long1)"
done
run 1 other run.seed=6
check "another seed ends elsewhere" test "$(adapter other)" != "$(adapter p1)"

run 2 raw fed.method=fedavg/raw
check "raw and fp32 are the same model" equal "$(adapter raw)" "$(adapter p1)"
for codec in fp16 bf16; do
    run 2 "$codec" fed.method=fedavg/$codec
    check "$codec runs, and rounds" \
        test "$(adapter $codec)" != "$(adapter p1)" -a -n "$(score $codec)"
done
run 1 fp16c fed.method=fedavg/fp16
check "fp16 has the same bytes for any ranks" equal "$(adapter fp16)" "$(adapter fp16c)"
run 2 adam fed.method=fedadam:tau=0.01 fed.server_lr=0.05
check "a scheme without a codec is an error" contains adam "no '/'"
for scheme in fedadam fedyogi; do
    run 2 $scheme fed.method=$scheme:tau=0.01/fp32 fed.server_lr=0.05
    check "$scheme is valid" contains $scheme "# VALID"
    run 1 $scheme-1 fed.method=$scheme:tau=0.01/fp32 fed.server_lr=0.05
    check "$scheme is the same for any ranks" equal "$(adapter $scheme)" "$(adapter $scheme-1)"
done
run 2 noop fed.method=noop
check "noop learns nothing" equal "$(score noop)" "1.00000"

# A fixed link: 8 updates of 1000 floats; the slowest client is as slow as all others here.
run 2 link net.link=fixed net.up_bps=1e6 net.down_bps=4e6 net.latency_ns=1000000 \
    client.step_ns=2000000 fed.dropout=0 fed.method=fedavg/raw
# down 4064 B at 4 Mbit/s = 8.128 ms + 1; 5 steps = 10 ms; up 4064 B at 1 Mbit/s = 32.512 ms + 1
check "modelled time of a fixed link by hand" \
    equal "$(grep -E '^ +1 ' link | awk '{print $(NF-1), $NF}')" "52.6 ms"
finish
