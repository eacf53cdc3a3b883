#!/usr/bin/env bash
# Parts of the adapter and other ways to add adapters up: what travels is the part, both ways where
# only it changes; means are what the papers say; noise, ranks and resumes.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-views.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
common=("$root/configs/quick.ini" fed.rounds=2 fed.clients=6 fed.clients_per_round=3
    fed.local_steps=2 task.test=8 fed.eval_every=0 dev.threads=1 trace.file=)
run() { "$FSTQ" run "${common[@]}" "$@"; }

state=(fed.rounds=6 fed.clients=4)
for method in alt@topk:ratio=0.1+ef seg:parts=3@dgc R@topk:ratio=0.1+ef; do
    log=${method%%[:@]*}
    run "${state[@]}" fed.method="fedavg/$method" >"$log.1" 2>&1
    check "$method: valid" contains "$log.1" "# VALID"
    mpirun --oversubscribe -np 3 "$FSTQ" run "${common[@]}" "${state[@]}" \
        fed.method="fedavg/$method" >"$log.3" 2>&1
    check "$method: the same adapter on three ranks" \
        equal "$(adapter "$log.3")" "$(adapter "$log.1")"
done
for method in alt@topk:ratio=0.1+ef seg:parts=3@dgc; do
    log=${method%%[:@]*}
    stop_at_checkpoint KILL "$log.d" \
        "$FSTQ" run "${common[@]}" "${state[@]}" fed.method="fedavg/$method" run.dir="$log.d"
    run "${state[@]}" fed.method="fedavg/$method" run.dir="$log.d" run.resume=on >resumed 2>&1
    check "$method: killed and resumed, the same adapter" \
        equal "$(adapter resumed)" "$(adapter "$log.1")"
done

# Views: a whole message of raw floats is as long as the view, and B alone travels down too.
bytes() { sed -n "s/^# uplink \([^,]*\), downlink \([^,]*\),.*/\1 \2/p" "$1"; }
for view in AB B R alt seg; do
    run fed.rounds=4 fed.method="fedavg/$view@raw" >"view.$view" 2>&1
    check "$view@raw: valid" contains "view.$view" "# VALID"
done
check "AB sends all, both ways" equal "$(bytes view.AB)" "1.77 MB 1.77 MB"
check "B sends half, both ways" equal "$(bytes view.B)" "886 kB 886 kB"
# 21 matrices of 8 x 8 floats and a header of 64 bytes, 12 times.
check "R sends its squares, both ways" equal "$(bytes view.R)" "65.3 kB 65.3 kB"
check "R learns" awk '/^ +1 /{a = $4} /^ +4 /{b = $4} END {exit !(b < a)}' view.R
check "alt sends half" equal "$(bytes view.alt)" "886 kB 1.77 MB"
check "seg sends a quarter" equal "$(bytes view.seg)" "443 kB 1.77 MB"

# Three clients, three segments: everybody's is the mean of its part, so the squared norm of the
# aggregate is the sum of theirs. Over all clients it would be a ninth.
sum_of_norms() # trace: squared norms of the messages over that of the aggregate, round by round
{
    "$FSTQ" export "$1" --csv "$1.csv" >/dev/null && awk -F, '
        FNR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        /^#/ { next }
        FILENAME ~ /messages/ { sq[$at["version"]] += $at["norm"] ^ 2 }
        FILENAME ~ /rounds/ && $at["version"] > 0 {
            printf "%.4f ", sq[$at["version"]] / $at["update_norm"] ^ 2
        }' "$1.csv/messages.csv" "$1.csv/rounds.csv"
}
run fed.clients=3 fed.method=fedavg/seg:parts=3@raw trace.file=seg.h5 >seg 2>&1
check "a segment's mean is over who sent it" equal "$(sum_of_norms seg.h5)" "1.0000 1.0000 "

