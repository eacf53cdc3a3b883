#!/usr/bin/env bash
# Several hosts, made of this one: Open MPI reaches "node2" and "node3" by a program that runs here
# what ssh would run there. The loss of a host, after which mpirun itself never ends, and a host
# without the program.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-hosts.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1

cat >agent <<'AGENT'
#!/bin/bash
# [options] HOST COMMAND, as ssh has them
while [ "${1#-}" != "$1" ]; do shift; done
host=$1
shift
echo $$ >"$HOSTS/$host.pid"
eval "exec $*"
AGENT
chmod +x agent
export HOSTS=$dir
launch() {
    timeout 100 "$root/scripts/fstq-run" -np 3 -H "$(hostname):1,node2:1,node3:1" --grace 1 \
        --mca plm_rsh_agent "$dir/agent" --mca btl_tcp_if_include lo \
        --mca oob_tcp_if_include lo "$@"
}
# Under load Open MPI's own daemons sometimes lose each other at the start ("does not know how to
# route"), before any rank runs: no matter of ours, so that such a start is made again.
mishap() { grep -q 'ORTE does not know how to route' err; }
run=(run task.name=quadratic optim.kind=sgd optim.lr=0.01 fed.local_steps=5 fed.batch=20
    fed.clients=10 fed.clients_per_round=10 trace.file=)

for _ in 1 2 3; do
    launch "${run[@]}" fed.rounds=3 >sound 2>err
    status=$?
    mishap || break
done
check "three hosts: status 0" equal "$status" 0
check "three hosts: VALID" equal "$(tail -n 1 sound)" "# VALID"
"$FSTQ" "${run[@]}" fed.rounds=3 >one
check "three hosts: the adapter of one" \
    equal "$(grep '^# adapter' sound)" "$(grep '^# adapter' one)"

# A host that goes down takes its daemon and its rank along.
for _ in 1 2 3; do
    rm -rf lost
    launch "${run[@]}" fed.rounds=400 run.dir="$dir/lost" net.timeout_s=1 >lost.out 2>err &
    pid=$!
    for _ in $(seq 200); do
        grep -q ' 10/10 ' lost.out && break
        sleep 0.1
    done
    mishap || break
    wait $pid
done
daemon=$(cat node3.pid)
# shellcheck disable=SC2046
kill -KILL "$daemon" $(pgrep -P "$daemon")
wait $pid
check "a lost host: status 3" equal "$?" 3 || sed "s/^/#   /" err lost.out
check "a lost host: DEGRADED" contains lost.out "# DEGRADED:"
check "a lost host: the others go on to the last round" grep -Eq '^ *400 +5/10 ' lost.out
check "a lost host: nobody stays behind" test -z "$(pgrep -f "run.dir=$dir/lost")"

# Nothing says to mpirun that a rank will never come; the launcher gives up.
cat >program <<'PROGRAM'
#!/bin/bash
[ "$OMPI_COMM_WORLD_RANK" = 2 ] && exit 127
exec "$REAL" "$@"
PROGRAM
chmod +x program
export REAL=$FSTQ
for _ in 1 2 3; do
    rm -rf never
    FSTQ=$dir/program launch --start 3 "${run[@]}" run.dir="$dir/never" >out 2>err
    status=$?
    mishap || break
done
check "a rank that never comes: status 4" equal "$status" 4
check "a rank that never comes: said" contains err "have not found each other"
check "a rank that never comes: nobody stays behind" \
    test -z "$(pgrep -f "run.dir=$dir/never")"
finish
