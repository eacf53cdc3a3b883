#!/usr/bin/env bash
# Interrupted, killed and damaged runs go on to the very adapter of the run that was left alone.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-resume.XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir" || exit 1
tries=${FSTQ_TEST_LONG:+40}
tries=${tries:-4}
# Client state on: momentum is kept between rounds, so the slots matter.
args=(task.name=quadratic optim.kind=sgd optim.lr=0.01 fed.local_steps=5 fed.batch=20
    fed.rounds=300 fed.clients=12 fed.clients_per_round=5 fed.dropout=0.1 optim.momentum=0.5
    fed.opt_state=keep
    trace.file= run.seed=9)

"$FSTQ" run "${args[@]}" >whole 2>&1
want=$(adapter whole)
check "the run left alone is valid" contains whole "# VALID"
"$FSTQ" run "${args[@]}" fed.opt_state=reset >reset 2>&1
check "client state matters in it" test -n "$(adapter reset)" -a "$(adapter reset)" != "$want"

start() # ranks run-dir log: in the background; pid is left in $!
{
    if [ "$1" = 1 ]; then
        exec_run=("$FSTQ" run "${args[@]}" run.dir="$dir/$2")
    else
        exec_run=(mpirun --oversubscribe -np "$1" "$FSTQ" run "${args[@]}" run.dir="$dir/$2")
    fi
    "${exec_run[@]}" "${@:4}" >"$3" 2>&1 &
}
rounds_done() { # run-dir: the newest checkpoint's round
    local best=0 r f
    for f in "$1"/server.?.ckpt; do
        [ -f "$f" ] || continue
        r=$(od -An -tu4 -j8 -N4 "$f" | tr -d ' ')
        [ "${r:-0}" -gt "$best" ] && best=$r
    done
    echo "$best"
}
wait_round() { # run-dir round
    for _ in $(seq 400); do
        [ "$(rounds_done "$1")" -ge "$2" ] && return 0
        sleep 0.01
    done
    return 1
}

# Stopped by each signal at the end of a round, then resumed.
for sig in TERM INT USR1; do
    set -m # a background job of a script would ignore INT
    start 1 "d-$sig" "log-$sig"
    pid=$!
    set +m
    wait_round "d-$sig" 4
    kill -$sig $pid
    wait $pid
    check "SIG$sig: status 143" equal "$?" 143
    check "SIG$sig: it says how to go on" contains "log-$sig" "run.resume=on"
    "$FSTQ" run "${args[@]}" run.dir="d-$sig" run.resume=on >"log2-$sig" 2>&1
    check "SIG$sig: the resumed run ends the same" equal "$(adapter "log2-$sig")" "$want"
done
check "the screen says where it went on" contains log2-TERM "# resumed after round"

# Killed outright at random moments, on one rank and on three, resumed on other numbers of ranks.
same=0
for i in $(seq "$tries"); do
    np=$((1 + i % 3))
    start $np "k$i" "klog$i"
    pid=$!
    wait_round "k$i" $((2 + i * 3 % 40))
    pkill -KILL -f "run.dir=$dir/k$i( |$)" 2>/dev/null
    wait $pid 2>/dev/null
    np=$((1 + (i + 1) % 4))
    start $np "k$i" "klog$i" run.resume=on
    wait $!
    [ "$(adapter "klog$i")" = "$want" ] && same=$((same + 1)) || sed 's/^/# /' "klog$i" | tail -n 5
done
check "killed $tries times at any moment, resumed on other ranks: always the same" \
    equal "$same" "$tries"

# The newest generation damaged: the run falls back one round and still ends the same.
for how in truncated flipped; do
    start 1 "g-$how" glog
    pid=$!
    wait_round "g-$how" 10
    kill -KILL $pid
    wait $pid 2>/dev/null
    newest=g-$how/server.a.ckpt
    [ "$(od -An -tu4 -j8 -N4 "g-$how/server.b.ckpt")" -gt "$(od -An -tu4 -j8 -N4 $newest)" ] &&
        newest=g-$how/server.b.ckpt
    if [ $how = truncated ]; then
        truncate -s 1000 "$newest"
    else
        printf '\x5a' | dd of="$newest" bs=1 seek=300 conv=notrunc status=none
    fi
    "$FSTQ" run "${args[@]}" run.dir="g-$how" run.resume=on >"glog-$how" 2>&1
    check "newest generation $how: it says so" contains "glog-$how" "trying the other generation"
    check "newest generation $how: still the same adapter" equal "$(adapter "glog-$how")" "$want"
