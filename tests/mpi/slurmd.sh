#!/usr/bin/env bash
# The template for Slurm under Slurm itself: a controller and a node of the distribution's packages
# (slurmctld, slurmd, slurm-client, munge), in a folder of their own. The signal before the end
# stops the run, the job is queued again, goes on, and comes to the adapter of a run that was not
# stopped. In make test-long, where the packages are and this is root.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
need=(munged slurmctld slurmd sbatch scancel squeue sinfo)
export PATH=$PATH:/usr/sbin:/sbin
missing=$(for p in "${need[@]}"; do command -v "$p" >/dev/null || echo "$p"; done)
if [ "${FSTQ_TEST_LONG:-0}" = 0 ] || [ -n "$missing" ] || [ "$(id -u)" != 0 ]; then
    skip "a job under slurmd" \
        "in make test-long, as root, with slurmctld, slurmd, slurm-client and munge"
    finish
fi
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-slurmd.XXXXXX")
daemons=()
trap 'kill "${daemons[@]}" 2>/dev/null; wait; rm -rf "$dir"' EXIT
cd "$dir" || exit 1
unset "${!SLURM_@}"
export SLURM_CONF=$dir/slurm.conf
node=$(hostname -s)
port=$((20000 + $$ % 20000))
mkdir state spool
head -c 1024 /dev/urandom >munge.key
chmod 400 munge.key
chmod 755 .
# A credential's life is what a job waits that is queued again.
cat >slurm.conf <<CONF
ClusterName=fstq
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.sock,cred_expire=3
CredType=cred/munge
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
ReturnToService=2
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
munged --foreground --force --key-file="$dir/munge.key" --socket="$dir/munge.sock" \
    --pid-file="$dir/munged.pid" --log-file="$dir/munged.log" --seed-file="$dir/munge.seed" \
    >munged.out 2>&1 &
daemons+=($!)
until_true() # seconds command...
{
    local n=$(($1 * 10))
    shift
    while ! "$@" && [ $((n -= 1)) -gt 0 ]; do sleep 0.1; done
    "$@"
}
until_true 10 test -S munge.sock
slurmctld -D -f "$dir/slurm.conf" >slurmctld.log 2>&1 &
daemons+=($!)
slurmd -D -f "$dir/slurm.conf" -N "$node" >slurmd.log 2>&1 &
daemons+=($!)
idle() { sinfo -h -o %t 2>/dev/null | grep -q idle; }
until_true 60 idle
check "a node is idle" idle || {
    tail -n 20 slurmctld.log slurmd.log munged.log | sed 's/^/#   /'
    finish
}

args=("$root/configs/quadratic.ini" fed.rounds=400 fed.eval_every=0 trace.file=)
"$FSTQ" run "${args[@]}" >whole 2>&1
export FSTQ_ROOT=$root
job=$(sbatch --parsable --nodes=1 --ntasks-per-node=2 --cpus-per-task=1 --time=20 --output=out.txt \
    "$root/scripts/fstq.sbatch" "${args[@]}" 2>submitted)
check "the template is submitted" test -n "$job" || sed 's/^/#   /' submitted
run=fstq-$job
until_true 60 test -f "$run/server.a.ckpt"
check "the job runs" test -f "$run/server.a.ckpt"
scancel --batch --signal=USR1 "$job" # as --signal=B:USR1@120 does before the end
again() { grep -q "# resumed after round" out.txt; }
until_true 180 again
check "it is queued again, and goes on where it stopped" again
over() { ! squeue -h -j "$job" 2>/dev/null | grep -q .; }
until_true 180 over
check "and ends" over
check "stopped once" equal "$(grep -c '^# INTERRUPTED' out.txt)" 1
check "valid in the end" equal "$(grep -c '^# VALID' out.txt)" 1
check "with the adapter of a run that was not stopped" \
    equal "$(adapter out.txt | tail -n 1)" "$(adapter whole)"
finish
