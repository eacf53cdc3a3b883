#!/usr/bin/env bash
# A shortened making of the base model: it learns, repeats to the bit for any threads, can be used.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-pretrain.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
short=(pretrain.steps=40 pretrain.batch=16 pretrain.warmup=5)
"$FSTQ" pretrain "$root/configs/base-model.ini" "${short[@]}" pretrain.file=a.safetensors \
    dev.threads=1 >a 2>&1
check "pretrain: status 0" equal "$?" 0
check "pretrain: 326,304 weights" contains a "326304 weights"
"$FSTQ" pretrain "$root/configs/base-model.ini" "${short[@]}" pretrain.file=b.safetensors \
    dev.threads=3 >b 2>&1
check "pretrain: the same bytes for one thread and three" cmp a.safetensors b.safetensors
# Uniform over 800 words is 6.68 nats.
loss=$(awk '$1 == 40 { print $3 }' a)
check "pretrain: 40 steps get below 4.5 nats" awk -v l="$loss" 'BEGIN { exit !(l > 0 && l < 4.5) }'
"$FSTQ" pretrain "$root/configs/base-model.ini" "${short[@]}" pretrain.file=c.safetensors \
    run.seed=2 >c 2>&1
check "pretrain: another seed, other bytes" eval '! cmp -s a.safetensors c.safetensors'
"$FSTQ" score task.name=synth-qa task.test=16 model.path=a.safetensors >s 2>&1
check "score: takes it as a model" equal "$?" 0
check "score: every language has its rows" equal "$(awk '$2 == "rouge_l"' s | wc -l)" 9
"$FSTQ" score --show 2 task.name=synth-qa task.test=16 >shown 2>&1
check "score --show: so many questions" equal "$(grep -c '^  prompt   *[^ ]' shown)" 2
check "score --show: what was expected is in the prompt" python3 -c '
import sys
lines = [l[12:].strip() for l in open("shown", encoding="utf-8") if l.startswith("  ")]
assert len(lines) == 6 and lines[1] in lines[0] and lines[4] in lines[3]'
"$FSTQ" score --show 0 task.name=synth-qa >cut 2>&1
check "score --show: a number from 1" equal "$?" 2
"$FSTQ" score --show 1 task.name=quadratic optim.kind=sgd >cut 2>&1
check "score --show: not where nobody is asked" contains cut "has no answers"
"$FSTQ" score task.name=synth-qa task.test=16 --json s.json >/dev/null 2>&1
check "score: the base model inside the program" equal "$?" 0
check "score --json: it is JSON" python3 -m json.tool s.json /dev/null
head -c 5000 a.safetensors >cut.safetensors
"$FSTQ" score task.name=synth-qa model.path=cut.safetensors >cut 2>&1
check "a truncated model: status 2 or 4" test "$?" -eq 2 -o "$?" -eq 4
check "a truncated model: the file is named" contains cut "cut.safetensors"
"$FSTQ" pretrain pretrain.dim=100 pretrain.heads=3 >bad 2>&1
check "a shape that does not divide: status 2" equal "$?" 2
finish
