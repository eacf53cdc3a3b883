#!/usr/bin/env bash
# Fed-ToMe: tokens that merge inside the layers while clients train; activations that travel instead
# of updates.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-tome.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
common=("$root/configs/quick.ini" fed.rounds=2 fed.clients=6 fed.clients_per_round=3
    fed.local_steps=2 task.test=8 dev.threads=1 trace.file=)
run() { "$FSTQ" run "${common[@]}" "$@"; }
bytes() { sed -n "s/^# uplink \([^,]*\), downlink \([^,]*\),.*/\1 \2/p" "$1"; }

run fed.method=tome-train trace.file=tome-train.h5 >tome-train 2>&1
check "tome-train: valid" contains tome-train "# VALID"
run fed.method=fedavg~tome:ratio=0/fp32 >alone 2>&1
run fed.method=fedavg/fp32 >plain 2>&1
check "where nothing merges the adapter is fedavg's" equal "$(adapter alone)" "$(adapter plain)"
check "where prompts merge it is another" test "$(adapter tome-train)" != "$(adapter plain)"
check "of as many bytes" equal "$(bytes tome-train)" "$(bytes plain)"
mpirun --oversubscribe -np 3 "$FSTQ" run "${common[@]}" fed.method=tome-train dev.threads=2 \
    >tome.3 2>&1
check "merging is the same for any ranks and threads" \
    equal "$(adapter tome.3)" "$(adapter tome-train)"
merged=$("$FSTQ" export tome-train.h5 --csv tome.csv >/dev/null && awk -F, '
    FNR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
    /^#/ { next }
    $at["stage"] ~ /^merge/ { spans++; in_ += $at["bytes_in"]; out += $at["bytes_out"] }
    END { print spans, (out < 0.8 * in_ && out > 0.4 * in_) }' tome.csv/events.csv)
check "every step's merging has a span with the tokens before and after" equal "$merged" "12 1"

# Activations: what travels is rows, fewer of them where prompts merge; nothing but tasks goes down.
for method in tome-act split/fp16 split/int:bits=4 split/fp32 split:cut=2~tome:ratio=0.5/fp16; do
    log=${method//[:\/]/.}
    run fed.method=$method trace.file=$log.h5 >$log 2>&1
    check "$method: valid" contains $log "# VALID"
    mpirun --oversubscribe -np 3 "$FSTQ" run "${common[@]}" fed.method=$method dev.threads=2 \
        >split.3 2>&1
    check "$method: the same adapter for any ranks and threads" \
        equal "$(adapter split.3)" "$(adapter $log)"
done
uplink() # log: bytes of all messages
{
    "$FSTQ" export "$1.h5" --csv act.csv >/dev/null && awk -F, '
        FNR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        /^#/ { next }
        {
            sum += $at["frame_bytes"]
            parts += $at["header_bytes"] + $at["directory_bytes"] + $at["scales_bytes"] + \
                $at["indices_bytes"] + $at["tags_bytes"] + $at["values_bytes"]
            values += $at["values_bytes"]
        }
        END { print sum, parts, values }' act.csv/messages.csv
}
read -r merged parts fewer <<<"$(uplink tome-act)"
read -r half _ values <<<"$(uplink split.fp16)"
read -r full _ wide <<<"$(uplink split.fp32)"
check "parts add up to frames" equal "$parts" "$merged"
check "merging sends fewer bytes ($merged of $half)" test "$merged" -lt $((half * 9 / 10))
check "as the rows that are left" test $((fewer % 128)) = 0 -a "$fewer" -gt $((values / 2))
check "fp32 takes twice the values" equal "$wide" $((2 * values))
check "and more bytes" test "$full" -gt "$half"
check "nothing goes down but frames" equal "$(bytes tome-act | cut -d' ' -f3-)" "384 B"
check "the server learns" awk '/^ +1 /{a = $4} /^ +4 /{b = $4} END {exit !(b < a)}' \
    <(run fed.rounds=4 fed.local_steps=10 fed.method=tome-act 2>&1)
run fed.rounds=8 fed.method=tome-act >straight 2>&1
stop_at_checkpoint KILL d "$FSTQ" run "${common[@]}" fed.rounds=8 fed.method=tome-act run.dir=d
run fed.rounds=8 fed.method=tome-act run.dir=d run.resume=on >resumed 2>&1
check "killed and resumed, the same adapter" equal "$(adapter resumed)" "$(adapter straight)"
lossy=(net.transport=sim net.link=fixed fed.rounds=4)
run "${lossy[@]}" fed.method=tome-act >sim 2>&1
check "through simulated links: valid" contains sim "# VALID"
run fed.rounds=4 fed.method=tome-act >four 2>&1
check "and the same adapter" equal "$(adapter sim)" "$(adapter four)"
client=$("$FSTQ" export tome-act.h5 --csv act.csv >/dev/null && awk -F, '
    FNR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
    /^#/ { next }
    $at["version"] == 1 { print $at["client"]; exit }' act.csv/messages.csv)
for fault in wire inf; do
    FSTQ_FAULT=$fault:client=$client,round=1 "$FSTQ" run "${common[@]}" fed.method=tome-act \
        net.checksum=off >$fault 2>&1
    check "$fault: damaged activations are refused, the others go on" \
        contains $fault "update of client $client rejected"
done

# What does not go with it says why.
while IFS='|' read -r setting why; do
    # shellcheck disable=SC2086 # several settings
    run fed.method=tome-act $setting >refused 2>&1
    check "refused: $why" contains refused "$why"
done <<'END'
fed.method=split:cut=3/fp16|leaves the server none
fed.method=split/topk+ef|rows of activations have none
fed.method=split/B@fp16|have no view
fed.method=split~fisher/fp16|computes no loss
fed.method=split~tome:protect=off/fp16|labels travel whole
fed.opt_state=keep|keep no state
client.dp_clip=1|client.dp_clip
task.name=quadratic optim.kind=sgd|no layers to cut between
END
finish
