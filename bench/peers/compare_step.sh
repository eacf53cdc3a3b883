#!/usr/bin/env bash
# One LoRA step of fstq and of PyTorch on the CPU, in turn: bench/peers/compare_step.sh [SHAPE ...]
#   SHAPE   small (dim 288, 6 layers, 8 x 256), base (dim 768, 12 layers, 4 x 256); default both
#   THREADS=1  ROUNDS=3  STEPS=3   FSTQ=build/release/fstq   PYTHON=/usr/bin/python3
# Both get the OpenBLAS kernels this CPU can run: OpenBLAS knows CPUs by number, and takes SSE3
# kernels for one it does not know. Set OPENBLAS_CORETYPE yourself to choose others.
set -eu
cd "$(dirname "$0")/../.."
fstq=${FSTQ:-build/release/fstq} python=${PYTHON:-/usr/bin/python3}
threads=${THREADS:-1} rounds=${ROUNDS:-3} steps=${STEPS:-3}
[ -x "$fstq" ] || { echo "compare_step: no $fstq: run make first" >&2; exit 4; }
"$python" -c 'import torch' 2>/dev/null || {
    echo "compare_step: $python has no torch; on Debian: apt-get install python3-torch" >&2
    exit 4
}
if [ -z "${OPENBLAS_CORETYPE:-}" ]; then
    if grep -qw avx512bw /proc/cpuinfo 2>/dev/null; then
        export OPENBLAS_CORETYPE=SkylakeX
    elif grep -qw avx2 /proc/cpuinfo 2>/dev/null; then
        export OPENBLAS_CORETYPE=Haswell
    fi
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for shape in "${@:-small base}"; do
    for name in $shape; do
        case $name in
        small) peer=(--dim 288 --hidden 768 --layers 6 --heads 6 --batch 8) ;;
        base) peer=(--dim 768 --hidden 2048 --layers 12 --heads 12 --batch 4) ;;
        *) echo "compare_step: no shape $name (small, base)" >&2; exit 2 ;;
        esac
        for round in $(seq "$rounds"); do
            "$fstq" bench step "step.shape=$name" "step.threads=$threads" --samples "$steps" \
                --json "$out/$name.fstq.$round" >"$out/$name.text"
            "$python" bench/peers/torch_step.py "${peer[@]}" --threads "$threads" \
                --steps "$steps" >"$out/$name.torch.$round"
        done
        grep -h 'memory:' "$out/$name.text" || true
        "$python" - "$out" "$name" "$rounds" <<'EOF'
import json
import statistics
import sys

out, name, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
ours, theirs = {'wall': [], 'cpu': []}, {'wall': [], 'cpu': []}
for r in range(1, rounds + 1):
    with open(f'{out}/{name}.fstq.{r}', encoding='utf-8') as f:
        rows = [b for b in json.load(f)['benchmarks']
                if f'step/{name}' in b['name'] and b.get('run_type') == 'iteration']
    scale = {'ns': 1e-9, 'us': 1e-6, 'ms': 1e-3, 's': 1.0}
    ours['wall'].append(statistics.median(b['real_time'] * scale[b['time_unit']] for b in rows))
    ours['cpu'].append(statistics.median(b['cpu_time'] * scale[b['time_unit']] for b in rows))
    with open(f'{out}/{name}.torch.{r}', encoding='utf-8') as f:
        peer = json.load(f)
    theirs['wall'].append(statistics.median(peer['wall_s']))
    theirs['cpu'].append(statistics.median(peer['cpu_s']))
print(f'# {name}, {peer["threads"]} thread(s), torch {peer["torch"]}; medians of {rounds} rounds '
      f'in turn; torch peaked at {peer["rss_mib"]} MiB')
for clock in ('wall', 'cpu'):
    ratios = [t / o for t, o in zip(theirs[clock], ours[clock])]
    print(f'{name:6} {clock:4}  fstq {statistics.median(ours[clock]):8.3f} s   torch '
          f'{statistics.median(theirs[clock]):8.3f} s   torch / fstq '
          f'{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})')
EOF
    done
done
