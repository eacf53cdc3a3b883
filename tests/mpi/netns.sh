#!/usr/bin/env bash
# A cluster of network namespaces with links that the kernel shapes: real TCP, at the rate asked
# for, the same adapter as without, and nothing left behind.
# Alone: rates are measured.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-netns.XXXXXX")
name=t$(($$ % 100000))
cluster() { # subcommand options...
    local command=$1
    shift
    "$root/scripts/netns-cluster.sh" "$command" --name "$name" "$@"
}
trap 'cluster down 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir" || exit 1

"$root/scripts/netns-cluster.sh" --help >help
check "the script has help" contains help "netns-cluster.sh up"
"$root/scripts/netns-cluster.sh" upp >log 2>&1
check "a mistake is status 2" equal $? 2
if [ "$(id -u)" != 0 ]; then
    cluster up >log 2>&1
    check "without root: status 2" equal $? 2
    check "which says so" contains log "need root"
    skip "runs over shaped links" "no root"
    finish
fi
cluster up --ranks 3 --up 40mbit --net 10.77.$(($$ % 250)) >log 2>&1
if [ $? != 0 ]; then
    skip "runs over shaped links" "no namespaces here: $(head -n 1 log)"
    finish
fi
check "it says what it made" contains log "3 ranks, up 40mbit, down 40mbit"
cluster up >log 2>&1
check "a second one of its name: status 2" equal $? 2

run=(run task.name=quadratic optim.kind=sgd optim.lr=0.01 fed.rounds=3 fed.clients=6
    fed.clients_per_round=4 trace.file=)
timeout 120 "$root/scripts/netns-cluster.sh" run --name "$name" "${run[@]}" net.pace=none \
    >shaped 2>&1
check "a run over it ends well" equal $? 0
"$FSTQ" "${run[@]}" >plain 2>&1
check "with the adapter of any other run" equal "$(adapter shaped)" "$(adapter plain)"
timeout 120 "$root/scripts/netns-cluster.sh" run --name "$name" "${run[@]}" fed.round=3 >log 2>&1
check "and the status of one that is refused" equal $? 2

# Payload at 40 Mbit/s is 5 MB/s less the headers of TCP, IP and Ethernet, 5 %.
timeout 120 "$root/scripts/netns-cluster.sh" run --name "$name" bench xfer --samples 3 \
    --min-time 0.1 xfer.min_bytes=1048576 xfer.max_bytes=1048576 -o csv >bench 2>&1
rate=$(awk -F, '/^Size/ { for (i = 1; i <= NF; i++) if ($i ~ /^(raw|frame) \(MB\/s\)$/) rate[i] }
    /^1048576,/ { for (i in rate) if ($i > most) most = $i } END { print most + 0 }' bench)
echo "#   $rate MB/s of 5"
if awk -v r="${rate:-0}" -v n="$(nproc)" 'BEGIN { getline < "/proc/loadavg"
    exit !(r < 4.5 && r > 0 && $1 > 2 * n) }'; then
    skip "the measured rate is within 10 % of the shaped one" \
        "the load is $(cut -d ' ' -f 1 /proc/loadavg)"
else
    check "the measured rate is within 10 % of the shaped one" \
        awk -v r="${rate:-0}" 'BEGIN { exit !(r > 4.5 && r < 5.1) }'
fi

# A cable that is pulled in the middle of an upload: the client is lost, the run is not.
if [ "${FSTQ_TEST_LONG:-0}" != 0 ]; then
    cluster down
    cluster up --ranks 3 --up 1mbit --down 40mbit --net 10.77.$(($$ % 250)) >log 2>&1
    timeout 300 "$root/scripts/netns-cluster.sh" run --name "$name" "${run[@]}" net.pace=none \
        task.outputs=1000 fed.rounds=4 net.timeout_s=8 >pulled 2>&1 &
    sleep 6
    cluster link 2 down
    sleep 12
    cluster link 2 up
    wait $!
    check "a pulled cable: DEGRADED" equal $? 3
    check "and all rounds are done" grep -Eq '^ +4 ' pulled
fi

cluster down
check "nothing is left" eval "! ip netns list | grep -q '^$name-'"
check "nor its files" test ! -e "${TMPDIR:-/tmp}/netns-$name"
cluster run info >log 2>&1
check "without it a run is refused" equal $? 2
cluster up --ranks 2 --up 5furlongs >log 2>&1
check "a rate that is none is named" contains log "5furlongs"
check "and leaves nothing either" eval "! ip netns list | grep -q '^$name-'"
finish
