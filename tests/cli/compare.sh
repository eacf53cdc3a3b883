#!/usr/bin/env bash
# fstq compare: each run is made once, a kill costs only what was going, a budget is met, and what
# is wrong with a config is said with its line.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-compare.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
compare() { "$FSTQ" compare "$@" >out 2>err; }
table() { sed '/^# What it costs/,$d' "$1" | grep -v '^#'; }

cat >run.ini <<'EOF'
[task]
name = quadratic
[optim]
kind = sgd
lr = 0.01
[fed]
clients = 10
clients_per_round = 5
rounds = 12
local_steps = 2
EOF
{
    cat run.ini
    cat <<'EOF'
[compare]
base = fp32
seeds = 1 2
last = 3
trailing = 2
method = fp32 | fedavg/fp32
method = topk | fedavg/topk:ratio=0.1 | optim.lr=0.02
EOF
} >two.ini

# Two methods, two seeds; killed after the first run has ended, then stopped, then to the end.
compare two.ini compare.dir=whole compare.jobs=2 fed.rounds=100 --json whole.json
check "two methods, two seeds: status 0" equal "$?" 0
check "four runs" contains out "0 runs were there, 4 made now, 0 failed"
check "the last line is the verdict" equal "$(tail -n 1 out)" "# VALID"
check "a row per method" equal "$(table out | awk '{ print $1, $2 }' | tr '\n' ' ')" \
    "fp32 2/2 topk 2/2 "
table out >whole.table

"$FSTQ" compare two.ini compare.dir=cut compare.jobs=1 fed.rounds=100 >cut.out 2>&1 &
pid=$!
for _ in $(seq 600); do
    grep -q " done " cut/log 2>/dev/null && break
    sleep 0.05
