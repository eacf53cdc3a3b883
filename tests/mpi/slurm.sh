#!/usr/bin/env bash
# The template for Slurm, as Slurm would run it: a signal before the end stops the run at a round's
# end, the job asks to be queued again, and the second one goes on to the same adapter.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-slurm.XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir" || exit 1
args=("$root/configs/quadratic.ini" fed.rounds=200 fed.eval_every=0 trace.file=)
"$FSTQ" run "${args[@]}" >whole 2>&1

"$root/scripts/fstq.sbatch" >usage 2>&1
check "without a config: status 2, and how" test $? = 2 -a -s usage
mkdir bin # a scontrol that notes what it is asked for
printf '#!/bin/sh\necho "$@" >%s/asked\n' "$dir" >bin/scontrol
chmod +x bin/scontrol
export PATH=$dir/bin:$PATH FSTQ_ROOT=$root SLURM_JOB_ID=77 SLURM_NTASKS=2
cp "$root/scripts/fstq.sbatch" copy # Slurm runs a copy
./copy "${args[@]}" >first 2>&1 &
pid=$!
for _ in $(seq 2000); do
    [ -f fstq-77/server.a.ckpt ] && break
    sleep 0.01
done
kill -USR1 $pid
wait $pid
check "the signal before the end: status 143" equal $? 143
check "the job is queued again" equal "$(cat asked)" "requeue 77"
rm asked
./copy "${args[@]}" >second 2>&1
check "the second job: status 0" equal $? 0
check "goes on where the first stopped" contains second "# resumed after round"
check "to the same adapter" equal "$(adapter second)" "$(adapter whole)"
check "and is not queued again" test ! -e asked
finish
