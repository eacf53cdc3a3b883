#!/usr/bin/env bash
# `fstq infer`: its tables, what it answers, and what it says to settings that make no sense.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-infer.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
infer() { "$FSTQ" infer infer.repeat=2 "$@" >out 2>err; }
rows() { grep -c '^ *[a-z0-9]' "$1"; }

# Speed: every combination of the lists, in all formats.
infer infer.prompt_tokens=8,16 infer.new_tokens=1,4 infer.batch=1,3 --csv t.csv --markdown t.md \
    --json t.json
check "lists: status 0" equal "$?" 0
check "lists: every combination" equal "$(rows out)" 8
check "lists: as CSV" equal "$(wc -l <t.csv)" 9
check "lists: as Markdown" equal "$(grep -c '^| ' t.md)" 9
check "lists: no adapter is said" contains out "# no adapter"
python3 - <<'PY' >log 2>&1
import csv, json
rows = list(csv.DictReader(open('t.csv')))
marks = json.load(open('t.json'))['benchmarks']
want = {(r['prompt_tokens'], r['new_tokens'], r['batch']): r for r in rows}
assert len(want) == 8
for r in rows:
    name = 'infer/{}/none/keep:1/layer:0/batch:%s/prompt:%s/new:%s'
    name %= r['batch'], r['prompt_tokens'], r['new_tokens']
    for phase in ('prefill', 'decode', 'whole'):
        of = [m for m in marks if m['run_name'] == name.format(phase)]
        assert [m['run_type'] for m in of] == ['iteration'] * 2 + ['aggregate'] * 5, name
        assert all(m['peak_rss_mib'] > 1 for m in of), name
        assert all(abs(m['prefill_tok_s'] - float(r['prefill_tok_s'])) < 1e-3 for m in of), name
    assert float(r['prefill_tok_s']) > 0
    assert (r['decode_tok_s'] == '') == (r['new_tokens'] == '1')  # nothing after the first token
    # Keys and values of 3 layers, each 2 heads of 24 in fp32, of all rows there may be.
    rows = int(r['batch']) * (int(r['prompt_tokens']) + int(r['new_tokens']))
    assert abs(float(r['cache_mib']) * 2**20 - rows * 3 * 2 * 48 * 4) < 1, r
    p = [float(r[f'first_p{k}_ms']) for k in (50, 95, 99)]
    assert 0 < p[0] <= p[1] <= p[2]
PY
check "lists: numbers agree in all formats" equal "$(cat log)" ""

infer infer.prompt_tokens=8 infer.new_tokens=4 infer.batch=1,2 -o jsonl
python3 - <<'PY' >log 2>&1
import csv, json
keys = next(csv.reader(open('t.csv')))
for batch, line in enumerate(open('out'), 1):
    pairs = json.loads(line, object_pairs_hook=list)
    assert [k for k, _ in pairs] == ['table', *keys], pairs
    row = dict(pairs)
    assert row['batch'] == batch and row['prefill_sd_tok_s'] != row['decode_sd_tok_s'], row
assert batch == 2
PY
check "lists: as JSON lines, every column by its key" equal "$(cat log)" ""

# Answers: those that `score` gets, with the adapter apart or merged.
"$FSTQ" run task.name=synth-qa fed.rounds=2 fed.clients=4 fed.clients_per_round=4 \
    fed.local_steps=20 task.test=32 run.dir=r trace.file=r.h5 fisher.scores=2 >log 2>&1
mv r/token_scores.safetensors sent # what clients sent; those of this file come later
check "a run to take the adapter of" test -f r/server.a.ckpt
task=(task.name=synth-qa task.test=32 infer.prompts=task run.dir=r)
"$FSTQ" score task.name=synth-qa task.test=32 run.dir=r --show 32 >scored 2>&1
infer "${task[@]}" infer.batch=32,5 infer.show=32
check "task: status 0" equal "$?" 0
grep -A3 '^# example' scored >want
grep -A3 '^# example' out >got
check "task: what is said is what score prints" cmp got want
exact=$(sed -n 's/^# exact \([0-9.]*\),.*/\1/p' scored)
check "task: and so is the score" awk -v want="$exact" '/^none / { n += $NF == want }
    END { exit n != 2 }' out
infer "${task[@]}" infer.merged=on infer.show=32
check "merged: said" contains out "# adapter of r after round 2, merged into the weights"
grep -A3 '^# example' out >got
check "merged: the same answers" cmp got want
"$FSTQ" score task.name=synth-qa task.test=1 run.dir=r --to-peft peft >/dev/null 2>&1
infer task.name=synth-qa task.test=32 infer.prompts=task --from-peft peft infer.show=32
grep -A3 '^# example' out >got
check "PEFT: the same answers" cmp got want
"$FSTQ" run task.name=synth-qa fed.rounds=2 fed.clients=4 fed.clients_per_round=4 \
    fed.local_steps=20 task.test=32 run.dir=r trace.file=r.h5 fisher.scores=2 run.resume=on \
    infer.batch=7 >log 2>&1
