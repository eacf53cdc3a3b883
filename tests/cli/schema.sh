#!/usr/bin/env bash
# What --json writes is what schemas/ says, and these notice what is left out or of another type.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-schema.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
schema() { python3 "$root/tests/cli/check_schema.py" "$@" >said 2>&1 || { cat said; false; }; }
schemas=$root/schemas

cat >run.ini <<'END'
[task]
name = quadratic
[optim]
kind = sgd
lr = 0.01
[fed]
clients = 4
clients_per_round = 2
rounds = 2
local_steps = 1
[net]
transport = sim
END
{
    cat run.ini
    cat <<'END'
[compare]
base = fp32
seeds = 1 2
last = 1
trailing = 1
bytes_at = 4000 20000
search = optim.lr: 0.01 0.02
method = fp32 | fedavg/fp32
method = topk | fedavg/topk:ratio={0.01..0.5} | bits=2
END
} >compare.ini
"$FSTQ" run run.ini fed.method=fedavg/int:bits=4 trace.file=t.h5 >out 2>err
"$FSTQ" show t.h5 --json >show.json 2>err
"$FSTQ" compare compare.ini compare.dir=c >out 2>err
"$FSTQ" report --tables c >out 2>err
"$FSTQ" report --tables t.h5 -o t >out 2>err
"$FSTQ" info --json >info.json 2>err
"$FSTQ" list options codecs stages benches -o json >list.json 2>err
"$FSTQ" doctor -o json >doctor.json 2>err
"$FSTQ" report --paper --form json >paper.json 2>err
"$FSTQ" score --json score.json task.name=synth-qa task.test=2 >out 2>err
"$FSTQ" bench memcpy memcpy.max_bytes=4096 --samples 2 --min-time 0.001 --json bench.json \
    >out 2>err

while read -r name file; do
    check "$file is what $name says" schema "$schemas/$name.schema.json" "$file"
    check "$name notices damage to it" schema --damage "$file" "$schemas/$name.schema.json"
done <<'END'
show show.json
compare c/compare.json
report t/report.json
info info.json
list list.json
doctor doctor.json
paper paper.json
score score.json
bench bench.json
END
check "a report of a comparison" schema "$schemas/report.schema.json" c/report.json
check "no schema without a test" equal "$(ls "$schemas" | wc -l)" 9
echo '{"type": "object", "dependentRequired": {}}' >odd.json
check "a keyword that the validator does not know is said" eval "! schema odd.json show.json"
finish
