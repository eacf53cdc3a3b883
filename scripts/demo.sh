#!/usr/bin/env bash
# What `make demo` shows after building: a run on three ranks, what its trace says, a picture of it.
#   scripts/demo.sh OUT      OUT: where the build is, e.g. build/release; results go to OUT/demo
set -eu
out=${1:?usage: scripts/demo.sh OUT}
out=$(cd "$out" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
export FSTQ=$out/fstq
[ -x "$FSTQ" ] || { echo "scripts/demo.sh: no $FSTQ: run make first" >&2; exit 1; }
python=${PYTHON:-/usr/bin/python3}
mkdir -p "$out/demo"
cd "$out/demo"
trace=$PWD/quadratic.h5 picture=$PWD/quadratic.png

show() { printf '\n$ %s\n' "$*"; "$@"; }

rm -f "$trace" "$trace.journal" "$picture"
show "$root/scripts/fstq-run" -np 3 run "$root/configs/quadratic.ini" trace.file="$trace"
show "$FSTQ" show "$trace"
if "$python" -c 'import h5py, numpy, matplotlib' 2>/dev/null; then
    show "$python" "$root/scripts/plot_run.py" "$trace" "$picture"
    made="$picture   the curve, and where the time of a round goes"
else
    made="(no picture: $python has no h5py, numpy or matplotlib; scripts/deps.sh installs them)"
fi
cat <<EOF

The demo has made
  $trace    every span, message and round: fstq show, h5dump, h5py
  $made
Next: $FSTQ list, $FSTQ run --help, README.md
EOF