check "what infer is told is no part of a run's identity" contains log "# VALID"

# Fewer tokens of the prompt: every reduction that needs no scores, at every keep and layer.
all=none,random,first,last,attention,merge
infer infer.reduce=$all infer.keep=1,0.6 infer.layer=1,2 infer.prompt_tokens=40 infer.new_tokens=4 \
    --csv t.csv
check "reductions: status 0" equal "$?" 0
check "reductions: each at every keep and layer, none once" equal "$(rows out)" 21
check "reductions: the caches shrink from the layer on" awk -F, '
    $1 == "none" { all = $17; n += $20 == 1 }
    $1 != "none" && $2 == 0.6 && $3 == 1 { n += ($17 - all * (44 + 2 * 28) / 132) ^ 2 < 1e-9 }
    END { exit n != 6 }' t.csv
for one in random first last attention merge; do
    infer "${task[@]}" infer.reduce=$one infer.keep=1 infer.show=32
    grep -A3 '^# example' out >got
    check "$one: nothing left out, the same answers" cmp got want
done
infer "${task[@]}" infer.reduce=last infer.keep=0.3 infer.layer=0 infer.positions=compact \
    infer.show=32
grep -A3 '^# example' out >got
check "the last third of a prompt says something else" eval '! cmp -s got want'
check "and scores worse" awk -v all="$exact" '/^last / { n += $NF < all } END { exit n != 1 }' out

# Scores that clients sent: beside the checkpoint, and with the adapter to PEFT.
cp sent r/token_scores.safetensors
"$FSTQ" score task.name=synth-qa task.test=1 run.dir=r --to-peft peft1 >/dev/null 2>&1
sent() { # folder, how it is named...
    local from=$1
    shift
    infer task.name=synth-qa task.test=32 infer.prompts=task "$@" infer.show=32 infer.layer=0 \
        infer.reduce=fisher,gradnorm infer.keep=0.6
    check "scores sent: of $from" contains out "# token scores of $from/token_scores.safetensors"
    grep -A3 '^# example' out >"answers.$from"
}
sent r run.dir=r
sent peft1 --from-peft peft1
check "scores sent: the same answers from both" cmp answers.r answers.peft1
python3 - <<'PY' >log 2>&1
import json, struct
raw = open('sent', 'rb').read()
n = struct.unpack('<Q', raw[:8])[0]
head = json.loads(raw[8:8 + n])
at, to = head['fisher']['data_offsets']
fisher = struct.unpack('<%df' % head['fisher']['shape'][0], raw[8 + n + at:8 + n + to])
assert min(fisher) >= 0 and len(set(fisher)) > 100, 'ids do not differ'
PY
check "scores sent: an id has its own" equal "$(cat log)" ""
rm r/token_scores.safetensors

# Scores: learned from clients, kept beside the adapter, the same from there.
infer "${task[@]}" infer.reduce=fisher,gradnorm infer.keep=0.6 infer.layer=0 infer.show=32 \
    infer.score_clients=4 infer.score_steps=5 --save-scores r/token_scores.safetensors
check "scores: learned" contains out "learned from 4 clients, 5 minibatches of 4 each"
grep -A3 '^# example' out >want
cp out learned
infer "${task[@]}" infer.reduce=fisher,gradnorm infer.keep=0.6 infer.layer=0 infer.show=32
check "scores: found beside the adapter" contains out "# token scores of r/token_scores.safetensors"
grep -A3 '^# example' out >got
check "scores: from the file, the same answers" cmp got want
"$FSTQ" score task.name=synth-qa task.test=1 run.dir=r --to-peft peft2 >out 2>err
check "scores: go with the adapter to PEFT" cmp r/token_scores.safetensors \
    peft2/token_scores.safetensors
infer task.name=synth-qa task.test=32 infer.prompts=task --from-peft peft2 infer.layer=0 \
    infer.reduce=fisher,gradnorm infer.keep=0.6 infer.show=32
grep -A3 '^# example' out >got
check "scores: from there, the same answers" cmp got want
infer infer.reduce=fisher infer.prompt_tokens=16 infer.scores=r/token_scores.safetensors
check "scores: synthetic prompts, too" contains out "# token scores of r/token_scores.safetensors"
rm r/token_scores.safetensors

