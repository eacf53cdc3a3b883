#!/usr/bin/env bash
# The federation on the row `fence`: the CPU's kernels on memory that host code cannot touch, behind
# a queue that runs late and recordings that run again. It gives the CPU's adapters, to the bit.
# Codecs work on what lies there, but for those that have no stages for it.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}" "${FSTQ_BUILD:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
fence=$FSTQ_BUILD/tests/fstq-fence
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-fence.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
common=("$root/configs/quick.ini" fed.rounds=2 fed.clients=6 fed.clients_per_round=3
    fed.local_steps=3 task.test=8 fed.eval_every=0 dev.threads=1 trace.file=)

same() # name where-it-is-coded settings...
{
    local name=$1 where=$2
    shift 2
    "$FSTQ" run "${common[@]}" "$@" >cpu 2>&1
    "$fence" run "${common[@]}" "$@" trace.file=fence.h5 >fence 2>&1
    check "$name: valid" contains fence "# VALID" &&
        check "$name: the CPU's adapter" equal "$(adapter fence)" "$(adapter cpu)"
    "$fence" show fence.h5 >shown 2>&1
    check "$name: coded on $where" contains shown "coded on $where"
}

for method in fedavg/fp32 fwdllm:draws=2/int fedavg~fisher:keep=0.5,every=2/fstq \
    fedavg~attention:keep=0.5,every=2/fp16 fedavg~loss:keep=0.5,every=2/fp16 fedavg~oracle/fstq \
    fedavg~tome/fp32 fedex/fp32 flora/fp32 fedbat/sign fedavg/R@fp32 fedavg/alt@fp32 \
    scaffold/int8 fedavg/dgc fedavg/fstq:importance=gd+zstd fedavg/int4+ef21 fedavg/cocktail+ef; do
    same "$method" fence fed.method=$method
done
for method in split/fp16 split~tome/fp16 fedavg/powersgd; do
    same "$method" cpu fed.method=$method
done
same "both sides of a cut" "several devices" fed.method="splitlora/fp32;fp16;int:bits=8"
same "kept moments and averages" fence fed.opt_state=keep fisher.persist=keep \
    fed.method=fedavg~fisher/fstq+ef
same "recomputed layers, bf16 weights" fence model.recompute=layer model.dtype=bf16
same "a clipped update" fence client.dp_clip=0.1 client.dp_sigma=0.01 fed.method=fedavg/int8
mpirun --oversubscribe -np 3 "$fence" run "${common[@]}" fed.method=fedavg/fstq >three 2>&1
"$FSTQ" run "${common[@]}" fed.method=fedavg/fstq >cpu 2>&1
check "three ranks: the CPU's adapter" equal "$(adapter three)" "$(adapter cpu)"
"$fence" list options | grep -F dev.kind >kinds
check "only here dev.kind names it" contains kinds fence
check "not in the program" test "$("$FSTQ" list options | grep -F dev.kind | grep -c fence)" = 0
if [ "${FSTQ_TEST_LONG:-0}" != 0 ]; then # the whole of the federation's suite
    for suite in federation views tome codecs resume; do
        FSTQ=$fence bash "$root/tests/mpi/$suite.sh" >suite 2>&1
        check "$suite.sh passes on the fence" test $? = 0 || grep -A 8 "^not ok" suite
    done
fi
finish