# Clipping to a norm that one client alone exceeds not at all, and that all exceed.
dp=(fed.clients_per_round=1 fed.method=fedavg/raw)
run "${dp[@]}" trace.file=free.h5 >free 2>&1
run "${dp[@]}" client.dp_clip=1000 >loose 2>&1
check "a loose clip changes nothing" equal "$(adapter loose)" "$(adapter free)"
run "${dp[@]}" client.dp_clip=0.01 trace.file=clip.h5 >clip 2>&1
norms=$("$FSTQ" export clip.h5 --csv clip.csv >/dev/null && awk -F, '
    FNR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
    /^#/ { next }
    FILENAME ~ /rounds/ && $at["version"] > 0 { printf "%.5f ", $at["update_norm"] }
    FILENAME ~ /messages/ { above += $at["norm"] > 0.01 }
    FILENAME ~ /events/ && $at["stage"] ~ /privacy/ { spans++ }
    END { print above, spans }' clip.csv/rounds.csv clip.csv/messages.csv clip.csv/events.csv)
check "updates are clipped, their norms and the stage recorded" \
    equal "$norms" "0.01000 0.01000 2 2"
noise=(client.dp_clip=0.01 client.dp_sigma=1)
for method in fp32 topk:ratio=0.05+ef signsgd fstq alt@qsgd; do
    run "${noise[@]}" fed.method="fedavg/$method" >noise 2>&1
    check "noise before $method: valid" contains noise "# VALID"
done
mpirun --oversubscribe -np 3 "$FSTQ" run "${common[@]}" "${noise[@]}" fed.method=fedavg/alt@qsgd \
    >noise.3 2>&1
check "noise is the same for any ranks" equal "$(adapter noise.3)" "$(adapter noise)"
run client.dp_sigma=1 >dp 2>&1
check "noise without a clip is refused" contains dp "client.dp_clip"
# What a scheme makes of the weights, seen through the loss after a round: the mean of products is
# the same whether it lies in the adapter or in the backbone, and is not the product of means.
loss_after() # log trace: of the first round, on the test set
{
    "$FSTQ" export "$1" --csv "$1.csv" >/dev/null && awk -F, '
        FNR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        /^#/ { next }
        $at["version"] == 1 { printf "%.4f", $at["eval_loss"] }' "$1.csv/rounds.csv"
}
step=(fed.local_steps=8 fed.server_lr=1 fed.eval_every=1)
for scheme in fedavg fedex flora; do
    run "${step[@]}" fed.method=$scheme/fp32 trace.file=$scheme.3.h5 >$scheme.3 2>&1
    run "${step[@]}" fed.method=$scheme/fp32 fed.clients_per_round=1 fed.rounds=1 \
        trace.file=$scheme.1.h5 >$scheme.1 2>&1
done
one=$(loss_after fedavg.1.h5) mean=$(loss_after fedex.3.h5)
check "one client: fedex is fedavg ($one)" equal "$(loss_after fedex.1.h5)" "$one"
check "one client: flora is fedavg" equal "$(loss_after flora.1.h5)" "$one"
check "three clients: flora and fedex are the same weights ($mean)" \
    equal "$(loss_after flora.3.h5)" "$mean"
check "three clients: fedavg's are others" test "$(loss_after fedavg.3.h5)" != "$mean"
check "fedex sends the backbone down" \
    equal "$(bytes fedavg.3) $(bytes fedex.3)" "885 kB 885 kB 885 kB 6.86 MB"
for method in fedex/topk:ratio=0.1+ef flora/qsgd "scaffold/topk:ratio=0.1+ef;int:bits=8" \
    scaffold:control=replace/sub:parts=3,stay=2@fp16 scaffold/gauss:parts=3@int:bits=8 \
    feddyn/int:bits=8; do
    mpirun --oversubscribe -np 3 "$FSTQ" run "${common[@]}" fed.method=$method >products.3 2>&1
    run fed.method=$method >products.1 2>&1
    check "$method: the same weights for any ranks" \
        equal "$(adapter products.3)" "$(adapter products.1)"
    stop_at_checkpoint INT "d.${method//\//_}" \
        "$FSTQ" run "${common[@]}" fed.method=$method fed.rounds=12 run.dir="d.${method//\//_}"
    run fed.method=$method fed.rounds=12 run.dir="d.${method//\//_}" run.resume=on >resumed 2>&1
    run fed.method=$method fed.rounds=12 >straight 2>&1
    check "$method: stopped and resumed, the same weights" \
        equal "$(adapter resumed)" "$(adapter straight)"
done
# Clients of unequal rank: each has its part, and so have ranks that hold several of them.
unequal=(fed.ranks=2:0.4,4:0.3,8:0.3 fed.rounds=8)
for method in fedavg/topk:ratio=0.2+ef flexlora/int:bits=8 haflq/fp16; do
    run "${unequal[@]}" fed.method=$method >straight 2>&1
    mpirun --oversubscribe -np 3 "$FSTQ" run "${common[@]}" "${unequal[@]}" fed.method=$method \
        >products.3 2>&1
    check "unequal ranks, $method: the same weights for any ranks" \
        equal "$(adapter products.3)" "$(adapter straight)"
    check "unequal ranks, $method: and the same bytes" \
        equal "$(bytes products.3)" "$(bytes straight)"
    stop_at_checkpoint KILL "u.${method%%/*}" \
        "$FSTQ" run "${common[@]}" "${unequal[@]}" fed.method=$method run.dir="u.${method%%/*}"
    run "${unequal[@]}" fed.method=$method run.dir="u.${method%%/*}" run.resume=on >resumed 2>&1
    check "unequal ranks, $method: killed and resumed, the same weights" \
        equal "$(adapter resumed)" "$(adapter straight)"
done
# B that stays with its client: killed, it goes on from what its slot has, on whichever rank.
own=(fed.method=fedsa-lora fed.evaluate=personal fed.rounds=8)
run "${own[@]}" >straight 2>&1
stop_at_checkpoint KILL d.own "$FSTQ" run "${common[@]}" "${own[@]}" run.dir=d.own
mpirun --oversubscribe -np 3 "$FSTQ" run "${common[@]}" "${own[@]}" run.dir=d.own run.resume=on \
    >resumed 2>&1
check "fedsa: killed and resumed on other ranks, the same weights" \
    equal "$(adapter resumed)" "$(adapter straight)"
score() { sed -n '/^# exact/p' "$1"; }
check "fedsa: and the same score of clients' own models" \
    equal "$(score resumed)" "$(score straight)"
# Coded versions: what clients have and what the server's code left out are kept with the run.
down=(fed.method=scaffold/fp16 fed.downlink=topk:ratio=0.2+ef fed.rounds=12)
run "${down[@]}" >straight 2>&1
stop_at_checkpoint INT d.down "$FSTQ" run "${common[@]}" "${down[@]}" run.dir=d.down
mpirun --oversubscribe -np 3 "$FSTQ" run "${common[@]}" "${down[@]}" run.dir=d.down run.resume=on \
    >resumed 2>&1
check "coded versions: stopped, and resumed on other ranks, the same weights" \
    equal "$(adapter resumed)" "$(adapter straight)"
check "coded versions: and the same bytes" equal "$(bytes resumed)" "$(bytes straight)"
run fed.method=scaffold/fp16 fed.rounds=12 >whole 2>&1
check "coded versions: less goes down" test "$(bytes whole)" != "$(bytes straight)"
# Versions that are coded themselves, and an average of versions, which is kept with the run.
eval_at() # trace: of the last version, on the test set
{
    "$FSTQ" export "$1" --csv "$1.csv" >/dev/null && awk -F, '
        FNR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        $at["version"] == 12 { print $at["eval_loss"] }' "$1.csv/rounds.csv"
}
sparse=(fed.method=fedavg/topk:ratio=0.25+ef fed.downlink=topk:ratio=0.25 fed.downlink_of=version
    fed.average=ema fed.rounds=12)
run "${sparse[@]}" trace.file=straight.h5 >straight 2>&1
stop_at_checkpoint KILL d.sparse "$FSTQ" run "${common[@]}" "${sparse[@]}" run.dir=d.sparse
mpirun --oversubscribe -np 3 "$FSTQ" run "${common[@]}" "${sparse[@]}" run.dir=d.sparse \
    run.resume=on trace.file=resumed.h5 >resumed 2>&1
check "sparse versions: killed, and resumed on other ranks, the same weights" \
    equal "$(adapter resumed)" "$(adapter straight)"
check "and the same average is evaluated" equal "$(eval_at resumed.h5)" "$(eval_at straight.h5)"
run "${sparse[@]}" fed.average=none trace.file=none.h5 >none 2>&1
check "which is another than the version" test "$(eval_at none.h5)" != "$(eval_at straight.h5)"
check "on the same way" equal "$(adapter none)" "$(adapter straight)"
run fed.method=flora/topk+ef >kept 2>&1
check "state of an adapter that is gone is refused" contains kept "begins with a new adapter"
run fed.method=fedex/B@fp32 >kept 2>&1
check "products take no view" contains kept "takes no view"
run fed.method=fedex/fp32 model.dtype=bf16 >kept 2>&1
check "a backbone that moves is fp32" contains kept "model.dtype = fp32"
run fed.method=fedex/fp32 task.name=quadratic optim.kind=sgd >kept 2>&1
check "a task without a model has no backbone" contains kept "no backbone"
# What clients learn as +-alpha is sent as it is by anything that has a bit per value.
for codec in fp32 sign fedbat; do
    run fed.local_steps=6 fed.method="fedbat/$codec" >"binary.$codec" 2>&1
    check "fedbat/$codec: valid" contains "binary.$codec" "# VALID"
done
check "one bit per value loses nothing" equal "$(adapter binary.sign)" "$(adapter binary.fp32)"
check "nor does FedBAT's own wire" equal "$(adapter binary.fedbat)" "$(adapter binary.fp32)"
check "and takes a thirtieth" equal "$(bytes binary.sign)" "29.0 kB 885 kB"
mpirun --oversubscribe -np 3 "$FSTQ" run "${common[@]}" fed.local_steps=6 fed.method=fedbat/sign \
    >binary.3 2>&1
check "binary training is the same for any ranks" \
    equal "$(adapter binary.3)" "$(adapter binary.sign)"
run fed.method=fedbat/R@sign >kept 2>&1
check "R is no matrix to binarise" contains kept "does not go with view R"
for method in tome-as-reported tome-prune; do
    run fed.method=$method >tome 2>&1
    check "$method: valid" contains tome "# VALID"
done
finish
