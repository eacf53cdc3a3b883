#!/usr/bin/env bash
# Split learning in both directions: what was trained in two halves is what is trained whole; every
# byte of what was said is counted; what was said twice, damaged or not at all.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-splitlora.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
common=("$root/configs/quick.ini" fed.rounds=2 fed.clients=6 fed.clients_per_round=3
    fed.local_steps=3 task.test=4 dev.threads=1 trace.file=)
run() { "$FSTQ" run "${common[@]}" "$@"; }
coded="splitlora:cut=2/topk:ratio=0.2+ef;fp16;int:bits=8"

run fed.method=fedavg/fp32 optim.clip=0 >whole 2>&1
for cut in 1 2; do
    run fed.method=splitlora:cut=$cut/fp32 optim.clip=0 >halves.$cut 2>&1
    check "cut below layer $cut: the adapter is fedavg's" \
        equal "$(adapter halves.$cut)" "$(adapter whole)"
done
run fed.method="$coded" >coded 2>&1
check "three codecs: valid" contains coded "# VALID"
mpirun --oversubscribe -np 3 "$FSTQ" run "${common[@]}" fed.method="$coded" dev.threads=2 \
    >three 2>&1
check "the same adapter for any ranks and threads" equal "$(adapter three)" "$(adapter coded)"

# All that went up is by part in the messages, two rows a client: its update and what it said. With
# fp16 a row of activations and its gradient are 128 bytes each; down come also a version of one
# layer, 12,288 values, per client and round, and 65 bytes of headers per answer.
run fed.method="splitlora/fp32;fp16;fp16" trace.file=half.h5 >half 2>&1
"$FSTQ" export half.h5 --csv c >/dev/null
figures=$(awk -F, '
    FNR == 1 { delete at; for (i = 1; i <= NF; i++) at[$i] = i; next }
    /^#/ { next }
    FILENAME ~ /messages/ {
        up += $at["frame_bytes"]
        parts += $at["header_bytes"] + $at["directory_bytes"] + $at["scales_bytes"] + \
            $at["indices_bytes"] + $at["tags_bytes"] + $at["values_bytes"]
        if ($at["vector"] == 1) {
            said++
            values += $at["values_bytes"]
            wrong += $at["kept_16bit"] * 2 != $at["values_bytes"] || $at["header_bytes"] != 3 * 65
        }
    }
    FILENAME ~ /rounds/ { uplink += $at["uplink_bytes"]; down += $at["downlink_bytes"] }
    END { print up - uplink, up - parts, said, values % 128, 0 + wrong,
                down - values - 6 * (64 + 4 * 12288) - 18 * 65 }' c/messages.csv c/rounds.csv)
check "every byte is counted, up by part and down" equal "$figures" "0 0 6 0 0 0"

run fed.method=splitlora~tome/fp32 optim.clip=0 >merged 2>&1
uplink() { sed -n 's/^# uplink \([0-9.]*\) .*/\1/p' "$1" | tr -d .; }
check "tokens that merge send less" test "$(uplink merged)" -lt "$(uplink halves.1)"

# Who counts is decided when all have reported, by modelled time: the same for any ranks.
policy=("${common[@]}" fed.method="$coded" fed.quorum=2 fed.deadline_s=2 client.step_ns=1e7
    net.link=lte-hetero:slow=0.3)
"$FSTQ" run "${policy[@]}" >quorum 2>&1
mpirun --oversubscribe -np 3 "$FSTQ" run "${policy[@]}" >quorum3 2>&1
check "a quorum with a deadline: the same adapter for any ranks" \
    equal "$(adapter quorum3)" "$(adapter quorum)"
check "and another than where all count" test "$(adapter quorum)" != "$(adapter coded)"

# Faults.
run fed.rounds=5 fed.method="$coded" >straight 2>&1
stop_at_checkpoint KILL d "$FSTQ" run "${common[@]}" fed.rounds=5 fed.method="$coded" run.dir=d
run fed.rounds=5 fed.method="$coded" run.dir=d run.resume=on >resumed 2>&1
check "killed and resumed, the same adapter" equal "$(adapter resumed)" "$(adapter straight)"
run fed.method="$coded" net.transport=sim net.sim_duplicate=0.5 net.sim_reorder=0.5 >sim 2>&1
check "said twice or out of order, the same adapter" equal "$(adapter sim)" "$(adapter coded)"
check "what is said twice is refused" contains sim "is unexpected"
run fed.method="$coded" net.transport=sim net.sim_drop=0.05 >lossy 2>&1
check "an answer that never comes costs its client" contains lossy "# DEGRADED"
client=$(awk -F, 'FNR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
    $at["version"] == 1 { print $at["client"]; exit }' c/messages.csv)
FSTQ_FAULT=wire:client=$client,round=1 "$FSTQ" run "${common[@]}" fed.method="$coded" \
    net.checksum=off >wire 2>&1
check "a damaged lower half does not count, nor does its upper half" \
    contains wire "update of client $client rejected"
run fed.method="splitlora/fp32;fp16" optim.lr=1000 >burst 2>&1
check "activations that burst are refused by name" contains burst ", 6 rejected"

check "what the server sees is said" contains <("$FSTQ" list schemes) \
    "the server sees of a client: activations, labels, half an update"

while IFS='|' read -r setting why; do
    # shellcheck disable=SC2086 # several settings
    run fed.method=splitlora/fp32 $setting >refused 2>&1
    check "refused: $why" contains refused "$why"
done <<'END'
fed.method=splitlora:cut=3/fp32|leaves the server none
fed.method=splitlora/fp32;topk+ef|rows of activations have none
fed.method=splitlora/fp32;fp16;fp16;fp16|one codec too many
fed.method=splitlora/B@fp32|the view of scheme splitlora is low:layers=1
fed.method=splitlora~fisher/fp32|computes no loss
fed.opt_state=keep|keeps nothing of a client
net.delivery=datagram net.loss=random:p=0.1|waits for each answer
task.name=quadratic optim.kind=sgd|no layers
END
finish
