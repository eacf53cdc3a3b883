#!/usr/bin/env bash
# Side-tuning over ranks: the same network for any number of them, after a kill of the server and
# with damaged frames; what a client needs of memory.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-side.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
common=("$root/configs/quick.ini" fed.rounds=4 fed.clients=6 fed.clients_per_round=3
    fed.local_steps=2 task.test=8 fed.eval_every=0 dev.threads=1 trace.file=
    fed.method=pae:cache_bytes=1e6/nf4)
run() { "$FSTQ" run "${common[@]}" "$@"; }

run >straight 2>&1
check "valid" contains straight "# VALID"
check "the cache is counted" grep -qE "cache_evicted 0, .*cache_records [1-9]" straight
mpirun --oversubscribe -np 3 "$FSTQ" run "${common[@]}" trace.file=pae.h5 >ranks 2>&1
check "the same network for any ranks" equal "$(adapter ranks)" "$(adapter straight)"
stop_at_checkpoint KILL d "$FSTQ" run "${common[@]}" run.dir=d
run run.dir=d run.resume=on >resumed 2>&1
check "killed and resumed, the same network" equal "$(adapter resumed)" "$(adapter straight)"

booked() # trace: most bytes of activations of a client's rank
{
    "$FSTQ" export "$1" --csv csv >/dev/null && awk -F, '
        FNR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        !/^#/ && $at["rank"] == 1 { print $at["mem_peak_bytes_activations"] }' csv/ranks.csv
}
mpirun --oversubscribe -np 3 "$FSTQ" run "${common[@]}" fed.method=fedavg/fp32 fed.rounds=1 \
    trace.file=fedavg.h5 >fedavg 2>&1
forward=$(booked pae.h5) both=$(booked fedavg.h5)
check "a client that goes forward alone holds fewer activations ($forward of $both)" \
    test "$forward" -gt 0 -a "$((4 * forward))" -lt "$((3 * both))"

# Asked to deliver: what comes down is tasks, and at the end the network to each of six clients.
mpirun --oversubscribe --mca pml ob1,monitoring --mca pml_monitoring_enable 2 \
    --mca pml_monitoring_enable_output 3 --mca pml_monitoring_filename "$dir/seen" -np 3 \
    "$FSTQ" run "${common[@]}" fed.deliver=on trace.file=down.h5 >down 2>&1
"$FSTQ" export down.h5 --csv down.csv >/dev/null
total() { awk -F, -v key="$1" '$2 == key { print $3 }' down.csv/summary.csv; }
if ompi_info --parsable 2>/dev/null | grep -q '^mca:pml:monitoring:'; then
    tasks=$(awk -F, '!/^#/ && NR > 1' down.csv/messages.csv | wc -l)
    down=$(($(total downlink) - 64 * tasks))
    check "weights come down once, and MPI saw them ($(total side_weights) bytes)" test \
        "$(total side_weights)" -gt 1000000 -a "$down" = $(($(total side_weights) + 6 * 64)) -a \
        "$(cat seen.*.prof | awk '$1 == "E" { n += $4 } END { print n + 0 }')" = \
        "$(total wire)"
else
    skip "weights come down once" "this MPI has no monitoring component"
fi
check "their time is in the last round's" awk -F, '
    NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next } /^#/ { next }
    { t[$at["version"]] = $at["time_modelled_ns"] }
    END { exit !(t[4] > 2 * t[3]) }' down.csv/rounds.csv

FSTQ_FAULT=wire:client=1,round=1 run net.checksum=off fed.clients_per_round=6 fed.rounds=2 \
    >wire 2>&1
check "damaged activations are refused, the others go on" \
    contains wire "update of client 1 rejected"
finish
