#!/usr/bin/env bash
# One LoRA step of fstq and of PyTorch on the CPU, in turn: bench/peers/compare_step.sh [SHAPE ...]
#   SHAPE   small (dim 288, 6 layers, 8 x 256), base (dim 768, 12 layers, 4 x 256); default both
#   THREADS=1  ROUNDS=3  STEPS=3   FSTQ=build/release/fstq   PYTHON=/usr/bin/python3
# PyTorch runs in fp32 and bf16, eager, with its fused attention, compiled, and as transformers and
# PEFT have it; rows whose packages are not installed are left out with a word. Both programs get
# the OpenBLAS kernels this CPU can run: OpenBLAS knows CPUs by number, and takes SSE3 kernels for
# one it does not know. Set OPENBLAS_CORETYPE yourself to choose others.
set -euo pipefail
cd "$(dirname "$0")/../.."
fstq=${FSTQ:-build/release/fstq} python=${PYTHON:-/usr/bin/python3}
threads=${THREADS:-1} rounds=${ROUNDS:-3} steps=${STEPS:-3}
[ -x "$fstq" ] || { echo "compare_step: no $fstq: run make first" >&2; exit 4; }
"$python" -c 'import torch' 2>/dev/null || {
    echo "compare_step: $python has no torch; on Debian: apt-get install python3-torch" >&2
    exit 4
}
peers=(
    "eager fp32|"
    "eager bf16|--math bf16"
    "sdpa fp32|--attention sdpa"
    "sdpa bf16|--attention sdpa --math bf16"
)
if "$python" -c 'import torch; torch._dynamo' 2>/dev/null; then
    peers+=("compiled fp32|--attention sdpa --compile"
        "compiled bf16|--attention sdpa --math bf16 --compile")
else
    echo "# this torch does not compile: no compiled rows"
fi
if "$python" -c 'import peft, transformers' 2>/dev/null; then
    peers+=("peft fp32|--peft --attention sdpa" "peft bf16|--peft --attention sdpa --math bf16")
else
    echo "# $python has no transformers and peft: no rows of theirs"
fi
if [ -z "${OPENBLAS_CORETYPE:-}" ]; then
    if grep -qw avx512bw /proc/cpuinfo 2>/dev/null; then
        export OPENBLAS_CORETYPE=SkylakeX
    elif grep -qw avx2 /proc/cpuinfo 2>/dev/null; then
        export OPENBLAS_CORETYPE=Haswell
    fi
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# Medians over the rounds, each row against the better of ours by the median of the rounds' ratios.
cat >"$out/table.py" <<'EOF'
import json
import statistics
import sys

out, shape, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
SCALE = {'ns': 1e-9, 'us': 1e-6, 'ms': 1e-3, 's': 1.0}


def load(name):
    with open(f'{out}/{name}', encoding='utf-8') as f:
        return json.load(f)


def ours(math, r):
    rows = [b for b in load(f'{shape}.{math}.{r}')['benchmarks']
            if b['name'] == f'step/step/{shape}' and b.get('run_type', 'iteration') == 'iteration']
    return [statistics.median(b[k] * SCALE[b['time_unit']] for b in rows)
            for k in ('real_time', 'cpu_time')]


def theirs(name, r):
    d = load(f'{shape}.{name}.{r}')
    return [statistics.median(d['wall_s']), statistics.median(d['cpu_s']), d['rss_mib'], d['torch']]


us = {m: [ours(m, r) for r in range(rounds)] for m in ('fp32', 'bf16')}
them = {n: [theirs(n, r) for r in range(rounds)] for n in sys.argv[4:]}
best = min(us, key=lambda m: statistics.median(x[0] for x in us[m]))
torch = next(iter(them.values()))[0][3]
print(f'# {shape}; medians of {rounds} rounds in turn, torch {torch}; /fstq: by its {best}')
print(f'{"":16} {"wall (s)":>9} {"CPU (s)":>9} {"peak MiB":>9} {"/fstq":>7}')
for name, rows in [(f'fstq {m}', us[m]) for m in us] + list(them.items()):
    ratio = sorted(x[0] / b[0] for x, b in zip(rows, us[best]))
    peak = f'{rows[0][2]:9d}' if len(rows[0]) > 2 else f'{"-":>9}'
    print(f'{name:16} {statistics.median(x[0] for x in rows):9.3f} '
          f'{statistics.median(x[1] for x in rows):9.3f} {peak} {statistics.median(ratio):7.2f}'
          f'  ({ratio[0]:.2f} to {ratio[-1]:.2f})')
EOF
[ $# -gt 0 ] || set -- small base
for name in "$@"; do
    case $name in
    small) peer=(--dim 288 --hidden 768 --layers 6 --heads 6 --batch 8) ;;
    base) peer=(--dim 768 --hidden 2048 --layers 12 --heads 12 --batch 4) ;;
    *) echo "compare_step: no shape $name (small, base)" >&2; exit 2 ;;
    esac
    for ((round = 0; round < rounds; round++)); do
        for math in fp32 bf16; do
            "$fstq" bench step "step.shape=$name" "step.threads=$threads" "step.math=$math" \
                --samples "$steps" --json "$out/$name.$math.$round" >"$out/$name.text"
        done
        for row in "${peers[@]}"; do
            # shellcheck disable=SC2086 # options, without blanks in any
            "$python" bench/peers/torch_step.py "${peer[@]}" --threads "$threads" \
                --steps "$steps" ${row#*|} 2>"$out/err" | tail -n 1 \
                >"$out/$name.${row%%|*}.$round" || { cat "$out/err" >&2; exit 1; }
        done
    done
    echo "# $name, $threads thread(s)"
    grep -h 'memory:' "$out/$name.text" || true
    "$python" "$out/table.py" "$out" "$name" "$rounds" "${peers[@]%%|*}"
done
