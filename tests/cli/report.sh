#!/usr/bin/env bash
# fstq report: the page stands by itself, its figures have the numbers of the traces, what comes
# from outside stays text, and what is missing makes a smaller page.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-report.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
page() { python3 "$root/tests/cli/check_page.py" "$@" >said 2>&1 || { cat said; false; }; }
# Where the program under test lies, its scripts need not: the page is drawn from the checkout's.
draw() { python3 "$root/scripts/report.py" "$1/report.json" "$1/report.html"; }

evil='a<b>&"c'\''.h5'
base=(task.name=quadratic optim.kind=sgd optim.lr=0.01 fed.clients=6 fed.clients_per_round=3
    fed.rounds=4 fed.local_steps=2 net.transport=sim net.link=lte-hetero client.step_ns=1e6)
"$FSTQ" run "${base[@]}" fed.method=fedavg/fstq:budget=0.1,importance=magnitude \
    trace.file="$evil" >out 2>err
check "a run" equal "$?" 0
"$FSTQ" report "$evil" -o one >out 2>err
check "a report of it: status 0" equal "$?" 0
check "its sentence" contains out "B per message; score"
check "the last line says where it is" equal "$(tail -n 1 out | cut -d: -f1)" "# one/report.html"
draw one
check "the page stands by itself, a file's odd name is text on it" page one/report.html \
    one/report.json "$evil" "A round, client by client" "Links as they were applied" \
    Memory
check "nothing of the name is a tag" eval "! grep -q 'a<b>' one/report.html"

# Numbers against those of fstq show.
"$FSTQ" show "$evil" --json >show.json
check "rounds, bytes, stages and links are those of the trace" python3 -c '
import json
run = json.load(open("one/report.json"))["runs"][0]
show = json.load(open("show.json"))["results"][0]
rounds = show["rounds"]
assert run["rounds"]["score"] == [r["score"] for r in rounds]
total, sums = 0, []
for r in rounds:
    total += max(0, r["time_modelled_ns"])
    sums.append(total)
assert run["rounds"]["time_modelled_ns"] == sums and total > 0
for part, n in run["bytes"]["parts"].items():
    assert show["bytes"][part] == n
assert sum(run["bytes"]["parts"].values()) == run["bytes"]["total"] == show["bytes"]["total"]
time = {s["stage"]: s["time_ns"] for s in show["stages"]}
for s in run["stages"]:
    assert s["time_ns"] == time[s["stage"]]
up = sum(w["bytes"] for w in run["links"] if w["way"] == "up")
assert up == rounds[-1]["uplink_total_bytes"]
g = run["gantt"]
length = {r["version"]: r["time_modelled_ns"] for r in rounds}[g["version"]]
assert length == sorted(r["time_modelled_ns"] for r in rounds if r["version"])[2]
assert max(b["end_ns"] for b in g["modelled"]) == length
for c in {b["client"] for b in g["modelled"]}:
    bars = [b for b in g["modelled"] if b["client"] == c]
    assert [b["part"] for b in bars][:3] == ["download", "compute", "transfer"]
    assert all(a["end_ns"] == b["start_ns"] for a, b in zip(bars, bars[1:]))
    assert bars[0]["start_ns"] == 0 and bars[-1]["end_ns"] == length'

"$FSTQ" run "${base[@]}" net.link=loopback fed.eval_every=0 trace.file=bare.h5 >out 2>err
"$FSTQ" report "$evil" bare.h5 -o two >out 2>err
draw two
check "two runs, one page" page two/report.html two/report.json "2 runs"

# Without Python, or where it fails: tables, and the same status.
PYTHON=/nowhere/python3 "$FSTQ" report "$evil" -o plain >out 2>err
check "no Python: status 0" equal "$?" 0
check "the tables stand by themselves" page plain/report.html plain/report.json "evaluate" "values"
mkdir kept
echo mine >kept/report.html
"$FSTQ" report "$evil" -o kept >out 2>err
check "a file of another kind is left alone" equal "$? $(cat kept/report.html)" "4 mine"
check "and named" contains err kept/report.html
"$FSTQ" report "$evil" -o plain >out 2>err
check "a page is written anew in place of an older one" equal "$?" 0

