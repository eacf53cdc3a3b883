#!/usr/bin/env bash
# What `make demo` shows after building: six methods on two seeds, the table, and the page about it.
#   scripts/demo.sh OUT      OUT: where the build is, e.g. build/release; results go to OUT/demo
# Started again it makes only what is missing.
set -eu
out=${1:?usage: scripts/demo.sh OUT}
out=$(cd "$out" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
[ -x "$out/fstq" ] || { echo "scripts/demo.sh: no $out/fstq: run make first" >&2; exit 1; }
export PYTHON=${PYTHON:-/usr/bin/python3}
cd "$root"
out=${out#"$root"/} # short names in the page, where they can be
demo=$out/demo

show() { printf '\n$ %s\n' "$*"; "$@"; }

echo "Six methods, two seeds, twelve rounds each: about two minutes on two cores."
show "$out/fstq" compare configs/demo.ini compare.dir="$demo"
show "$out/fstq" report "$demo"
cat <<END

In $demo: runs/, a trace of every span, message and round of each run ($out/fstq show FILE),
compare.json and report.json, the numbers, and a page about them, to be opened in a browser:
$root/$demo/report.html
END