# Energy, where a sensor counts it.
mkdir -p sys/sys/class/powercap/intel-rapl:0
echo package-0 >sys/sys/class/powercap/intel-rapl:0/name
echo 5000000 >sys/sys/class/powercap/intel-rapl:0/energy_uj
echo 262143328850 >sys/sys/class/powercap/intel-rapl:0/max_energy_range_uj
FSTQ_SYSFS_ROOT=$dir/sys infer infer.prompt_tokens=8 infer.new_tokens=4 --csv -
check "energy: a counter that stands still is no energy" \
    awk -F, '/^none,1,0,1,8/ { n += $18 == "0" } END { exit n != 1 }' out
(while :; do # 50 mW
    now=$(date +%s%N)
    echo $((now / 20000 % 200000000000)) >counted
    mv counted sys/sys/class/powercap/intel-rapl:0/energy_uj
    sleep 0.02
done) &
counter=$!
FSTQ_SYSFS_ROOT=$dir/sys infer infer.prompt_tokens=200 infer.new_tokens=32 infer.batch=8 --csv -
kill $counter
check "energy: what a counter counts, by the token" \
    awk -F, '/^none,1,0,8,200/ { n += $18 > 0 } END { exit n != 1 }' out
FSTQ_SYSFS_ROOT=/nowhere infer infer.prompt_tokens=8 infer.new_tokens=4
check "energy: without a sensor, a dash" awk '/^none/ { n += $18 == "-" } END { exit n != 1 }' out
FSTQ_SYSFS_ROOT=/nowhere infer infer.prompt_tokens=8 infer.new_tokens=4 --csv -
check "energy: without a sensor there is none" \
    awk -F, '/^none,1,0,1,8/ { n += $18 == "" } END { exit n != 1 }' out

# What makes no sense.
refuse() { # name text arguments...
    local name=$1 text=$2
    shift 2
    infer "$@"
    check "$name: status 2" equal "$?" 2
    check "$name: said" contains err "$text"
}
refuse "a word in a list" "infer.batch = 1,x: 'x' is not a whole number from 1" infer.batch=1,x
refuse "an empty place in a list" "infer.batch = 1,,2: '' is not" infer.batch=1,,2
refuse "no batch" "infer.batch = 0: '0' is not" infer.batch=0
refuse "half a token" "infer.new_tokens = 1.5: '1.5' is not" infer.new_tokens=1.5
refuse "an empty prompt" "infer.prompt_tokens = 0: '0' is not" infer.prompt_tokens=0
refuse "too long a prompt" "infer.prompt_tokens = 250 and infer.new_tokens = 32: together more" \
    infer.prompt_tokens=8,250
refuse "an unknown key" "did you mean infer.repeat?" infer.repeats=3
refuse "an unknown reduction" "there is no 'lst'; did you mean last; see" infer.reduce=none,lst
refuse "nothing kept" "infer.keep = 0: '0' is not a number from 1e-06 to 1" infer.keep=0
refuse "attention of no layer" "attention: needs what layer 0 makes" infer.reduce=attention \
    infer.layer=0
refuse "a layer beyond" "the model's last layer is 2" infer.reduce=last infer.layer=3
refuse "too much to merge" "get 128 tokens down to 66, not to 13" infer.reduce=merge \
    infer.keep=0.1 infer.layer=2
refuse "merged tokens, compacted" "keep their positions" infer.reduce=merge \
    infer.positions=compact
refuse "scores of a task without text" "task.name = quadratic has no text" infer.reduce=fisher \
    task.name=quadratic
printf 'mine' >r/token_scores.safetensors
refuse "scores that are none" "r/token_scores.safetensors: " infer.reduce=fisher run.dir=r
rm r/token_scores.safetensors
refuse "synthetic prompts say nothing" "set infer.prompts = task" infer.show=3
refuse "nothing to merge" "infer.merged = on: there is no adapter" infer.merged=on
"$FSTQ" run task.name=synth-qa dev.math=int8 trace.file=x.h5 >out 2>err
check "whole numbers do not train: status" equal "$?" 2
check "whole numbers do not train: said" contains err "int8 answers, but has no gradients"
refuse "merged into blocks" "set model.dtype = fp32" run.dir=r infer.merged=on model.dtype=bf16
refuse "a task without text" "task.name = quadratic has no text" infer.prompts=task \
    task.name=quadratic
refuse "no such folder" "nowhere" --from-peft nowhere
infer run.dir=nowhere
check "no such checkpoint: status 4" equal "$?" 4
echo mine >notes
infer --csv notes
check "a file of the user's stays" equal "$(cat notes)" mine
refuse "too many" "more than 512 combinations" \
    infer.batch="$(seq -s, 30)" infer.prompt_tokens="$(seq -s, 30)"
finish