done

# Client state that is lost or damaged is no state: the run does not go on as if it were.
stop_at_checkpoint TERM state "$FSTQ" run "${args[@]}" run.dir=state
hurt() # how directory
{
    cp -r state "$2"
    case $1 in
    removed) rm "$2/slots.0" ;;
    truncated) truncate -s 700 "$2/slots.0" ;;
    zeroed) head -c "$(stat -c %s "$2/slots.0")" /dev/zero >"$2/slots.0" ;;
    flipped) for ((at = 100; at < $(stat -c %s "$2/slots.0"); at += 150)); do
        printf '\x5a' | dd of="$2/slots.0" bs=1 seek=$at conv=notrunc status=none
    done ;;
    esac
}
for how in removed truncated zeroed flipped; do
    hurt $how "s-$how"
    "$FSTQ" run "${args[@]}" run.dir="s-$how" run.resume=on >"slog-$how" 2>&1
    check "client state $how: the run does not go on" equal "$?" 4
    check "client state $how: clients are named, and what to do" \
        grep -q "the state of [0-9]* clients (.*[0-9], .*run.slots=lose" "slog-$how"
done
hurt removed s-lose
"$FSTQ" run "${args[@]}" run.dir=s-lose run.resume=on run.slots=lose >slog-lose 2>&1
check "run.slots=lose: status 3" equal "$?" 3
check "run.slots=lose: clients are named in the verdict" \
    grep -q "# DEGRADED: the state of [0-9]* clients was lost: [0-9]*, " slog-lose
check "run.slots=lose: another adapter" test "$(adapter slog-lose)" != "$want"
"$FSTQ" run "${args[@]}" run.dir=s-lose run.resume=on >slog-again 2>&1
check "run.slots=lose: the run stays degraded" equal "$?" 3
"$FSTQ" run "${args[@]}" run.dir=state run.resume=on run.slots=lose >slog-sound 2>&1
check "run.slots=lose: nothing is lost where all is there" equal "$(adapter slog-sound)" "$want"
check "run.slots=lose: and the run is valid" contains slog-sound "# VALID"

# State that goes while the run goes on costs the clients' updates, and is said.
start 1 s-while swhile fed.rounds=1000000
pid=$!
wait_round s-while 4
truncate -s 0 s-while/slots.0
for _ in $(seq 400); do
    grep -q "its state is missing or damaged" swhile && break
    sleep 0.01
done
kill -TERM $pid
wait $pid
check "state that goes during the run: the client is lost" \
    grep -q "client [0-9]* has no update: its state is missing or damaged" swhile

# A directory belongs to one run.
start 1 busy busylog fed.rounds=100000
pid=$!
wait_round busy 1
"$FSTQ" run "${args[@]}" fed.rounds=100000 run.dir=busy run.resume=on >second 2>&1
check "a second run in the directory is refused" equal "$?" 2
check "and told why" contains second "run.dir"
kill -TERM $pid
wait $pid
check "the first is not disturbed" equal "$?" 143
"$FSTQ" run "${args[@]}" run.dir=busy >third 2>&1
check "a new run over an old one is refused" equal "$?" 2
check "and told what to do" contains third "run.resume=on"
"$FSTQ" run "${args[@]}" run.dir=busy run.resume=on run.seed=10 >fourth 2>&1
check "resuming with another config is refused" equal "$?" 2
check "and told why" contains fourth "another configuration"
"$FSTQ" run "${args[@]}" run.dir=fresh run.resume=on >fifth 2>&1
check "nothing to resume: a new run, and a word" contains fifth "nothing to resume"
check "nothing to resume: the same adapter" equal "$(adapter fifth)" "$want"
finish