# What a trace cut short has, in a smaller page.
head -c 12000 bare.h5 >cut.h5
"$FSTQ" report cut.h5 -o cut >out 2>err
check "what cannot be read at all is an error" test "$?" -ge 3
"$FSTQ" report nothing.h5 >out 2>err
check "a missing trace: status 4" equal "$?" 4
mkdir empty
"$FSTQ" report empty >out 2>err
check "an empty folder: said, and how to fill it" contains err "fstq compare leaves"
"$FSTQ" report >out 2>err
check "no trace: status 2" equal "$?" 2

# A comparison.
cat >c.ini <<'END'
[task]
name = quadratic
[optim]
kind = sgd
lr = 0.01
[fed]
clients = 6
clients_per_round = 3
rounds = 5
local_steps = 2
[net]
link = lte-hetero
[compare]
base = fp32
seeds = 1 2 3 4 5
last = 2
trailing = 2
method = fp32 | fedavg/fp32
method = sign_1 | fedavg/sign
method = topk | fedavg/topk:ratio=0.1
END
"$FSTQ" compare c.ini compare.dir=cmp --latex t.tex --markdown t.md >out 2>err
check "a comparison leaves its numbers beside its runs" test -s cmp/compare.json
check "and says how to draw them" contains out "fstq report cmp"
python3 - cmp/compare.json <<'END'
import sys
text = open(sys.argv[1]).read()
open(sys.argv[1], "w").write(text.replace('sign_1', '<i>&sign\\"'))
END
"$FSTQ" report cmp >said 2>err
check "a report of it: status 0" equal "$?" 0
check "a sentence per method, as compare has them" equal \
    "$(grep -c '^# .*B per message' said)" "$(grep -c '^# .*B per message' out)"
