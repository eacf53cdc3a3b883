#!/usr/bin/env bash
# Runs that die, or cannot write, at a write of the checkpoint or of the trace.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-writes.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
args=(task.name=quadratic optim.kind=sgd optim.lr=0.01 fed.local_steps=5 fed.batch=20
    fed.rounds=4 fed.clients=12 fed.clients_per_round=5 optim.momentum=0.5 fed.opt_state=keep)

# Killed at the calls that write a round to disk, one after the other: whatever was on disk already,
# the resumed run ends the same, and its trace holds every round once. 28 calls are a round and a
# little; between trace and checkpoint lie two.
short=("${args[@]}" trace.file=t.h5)
preload=${FSTQ_BUILD:?}/tests/preload/killwrite.so
killed_run() # directory k
{
    mkdir -p "$1" && (cd "$1" && LD_PRELOAD=$preload FSTQ_KILL_MODE=kill FSTQ_KILL_AT=$2 \
        FSTQ_KILL_COUNT="$dir/calls" "$FSTQ" run "${short[@]}" run.dir=state >log 2>&1)
}
traced() { awk -F, 'NR > 1 { print $2 }' "$1/csv/rounds.csv" | tr '\n' ' '; }
export ASAN_OPTIONS=${ASAN_OPTIONS:-}:verify_asan_link_order=0
killed_run w-whole 1000000
calls=$(cat calls)
killed=0 ended=0 whole=0 step=5
[ -n "${FSTQ_TEST_LONG:-}" ] && step=1
for ((k = calls / 2; k < calls / 2 + 28; k += step)); do
    killed_run "w$k" "$k" 2>/dev/null && continue
    killed=$((killed + 1))
    (cd "w$k" && "$FSTQ" run "${short[@]}" run.dir=state run.resume=on >log2 2>&1 &&
        "$FSTQ" export t.h5 --csv csv >/dev/null 2>&1)
    [ "$(adapter "w$k/log2")" = "$(adapter w-whole/log)" ] && ended=$((ended + 1))
    [ "$(traced "w$k")" = "0 1 2 3 4 " ] && whole=$((whole + 1)) ||
        echo "# killed at $k: rounds $(traced "w$k")"
done
check "killed at the writes of a round: it was, often" test "$killed" -ge 5
check "killed at the writes of a round: always the same adapter" equal "$ended" "$killed"
check "killed at the writes of a round: always every round in the trace, once" \
    equal "$whole" "$killed"

# A checkpoint that cannot be written costs the checkpoint, not the rounds to come. A limit on file
# sizes is an error with a name, not a signal.
stateless=(fed.opt_state=reset trace.file=)
"$FSTQ" run "${args[@]}" "${stateless[@]}" >reset.log 2>&1
(ulimit -f 2 && "$FSTQ" run "${args[@]}" "${stateless[@]}" run.dir=limit) 2>&1 | cat >limit.log
check "a file size limit: status 3" equal "${PIPESTATUS[0]}" 3
check "a file size limit: said at once, and why" \
    grep -q "round 1: no checkpoint: .*File too large" limit.log
check "a file size limit: said once" equal "$(grep -c "round .*: no checkpoint" limit.log)" 1
check "a file size limit: all rounds are done" equal "$(adapter limit.log)" "$(adapter reset.log)"
check "a file size limit: it is in the verdict" \
    contains limit.log "# DEGRADED: no checkpoint of 4 of 4 rounds"

# The same under the state of clients: an update without it is none, and the client goes on from
# what is there.
(ulimit -f 200 && "$FSTQ" run "${args[@]}" trace.file= fed.clients=40 fed.clients_per_round=20 \
    run.dir=slots) 2>&1 | cat >slots.log
check "no room for slots: status 3" equal "${PIPESTATUS[0]}" 3
check "no room for slots: said for each client, and why" \
    grep -q "client [0-9]* has no update: .*File too large" slots.log
check "no room for slots: the others count, in every round" \
    equal "$(awk '/^ +[1-4] / && $2 + 0 > 0 { n++ } END { print n }' slots.log)" 4

# The directory goes, and comes back: each round tries again.
"$FSTQ" run "${args[@]}" trace.file= fed.rounds=1000000 run.dir=gone >gone.log 2>&1 &
pid=$!
until_said() { # file text
    for _ in $(seq 1000); do
        grep -qF "$2" "$1" && return
        sleep 0.01
    done
}
for _ in $(seq 1000); do [ -f gone/server.b.ckpt ] && break || sleep 0.01; done
mv gone away
until_said gone.log "no checkpoint"
mv away gone
until_said gone.log "written again"
kill -TERM $pid
wait $pid
check "a directory that comes back: it is said" contains gone.log "its checkpoint is written again"
check "a directory that comes back: the run can go on" contains gone.log "run.resume=on goes on"
"$FSTQ" run "${args[@]}" trace.file= fed.rounds=1000000 run.dir=gone2 >gone2.log 2>&1 &
pid=$!
for _ in $(seq 1000); do [ -f gone2/server.b.ckpt ] && break || sleep 0.01; done
mv gone2 away2
until_said gone2.log "no checkpoint"
kill -TERM $pid
wait $pid
check "a directory that is gone: the verdict says from where the run can go on" \
    grep -q "INTERRUPTED: .*goes on after round [0-9]*, for later ones have no checkpoint" gone2.log

# What stands under the trace's name and is none stays as it is.
mkdir mine && echo "my notes" >mine.h5 && mkfifo pipe.h5 && echo "my notes" >other.h5.journal
for name in mine mine.h5 pipe.h5 other.h5 /dev/full; do
    timeout 20 "$FSTQ" run "${args[@]}" fed.rounds=1 trace.file=$name >mine.log 2>&1
    status=$?
    check "trace.file=$name: refused" equal "$status" 4
    check "trace.file=$name: it is named" contains mine.log "trace.file: $name"
done
check "what stood there is there still" test -d mine -a -p pipe.h5 -a -c /dev/full \
    -a "$(cat mine.h5 other.h5.journal)" = $'my notes\nmy notes'
check "and nothing else was left" equal "$(ls -d mine* pipe* other*)" \
    "$(printf '%s\n' mine mine.h5 mine.log other.h5.journal pipe.h5)"

# A trace that is gone when the run is resumed, its journal with it.
lost=("${args[@]}" fed.rounds=400 trace.file=lost.h5 run.dir=lost)
stop_at_checkpoint TERM lost "$FSTQ" run "${lost[@]}"
rm lost.h5 lost.h5.journal
"$FSTQ" run "${lost[@]}" run.resume=on >lost.log 2>&1
check "a trace that is gone at the resume: status 3" equal "$?" 3
check "a trace that is gone at the resume: what it lacks is said" \
    grep -q "# DEGRADED: trace: [0-9]* of the [0-9]* rounds before the resume are not" lost.log

# A trace that cannot be ended is said, and is in the status: the last writes of the run fail.
for back in 1 2 3 4 5 6 8; do
    mkdir "e$back"
    (cd "e$back" && LD_PRELOAD=$preload FSTQ_KILL_MODE=fail FSTQ_KILL_AT=$((calls - back)) \
        "$FSTQ" run "${short[@]}" run.dir=state >log 2>&1)
    echo "$? $(tail -n 1 "e$back/log")"
done >ends
sed 's/^/# /' ends
check "a trace that cannot be ended: status 3" \
    grep -q '^3 # DEGRADED: trace: .*could not be ended' ends

finish
