#!/usr/bin/env bash
# The federation on the row `emu`: the GPU's kernels and CUDA's calls, run on the CPU. Its updates
# and losses are the CPU's but for rounding, and it sends as many bytes. Then what a program says
# that is to use a GPU and cannot.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}" "${FSTQ_BUILD:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
emu=$FSTQ_BUILD/tests/fstq-emu
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-emu.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
common=("$root/configs/quick.ini" fed.rounds=1 fed.clients=4 fed.clients_per_round=1
    fed.local_steps=2 task.test=2 dev.threads=1 trace.updates=1)

# The distance of the second of two update files from the first, relative to its length.
cat >apart.py <<'EOS'
import array, json, math, sys
def load(path):
    with open(path, 'rb') as f:
        head = json.loads(f.read(int.from_bytes(f.read(8), 'little')))
        data = array.array('f', f.read())
    head.pop('__metadata__', None)
    return sorted(head), data
(names, a), (others, b) = load(sys.argv[1]), load(sys.argv[2])
assert names == others and len(a) == len(b) > 1000
size = math.sqrt(sum(x * x for x in a))
far = math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b))) / size if size > 0 else math.inf
print(f'# {far:.2e} apart')
sys.exit(not far < float(sys.argv[3]))
EOS

# The first round's loss, in its table.
loss()
{
    awk '$1 == "1" && $2 ~ /\// { print $4 }' "$1"
}
near() # a b: numbers within 1e-3 of the first
{
    awk -v a="$1" -v b="$2" 'BEGIN { d = a - b; exit !(a > 0 && (d < 0 ? -d : d) < 1e-3 * a) }'
}
bytes()
{
    sed -n 's/^# uplink \([^,]*, downlink [^,]*\),.*/\1/p' "$1"
}
there=() # settings of the device alone
alike()  # name how-far where settings...   how far the updates may be apart, -: there are none;
{        # where they are coded
    local name=$1 far=$2 where=$3
    shift 3
    "$FSTQ" run "${common[@]}" dev.kind=cpu trace.file=cpu.h5 "$@" >cpu 2>&1
    "$emu" run "${common[@]}" dev.kind=emu trace.file=emu.h5 "$@" "${there[@]}" >out 2>&1
    check "$name: valid" contains out "# VALID" || return
    check "$name: the CPU's loss" near "$(loss cpu)" "$(loss out)"
    check "$name: as many bytes" equal "$(bytes out)" "$(bytes cpu)"
    [ "$far" = - ] || check "$name: the CPU's update" python3 apart.py \
        cpu.h5.updates/*.safetensors emu.h5.updates/*.safetensors "$far"
    "$emu" show emu.h5 >out 2>&1
    check "$name: coded on $where" contains out "coded on $where"
    rm -rf cpu.h5* emu.h5*
}

alike "signs, with what was left out" 1e-3 emu fed.method=fedavg/sign+ef fed.batch=1
alike "tokens by Fisher, packed" 1e-2 emu fed.method=fedavg~fisher:keep=0.5,every=1/fstq
there=(dev.math=bf16)
alike "activations in bf16" 2e-1 emu fed.method=fedavg/fp32
there=(dev.math=fp16) # whose gradients are scaled: by plain descent, which sees it
alike "activations in fp16" 5e-3 emu fed.method=fedavg/fp32 optim.kind=sgd fed.batch=1
there=()
if [ "${FSTQ_TEST_LONG:-0}" != 0 ]; then
    alike "tokens by attention" 1e-3 emu fed.method=fedavg~attention:keep=0.5,every=1/fp32
    alike "merged tokens" 1e-3 emu fed.method=fedavg~tome/fp32
    alike "bf16 weights, recomputed" 1e-2 emu fed.method=fedavg/fp32 model.dtype=bf16 \
        model.recompute=layer
    alike "the server's half" - cpu fed.method=split/fp16
    alike "layers read for a network beside the model" - cpu fed.method=pae/fp16
fi

# Three rounds on either device, in one table: what the adapter is worth afterwards.
cat >compare.ini <<'EOS'
[task]
name = synth-medical
[optim]
lr = 4e-3
[fed]
clients = 4
clients_per_round = 1
rounds = 3
[compare]
base = cpu
last = 1
trailing = 1
method = cpu | fedavg~fisher:keep=0.5,every=1/fstq | dev.kind=cpu
method = emu | fedavg~fisher:keep=0.5,every=1/fstq | dev.kind=emu
EOS
cat >close.py <<'EOS'
import json, sys
cpu, emu = [m['final']['mean'] for m in json.load(open(sys.argv[1]))['methods']]
print(f'# {cpu:.5f} on the CPU, {emu:.5f} on the device')
sys.exit(not (cpu > 0 and abs(cpu - emu) <= float(sys.argv[2]) * cpu))
EOS
compared() # name how-far settings...   relative to the score on the CPU
{
    local name=$1 far=$2
    shift 2
    "$emu" compare compare.ini compare.dir="$name" compare.seeds=1 dev.threads=1 \
        --json "$name.json" "$@" >out 2>&1
    check "three rounds, $name: valid" contains out "# VALID"
    check "three rounds, $name: the CPU's" python3 close.py "$name.json" "$far"
}
compared loss 3e-3 compare.score=loss fed.local_steps=2 fed.batch=1 task.test=2
if [ "${FSTQ_TEST_LONG:-0}" != 0 ]; then
    compared score 0.1 compare.score=score fed.local_steps=6 fed.batch=16 task.test=16
fi

# Operations by themselves, on the device that is named.
tiny="ops.rows=8 ops.dim=32 ops.hidden=32 ops.heads=2 ops.vocab=32 ops.rank=2 ops.seq=8"
# shellcheck disable=SC2086 # a list of options
"$emu" bench ops --dev emu $tiny --samples 1 --min-time 1e-6 >out 2>err
check "bench ops on the device: status 0" equal "$?" 0
check "bench ops on the device: it says where" contains out "on emu"
tiny="shape=custom dim=32 hidden=32 layers=1 heads=2 kv_heads=2 vocab=32 batch=1 seq=8 rank=2"
# shellcheck disable=SC2046,SC2086 # a list of options
"$emu" bench step --dev emu $(printf 'step.%s ' $tiny) --samples 1 --min-time 1e-6 >out 2>err
check "bench step on the device: status 0" equal "$?" 0
check "bench step on the device: it says where" contains out "on emu"
check "bench step on the device: by its own clock" contains out "a step by the device's events"
# shellcheck disable=SC2046,SC2086 # a list of options
"$emu" bench fisher --dev emu $(printf 'fisher.%s ' $tiny) --samples 1 --min-time 1e-6 >out 2>err
check "bench fisher on the device: status 0" equal "$?" 0
check "bench fisher on the device: it says where" contains out "on emu"
"$emu" bench codec --dev emu codec.values=4096 codec.shape=16x64,64x16 codec.draws=2 \
    codec.methods="sign+ef powersgd" --samples 1 --min-time 1e-6 >out 2>err
check "bench codec on the device: the host's messages" equal "$?" 0
coded_on() # codec: what its row says, before the verdict
{
    awk -v codec="$1" '$2 == codec { print $(NF - 2) }' out
}
check "bench codec on the device: coded there" equal "$(coded_on sign+ef)" emu
check "bench codec on the device: by its own clock" \
    contains out "an encoding by the device's events"
check "bench codec on the device: fetched" equal "$(coded_on powersgd)" cpu
"$emu" bench pack --dev emu pack.values=5000 --samples 1 --min-time 1e-6 >out 2>err
check "bench pack on the device: the CPU's bytes" equal "$?" 0
check "bench pack on the device: every width" test "$(grep -c 'Pass$' out)" = 6
"$emu" bench select --dev emu select.values=8192 select.shape=16x64,64x16 --samples 1 \
    --min-time 1e-6 >out 2>err
check "bench select on the device: the CPU's choice" equal "$?" 0
check "bench select on the device: all of them" test "$(grep -c 'Pass$' out)" = 6
"$emu" bench infer --dev emu infer.rows=32 infer.cols=256 infer.cached=12 infer.heads=4 \
    infer.kv_heads=2 infer.head_dim=16 --samples 1 --min-time 1e-6 >out 2>err
check "bench infer on the device: status 0" equal "$?" 0
check "bench infer on the device: it says where" contains out "one thread on emu"
check "bench infer on the device: what it holds, and attention" equal \
    "$(awk '/Pass$/ { print $2 }' out | tr '\n' ' ')" "linear/F32 linear/BF16 attention_step "
"$emu" bench rans --dev emu >out 2>err
check "a benchmark without a device: status 2" equal "$?" 2
check "a benchmark without a device: said" contains err "rans runs on the CPU alone"

"$emu" list options | grep -F dev.kind >kinds
check "only here dev.kind names it" contains kinds emu
check "not in the program" test "$("$FSTQ" list options | grep -F dev.kind | grep -c emu)" = 0
"$FSTQ" run "${common[@]}" dev.kind=cuda trace.file= trace.updates=0 >out 2>err
status=$?
if [ "$status" = 0 ]; then
    skip "without a GPU: status 4" "there is one"
else
    check "without a GPU: status 4" equal "$status" 4
    check "without a GPU: what is missing" contains err "dev.kind = cuda: no"
    check "without a GPU: what to do" contains err "choose"
    "$FSTQ" info >facts
    check "without a GPU: info runs" contains facts "# gpu"
    "$FSTQ" run "$root/configs/quadratic.ini" dev.kind=cuda fed.rounds=1 trace.file= >out 2>err
    check "without a GPU: status 4 also where the task would not use it" equal "$?" 4
    check "without a GPU: what is missing there" contains err "dev.kind = cuda: no"
fi
"$FSTQ" run "${common[@]}" dev.kind=cpu dev.math=tf32 trace.file= trace.updates=0 >out 2>err
check "tf32 on the CPU: status 2" equal "$?" 2
check "tf32 on the CPU: refused" contains err "dev.math = tf32: not supported by dev.kind = cpu"
"$emu" run "${common[@]}" dev.kind=emu dev.buffers=mapped trace.file= trace.updates=0 >out 2>err
check "buffers that are not shared: status 2" equal "$?" 2
check "buffers that are not shared: why" \
    contains err "dev.buffers = mapped: GPU 0 has memory of its own"
# A device that is there, for a task that computes on the CPU alone.
"$emu" run "$root/configs/quadratic.ini" dev.kind=emu fed.rounds=1 trace.file= >out 2>err
check "a device that the task does not use: status 2" equal "$?" 2
check "a device that the task does not use: why" \
    contains err "argument 1: dev.kind = emu: task.name = quadratic has no kernels"
finish
