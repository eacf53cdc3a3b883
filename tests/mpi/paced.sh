#!/usr/bin/env bash
# net.pace = real: bytes move through MPI at the pace of the clients' links, and a round takes the
# time that the model says.
# Alone: rounds at a real pace are held against the clock.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-paced.XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir" || exit 1
# 40,000 values: 160 kB per message, in three short parts.
base=(task.name=quadratic task.features=100 task.outputs=400 task.samples=20 optim.kind=sgd
    optim.lr=1e-4 fed.local_steps=1 fed.batch=2 fed.rounds=3 fed.clients=7 fed.clients_per_round=2
    fed.eval_every=0 net.pace=real trace.file=)
run() # log options...
{
    local log=$1
    shift
    mpirun --oversubscribe -np 3 "$FSTQ" run "${base[@]}" "$@" >"$log" 2>&1
}
# A busy machine makes rounds longer, never shorter: the best of three must be within 5 % (where the
# machine is not swamped by others), and none may beat its model by more than the pacer's 5 ms.
agrees() # log
{
    awk '
        function ms(v, unit) { return unit == "s" ? 1000 * v : unit == "ms" ? v : 1e9 }
        /^ +[1-9]/ {
            real = ms($(NF - 3), $(NF - 2)); model = ms($(NF - 1), $NF)
            if (!best || real / model < best) best = real / model
            if (real < model - 8) early++
            n++
        }
        END {
            printf "#   best round %.4f of its model, %d early\n", best, early
            exit n != 3 || early ? 1 : best < 1.05 ? 0 : 2
        }' "$1"
}
check_time() # name log
{
    agrees "$2"
    local status=$?
    if [ $status = 2 ] && awk -v n="$(nproc)" '{ exit !($1 > 2 * n) }' /proc/loadavg; then
        skip "$1" "not early, but late: the load is $(cut -d ' ' -f 1 /proc/loadavg)"
    else
        check "$1" test $status = 0
    fi
}

run fixed net.link=fixed net.up_bps=3e6 net.down_bps=6e6 net.latency_ns=20000000
check "a fixed link is valid" contains fixed "# VALID"
check_time "real and modelled time agree" fixed
run plain net.link=fixed net.up_bps=3e6 net.down_bps=6e6 net.checksum=off
check_time "also without checksums" plain
check "and to the same adapter" equal "$(adapter plain)" "$(adapter fixed)"
printf '0.3 1\n0.5 0\n1.1 8\n' >rates
run trace net.link=trace:latency=5 net.trace=rates net.loss=random:p=0.02
check "a trace with losses is valid" contains trace "# VALID"
check_time "and takes its time" trace
run hetero net.link=lte-hetero:slow=1,slow_min=3,slow_max=9
check_time "each client has its own link" hetero

# Two minutes to send an update: the deadline passes, and nobody reports before the run is over.
run nobody net.link=fixed net.up_bps=1e4 net.down_bps=1e8 fed.deadline_s=0.3 fed.rounds=2
check "rounds end at their deadlines though nobody reports" equal \
    "$(awk '/^ +[12] / { print $2, ($8 >= 300) }' nobody)" "$(printf '0/2 1\n0/2 1')"
check "and the run with them" contains nobody "# VALID"

# The clock decides who is in time. Client 1 (on rank 2) is behind a link 200 times slower.
printf '%s\n' name,up_mbps,up_sigma_mbps,down_mbps,down_sigma_mbps,rtt_ms a,8,0,80,0,1 \
    b,0.04,0,80,0,1 >two.csv
slow=(task.outputs=10 fed.clients=2 net.link=trace net.trace=two.csv net.timeout_s=20)
counted() { awk '/^ +[1-9]/ { printf "%s ", $2 }' "$1"; }
run quorum "${slow[@]}" fed.quorum=1
check "a quorum: the slow one is left behind" equal "$(counted quorum)" "1/2 1/2 1/2 "
check "which is no fault" contains quorum "# VALID"
run deadline "${slow[@]}" fed.deadline_s=0.3
check "a deadline: the same" equal "$(counted deadline)" "1/2 1/2 1/2 "

mpirun --oversubscribe -np 3 "$FSTQ" run "${base[@]}" fed.clients_per_round=3 >many 2>&1
check "more clients than ranks: status 2" equal $? 2
check "which says how many ranks it takes" contains many "start 4 ranks"
"$FSTQ" run "${base[@]}" >alone 2>&1
check "one rank alone: status 2" equal $? 2
check "with the reason" contains alone "one rank alone moves none"
"$FSTQ" run "${base[@]}" net.transport=sim >sim 2>&1
check "simulated: status 2" equal $? 2
finish
