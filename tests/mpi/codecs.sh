#!/usr/bin/env bash
# Every codec of the table, and wrapped, carries a federation: the run is valid, the bytes counted
# are the bytes sent, and codecs with client state end the same for any ranks and after a resume.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-codecs.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
common=("$root/configs/quick.ini" fed.rounds=2 fed.clients=6 fed.clients_per_round=3
    fed.local_steps=2 task.test=8 dev.threads=1 trace.file=)
run() { "$FSTQ" run "${common[@]}" "$@"; }

for codec in $("$FSTQ" list codecs | awk '/behind a/ { exit } /^  [a-z]/ { print $1 }'); do
    run fed.method="fedavg/$codec" trace.file="$codec.h5" >"$codec" 2>&1
    check "$codec: valid" contains "$codec" "# VALID"
    # Uplink of the rounds = bytes of the messages = sum of their parts, from the trace.
    sums=$("$FSTQ" export "$codec.h5" --csv "$codec.csv" >/dev/null && awk -F, '
        FNR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        /^#/ { next }
        FILENAME ~ /rounds/ { up += $at["uplink_bytes"] }
        FILENAME ~ /messages/ {
            frame += $at["frame_bytes"]
            part += $at["header_bytes"] + $at["directory_bytes"] + $at["scales_bytes"]
            part += $at["indices_bytes"] + $at["tags_bytes"] + $at["values_bytes"]
        }
        END { print up, frame - up, part - frame }' \
        "$codec.csv/rounds.csv" "$codec.csv/messages.csv")
    check "$codec: uplink = frames = sum of parts ($sums)" \
        eval '[ "${sums#* }" = "0 0" ] && [ "${sums%% *}" -gt 0 ]'
done

state=(fed.rounds=6 fed.clients=4)
for method in topk:ratio=0.05+ef dgc sign+ef signsgd:momentum=0.9; do
    log=${method%%[:+]*}
    run "${state[@]}" fed.method="fedavg/$method" >"$log.1" 2>&1
    check "$method: valid" contains "$log.1" "# VALID"
    mpirun --oversubscribe -np 3 "$FSTQ" run "${common[@]}" "${state[@]}" \
        fed.method="fedavg/$method" >"$log.3" 2>&1
    check "$method: the same adapter on three ranks" \
        equal "$(adapter "$log.3")" "$(adapter "$log.1")"
done
method=topk:ratio=0.05+ef
"$FSTQ" run "${common[@]}" "${state[@]}" fed.method="fedavg/$method" run.dir=d \
    >killed 2>&1 &
pid=$!
for _ in $(seq 1000); do
    [ -f d/server.a.ckpt ] && break
    sleep 0.005
done
kill -KILL $pid
wait $pid 2>/dev/null
run "${state[@]}" fed.method="fedavg/$method" run.dir=d run.resume=on >resumed 2>&1
check "$method: killed and resumed, the same adapter" equal "$(adapter resumed)" "$(adapter topk.1)"
run "${state[@]}" fed.method=fedavg/topk:ratio=0.05 >without 2>&1
check "error feedback matters" test "$(adapter without)" != "$(adapter topk.1)"
run fed.method=fedavg/sign+rans+zstd >wrapped 2>&1
check "two wrappers: valid" contains wrapped "# VALID"

# upload_s: a client's bytes are what its uplink carries in that time, the frame's header included.
for rate in 80e3 160e3; do
    run fed.method=fstq:budget=4,upload_s=0.5 net.link=fixed net.up_bps=$rate net.latency_ns=0 \
        trace.file="up$rate.h5" >up$rate 2>&1
    "$FSTQ" export "up$rate.h5" --csv "up$rate.csv" >/dev/null
    bytes=$(awk -F, 'FNR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        /^#/ { next }
        $at["frame_bytes"] > most { most = $at["frame_bytes"] }
        END { print most }' "up$rate.csv/messages.csv")
    check "uplink of $rate bit/s: $bytes bytes in half a second" \
        eval "awk -v n=$bytes 'BEGIN { exit !(n <= $rate / 16 && n > 0.99 * $rate / 16 - 80) }'"
done
finish
