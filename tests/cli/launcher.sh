#!/usr/bin/env bash
# scripts/fstq-run with a stand-in for the program: whatever becomes of the ranks, it returns the
# status that rank 0 left, ends, and leaves nobody behind.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-launcher.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
unset FSTQ_STATUS_FILE OMPI_ALLOW_RUN_AS_ROOT OMPI_ALLOW_RUN_AS_ROOT_CONFIRM
launcher=$root/scripts/fstq-run
fstq=$FSTQ
export TMPDIR=$dir/tmp # others may run launchers of their own
mkdir "$TMPDIR"
launch() { timeout 60 "$launcher" "$@" >out 2>err; }

if ! command -v mpirun >/dev/null; then
    skip "the launcher" "no mpirun"
    finish
fi

launch --help
check "--help: status 0" equal "$?" 0
check "--help: usage" contains out "usage: fstq-run -np N"
i=0
while IFS='|' read -r words why; do
    i=$((i + 1))
    # shellcheck disable=SC2086
    launch $words
    check "bad usage $i: status 2" equal "$?" 2
    check "bad usage $i: why" contains err "$why"
done <<'CASES'
run x.ini|-np N is missing
-np|needs 1 value
-np 0 run|not a number of ranks
-np two run|not a number of ranks
-np 2|no subcommand
-np 2 --grace soon run|not a number of seconds
-np 2 --hostfile nowhere run|nowhere: no such hostfile
CASES
FSTQ=$dir/nothing launch -np 2 run
check "no program: status 4" equal "$?" 4
check "no program: what to do" contains err "build it with 'make', or set FSTQ"
MPIRUN=no-such-mpirun launch -np 2 list
check "no mpirun: status 4" equal "$?" 4

# The command it would run.
launch -np 2 --dry-run run "a b.ini" fed.rounds=3
check "--dry-run: status 0" equal "$?" 0
check "--dry-run: recovery" contains out "orte_enable_recovery 1"
check "--dry-run: arguments stay whole" contains out 'run a\ b.ini fed.rounds=3'
launch -np 2 --dry-run --mca btl self,tcp -x A=1 -H one:1,two:1 --bind-to none run c
for words in "--mca btl self\\,tcp" "-x A=1" "-H one:1\\,two:1" "--bind-to none"; do
    check "--dry-run: $words" contains out "$words"
done
over() { launch "$@" --dry-run run c && grep -q -e --oversubscribe out; }
check "more ranks than cores here" over -np $(($(nproc) + 1))
check "not more ranks than cores here" eval "! over -np $(nproc)"
check "more ranks than slots" over -np 4 -H one:1,two:2
check "not more ranks than slots" eval "! over -np 3 -H one:1,two:2"
printf 'one slots=2 # the first\n\ntwo slots=1\n' >hosts
check "more ranks than a hostfile has" over -np 4 --hostfile hosts
check "not more ranks than a hostfile has" eval "! over -np 3 --hostfile hosts"
check "a manager's slots are mpirun's own affair" \
    eval "! SLURM_JOB_ID=1 over -np $(($(nproc) + 1))"

cat >standin <<'STANDIN'
#!/bin/bash
# MODE [FILE]: one rank of a job that ends in the way named.
rank=$OMPI_COMM_WORLD_RANK
echo $$ >>pids
leave() { echo "$1" >"$FSTQ_STATUS_FILE.new" && mv "$FSTQ_STATUS_FILE.new" "$FSTQ_STATUS_FILE"; }
rest() { while :; do sleep 0.1; done; }
running() { [ "$rank" != 0 ] || : >"$FSTQ_STATUS_FILE.running"; }
case $1 in
status) [ "$rank" = 0 ] && leave "$2"; exit "$2" ;;
nonsense) [ "$rank" = 0 ] && leave "fine, thanks" ;;
client-lost)
    running
    [ "$rank" = 1 ] && kill -KILL $$
    sleep 0.5
    [ "$rank" = 0 ] && leave 3
    exit 3 ;;
early-loss) sleep "$2"; [ "$rank" = 2 ] && kill -KILL $$; rest ;;
server-lost) [ "$rank" = 0 ] && kill -KILL $$; sleep 0.5 ;;
silent) exit 0 ;;
hang) [ "$rank" = 0 ] && leave 3 && exit 3; trap '' TERM USR1; rest ;;
round)
    running
    stop=
    trap 'stop=1' USR1
    echo "rank $rank is up"
    while [ -z "$stop" ]; do sleep 0.05; done
    sleep 0.3
    [ "$rank" = 0 ] && leave 143
    exit 143 ;;
early) trap 'exit 1' TERM; trap '' USR1; echo "rank $rank is up"; rest ;;
deaf) running; trap '' USR1 TERM INT; echo "rank $rank is up"; rest ;;
environment) [ "$rank" = 0 ] && env && leave 0 ;;
esac
STANDIN
chmod +x standin
export FSTQ=$dir/standin

