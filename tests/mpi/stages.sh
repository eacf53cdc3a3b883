#!/usr/bin/env bash
# The trace times what it names: the parts of train and of encode are there and add up to the whole,
# what travels has spans on both sides, widths are told by tensor, sensors are read once per host.
# Alone: parts of a time are held against their whole.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-stages.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
quick=$root/configs/quick.ini
few="fed.rounds=2 fed.clients_per_round=3 fed.local_steps=12 task.test=8 dev.threads=1"

stages_of() # name: of its trace, as "stage within time_ns"
{
    "$FSTQ" show "$1.h5" --json | awk -F'[:,]' '
        /"stage":/  { gsub(/[" ]/, "", $2); stage = $2 }
        /"within":/ { gsub(/[" ]/, "", $2); within = $2 == "" ? "-" : $2 }
        /"time_ns":/ && stage != "" { print stage, within, $2 + 0; stage = "" }' >"$1.stages"
}
run() # name method ranks option...: a run, its stages and its CSV
{
    local name=$1 method=$2 ranks=$3
    shift 3
    # shellcheck disable=SC2086 # a list of options
    mpirun --oversubscribe -np "$ranks" "$FSTQ" run "$quick" $few "fed.method=$method" \
        trace.file="$name.h5" "$@" >"$name.log" 2>&1
    check "$name: valid" contains "$name.log" "# VALID"
    stages_of "$name"
    rm -rf "$name.csv"
    "$FSTQ" export "$name.h5" --csv "$name.csv" >/dev/null
}
has() # name stage...
{
    local name=$1 stage
    shift
    for stage; do
        grep -q "^$stage " "$name.stages" || { echo "#   no $stage"; cat "$name.stages"; return 1; }
    done
}
# Parts cover at least 80% of the whole, for a busy machine takes its time between them, and no more
# than 100.5% of it.
adds_up() # name whole
{
    awk -v whole="$2" '$1 == whole { all = $3 } $2 == whole { parts += $3 }
        END { print "#   parts of " whole ": " parts " of " all " ns"
              exit !(all > 0 && parts >= 0.8 * all && parts <= 1.005 * all) }' "$1.stages"
}

run fstq 'fedavg~fisher:keep=0.5,every=4/fstq+ef' 1 fisher.persist=keep
check "training has all its parts" has fstq train forward backward optimizer embed_grad mask \
    refresh accumulate draw fisher
check "encoding has the residual and what fstq does" has fstq encode feedback
check "what travels has spans" has fstq broadcast download upload decode setup
check "the parts of train add up" adds_up fstq train
check "the parts of encode add up" adds_up fstq encode
check "fisher is the sum of what it costs" awk '
    $1 == "fisher" { all = $3 }
    $1 ~ /^(embed_grad|mask|refresh|accumulate|oracle)$/ { parts += $3 }
    END { exit !(all > 0 && all <= parts && all >= 0.95 * parts) }' fstq.stages
run zip 'fedavg~oracle/topk:ratio=0.1+ef+zstd' 1
check "sparse, fed back, compressed: all named" has zip encode feedback entropy
check "and add up" adds_up zip encode
run oracle 'fedavg~oracle/fstq' 1
check "an oracle has its own stage, outside training" grep -q '^oracle - ' oracle.stages
run merge 'fedavg~tome/int:bits=4' 1
check "merging is a part of train" adds_up merge train

# One method of every other family of codecs, two at a time: what the parts are, in the order of the
# table, and that they add up.
family() # name method: one round of it, its stages
{
    "$FSTQ" run "$root/configs/quadratic.ini" fed.rounds=1 fed.method="fedavg/$2" \
        trace.file="$1.h5" >"$1.log" 2>&1
    stages_of "$1"
}
parts() # name
{
    awk '$2 == "encode" { print $1 }' "$1.stages" | sort | tr '\n' ' '
}
families="dense=fp32:pack+quantise scalar=int,code=rans:entropy+quantise rotated=eden:quantise
    sparse=dgc:alloc+feedback+pack+quantise+select subset=cocktail:pack+quantise+select
    sketch=fetchsgd:pack+quantise lowrank=powersgd:pack+quantise
    dct=demo:feedback+pack+quantise+select vote=signsgd,momentum=0.9:feedback+quantise
    bits=fstq,policy=greedy,importance=magnitude:alloc+entropy+quantise+select"
running=0
for f in $families; do
    method=${f#*=}
    method=${method%:*}
    family "${f%%=*}" "${method/,/:}" &
    running=$((running + 1))
    [ $((running % 2)) = 0 ] && wait
done
for f in $families; do
    name=${f%%=*}
    check "$name: valid" contains "$name.log" "# VALID"
    check "$name: its parts" equal "$(parts "$name")" "$(tr + ' ' <<<"${f##*:} " | tr -d '\n')"
    check "$name: add up" adds_up "$name" encode
done

widths() # name: "tensors messages values of the first tensor" of round 1
{
    awk -F, 'FNR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next } /^#/ { next }
        $at["version"] == 1 { n++; messages = $at["messages"]; if (n > 1) next
            for (i in at) if (i ~ /^kept/) sum += $at[i] }
        END { print n + 0, messages + 0, sum + 0 }' "$1.csv/alloc.csv"
}
shape=$(awk -F, '/l0|layers.0.q.A/ { n++ } END { print n + 0 }' fstq.csv/alloc.csv)
check "widths are told by layer and matrix" test "$shape" -gt 0
check "of every tensor and value: 42 tensors, 3 messages of 8 x 96 values" \
    equal "$(widths fstq)" "42 3 $((3 * 8 * 96))"
check "top-k's too" equal "$(widths zip)" "42 3 $((3 * 8 * 96))"
check "and where all have one width" equal "$(widths merge)" "42 3 $((3 * 8 * 96))"
"$FSTQ" show fstq.h5 --widths >shown
check "show prints them" contains shown layers.1.down.B

# One rail that counts energy, as RAPL does.
rail=$dir/fs/sys/class/powercap/intel-rapl:0
mkdir -p "$rail"
echo package-0 >"$rail/name"
echo 1000000 >"$rail/energy_uj"
echo 262143328850 >"$rail/max_energy_range_uj"
export FSTQ_SYSFS_ROOT=$dir/fs
run three 'fedavg/fp16' 3
check "spans of both ways between ranks" has three download upload setup
grep -v '^#\|^run,' three.csv/sensors.csv >readings
check "this host's rail is read at each flush, and no other" \
    test "$(wc -l <readings)" -ge 3 -a "$(grep -vc ',package-0,' readings)" = 0
ranks=$(awk -F, 'FNR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next } /^#/ { next }
    { print $at["rank"] }' three.csv/sensors.csv | sort -u | tr '\n' ' ')
check "by rank 0 alone" equal "$ranks" "0 "
"$FSTQ" show three.h5 --sensors >shown
check "show prints the rail" contains shown package-0

# A board that draws 5 W, and says which rails it is made of.
rail=$dir/fs2/sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3
mkdir -p "$rail"
echo VDD_IN >"$rail/in1_label" && echo 5000 >"$rail/in1_input" && echo 1000 >"$rail/curr1_input"
echo VDD_SOC >"$rail/in2_label" && echo 5000 >"$rail/in2_input" && echo 400 >"$rail/curr2_input"
export FSTQ_SYSFS_ROOT=$dir/fs2
run five 'fedavg/fp16' 3
check "the energy of rounds is their time at 5 W" awk -F, '
    FNR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next } /^#/ || $at["version"] < 1 { next }
    { j += $at["energy_j"]; s += $at["time_measured_ns"] / 1e9 }
    END { print "# " j " J in rounds of " s " s"; exit !(j > 4.9 * s && j < 5 * s + 2) }' \
    five.csv/rounds.csv
"$FSTQ" show five.h5 --energy >shown
check "show parts it by stage, the whole beside it" awk '
    /^\(no span\)/ { sum += $3; n++ } /^[a-z]/ { sum += $2; n++ }
    /^# .* J of 1 board/ { whole = $2 }
    END { print "# " sum " of " whole " J"
          exit !(n > 4 && sum > 0.99 * whole && sum < 1.01 * whole) }
    ' shown
"$FSTQ" show five.h5 --summary >shown
check "and it is in the summary" grep -q '^energy_measured_round .* J' shown
finish
