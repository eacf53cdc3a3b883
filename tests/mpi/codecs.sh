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
    fed.local_steps=2 task.test=8 fed.eval_every=0 dev.threads=1 trace.file=)
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

# What a run directory holds at the end: a hash of the server's floats and every client's newest,
# how many floats of codecs the server keeps, and how many clients keep any.
state_of() # run-dir
{
    python3 - "$1" <<'EOF'
import glob, hashlib, struct, sys

def read(path):
    with open(path, "rb") as f:
        return f.read()

newest = max((read(f) for f in glob.glob(sys.argv[1] + "/server.?.ckpt")),
             key=lambda b: struct.unpack_from("<I", b, 8))
run, adapter, state, known = struct.unpack_from("<Q8xQQQ", newest, 24)
table = len(newest) - 8 - 8 * known  # of each client round and epoch of its newest
server = newest[table - 4 * (adapter + state):table]
clients = {}
for slots in map(read, glob.glob(sys.argv[1] + "/slots.*")):
    first = slots.find(b"SLOT")
    if first < 0:
        continue
    step = 40 + 4 * struct.unpack_from("<I", slots, first + 12)[0]
    for at in range(0, len(slots) - step + 1, step):
        magic, turn, client, _, owner, epoch = struct.unpack_from("<4sIIIQI", slots, at)
        named = struct.unpack_from("<II", newest, table + 8 * client)
        if magic == b"SLOT" and owner == run and named == (turn, epoch):
            clients[client] = slots[at + 40:at + step]
floats = b"".join(clients[k] for k in sorted(clients))
print(hashlib.sha256(server + floats).hexdigest(), state, len(clients))
EOF
}

# Codecs that keep something at clients, at the server, or at both.
state=(fed.rounds=6 fed.clients=4)
keep=(topk:ratio=0.05+ef dgc sign+ef signsgd:momentum=0.9 topk:ratio=0.05+ef21:share=0.75 fetchsgd
    seg:parts=3@ecolora:gamma_a=0.3+ef)
for method in "${keep[@]}"; do
    log=$(tr -c 'a-z0-9\n' _ <<<"$method")
    run "${state[@]}" fed.method="fedavg/$method" run.dir="$log.d1" >"$log.1" 2>&1
    check "$method: valid" contains "$log.1" "# VALID"
    mpirun --oversubscribe -np 3 "$FSTQ" run "${common[@]}" "${state[@]}" \
        fed.method="fedavg/$method" run.dir="$log.d3" >"$log.3" 2>&1
    check "$method: the same adapter on three ranks" \
        equal "$(adapter "$log.3")" "$(adapter "$log.1")"
    check "$method: the same state on three ranks" \
        equal "$(state_of "$log.d3")" "$(state_of "$log.d1")"
done

# Killed after a few rounds on one rank, resumed on three.
for row in "topk:ratio=0.05+ef 0 4" "topk:ratio=0.05+ef21:share=0.75 1 4" "fetchsgd 1 0" \
    "seg:parts=3@ecolora:gamma_a=0.3+ef 0 4"; do
    read -r method server clients <<<"$row"
    log=$(tr -c 'a-z0-9\n' _ <<<"$method")
    at=$(state_of "$log.d1")
    read -r _ floats holders <<<"$at"
    check "$method: who keeps state" equal "$((floats > 0)) $holders" "$server $clients"
    stop_at_checkpoint KILL "$log.k" \
        "$FSTQ" run "${common[@]}" "${state[@]}" fed.method="fedavg/$method" run.dir="$log.k"
    mpirun --oversubscribe -np 3 "$FSTQ" run "${common[@]}" "${state[@]}" \
        fed.method="fedavg/$method" run.dir="$log.k" run.resume=on >"$log.k3" 2>&1
    check "$method: resumed before its end" grep -q '^# resumed after round [2-5]$' "$log.k3"
    check "$method: killed and resumed on other ranks, the same adapter" \
        equal "$(adapter "$log.k3")" "$(adapter "$log.1")"
    check "$method: killed and resumed on other ranks, the same state" \
        equal "$(state_of "$log.k")" "$at"
done
run "${state[@]}" fed.method=fedavg/topk:ratio=0.05 >without 2>&1
check "error feedback matters" test "$(adapter without)" != "$(adapter topk_ratio_0_05_ef.1)"

# EcoLoRA sends 0.1 + 0.4 exp(-gamma (L_0 - L)) of A and of B, L_0 the training loss of round 1, L
# that of the round before: from the trace, with a value to spare for either's rounding up.
run "${state[@]}" fed.method=fedavg/ecolora:gamma_a=0.3,gamma_b=0.3 trace.file=eco.h5 >eco 2>&1
"$FSTQ" export eco.h5 --csv eco.csv >/dev/null
wrong=$(awk -F, '
    FNR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
    /^#/ { next }
    FILENAME ~ /rounds/ { loss[$at["version"]] = $at["train_loss"]; next }
    {
        t = $at["version"]
        fall = t > 1 && loss[1] > loss[t - 1] ? loss[1] - loss[t - 1] : 0
        want = (0.1 + 0.4 * exp(-0.3 * fall)) * ($at["kept_0bit"] + $at["kept_16bit"])
        bad += $at["kept_16bit"] < want - 1e-3 || $at["kept_16bit"] > want + 2
        rows++
        few += $at["kept_16bit"] < 0.7 * last
        last = t == 1 ? $at["kept_16bit"] : last
    }
    END { print rows, bad + 0, (few > 3) }' eco.csv/rounds.csv eco.csv/messages.csv)
check "ecolora: shares follow the training loss (messages, wrong, they came down)" \
    equal "$wrong" "18 0 1"
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

# The clients of a round share its bytes, headers included: three of them here.
for method in fedavg/klt fedavg/fstq fedavg/topk:ratio=0.3; do
    run fed.method="$method" fed.uplink_per_round=9000 trace.file=share.h5 >share 2>&1
    "$FSTQ" export share.h5 --csv share.csv >/dev/null
    most=$(awk -F, 'FNR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        /^#/ { next }
        $at["uplink_bytes"] > most { most = $at["uplink_bytes"] }
        END { print most }' share.csv/rounds.csv)
    check "$method: $most of 9000 bytes a round" test "$most" -le 9000 -a "$most" -gt 8000
    rm -rf share.csv
done
run fed.method=fedavg/int8 fed.uplink_per_round=9000 >share 2>&1
check "a codec that keeps to no budget is refused" test $? = 2
check "and named" contains share "int:bits=8"
finish
