#!/usr/bin/env bash
# The texts about results say what the data beside them do, and another number is noticed.
set -u
. "$(dirname "$0")/../tap.bash"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-results.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
results=$root/scripts/results.py

check "tables and sentences are those of the data" eval "'$results' --check >out 2>err"
check "there are some" test "$("$results" --print | wc -l)" -gt 30
# A digit of each claim changed, one at a time: each time that claim is missed.
check "any number that differs is noticed" python3 - "$root" <<'END'
import os, re, sys
sys.path.insert(0, os.path.join(sys.argv[1], 'scripts'))
import results
texts = {name: results.one_line(open(os.path.join(sys.argv[1], name), encoding='utf-8').read())
         for name in {name for name, _ in results.claims()}}
for name, claim in results.claims():
    claim = results.one_line(claim)
    last = re.search(r'\d(?=\D*$)|none', claim).start()
    wrong = claim[:last] + (str((int(claim[last]) + 1) % 10) if claim[last].isdigit() else 's') + \
        claim[last + 1:]
    assert wrong not in texts[name], claim
    assert claim in texts[name], claim
END
mkdir -p bench/results
cp "$root/README.md" .
cp "$root"/bench/results/*.md "$root"/bench/results/*.csv "$root"/bench/results/*.json bench/results
sed 's/\.797 ± \.033/.798 ± .033/' "$root/bench/results/README.md" >bench/results/README.md
"$results" --check . >out 2>err
check "a table with another number: status 1" equal "$?" 1
check "and it is named" contains err "FedAvg, fp32"
cp "$root/bench/results/README.md" bench/results
lacking() # name pattern what
{
    sed -i "$2" bench/results/scale.md
    "$results" --check . >out 2>err
    check "$1: status 1" equal "$?" 1
    check "$1: said" contains err "scale.md, \"$3"
    cp "$root/bench/results/scale.md" bench/results
}
lacking "a table without its source" '/^Source: .*966d8f0/d' 'By coordinates" lacks a line'
lacking "a source without a revision" 's/git 966d8f0/git/' 'By coordinates" lacks "git"'
lacking "data that are not there" 's/no data file/data: `nothing.csv`/' \
    'By coordinates" lacks nothing.csv'
finish
