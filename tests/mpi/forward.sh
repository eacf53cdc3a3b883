#!/usr/bin/env bash
# Clients that go through the model forward alone: they learn, the same on any ranks, and hold less.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-forward.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
common=("$root/configs/quick.ini" fed.rounds=2 fed.clients=4 fed.clients_per_round=2
    fed.local_steps=2 task.test=1 dev.threads=1 trace.file=)
run() { "$FSTQ" run "${common[@]}" "$@"; }
ranks() { mpirun --oversubscribe -np 2 "$FSTQ" run "${common[@]}" "$@"; }

run fed.method=fwdllm:draws=2/int:bits=8+ef >one 2>&1
check "valid" contains one "# VALID"
ranks fed.method=fwdllm:draws=2/int:bits=8+ef trace.file=forward.h5 >two 2>&1
check "the same adapter on two ranks" equal "$(adapter two)" "$(adapter one)"
ranks fed.method=fedavg/int:bits=8+ef trace.file=back.h5 >back 2>&1
held() # trace: activations of the worker's rank at most, in bytes
{
    "$FSTQ" export "$1" --csv c >/dev/null && awk -F, '
        FNR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        /^#/ { next }
        $at["rank"] == 1 { print $at["mem_peak_bytes_activations"] }' c/ranks.csv
}
check "activations of a client: $(held forward.h5), with a way back $(held back.h5)" \
    test "$(held forward.h5)" -lt $(($(held back.h5) * 3 / 4))
modelled() { sed -n 's/.* measured, \(.*\) modelled$/\1/p' "$1"; }
run fed.method=fwdllm:draws=5/fp32 client.step_ns=1e9 net.link=loopback >five 2>&1
check "two ways forward a draw, each 0.4 of a step" equal "$(modelled five)" "16.0 s"
quadratic=(task.name=quadratic optim.kind=sgd optim.lr=0.02 fed.rounds=40 fed.clients=4
    fed.clients_per_round=4 fed.local_steps=10 task.features=6 task.outputs=2)
run "${quadratic[@]}" fed.method=fwdllm/fp32 >bowl 2>&1
check "it comes near an optimum that is known" awk '
    /^ +[0-9]+ / { last = $5 } END { exit !(last > 0 && last < 0.1) }' bowl

while IFS='|' read -r setting why; do
    # shellcheck disable=SC2086 # several settings
    run fed.method=fwdllm/fp32 $setting >refused 2>&1
    check "refused: $why" contains refused "$why"
done <<'END'
fed.method=fwdllm~fisher/fp32|scored on the way back
fed.method=fwdllm/R@fp32|take another view
fisher.accumulate=oracle|need a way back
END
finish