# Who still runs of those that wrote their number; a zombie does not.
left() {
    local pid state
    while read -r pid; do
        state=$(sed 's/.*) \(.\).*/\1/' "/proc/$pid/stat" 2>/dev/null) || continue
        case $state in '' | Z) ;; *) echo "$pid" ;; esac
    done <pids
}
nobody() {
    local i
    for i in 1 2 3 4 5 6 7 8 9 10; do
        [ -z "$(left)" ] && return 0
        sleep 0.2
    done
    echo "#   left: $(left)"
    return 1
}
ends() # name status launcher arguments...
{
    : >pids
    launch "${@:3}"
    check "$1: status $2" equal "$?" "$2"
    check "$1: nobody is left" nobody
}

for status in 0 1 2 3 4 143; do
    ends "rank 0 left $status" $status -np 3 status $status
done
check "statuses: no noise of MPI" test ! -s err
ends "a client was killed" 3 -np 3 client-lost
check "a client was killed: no noise of MPI" test ! -s err
for delay in 0 0.7; do
    ends "a rank was killed before the first round" 4 -np 3 early-loss $delay
    check "a rank was killed before the first round: said" \
        grep -q "rank.* ended before the first round: ending the others" err
done
ends "the server was killed" 4 -np 3 server-lost
check "the server was killed: said" contains err "rank 0 ended without leaving a status"
ends "nobody left a status" 4 -np 2 silent
ends "not a status" 4 -np 2 nonsense
check "not a status: said" contains err "left 'fine, thanks'"
ends "mpirun hangs after the end" 3 -np 3 --grace 1 hang
check "mpirun hangs: said" contains err "mpirun has not, 1 s later"

# Signals as a shell, a terminal or Slurm send them.
up() { # until every rank has trapped its signals
    for _ in $(seq 100); do
        [ "$(grep -c 'is up' out)" -ge "$1" ] && return 0
        sleep 0.1
    done
    return 1
}
# bash starts background jobs deaf to INT, and they cannot undo that: perl can. No signal is sent
# before perl runs, for the reason that begun() of tap.bash gives; the launcher is a shell itself.
begin() {
    : >pids
    : >out
    rm -f begun
    perl -e '$SIG{INT} = "DEFAULT"; open my $f, ">", "begun"; close $f; exec @ARGV' \
        "$launcher" "$@" >out 2>err &
    pid=$!
    while [ ! -e begun ]; do sleep 0.002; done
}
for signal in USR1 TERM INT HUP; do
    begin -np 3 round
    check "$signal: the ranks are up" up 3
    kill -s "$signal" "$pid"
    wait "$pid"
    check "$signal: status 143" equal "$?" 143
    check "$signal: nobody is left" nobody
done
check "a signal: what happens is said" contains err "stopping at the end of the round"
begin -np 3 early
check "before the first round: the ranks are up" up 3
kill -s TERM "$pid"
wait "$pid"
check "before the first round one is enough: status 143" equal "$?" 143
check "before the first round: nobody is left" nobody
for delay in 0 0.05 0.3; do
    begin -np 3 early
    sleep $delay
    kill -s TERM "$pid"
    wait "$pid"
    check "TERM $delay s after the start: status 143" equal "$?" 143
    check "TERM $delay s after the start: nobody is left" nobody
done
begin -np 3 deaf
check "twice: the ranks are up" up 3
kill -s TERM "$pid"
for _ in $(seq 50); do
    grep -q 'stopping at the end' err && break
    sleep 0.1
done
check "twice: the first one waits" kill -0 "$pid"
kill -s TERM "$pid"
wait "$pid"
check "twice: status 143" equal "$?" 143
check "twice: nobody is left" nobody

ends "the environment" 0 -np 2 environment
check "the environment: where to leave the status" grep -q '^FSTQ_STATUS_FILE=/' out
check "the environment: no PMIX_OUTPUT of the launcher's" eval "! grep -q '^PMIX_OUTPUT' out"
FSTQ_STATUS_FILE=$dir/mine launch -np 2 status 3
check "a status file of one's own: status 3" equal "$?" 3
check "a status file of one's own: kept" equal "$(cat mine)" 3
check "no temporary files stay" equal "$(find "$TMPDIR" -mindepth 1 ! -name 'ompi.*')" ""

# The real program, from another directory, to its end and to the end of a round.
export FSTQ=$fstq
run=(run fed.clients=4 fed.clients_per_round=4 trace.file=)
launch -np 3 "${run[@]}" fed.rounds=3
check "a run: status 0" equal "$?" 0
check "a run: VALID" equal "$(tail -n 1 out)" "# VALID"
begin -np 3 "${run[@]}" fed.rounds=10000000 run.dir=stopped
for _ in $(seq 100); do
    [ -e stopped/lock ] && grep -q '^ *1 ' out && break
    sleep 0.1
done
kill -s INT "$pid"
wait "$pid"
check "Ctrl-C: status 143" equal "$?" 143
check "Ctrl-C: a verdict" grep -q '^# INTERRUPTED: after round' out
finish
