#!/usr/bin/env bash
# The federation with a language model: the same adapter and bytes for any number of ranks and
# threads and either transport, also after an interruption.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-model.XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir" || exit 1
common=("$root/configs/quick.ini" fed.rounds=3 fed.clients=9 fed.clients_per_round=5
    fed.local_steps=4 task.test=32 dev.threads=1 trace.file=)
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
rounds() { grep -E '^ +[0-9]' "$1" | awk '{print $1, $2, $3, $4, $5, $6, $7}'; }

run 1 p1
check "one rank runs to the end" contains p1 "# VALID"
for np in 2 3; do
    run $np p$np
    check "$np ranks: the same adapter" equal "$(adapter p$np)" "$(adapter p1)"
    check "$np ranks: the same bytes and scores" equal "$(rounds p$np)" "$(rounds p1)"
done
run 1 t3 dev.threads=3
check "three threads: the same adapter" equal "$(adapter t3)" "$(adapter p1)"
# Training takes twice as long as a rank may be silent.
slow=(fed.rounds=1 fed.local_steps=120 fed.clients_per_round=2 net.timeout_s=1)
for method in fedavg/fp32 fedbuff:k=2/fp32; do
    run 2 slow "${slow[@]}" fed.method=$method
    check "$method: a rank that trains for longer than net.timeout_s is waited for" \
        contains slow "# VALID"
done
most_threads() # dev.threads: the most threads seen of a run with a codec that uses them
{
    local pid seen most=0
    "$FSTQ" run "${common[@]}" net.transport=sim fed.method=fstq dev.threads="$1" >/dev/null 2>&1 &
    pid=$!
    while kill -0 $pid 2>/dev/null; do
        seen=$(ls /proc/$pid/task 2>/dev/null | wc -l)
        [ "$seen" -gt "$most" ] && most=$seen
        sleep 0.01
    done
    echo "$most"
}
if [ -d /proc/self/task ]; then
    check "codecs keep to dev.threads, too" equal "$(most_threads 2)" $(($(most_threads 1) + 1))
else
    skip "codecs keep to dev.threads, too" "no /proc here"
fi
run 1 sim net.transport=sim net.sim_workers=3
check "sim, one client at a time: the same adapter" equal "$(adapter sim)" "$(adapter p1)"
run 1 alone dev.clients=1
check "one client at a time: the same adapter" equal "$(adapter alone)" "$(adapter p1)"
for n in 1 3; do
    run 1 bf16.$n dev.math=bf16 dev.threads=$n
done
check "products in bf16: valid, and the same for any threads" \
    test -n "$(adapter bf16.1)" -a "$(adapter bf16.1)" = "$(adapter bf16.3)"
check "products in bf16: another adapter than in fp32" test "$(adapter bf16.1)" != "$(adapter p1)"
run 1 bf16.ref dev.math=bf16 dev.kind=ref
check "dev.math = bf16 is refused where it is not known" contains bf16.ref "dev.kind = ref"
run 1 layer model.recompute=layer
check "recomputing layers: the same adapter" equal "$(adapter layer)" "$(adapter p1)"
run 1 diverges optim.kind=sgd optim.lr=0.5 fed.server_lr=1000 fed.eval_every=1
check "a model that diverges is a loss of updates, not of the run" contains diverges "# DEGRADED"
run 1 central fed.clients=1 fed.clients_per_round=1 task.partition=iid
check "centralised: one client with all languages" contains central "# VALID"

# Moments kept between rounds are client state; killed and resumed, the run ends the same.
keep=(fed.opt_state=keep fed.rounds=6)
run 1 kept "${keep[@]}"
check "kept moments matter" test "$(adapter kept)" != "$(adapter p1)"
stop_at_checkpoint KILL d "$FSTQ" run "${common[@]}" "${keep[@]}" run.dir=d
run 2 resumed "${keep[@]}" run.dir=d run.resume=on
check "killed and resumed on other ranks: the same adapter" \
    equal "$(adapter resumed)" "$(adapter kept)"
"$FSTQ" score "${common[@]}" "${keep[@]}" run.dir=d >scored 2>&1
check "score: the checkpoint's adapter has the run's score" equal \
    "$(sed -n 's/^# exact \([0-9.]*\), loss \([0-9.]*\)$/\1/p' scored | cut -c1-6)" \
    "$(sed -n 's/^# exact \([0-9.]*\),.*/\1/p' resumed | cut -c1-6)"

# Averages kept between rounds are client state, too.
fisher=(fed.method='fedavg~fisher:every=2,key=vocab/fstq:budget=0.05'
    fisher.persist=keep fed.opt_state=keep fed.rounds=6)
run 1 fisher "${fisher[@]}" fisher.scores=2 run.dir=s1
run 1 forgets "${fisher[@]}" fisher.persist=reset
check "kept averages matter" test "$(adapter fisher)" != "$(adapter forgets)"
run 3 fisher3 "${fisher[@]}" fisher.scores=2 run.dir=s3
check "token scores: the same from three ranks" cmp s1/token_scores.safetensors \
    s3/token_scores.safetensors
check "kept averages: the same adapter on three ranks" \
    equal "$(adapter fisher3)" "$(adapter fisher)"
stop_at_checkpoint KILL f "$FSTQ" run "${common[@]}" "${fisher[@]}" fisher.scores=2 run.dir=f
run 2 resumed "${fisher[@]}" fisher.scores=2 run.dir=f run.resume=on
check "token scores: killed and resumed, the same" cmp f/token_scores.safetensors \
    s1/token_scores.safetensors
check "kept averages: killed and resumed on other ranks, the same adapter" \
    equal "$(adapter resumed)" "$(adapter fisher)"
# A mask that keeps every token is no mask: the same messages and adapter as without one.
run 1 uniform fed.method=fedavg~uniform/fstq:budget=0.05
run 1 all fed.method=fedavg~fisher:keep=1,every=2/fstq:budget=0.05
run 1 half fed.method=fedavg~fisher:keep=0.5,every=2/fstq:budget=0.05
check "keep = 1: the same adapter as uniform" equal "$(adapter all)" "$(adapter uniform)"
check "keep = 1: the same bytes and scores" equal "$(rounds all)" "$(rounds uniform)"
check "keep = 0.5: another adapter" test "$(adapter half)" != "$(adapter uniform)"
run 1 oracle fed.method=fedavg~oracle/fstq:budget=0.05
run 2 oracle2 fed.method=fedavg~oracle/fstq:budget=0.05 dev.threads=2
check "oracle: the same adapter on other ranks and threads" \
    equal "$(adapter oracle2)" "$(adapter oracle)"
run 1 accumulate fed.method=fedavg/fstq:budget=0.05 fisher.accumulate=oracle
check "oracle: by source or by accumulation" equal "$(adapter accumulate)" "$(adapter oracle)"
# Labels in a file of JSON lines: the score that the task found is the one that is told.
for i in 1 2 3 4 5 6 7 8; do
    [ $((i % 2)) = 1 ] && label=odd || label=even
    printf '{"text": "text %d", "label": "%s"}\n' $i $label
done >labels.jsonl
"$FSTQ" run task.name=jsonl task.path=labels.jsonl task.test=2 task.partition=iid fed.clients=2 \
    fed.clients_per_round=2 fed.rounds=1 fed.local_steps=1 trace.file=labels.h5 >labels.log 2>&1
check "labels are scored by accuracy, in the summary" grep -q '^# accuracy ' labels.log
check "and in the trace" eval "'$FSTQ' export labels.h5 --csv labels.csv >/dev/null &&
    grep -q ',all,accuracy,' labels.csv/eval.csv"
finish
