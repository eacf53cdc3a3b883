#!/usr/bin/env bash
# Faults on purpose over real ranks, through the launcher: the run survives, says DEGRADED, and the
# launcher returns rank 0's status even where mpirun alone would hang.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
here=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-faults.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
args=(task.name=quadratic optim.kind=sgd optim.lr=0.01 fed.local_steps=5 fed.batch=20
    fed.rounds=8 fed.clients=10 fed.clients_per_round=10 trace.file= net.timeout_s=1.5)
arrived() { awk -v r="$2" '$1 == r && $2 ~ "/" { print $2 }' "$1"; }
launch() # fault log args...
{
    FSTQ_FAULT=$1 timeout 60 "$here/scripts/fstq-run" -np 3 --grace 2 run "${args[@]}" "${@:3}" \
        >"$2" 2>&1
}

launch "" sound
check "no fault: status 0" equal "$?" 0

launch kill:client=7,round=3 kill
check "a killed rank: status 3" equal "$?" 3
check "a killed rank: DEGRADED" contains kill "# DEGRADED:"
check "a killed rank: it is named" contains kill "died; its clients are lost"
check "a killed rank: the others go on to the last round" equal "$(arrived kill 8)" "5/10"

launch sent:client=7,round=3 sent
check "a rank killed after its upload: status 3" equal "$?" 3
check "a rank killed after its upload: its clients till then count" \
    equal "$(arrived sent 3) $(arrived sent 4)" "9/10 5/10"

# At a pace at which an upload takes two seconds, and a rank dies in the middle of its own.
paced=(fed.clients=2 fed.clients_per_round=2 fed.rounds=3 net.pace=real net.link=fixed
    net.down_bps=1e9 net.latency_ns=0)
launch half:client=1,round=2 half "${paced[@]}" net.up_bps=8000
check "a rank killed during its upload: status 3" equal "$?" 3
check "a rank killed during its upload: half an update is none" \
    equal "$(arrived half 1) $(arrived half 2) $(arrived half 3)" "2/2 1/2 1/2"
check "a rank killed during its upload: it is named" contains half "died; its clients are lost"

launch stop:client=7,round=3 stop
check "a stopped rank: status 3" equal "$?" 3
check "a stopped rank: it is suspected" contains stop "is silent; its clients are unavailable"

launch nan:client=4,round=2 nan
check "a NaN in an update: status 3" equal "$?" 3
check "a NaN in an update: the tensor is named" contains nan "the update is not finite: X["
check "a NaN in an update: the others count" equal "$(arrived nan 2)" "9/10"
check "a NaN in an update: the next round is whole" equal "$(arrived nan 3)" "10/10"

launch inf:client=4,round=2 inf fed.method=fedavg/raw
check "bytes that decode to infinity: status 3" equal "$?" 3
check "bytes that decode to infinity: rejected as such" contains inf "not finite"
launch wire:client=4,round=2 wire
check "damaged bytes: status 3" equal "$?" 3
check "the same update left out in any way: the same adapter" \
    equal "$(adapter wire)" "$(adapter nan)"
check "a rejected update never reaches the adapter" equal "$(adapter inf)" "$(adapter nan)"

# Frames so long that they travel in parts.
long=(task.features=600 task.outputs=100 task.samples=20 fed.rounds=4)
launch wire:client=4,round=2 long "${long[@]}"
check "damaged long frames: status 3" equal "$?" 3
FSTQ_FAULT=wire:client=4,round=2 "$FSTQ" run "${args[@]}" "${long[@]}" >long1 2>&1
check "damaged long frames: the adapter of one rank" equal "$(adapter long)" "$(adapter long1)"
launch kill:client=7,round=3 longkill "${long[@]}"
check "a rank killed among long frames: the others go on" equal "$(arrived longkill 4)" "5/10"

# A stopped rank that goes on: what it sends is of an old round, is recognised, and it takes part
# again.
FSTQ_FAULT=stop:client=7,round=3 timeout 90 "$here/scripts/fstq-run" -np 3 --grace 2 \
    run "${args[@]}" fed.rounds=400 run.dir="$dir/cont.d" >cont 2>&1 &
pid=$!
for _ in $(seq 400); do
    grep -q "is silent" cont && break
    sleep 0.02
done
pkill -CONT -f "run.dir=$dir/cont.d"
wait $pid
check "a rank that goes on: status 3" equal "$?" 3
check "a rank that goes on: it answers again" contains cont "answers again"
check "a rank that goes on: its late update is recognised" contains cont "is stale"
check "a rank that goes on: the last round is whole" equal "$(arrived cont 400)" "10/10"

# The server dies: no worker stays behind, and the launcher says so.
timeout 60 "$here/scripts/fstq-run" -np 3 --grace 2 run "${args[@]}" fed.rounds=100000 \
    run.dir="$dir/dead.d" >dead 2>&1 &
pid=$!
for _ in $(seq 400); do
    [ -f dead.d/server.a.ckpt ] && break
    sleep 0.02
done
for p in $(pgrep -f "run.dir=$dir/dead.d"); do # rank 0 of them
    tr '\0' '\n' <"/proc/$p/environ" 2>/dev/null | grep -qx OMPI_COMM_WORLD_RANK=0 &&
        kill -KILL "$p"
done
wait $pid
check "a dead server: status 4" equal "$?" 4
sleep 0.5
check "a dead server: nobody stays behind" test -z "$(pgrep -f "run.dir=$dir/dead.d")"

# In the simulated network every kind of trouble comes from one seed, and comes again.
trouble=(net.transport=sim fed.rounds=300 net.sim_drop=0.05 net.sim_corrupt=0.03
    net.sim_duplicate=0.05 net.sim_delay=0.05 net.sim_reorder=0.1 optim.momentum=0.3
    fed.opt_state=keep client.step_ns=1000000)
"$FSTQ" run "${args[@]}" "${trouble[@]}" >sim1 2>/dev/null
check "trouble in sim: status 3" equal "$?" 3
"$FSTQ" run "${args[@]}" "${trouble[@]}" >sim2 2>/dev/null
check "trouble in sim: the same seed ends the same" equal "$(adapter sim1)" "$(adapter sim2)"
"$FSTQ" run "${args[@]}" "${trouble[@]}" run.seed=2 >sim3 2>/dev/null
check "trouble in sim: another seed ends elsewhere" test "$(adapter sim1)" != "$(adapter sim3)"
check "trouble in sim: it still learns" test "$(sed -n 's/^# error 0\.\(...\).*/\1/p' sim1)" -lt 200
finish
