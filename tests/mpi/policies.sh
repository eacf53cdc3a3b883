#!/usr/bin/env bash
# Deadline, quorum, over-commitment, completion and staleness: rounds end when they should, and the
# same updates count on any number of ranks, simulated, and after a resume. (At a real pace: see
# paced.sh.)
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-policies.XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir" || exit 1
base=(task.name=quadratic optim.kind=sgd optim.lr=0.01 fed.local_steps=5 fed.batch=20 fed.rounds=30
    fed.clients=40 fed.clients_per_round=10 client.step_ns=1000000 trace.file=
    net.link=lte-hetero:slow=0.3,slow_min=0.1,slow_max=0.5)
rounds() { awk '/^ +[1-9]/ { print $1, $2, $(NF - 1), $NF }' "$1"; }
same() # name log options...: on 1 and 3 ranks and simulated
{
    local name=$1 log=$2
    shift 2
    run 1 "$log" "$@"
    check "$name: valid" contains "$log" "# VALID"
    run 3 "$log-3" "$@"
    check "$name: the same on 3 ranks" equal "$(rounds "$log-3"; adapter "$log-3")" \
        "$(rounds "$log"; adapter "$log")"
    run 1 "$log-sim" "$@" net.transport=sim net.sim_workers=4
    check "$name: the same simulated" equal "$(rounds "$log-sim"; adapter "$log-sim")" \
        "$(rounds "$log"; adapter "$log")"
}
modelled() { sed -n 's/.* \(.*\) modelled$/\1/p' "$1"; }

run 1 all
same "a deadline" deadline fed.deadline_s=0.25
check "no round outlasts it" \
    test "$(rounds deadline | awk '$4 != "ms" || $3 > 250' | wc -l)" = 0
check "and some updates are late" \
    test "$(rounds deadline | awk '$2 != "10/10"' | wc -l)" -gt 20
same "a deadline that all miss" silent fed.deadline_s=0.5 net.loss=random:p=1 fed.rounds=3
check "nobody reports, and the deadline ends each round" equal \
    "$(rounds silent)" "$(printf '%s 0/10 500 ms\n' 1 2 3)"
same "a quorum" quorum fed.quorum=0.6 fed.dropout=0.1
check "ends rounds with so many" test "$(rounds quorum | awk '$2 != "6/10"' | wc -l)" = 0
same "over-commitment" over fed.overcommit=1.5
check "samples more and takes the first" \
    test "$(rounds over | awk '$2 != "10/15"' | wc -l)" = 0
same "staleness" stale fed.quorum=0.6 fed.late_weight=0.5
check "late updates count later" \
    test "$(rounds stale | awk '{ split($2, a, "/"); n += a[1] } END { print n }')" -gt 200
check "and change the adapter" test "$(adapter stale)" != "$(adapter quorum)"
stop_at_checkpoint TERM stale.d "$FSTQ" run "${base[@]}" fed.quorum=0.6 fed.late_weight=0.5 \
    run.dir=stale.d
run 1 restale fed.quorum=0.6 fed.late_weight=0.5 run.dir=stale.d run.resume=on
check "and a resumed run still counts them" equal "$(adapter restale)" "$(adapter stale)"
same "devices that come and go" devices client.profile=mix client.availability=onoff:stay=1 \
    fed.deadline_s=0.4
check "rounds take longer with slow ones" test "$(rounds devices)" != "$(rounds all)"
run 1 energy client.profile=slow client.compute_w=4 client.send_w=2 fed.rounds=2 trace.file=e.h5
"$FSTQ" export e.h5 --csv csv >/dev/null 2>&1
check "modelled energy is in the trace" awk -F, '
    NR == 1 { for (i = 1; i <= NF; i++) if ($i ~ /energy_modelled_j/) k = i }
    NR > 2 && $k > 0.1 && $k < 100 { n++ } END { exit !(k && n >= 2) }' csv/rounds.csv
check "and in the last lines, with G" grep -q \
    '^# G = T_comp / T_comm of a client, modelled: median .* from .* to .* over [0-9]* cl' energy
check "energy apart: computing and sending" \
    grep -q '^# energy modelled: .* J computing + .* J sending = .* J per round' energy

# Recorded presence: two of three devices are never there at the start. Batteries: empty in the end,
# and the same after a resume.
printf 'period 1000\n0-1000\n-\n500-1000 # later\n' >there.txt
same "recorded presence" there client.availability=trace client.presence=there.txt
check "leaves about a third" awk '/^ +[1-9]/ { split($2, a, "/"); n += a[1] }
    END { print "# " n " of 300"; exit !(n > 50 && n < 150) }' there
battery=(client.compute_w=4 client.send_w=2 client.battery_j=0.6 fed.rounds=120)
same "batteries" battery "${battery[@]}"
check "are empty in the end" equal "$(awk '$1 == 120 { print $2 }' battery)" "0/10"
stop_at_checkpoint TERM bat "$FSTQ" run "${base[@]}" "${battery[@]}" run.dir=bat
run 1 battery2 "${battery[@]}" run.dir=bat run.resume=on
check "and their charge is in the checkpoint" equal "$(adapter battery2)" "$(adapter battery)"
run 1 unknown client.battery_j=5
check "a battery of an unknown device is refused" contains unknown "what client 0 (any) draws"

run 1 few fed.deadline_s=0.1 fed.min_completion=1
check "too few move nothing" \
    equal "$(awk '/^ +(0|30) / { print $(NF - 6) }' few | sort -u | wc -l)" 1
check "which is no fault" contains few "# VALID"

stop_at_checkpoint TERM d "$FSTQ" run "${base[@]}" fed.rounds=300 fed.deadline_s=0.25 run.dir=d
run 1 long fed.rounds=300 fed.deadline_s=0.25
run 1 resumed fed.rounds=300 fed.deadline_s=0.25 run.dir=d run.resume=on
check "a resumed run cuts the same rounds" \
    equal "$(adapter resumed) $(rounds resumed | tail -n 1)" \
    "$(adapter long) $(rounds long | tail -n 1)"

run 1 arena fed.quorum=0.5 net.arena_bytes=10000
check "updates that cannot all wait: status 2" equal $? 2
check "with the number it takes" contains arena "set net.arena_bytes to"
run 1 nolate fed.late_weight=0.5
check "late updates without a limit are refused" contains nolate "nobody is late"
finish
