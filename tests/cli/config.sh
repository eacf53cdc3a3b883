#!/usr/bin/env bash
# Mistakes in a config as a user meets them: all at once, with file and line, before a start.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-config.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
run() { "$FSTQ" run "$@" >out 2>err; }

cat >bad.ini <<'INI'
# three mistakes
[fed]
round = 3
clients = ten
method = fedavg/fp33
[net]
link = fixed
INI
run bad.ini net.pase=model trace.file=bad.h5 run.dir=bad.dir
check "mistakes: status 2" equal "$?" 2
check "unknown key: line and nearest" \
    contains err "bad.ini:3: fed.round: unknown key; did you mean fed.rounds?"
check "not a number: line, value and range" \
    contains err "bad.ini:4: fed.clients = ten: not a whole number; give a whole number from 1 to"
check "unknown codec: line and nearest" contains err "bad.ini:5: fed.method = fedavg/fp33"
check "argument: its number and the nearest" \
    contains err "argument 1 (net.pase=model): net.pase: unknown key; did you mean net.pace?"
run bad.ini modle.path=x net.rounds=3 infer.prompt=3
for near in 'modle.path: unknown key; did you mean model.path?' \
    'net.rounds: unknown key; did you mean fed.rounds?' \
    'infer.prompt: unknown key; did you mean infer.prompts?'; do
    check "the nearest name: ${near%%:*}" contains err "$near"
done
run bad.ini net.pase=model trace.file=bad.h5 run.dir=bad.dir
check "one line a mistake" equal "$(wc -l <err)" 4
check "nothing on stdout" test ! -s out
check "nothing was made" equal "$(ls | tr '\n' ' ')" "bad.ini err out "

run "$root/configs/quadratic.ini" compare.seeds=3
check "a key of another command: whose" contains err "only fstq compare takes the keys of [compare]"

run nowhere.ini
check "missing file: status 2" equal "$?" 2
check "missing file: named" contains err "nowhere.ini: No such file"
run .
check "a directory: status 2" equal "$?" 2
check "a directory: said" contains err "a directory"
head -c 4096 "$FSTQ" >program
run program
check "a program: status 2" equal "$?" 2
check "a program: not a text file" contains err "not a text file"
run --resume
check "a flag: status 2" equal "$?" 2
check "a flag: how parameters are written" contains err "section.key=value"

run "$root/configs/quadratic.ini" dev.kind=auto fed.rounds=1 trace.file=
check "any device will do" equal "$?" 0

# The same by real ranks: said once, and by the status of the launcher.
start=$SECONDS
FSTQ=$FSTQ "$root/scripts/fstq-run" -np 3 run bad.ini >out 2>err
check "three ranks: status 2" equal "$?" 2
check "three ranks: each mistake once" equal "$(grep -c unknown\ key err)" 1
check "three ranks: without waiting for anybody" test $((SECONDS - start)) -lt 15

# Files that are none: said at once, not waited for.
mkfifo fifo
ln -s fifo link.bin
printf '{"question": "q", "answer": "a", "id": "%d"}\n' 1 2 >two.jsonl
while IFS='|' read -r file words; do
    # shellcheck disable=SC2086
    timeout 20 "$FSTQ" run task.name=jsonl task.test=1 fed.clients=1 \
        fed.clients_per_round=1 trace.file= $words >out 2>err
    check "$words: status 2" equal "$?" 2
    check "$words: what it is" contains err "$file: is a"
done <<'CASES'
fifo|task.path=fifo
/dev/zero|task.path=/dev/zero
fifo|task.path=two.jsonl task.test_ids=fifo
fifo|task.path=two.jsonl task.tokenizer=llama2c task.vocab=fifo
link.bin|task.path=two.jsonl model.path=link.bin
CASES
mkdir damaged
mkfifo damaged/server.a.ckpt damaged/slots.7
timeout 20 "$FSTQ" run "$root/configs/quadratic.ini" fed.rounds=1 trace.file= run.dir=damaged \
    run.resume=on >out 2>err
check "a pipe for a checkpoint: not waited for" test $? -lt 124

"$FSTQ" run "$root/configs/quadratic.ini" fed.rounds=1 trace.file= run.resume=on >out 2>err
check "a resume without a directory: status 2" equal "$?" 2
check "a resume without a directory: it says which" contains err "run.dir is empty"

# More memory than there is: refused before it is taken, by the key that asks for it.
while IFS='|' read -r key words; do
    # shellcheck disable=SC2086
    (ulimit -v 2000000 && exec "$FSTQ" run "$root/configs/quadratic.ini" fed.rounds=1 trace.file= \
        $words) >out 2>err
    check "$words: status 2" equal "$?" 2
    check "$words: why" grep -q "$key.*: takes [0-9]* MiB .* and [0-9]* MiB are available" err
done <<'CASES'
net.sim_workers = 2000|net.transport=sim net.sim_workers=2000
task.features = 4096|task.features=4096 task.outputs=4096 task.samples=1e6
CASES

# Every config of the repository loads, and the header says what is not as by default.
for config in "$root"/configs/*.ini "$root"/configs/paper/*.ini; do
    name=$(basename "$config")
    cat >"$name" <"$config"
    printf '[fed]\nnot_a_key = 1\n' >>"$name"
    run "$name"
    check "$name loads" equal "$(wc -l <err)" 1
done
run "$root/configs/quadratic.ini" fed.rounds=2 trace.file=
check "quadratic.ini runs" equal "$?" 0
check "its last line is the verdict" equal "$(tail -n 1 out)" "# VALID"
"$FSTQ" run "$root/configs/quadratic.ini" fed.method=fedavg/fstq:importance=fedsrd >refused 2>err
check "an importance by products of a task without any" equal "$?" 2
check "and why" contains err "no low-rank adapter"
check "the header: what was changed" contains out "# fed.rounds = 2"
check "the header: with its unit" contains out "# client.step_ns = 2000000 ns"
check "the header: not what is the default" test "$(grep -c '^# net.up_bps' out)" = 0
printf '\r\n[fed]\r\n  rounds = 2 ; few\r\n[trace]\r\nfile =' >crlf.ini
run crlf.ini
check "CRLF, indentation, comments, no newline at the end" equal "$?" 0
check "CRLF: it was read" contains out "# fed.rounds = 2"
FSTQ_CACHE=$dir/nowhere "$FSTQ" run model.path=some-model fed.rounds=1 trace.file= >log 2>&1
check "a model that was not fetched: status 2" test $? = 2
check "and how to fetch it" contains log "fetch it with scripts/get-model.sh some-model"
finish