"$FSTQ" report cmp --latex >short.tex 2>err
check "its table for LaTeX, odd names escaped" eval \
    "grep -qF '\\textless{}i\\textgreater{}\\&sign\\textquotedbl{} & ' short.tex &&
    [ \"\$(grep -cE '^[^%].* & .*' short.tex)\" = 4 ] &&
    tail -n 1 short.tex | grep -q 'end{tabular}'"
"$FSTQ" report cmp --markdown >short.md 2>err
check "and Markdown: a row and a sentence per method" eval \
    "[ \"\$(grep -c '^| ' short.md)\" = 4 ] &&
    [ \"\$(grep -c '^- .*B per message' short.md)\" = 3 ]"
"$FSTQ" report cmp --form csv >out 2>err
check "--form without --paper: status 2" equal "$?" 2
"$FSTQ" report bare.h5 --latex >out 2>err
check "a trace has no such table: said" contains err "fstq show TRACE"
draw cmp
check "the page stands by itself, a method's odd name is text" page cmp/report.html \
    cmp/report.json '<i>&sign"' "Bytes against score" "Wilcoxon, Holm" "In numbers"
check "bands are the intervals of the means over seeds" python3 -c '
import json
for m in json.load(open("cmp/compare.json"))["methods"]:
    k = 3
    means = [sum(r["score"][k - 1:k + 1]) / 2 for r in m["runs"]]
    mean = sum(means) / 5
    s = (sum((v - mean) ** 2 for v in means) / 4) ** 0.5
    assert abs(m["curve"]["score_mean"][k] - mean) < 1e-9 * abs(mean)
    assert abs(m["curve"]["score_ci95"][k] - 2.7764 * s / 5 ** 0.5) < 1e-6 * abs(mean)
    assert m["less_time"]["low"] <= m["less_time"]["mean"] <= m["less_time"]["high"]
    assert m["test"]["pairs"] == (0 if m["name"] == "fp32" else 5)'
check "LaTeX: names are text" contains t.tex 'sign\_1 & 5/5'
check "LaTeX: as many columns in each row of a table" equal \
    "$(awk '/begin.tabular/ { n++ } / & / { gsub(/\\&/, ""); print n, gsub(/&/, "&") }' t.tex |
        sort -u | wc -l)" "$(grep -c begin.tabular t.tex)"
mv cmp/runs away
"$FSTQ" report cmp -o small >lost 2>err
check "without the runs: a smaller page" equal "$?" 0
draw small
check "and what is left is whole" page small/report.html small/report.json "Bytes against score"
check "it says what is missing" contains lost "of 3 methods no trace"
# Damage in every member: a page or a refusal, never a crash or a traceback.
cat >damage.py <<'END'
import json, os, subprocess, sys
root, fstq = sys.argv[1:]
sys.path[:0] = [os.path.join(root, 'tests', 'cli'), os.path.join(root, 'scripts')]
import check_schema, report
for k, (what, value) in enumerate(check_schema.damaged(json.load(open('cmp/compare.json')))):
    if k % 12 == 0:
        json.dump(value, open('damaged.json', 'w'))
        run = subprocess.run([fstq, 'report', '--tables', 'damaged.json', '-o', 'damaged'],
                             capture_output=True)
        assert run.returncode in (0, 4), (what, run)
for what, value in check_schema.damaged(json.load(open('one/report.json'))):
    try:
        report.page(value)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        pass # what report.py names in one line
END
check "damaged numbers make a page or a refusal" python3 damage.py "$root" "$FSTQ"
echo '{"config": 1}' >bad.json
"$FSTQ" report bad.json -o bad >out 2>err
check "JSON that is no comparison is refused" contains err 'no "methods" in it'
"$FSTQ" report "$root/bench/results/compare-standard.json" -o bad >out 2>err
check "one of an older version is refused, with what to do" contains err "of an fstq before 0.2"
echo '{"config": [' >bad.json
"$FSTQ" report bad.json -o bad >out 2>err
check "JSON that is none is refused with its line" contains err "bad.json:"
echo '{"methods":[{"name":7,"runs":[{"key":"../../x"}],"verdict":[],"final":3},null,[]]}' >odd.json
"$FSTQ" report --tables odd.json -o odd >out 2>err
check "members of other types are left out" equal "$?" 0
# Figures as files: each SVG stands by itself, each PDF's table of objects says where they are.
python3 "$root/scripts/report.py" one/report.json --figures figures >out 2>err
check "figures as files" equal "$?" 0
check "SVG and PDF of each panel, and numbers of each figure" python3 -c '
import glob, re
import xml.etree.ElementTree as tree
names = {p[:-4] for p in glob.glob("figures/*.svg")}
assert {"figures/score-1", "figures/score-2", "figures/links"} <= names
assert names == {p[:-4] for p in glob.glob("figures/*.pdf")}
assert {re.sub("-[0-9]+$", "", n) for n in names} == {p[:-4] for p in glob.glob("figures/*.csv")}
words = {"stages": ["train", "evaluate"], "links": ["up"], "bytes": ["values", "header"],
         "score-1": ["By round"]}
for name, keys in words.items(): # what colours mean, and the panel its title
    assert all(f">{k}</text>" in open(f"figures/{name}.svg").read() for k in keys), name
for name in names:
    text = open(name + ".svg").read()
    root = tree.fromstring(text)
    assert root.get("width") == "84.6mm" and "var(" not in text and "http" not in text[60:]
    pdf = open(name + ".pdf", "rb").read()
    table = int(re.search(rb"startxref\n(\d+)\n%%EOF\n$", pdf)[1])
    places = [int(p) for p in re.findall(rb"(\d{10}) 00000 n", pdf[table:])]
    assert pdf[table:].startswith(b"xref\n0 6\n") and len(places) == 5
    assert all(pdf[p:].startswith(b"%d 0 obj" % i) for i, p in enumerate(places, 1))
    length, start = re.search(rb"<</Length (\d+)>>stream\n", pdf)[1], pdf.index(b">>stream\n") + 9
    drawing = pdf[start:start + int(length)]
    assert pdf[start + int(length):].startswith(b"\nendstream")
    shown = sum(1 for e in root.iter() if e.tag.endswith("}text"))
    assert drawing.count(b" Tj ET") == shown and drawing.count(b"q ") == drawing.count(b"\nQ")
'

# The paper's tables: what follows from them is computed, ours is found by its config's name.
python3 -c '
import json
def method(name, size, s):
    return {"name": name, "verdict": "", "message_bytes": size, "final": {"mean": 0.5},
            "runs": [{"round": [2, 4]}], "time_modelled_total_ns": {"mean": 4e9 * s}}
json.dump({"config": "x/table-2.ini", "score": "exact", "methods": [
    method("FedAvg", 2.5e6, 6), method("Fed-FSTQ", 0.25e6, 5.1)]}, open("table-2.json", "w"))'
python3 -c '
import json
json.dump({"config": "table-5.ini", "score": "score", "methods": [
    {"name": "Fed-FSTQ", "verdict": "", "memory_peak_bytes": 5e7}]}, open("table-5.json", "w"))
json.dump({"benchmarks": [{"name": f"tokens/tokens/{s}_mean", "token_recall": v}
    for s, v in (("fisher/vocab", .6), ("fisher/position", .7))]}, open("tokens.json", "w"))
json.dump({"benchmarks": [{"name": f"infer/whole/{s}_median", "cpu_s": v}
    for s, v in (("none/", 3), ("fisher/keep:0.8/", 2.5), ("fisher/keep:0.4/", 2),
                 ("random/keep:0.4/", 1))]}, open("infer.json", "w"))
json.dump({"config": "table-7.ini", "score": "rouge_l", "methods": [
    {"name": n, "verdict": "", "curve": {"round": [1, 10], "score_mean": [.1, v]}}
    for n, v in (("Fed-FSTQ", .25), ("uniform-Fisher", .125))]}, open("table-7.json", "w"))'
"$FSTQ" report --paper table-2.json table-5.json table-7.json tokens.json infer.json --form csv \
    >paper.csv 2>err
check "the paper's tables" equal "$?" 0
tables_of() { sed -n "/^# Table $1[,:]/,/^# $2/p" paper.csv | grep "^$3"; }
check "a mean that is not that of its row" eval \
    'tables_of I average Fed-FSTQ,computed | grep -qx "Fed-FSTQ,computed,,,,,,,,,2.67,average"'
check "an upload that payload and rate do not give, and what hangs on it" eval \
    'tables_of II payload Fed-FSTQ,computed |
        grep -qx "Fed-FSTQ,computed,,61.44,,67.29,146.28,\"upload, round, energy\""'
check "a bound" eval \
    'tables_of V memory Fed-FSTQ,computed | grep -qx "Fed-FSTQ,computed,>= 3370.00,memory"'
check "what follows is not called wrong" eval \
    'tables_of III all FedAvg,computed |
        grep -qx "FedAvg,computed,60.96,224.80,429.60,839.20,2068.00,"'
check "ours: payload, upload, compute, round, energy" eval \
    'tables_of II payload FedAvg,ours | grep -qx "FedAvg,ours,2.5000,1.0000,5.0000,6.0000,22.00,"'
check "ours: memory" eval 'grep -qx "Fed-FSTQ,ours,50.00," paper.csv'
check "ours: tokens that a mask keeps, and methods without one" eval \
    'tables_of VIII token Fed-FSTQ,ours | grep -qx "Fed-FSTQ,ours,0.7000,,," &&
        tables_of VIII token QSGD,ours | grep -qx "QSGD,ours,1.0000,,," &&
        ! tables_of VIII token Fed-ToMe,ours'
check "ours: a claim" eval 'grep -qx "round at 20 Mbit/s,ours,1.1765," paper.csv'
check "ours: what Fisher saves at inference" eval 'grep -qx "inference,ours,1.5000," paper.csv'
check "ours: a curve at the rounds that it has, and the gain" eval \
    'tables_of VII gain Fed-FSTQ,ours | grep -qx "Fed-FSTQ,ours,10.00,25.00,,," &&
        tables_of VII gain gain,ours | grep -qx "gain,ours,0.0000,12.50,,,"'
check "how many do not follow" contains paper.csv "21 printed values do not follow"
"$FSTQ" report --paper table-2.json --form json >paper.json 2>err
check "as JSON, the same" python3 -c '
import json
d = json.load(open("paper.json"))
at = lambda *key: next(v for v in d["values"]
                       if key == tuple(v[k] for k in ("table", "method", "column")))
assert d["do_not_follow"] == 21 == sum(v.get("follows") is False for v in d["values"])
assert abs(at("II", "Fed-FSTQ", "upload")["computed"] - 61.44) < 1e-9
assert at("V", "Fed-FSTQ", "memory")["bound"] == "at least"
assert at("II", "FedAvg", "payload")["ours"] == 2.5'
# What results/paper.md prints of them is what its data give.
results=$root/bench/results
"$FSTQ" report --paper --form md "$results"/paper/*.json 2>err | sed 's/ *$//' | sed -e :a \
    -e '/^\n*$/{$d;N;ba' -e '}' >paper.md
check "the page of the paper's tables in small is as its data have it" eval \
    "sed -n '/^## Reported/,/^Source:/p' '$results/paper.md' | sed '1,2d;\$d' | sed '\$d' |
    diff - paper.md"
"$FSTQ" report --paper "$evil" >out 2>err
check "a trace is no comparison" equal "$?" 4
finish
