#!/usr/bin/env bash
# What `make demo` shows after building: a run on three ranks, what its trace says, a picture of it.
#   scripts/demo.sh OUT      OUT: where the build is, e.g. build/release; results go to OUT/demo
set -eu
out=${1:?usage: scripts/demo.sh OUT}
out=$(cd "$out" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
[ -x "$out/fstq" ] || { echo "scripts/demo.sh: no $out/fstq: run make first" >&2; exit 1; }
python=${PYTHON:-/usr/bin/python3}
cd "$root"
out=${out#"$root"/} # short names in the trace and the picture, where they can be
export FSTQ=$out/fstq
mkdir -p "$out/demo"
trace=$out/demo/quick.h5 picture=$out/demo/quick.png

show() { printf '\n$ %s\n' "$*"; "$@"; }

rm -f "$trace" "$trace.journal" "$picture"
show scripts/fstq-run -np 3 run configs/quick.ini trace.file="$trace"
show "$FSTQ" show "$trace"
if "$python" -c 'import h5py, numpy, matplotlib' 2>/dev/null; then
    show "$python" scripts/plot_run.py "$trace" "$picture"
    made="$picture   the curve, and where the time of a round goes"
else
    made="(no picture: $python has no h5py, numpy or matplotlib; scripts/deps.sh installs them)"
fi
cat <<EOF

The demo has made, in $root
  $trace    every span, message and round: fstq show, h5dump, h5py
  $made
Next: $FSTQ list, $FSTQ run --help, README.md
EOF
