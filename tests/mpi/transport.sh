#!/usr/bin/env bash
# The transports between real processes: every kind of frame over 1 to 5 ranks (and in the
# simulation), hostile messages, silent and dead ranks. More ranks than cores on purpose.
set -u
bin=${FSTQ_BUILD:-build/release}/tests/mpi
export ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0 # Open MPI leaks
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
n=0
check() # name command...
{
    local name=$1
    shift
    n=$((n + 1))
    if timeout -k 5 120 "$@" >"$scratch/log" 2>&1 </dev/null; then
        echo "ok $n - $name"
    else
        echo "not ok $n - $name: status $?"
        sed 's/^/#   /' "$scratch/log"
    fi
}
tap() # name command...: a program that prints TAP of its own
{
    local name=$1 line
    shift
    timeout -k 5 120 "$@" >"$scratch/log" 2>"$scratch/err" </dev/null
    local status=$?
    if [ "$status" -ne 0 ] || ! grep -q '^ok' "$scratch/log"; then
        n=$((n + 1))
        echo "not ok $n - $name: status $status"
        sed 's/^/#   /' "$scratch/err"
    fi
    while IFS= read -r line; do
        case $line in
        "ok "*) n=$((n + 1)) && echo "ok $n - $name: ${line#ok * - }" ;;
        "not ok "*) n=$((n + 1)) && echo "not ok $n - $name: ${line#not ok * - }" ;;
        esac
    done <"$scratch/log"
}

check "soak, one rank as server and worker" "$bin/soak" mpi
for np in 2 3 5; do
    check "soak, $np ranks" mpirun --oversubscribe -np $np "$bin/soak" mpi
done
# Ways between ranks that can be chosen: Open MPI's.
ways="self,vader self,tcp"
[ -z "${FSTQ_WITNESS:-}" ] || ways=self,shm
if [ -z "${FSTQ_WITNESS:-}" ]; then
    check "soak, 3 ranks over TCP" \
        mpirun --oversubscribe --mca btl self,tcp -np 3 "$bin/soak" mpi 140
    check "soak, 3 ranks without single copy" \
        mpirun --oversubscribe --mca btl_vader_single_copy_mechanism none -np 3 "$bin/soak" mpi 140
fi
check "soak, simulated" "$bin/soak" sim

# What we count is what Open MPI, or a witness before another, saw leave (Open MPI also counts a few
# short messages of the start-up).
counted() # ours, in soak's last line; theirs, in a file per rank
{
    local seen=(--mca pml_monitoring_enable 1 --mca pml_monitoring_enable_output 3
        --mca pml_monitoring_filename "$scratch/seen" -np 3)
    [ -z "${FSTQ_WITNESS:-}" ] ||
        seen=(-np 3 env LD_PRELOAD="$FSTQ_WITNESS" FSTQ_SENDS="$scratch/seen")
    mpirun --oversubscribe "${seen[@]}" "$bin/soak" mpi 100 >"$scratch/ours" || return 1
    cat "$scratch/ours" "$scratch"/seen.*.prof | tee "$scratch/log" | awk '
        $1 == "E" && ($2 == 0 || $3 == 0) { seen += $4 }
        /^# .* workers/ { ours = $6 }
        END { exit !(ours > 0 && seen >= ours && seen < ours + 4096) }'
}
n=$((n + 1))
if counted; then
    echo "ok $n - bytes counted are bytes sent"
else
    echo "not ok $n - bytes counted are bytes sent"
    sed 's/^/#   /' "$scratch/log"
fi
if [ "${FSTQ_TEST_LONG:-0}" != 0 ]; then
    tap "frames beyond 1 GiB" mpirun --oversubscribe -np 2 "$bin/hostile" huge
fi
for btl in $ways; do
    tap "frames over ${btl#self,}" mpirun --oversubscribe --mca btl $btl -np 2 "$bin/hostile" frames
    tap "parts over ${btl#self,}" mpirun --oversubscribe --mca btl $btl -np 2 "$bin/hostile" parts
    tap "forget over ${btl#self,}" mpirun --oversubscribe --mca btl $btl -np 2 "$bin/hostile" forget
    if [ -n "${FSTQ_WITNESS:-}" ]; then # MPICH's launcher ends a job that has lost a rank
        n=$((n + 1))
        echo "ok $n - the loss of a rank # SKIP this MPI ends the job"
        continue
    fi
    tap "torn over ${btl#self,}" mpirun --oversubscribe --mca btl $btl \
        --mca orte_enable_recovery 1 -np 3 "$bin/hostile" torn
    tap "dead over ${btl#self,}" mpirun --oversubscribe --mca btl $btl \
        --mca orte_enable_recovery 1 -np 3 "$bin/hostile" dead
done
echo "1..$n"