done
kill -KILL "$pid"
wait "$pid" 2>/dev/null
kept=$(ls cut/runs/*.h5 | grep -vc part)
check "killed in the middle: some runs are kept, not all" test "$kept" -ge 1 -a "$kept" -le 3
touch -d '2001-01-01' $(ls cut/runs/*.h5 | grep -v part)
compare two.ini compare.dir=cut compare.jobs=1 fed.rounds=100
check "after the kill: status 0" equal "$?" 0
check "after the kill: only the rest is run" contains out \
    "$kept runs were there, $((4 - kept)) made now, 0 failed"
check "what was kept was not touched" equal "$(find cut/runs -name '*.h5' ! -newermt 2001-01-02 |
    wc -l)" "$kept"
check "the same table as in one go" equal "$(table out)" "$(cat whole.table)"
check "nothing half done is left" equal "$(ls cut/runs | grep -c part)" 0

compare two.ini compare.dir=whole fed.rounds=100 compare.seeds="1 2 3" \
    compare.method="bf16 | fedavg/bf16"
check "a seed and a method more: only what is new is run" contains out \
    "4 runs were there, 5 made now, 0 failed"
compare two.ini compare.dir=whole fed.rounds=100 --no-run
check "--no-run: the first table again" equal "$(table out)" "$(cat whole.table)"
compare two.ini compare.dir=whole fed.rounds=100 compare.only=fp32 --no-run
check "compare.only: one row" equal "$(table out | tr -s ' ')" \
    "$(head -n 1 whole.table | tr -s ' ')"
compare two.ini compare.dir=nowhere --no-run
check "--no-run: runs that are not there: status 3" equal "$?" 3
check "--no-run: nothing is made" test ! -e nowhere

"$FSTQ" compare two.ini compare.dir=stop compare.jobs=1 fed.rounds=1000 >stop.out 2>&1 &
pid=$!
for _ in $(seq 600); do
    ls stop/runs/*.part.h5 >/dev/null 2>&1 && break
    sleep 0.05
done
kill -TERM "$pid"
wait "$pid"
check "SIGTERM: status 143" equal "$?" 143
check "SIGTERM: said" contains stop.out "# INTERRUPTED"

# The curves in the JSON are those of the run.
if command -v python3 >/dev/null; then
    check "JSON: final scores are means of the last three, the difference is paired" python3 -c '
import json
data = json.load(open("whole.json"))
base, topk = data["methods"]
finals = []
for m in (base, topk):
    f = [sum(r["score"][-3:]) / 3 for r in m["runs"]]
    assert all(abs(a - r["final"]) < 1e-12 for a, r in zip(f, m["runs"]))
    assert abs(m["final"]["mean"] - sum(f) / 2) < 1e-12
    assert [len(r["round"]) for r in m["runs"]] == [100, 100]
    finals.append(f)
gain = [b - a for a, b in zip(*finals)]
assert abs(topk["vs_base"]["mean"] - sum(gain) / 2) < 1e-12
assert topk["message_bytes"] < base["message_bytes"] == 4065
assert base["targets"][1]["uplink_ratio"] == 1'
else
    skip "JSON: final scores" "no python3"
fi
if /usr/bin/python3 -c 'import matplotlib' 2>/dev/null; then
    check "it can be drawn" "$root/scripts/plot_compare.py" whole.json whole.png --only topk
    check "the picture is a PNG" equal "$(head -c 4 whole.png | tail -c 3)" PNG
    echo '{}' >empty.json
    check "what is no comparison is refused" eval \
        "! '$root/scripts/plot_compare.py' empty.json x.png 2>said && grep -q 'fstq compare' said"
else
    skip "it can be drawn" "no matplotlib"
fi
"$FSTQ" run run.ini fed.rounds=100 run.seed=2 trace.file= >alone 2>&1
check "a run of the comparison is the run of 'fstq run'" equal \
    "$(cat whole/runs/*.log | grep -cF "$(grep '^# adapter' alone)")" 1
compare two.ini compare.dir=whole fed.rounds=100 --no-run compare.traffic=both --json both.json
check "both ways: the head says so" contains out "both 90%"
check "both ways: targets count the downlink, too" python3 -c '
import json
up, both = json.load(open("whole.json")), json.load(open("both.json"))
for a, b in zip(up["methods"], both["methods"]):
    for x, y in zip(a["runs"], b["runs"]):
        down = [q - p for p, q in zip(x["uplink_bytes"], y["uplink_bytes"])]
        assert down[0] > 0 and all(abs(d - down[0] * (k + 1)) < 1 for k, d in enumerate(down))'
compare two.ini compare.dir=whole fed.rounds=100 compare.seeds=1 --no-run
check "of one seed nothing is said that takes two" eval \
    "grep -q '^# topk: .* against fp32 on one seed, which shows no interval' out &&
    ! grep -q 'no difference' out"
compare two.ini compare.dir=whole fed.rounds=100 --no-run compare.method="again | fedavg/fp32"
check "as many bytes, in as many words" grep -q '^# again: .* as much uplink;' out
compare two.ini compare.dir=whole fed.rounds=100 --no-run --csv t.csv --markdown t.md
check "CSV: a head and a row per method" equal "$(wc -l <t.csv)" 3
check "CSV: as many fields in each" equal "$(python3 -c '
import csv; print(len({len(r) for r in csv.reader(open("t.csv"))}))')" 1
check "Markdown: the table" contains t.md "| fp32 | 2/2 |"
check "what it costs: bytes each way and no state" grep -q '^| fp32 | [^|]*B | [^|]*B | 0 B | ' t.md
compare two.ini compare.dir=state compare.seeds=1 compare.base=c --json state.json \
    compare.method="c | scaffold/topk:ratio=0.1+ef" compare.only=c
check "what it costs: a control and a residual of 1,000 floats each, and its round" python3 -c '
import json
m = json.load(open("state.json"))["methods"][0]
assert m["client_state_bytes"] == 8004, m["client_state_bytes"]
assert m["memory_peak_bytes"] > 1e6
assert m["server_round_ns"] > 0 and m["down_bytes"] > m["up_bytes"] > 0
assert m["server_sees"] == "updates"'

# The same search for every method; the best setting is taken for the result.
{
    cat two.ini
    echo 'search = fed.server_lr: 0.5 1 2; fed.batch: 2 4'
    echo 'search_widen = off'
} | sed 's/ | optim.lr=0.02//' >search.ini
compare search.ini compare.dir=search compare.seeds=1 --search
check "grid: 2 x 6 settings, 2 runs of the result" contains out \
    "0 runs were there, 14 made now"
best=$(sed -n '/# search topk/,/^#$/p' out | grep '^#   ' | sort -k2n | head -n 1)
check "grid: the lowest error is chosen" grep -q '  <$' <<<"$best"
check "grid: one choice a method" equal "$(grep -c '  <$' out)" 2
check "grid: used" contains out "chosen fed.server_lr="
check "grid: at the edge" contains out "(at the edge of what was tried)"
compare search.ini compare.dir=search compare.seeds=1 compare.search_widen=on --search
check "widened: beyond the edge as far again, once" \
    grep -qE '^# +[0-9.]+  fed.server_lr=(4|0.25) fed.batch=[24]' out
check "widened: no more than one setting a method, and its result" \
    grep -qE " [1-4] made now, 0 failed" out
compare search.ini compare.dir=search compare.seeds=1 compare.search_mode=coordinate --search
check "coordinate: the runs of the grid serve it" contains out "made now, 0 failed"
check "coordinate: 3 + 2 settings a method" equal "$(grep -cE '^# +[0-9.]+  fed.server_lr' out)" 10
compare search.ini compare.dir=search compare.seeds=1 compare.search_mode=halving \
    "compare.search_seeds=101 102" --search
check "halving: of 6 settings a method 3 go on to the second seed" equal \
    "$(grep -c "(1 of 2 seeds)" out)" 6
check "halving: 3 runs more a method, and those of the result" \
    grep -qE " [678] made now, 0 failed" out

# Budgets: met and never exceeded.
cat run.ini - >budget.ini <<'EOF'
[compare]
seeds = 1
targets =
method = fp32 | fedavg/fp32
method = topk | fedavg/topk:ratio={0.001..0.9} | bytes=1000
method = bits | fedavg/topk:ratio={0.001..0.9} | bits=4
method = same | fedavg/randk:ratio={0.001..0.9} | same=topk
method = half | fedavg/topk:ratio={0.001..0.9} | fraction=0.3
EOF
compare budget.ini compare.dir=budget fed.rounds=2
check "budgets: status 0" equal "$?" 0
check "budgets: four" equal "$(grep -c '#   budget' out)" 4
check "budgets: within max(0.5%, 16 bytes), never above" awk '
    /#   budget/ { n++; slack = $3 / 200 > 16 ? $3 / 200 : 16
                   if ($9 > $3 || $9 < $3 - slack) bad = 1 }
    END { exit n != 4 || bad }' out
check "budgets: 4 bits of 1000 values" contains out "budget 500 B per message"
check "budgets: 0.3 of dense fp16" contains out "budget 600 B per message"

# Mistakes.
bad() # name line text
{
    compare bad.ini compare.dir=bad
    check "$1: status 2" equal "$?" 2
    check "$1: the line, and what" contains err "bad.ini:$2: "
    check "$1: ${3:0:40}" contains err "$3"
    check "$1: nothing is run" test ! -e bad/runs -o -z "$(ls bad/runs 2>/dev/null | grep h5)"
}
with() { { cat run.ini; printf '[compare]\nmethod = fp32 | fedavg/fp32\n%s\n' "$1"; } >bad.ini; }
with 'method = x | fedavg/topq'
bad "an unknown codec" 13 "method x: "
with 'metod = x | fedavg/topk'
bad "an unknown key" 13 "did you mean compare.method?"
with 'method = fp32 | fedavg/topk'
bad "a name twice" 13 "method fp32 is there twice"
with 'base = fp23'
bad "an unknown base" 13 "did you mean fp32?"
with 'search = fed.server_lr: 1 two'
bad "a value that is no number" 13 "fed.server_lr = two"
with 'search = fed.sever_lr: 1 2'
bad "an unknown option in the search" 13 "fed.sever_lr: unknown key"
with 'method = x | fedavg/topk | optim.rl=1'
bad "an unknown option of a method" 13 "did you mean optim.lr?"
with 'method = x | fedavg/topk:ratio={0.1..0.5}'
bad "braces without a budget" 13 "braces, but no budget"
with 'method = x | fedavg/topk:ratio={0.5..0.1} | bytes=100'
bad "a range that falls" 13 "not two rising numbers"
with 'method = x | fedavg/topk:ratio={0.1..0.5} | same=y'
bad "the bytes of nobody" 13 "there is no method named 'y'"
with 'seeds = 1 2 x'
bad "a seed that is none" 13 "'x' is not a seed"
with 'jobs = many'
bad "a number that is none" 13 "compare.jobs = many"
with 'method ='
bad "a method without a name" 13 "NAME | METHOD"
with 'no equals sign'
bad "a line that is none" 13 "not 'key = value'"
with 'method = x | fedavg/topk:ratio={0.001..0.01} | bytes=100000'
compare bad.ini compare.dir=bad2
check "a budget out of reach: status 2" equal "$?" 2
check "a budget out of reach" contains err "bad.ini:13: method x: 100000 bytes per message"
compare two.ini compare.dir=two.ini/x
check "a directory that cannot be made: status 4" equal "$?" 4
check "a directory that cannot be made: named" contains err "two.ini"
compare run.ini
check "no [compare]: status 2" equal "$?" 2
check "no [compare]: said" contains err "names no methods"
compare
check "no config: status 2" equal "$?" 2
"$FSTQ" run two.ini fed.rounds=2 trace.file= >out 2>err
check "fstq run takes the config too" equal "$?" 0

# A run that fails loses itself only.
cat run.ini - >fail.ini <<'EOF'
[compare]
seeds = 1
targets =
method = good | fedavg/fp32
method = bad | fedavg~fisher/fp32
EOF
compare fail.ini compare.dir=fail fed.rounds=2
check "a run that fails: status 3" equal "$?" 3
check "a run that fails: its word" contains err "bad, seed 1: status 2: "
check "a run that fails: the other has its row" grep -Eq '^good +1/1 ' out
check "a run that fails: none of its own" grep -Eq '^bad +0/1 +- ' out
finish
