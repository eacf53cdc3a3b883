#!/usr/bin/env bash
# The books against a witness: what a run says it sent is, to the byte, what Open MPI's monitoring
# saw leave the ranks. Messages between ranks ("E", external) are all ours; what collectives send
# inside ("I") is the start, before any round, and the barrier at the end: no frames. Under another
# MPI mpich.sh names a witness that stands before its calls (tests/preload/sends.c).
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-bytes.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
if [ -z "${FSTQ_WITNESS:-}" ] &&
    ! ompi_info --parsable 2>/dev/null | grep -q '^mca:pml:monitoring:'; then
    echo "ok 1 - bytes counted by Open MPI # SKIP this MPI has no monitoring component"
    echo "1..1"
    exit 0
fi
common=(task.name=quadratic optim.kind=sgd optim.lr=0.01 fed.local_steps=5 fed.batch=20
    fed.rounds=6 fed.clients=12 fed.clients_per_round=7 fed.dropout=0.15)

watched() # ranks name args...
{
    local np=$1 name=$2
    shift 2
    local seen=(--mca pml_monitoring_enable 2 --mca pml_monitoring_enable_output 3
        --mca pml_monitoring_filename "$dir/$name" -np "$np")
    [ -z "${FSTQ_WITNESS:-}" ] ||
        seen=(-np "$np" env LD_PRELOAD="$FSTQ_WITNESS" FSTQ_SENDS="$dir/$name")
    mpirun --oversubscribe "${seen[@]}" "$FSTQ" run "${common[@]}" trace.file="$name.h5" "$@" \
        >"$name.log" 2>&1
    "$FSTQ" export "$name.h5" --csv "$name.csv" >/dev/null 2>>"$name.log"
}
seen() { # name condition-on-$2-and-$3: bytes that MPI saw between ranks
    cat "$dir/$1".*.prof | awk '$1 == "E" && ('"$2"') { n += $4 } END { print n + 0 }'
}
total() { awk -F, -v key="$2" '$2 == key { print $3 }' "$1.csv/summary.csv"; }
# Copies of the model that left: one per version for each rank with a client that trained on it.
copies() {
    awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        $at["frame_bytes"] > 0 && !had[$at["version"] - $at["lag"], $at["rank"]]++ { n++ }
        END { print n + 0 }' "$1.csv/messages.csv"
}
column() { # name table column: its sum
    awk -F, -v want="$3" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == want) c = i; next }
        { n += $c } END { print n + 0 }' "$1.csv/$2.csv"
}

books() # ranks name args...
{
    local name=$2 model down
    watched "$@"
    check "$name: valid" contains "$name.log" "# VALID"
    model=$((64 + 4 * $(total "$name" adapter_values)))
    down=$(($(copies "$name") * model))
    check "$name: uplink + models + control = what MPI saw" \
        equal "$(($(total "$name" uplink) + down + $(total "$name" control)))" "$(seen "$name" 1)"
    check "$name: the transport counts the same" \
        equal "$(total "$name" wire)" "$(seen "$name" 1)"
    check "$name: all of it from or to the server" equal "$(seen "$name" '$2 != 0 && $3 != 0')" 0
    check "$name: uplink is the sum of its frames" \
        equal "$(total "$name" uplink)" "$(column "$name" messages frame_bytes)"
    check "$name: downlink is the sum of its rounds" equal "$(total "$name" downlink)" \
        "$(column "$name" rounds downlink_bytes)"
    # What is left of control, and the models, came down.
    check "$name: uplink + control from the workers = what MPI saw go up" \
        equal "$(($(total "$name" uplink) + $(total "$name" control_up)))" \
        "$(seen "$name" '$3 == 0')"
}

books 2 fp32-on-2 fed.method=fedavg/fp32
books 3 raw-on-3 fed.method=fedavg/raw
books 3 qsgd-on-3 fed.method=fedavg/qsgd:bits=4
books 4 topk-on-4 fed.method=fedavg/topk:ratio=0.1+ef
books 3 adam-on-3 fed.method=fedadam:tau=0.01/fp16 fed.server_lr=0.05 net.checksum=off
books 3 one-slot-on-3 net.arena_bytes=4096
# No rounds: also what is under way at the end was sent, and comes into the books.
books 3 fedbuff-on-3 fed.method=fedbuff:k=3/qsgd:bits=4 net.link=lte-hetero fed.rounds=12
books 4 fedasync-on-4 fed.method=fedasync/topk:ratio=0.1+ef net.link=lte-hetero fed.rounds=12
# So long that a frame is many messages.
books 3 long-on-3 task.features=600 task.outputs=250 task.samples=20 fed.rounds=2

# One client a rank, all of them each round: no copy is shared, and downlink is what came down.
watched 3 plain fed.clients=2 fed.clients_per_round=2 fed.dropout=0
check "one client a rank: uplink + downlink + control = what MPI saw" \
    equal "$(($(total plain uplink) + $(total plain downlink) + $(total plain control)))" \
    "$(seen plain 1)"

check "one rank sends nothing over MPI" equal "$(watched 1 alone && seen alone 1)" 0
finish
