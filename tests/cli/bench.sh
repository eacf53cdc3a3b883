#!/usr/bin/env bash
# fstq bench: list, rows, JSON, skips and mistakes.
set -u
fstq=${FSTQ:-build/release/fstq}
python=${PYTHON:-/usr/bin/python3}
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
n=0
result() # status name
{
    n=$((n + 1))
    if [ "$1" -eq 0 ]; then
        echo "ok $n - $2"
    else
        echo "not ok $n - $2"
        sed 's/^/#   /' "$scratch/out" "$scratch/err"
    fi
}
bench() # arguments...: output and status are kept
{
    "$fstq" bench "$@" >"$scratch/out" 2>"$scratch/err"
    status=$?
}
says() # pattern: in what the command printed, on either stream
{
    grep -qE -- "$1" "$scratch/out" "$scratch/err"
}

bench --list
for name in memcpy mpi xfer; do
    says "^  $name +[a-z]"
    result $? "--list has $name"
done
[ "$status" -eq 0 ] && says 'memcpy.max_bytes = [0-9]+ '
result $? "--list has the parameters"
bench rans --list
[ "$status" -eq 0 ] && says "^  rans +[a-z]" && says 'rans.values = ' && ! says memcpy
result $? "--list of a name has that one alone"
bench all --list
says "^  memcpy " && says "^  leak "
result $? "all are all"
bench rans --help
[ "$status" -eq 0 ] && says 'usage: fstq bench' && says 'rans.values = ' && ! says '^ *memcpy  '
result $? "--help behind a name has its parameters"
bench --help
says '^  memcpy  ' && says '^  leak  '
result $? "--help has all names"

quick="--min-time 0.0005 --samples 7"
# shellcheck disable=SC2086 # options
bench memcpy $quick --json "$scratch/b.json" memcpy.max_bytes=16384
[ "$status" -eq 0 ] && says '^4096 .*Pass$' && says '^16384 .*Pass$' && ! says '^65536'
result $? "memcpy: a row a size, each validated"
grep -vE '^(#|[0-9])' "$scratch/out" >"$scratch/err"
[ ! -s "$scratch/err" ]
result $? "# begins every line that is not data"

# Every form of -o is the same rows.
# shellcheck disable=SC2086
bench memcpy $quick -o jsonl memcpy.max_bytes=16384
row='^\{"table": "memcpy", "Size \(B\)": (4096|16384), '
row+='.*"Noisy \(%\)": [0-9.]+, "Validation": "Pass"\}$'
[ "$status" -eq 0 ] && [ "$(grep -cE "$row" "$scratch/out")" -eq 2 ] &&
    [ "$(wc -l <"$scratch/out")" -eq 2 ]
result $? "-o jsonl: an object a row, and nothing else"
# shellcheck disable=SC2086
bench memcpy $quick -o json memcpy.max_bytes=4096
[ "$status" -eq 0 ] && head -n 2 "$scratch/out" | tr -d ' \n' | grep -qx '{"context":{' &&
    [ "$(tail -n 1 "$scratch/out")" = "}" ] && says '"noisy_samples"' && says '"waited_share"'
result $? "-o json: Google Benchmark's document alone, with what disturbed each sample"

if "$python" -c 'import json' 2>/dev/null; then
    "$python" - "$scratch/b.json" >"$scratch/out" 2>"$scratch/err" <<'PY'
import json, sys
def refuse(word):
    raise ValueError("not JSON: " + word)
d = json.load(open(sys.argv[1]), parse_constant=refuse)
for key in "date host_name num_cpus mhz_per_cpu caches load_avg library_build_type".split():
    assert key in d["context"], key
assert d["context"]["json_schema_version"] == 1
rows = d["benchmarks"]
names = {r["run_name"] for r in rows}
assert names == {f"memcpy/{k}/{n}" for k in ("memcpy", "xxh3") for n in (4096, 16384)}, names
for name in names:
    runs = [r for r in rows if r["run_name"] == name and r["run_type"] == "iteration"]
    assert [r["repetition_index"] for r in runs] == list(range(7))
    assert all(r["name"] == name and r["iterations"] >= 1 and r["time_unit"] == "ns" for r in runs)
    assert all(r["real_time"] > 0 and r["cpu_time"] > 0 for r in runs)
    size = int(name.split("/")[-1])
    assert all(abs(r["bytes_per_second"] * r["real_time"] / 1e9 / size - 1) < 1e-9 for r in runs)
    whole = {r["aggregate_name"]: r for r in rows
             if r["run_name"] == name and r["run_type"] == "aggregate"}
    assert set(whole) == {"mean", "median", "stddev", "min", "p99"}, whole
    assert whole["median"]["name"] == name + "_median"
    times = sorted(r["real_time"] for r in runs)
    assert whole["median"]["real_time"] == times[3] and whole["min"]["real_time"] == times[0]
PY
    result $? "--json is Google Benchmark's schema"
else
    n=$((n + 1))
    echo "ok $n - --json is Google Benchmark's schema # SKIP no $python"
fi

bench mpi xfer
[ "$status" -eq 0 ] && [ "$(grep -c '^# skipped: needs 2 ranks: mpirun' "$scratch/out")" -eq 2 ]
result $? "alone, what needs two ranks is skipped with a word"

# shellcheck disable=SC2086
bench codec $quick codec.values=65536 codec.draws=2 codec.sort=bits \
    codec.methods='fp32 int4+zstd qsgd:norm=max' --json "$scratch/c.json"
[ "$status" -eq 0 ] && [ "$(grep -c ' Pass$' "$scratch/out")" -eq 3 ] &&
    awk '/ Pass$/ { print $2 }' "$scratch/out" | tr '\n' ' ' |
    grep -q '^int4+zstd qsgd:norm=max fp32 $'
result $? "codec: a row per method, sorted"
# A screen has 120 columns, and the size first; --wide and -o have all of them.
[ "$(awk '/^# Size|^[0-9]/ { print length }' "$scratch/out" | sort -n | tail -n 1)" -le 120 ] &&
    says '^# Size  '
result $? "codec: the size first, within a screen"
bare=$(cd "$(dirname "$0")/../../bench" && for file in bench_*.c; do
    grep -qE 'bench_size\(|"Size"' "$file" && grep -q '"Validation"' "$file" || echo "$file"
done)
[ -z "$bare" ]
result $? "every bench has a size and a validation"
if "$python" -c 'import json' 2>/dev/null; then
    "$python" - "$scratch/c.json" >"$scratch/out" 2>"$scratch/err" <<'PY'
import json, sys
rows = json.load(open(sys.argv[1]))["benchmarks"]
for text in ("fp32", "int4+zstd", "qsgd:norm=max"):
    for op in ("memcpy", "encode", "decode", "decode_add"):
        row = [r for r in rows if r["name"] == f"codec/codec/{text}/{op}_p99"]
        assert len(row) == 1 and row[0]["real_time"] > 0, (text, op)
        row = row[0]
        parts = sum(row[k + "_bits"] for k in
                    "header directory scales indices tags values".split())
        assert abs(parts - row["bits_per_value"]) < 1e-9
        assert abs(row["ratio"] * row["bits_per_value"] - 32) < 1e-9
PY
    result $? "codec: --json has the columns of the table"
else
    n=$((n + 1))
    echo "ok $n - codec: --json has the columns of the table # SKIP no $python"
fi

"$fstq" run configs/quadratic.ini net.transport=sim fed.clients=4 fed.clients_per_round=2 \
    fed.rounds=3 trace.updates=2 "trace.file=$scratch/u.h5" >"$scratch/out" 2>"$scratch/err" &&
    [ "$(ls "$scratch/u.h5.updates" | wc -l)" -eq 2 ]
result $? "a run keeps updates"
# shellcheck disable=SC2086
bench codec $quick codec.methods=raw codec.dist=file codec.values=0 \
    "codec.file=$(ls "$scratch"/u.h5.updates/*.safetensors 2>/dev/null | head -n 1)"
[ "$status" -eq 0 ] && says '^# 1000 values in 1 matrices \(of the file\)' &&
    says '^1000 +raw .*Pass$'
result $? "codec: reads an update that a run kept"

# What nothing is lost of survives whole, in every direction; signs lose some, the weak ones more
# than one step does. The quadratic's update has no matrix with a short side, quick's have.
"$fstq" run configs/quick.ini fed.clients=4 fed.clients_per_round=2 fed.rounds=3 fed.local_steps=2 \
    task.test=2 dev.threads=1 trace.updates=3 trace.updates_of=all "trace.file=$scratch/w.h5" \
    >"$scratch/out" 2>"$scratch/err" && [ "$(ls "$scratch/w.h5.updates" | wc -l)" -eq 9 ]
result $? "a run keeps the updates of all clients, and the adapters they began from"
bench drift --wide "drift.updates=$scratch/w.h5.updates" drift.round=1 drift.ahead=2 \
    'drift.methods=fp32;sign;klt:step=3'
[ "$status" -eq 0 ] && says '^# round 1, 2 clients, 36864 values' &&
    says '^36864 +fp32 +32\.[0-9]+ +0\.000 +1\.000( +1\.00){8} .*Pass$' &&
    awk '$2 ~ /^sign/ { sign = $5 > 0 && $5 < 1 }
        $2 ~ /^klt/ { klt = $3 < 1 && $6 > 0.5 && $6 < 1 && $13 < $6 / 2 }
        END { exit !(sign && klt) }' "$scratch/out"
result $? "drift: the way that survives, and the gain by direction"
figures="figures of a round correlate with scores: not of residuals, nor of Fisher"
if "$python" -c 'import matplotlib' 2>/dev/null; then
    printf '%s\n' method,seeds,exact,expanded 'a,2,.9,fedavg/fp32' \
        'b,2,.8,"fedavg/int:bits=4,block=256"' c,2,.5,fedavg/sign d,2,.7,fedavg/sign+ef \
        e,2,.1,fedavg/topk:ratio=0.01 f,2,.6,fedavg/fstq \
        >"$scratch/scores.csv"
    "$python" scripts/plot_figures.py measure "$scratch/scores.csv" "$scratch/w.h5.updates" \
        "$scratch/figures.csv" "--program=$fstq" --rounds=1 --ahead=2 >"$scratch/out" &&
        "$python" scripts/plot_figures.py draw "$scratch/figures.png" "$scratch/figures.csv" &&
        [ "$(cut -d, -f1 "$scratch/figures.csv" | tr '\n' ' ')" = "method a b c e " ] &&
        says '^4 methods of 6' && says '^NMSE of a message: -1\.00,' &&
        says 'way that survives: \+1\.00,' && [ -s "$scratch/figures.png" ]
    result $? "$figures"
else
    n=$((n + 1))
    echo "ok $n - $figures # SKIP no matplotlib"
fi

# Activations of all rows give nearly every token away, a pivot some of the words, a difference its
# label; a codec of few bits is no protection.
bench leak leak.examples=60 leak.test=12 'leak.codecs=fp32;int:bits=4'
[ "$status" -eq 0 ] && awk '$2 ~ /^(fp32|int)/ {
        rows++; read += $5 > 0.7 && $6 < 0.3; sign += $11 == 1; words += $7 > $8 }
    END { exit !(rows == 6 && read == 6 && sign == 6 && words >= 4) }' "$scratch/out"
result $? "leak: tokens by linear inversion, labels by sign"
bench side side.rows=16 side.rank=4 side.cache_bytes=1e6
[ "$status" -eq 0 ] && [ "$(grep -c 'Pass$' "$scratch/out")" -eq 4 ]
result $? "side: a step learns, records come back"
bench leak leak.examples=2 leak.test=1 'leak.codecs=topk+ef'
[ "$status" -eq 1 ] && says 'rows of activations have none'
result $? "leak: a codec that wants more says so"

mistake() # name pattern arguments...
{
    local name=$1 pattern=$2
    shift 2
    bench "$@"
    [ "$status" -eq 2 ] && says "$pattern" && [ ! -s "$scratch/out" ]
    result $? "$name"
}
mistake "an unknown name suggests one" 'did you mean memcpy' memcopy
mistake "an unknown parameter suggests one" 'did you mean memcpy.max_bytes' memcpy.max_byte=1
mistake "a parameter alone starts nothing" \
    'which benchmark.* fstq bench memcpy memcpy.max_bytes=4096; there are memcpy, .*leak, and all' \
    memcpy.max_bytes=4096
mistake "a parameter of what does not run" 'memcpy is not among' rans memcpy.max_bytes=4096
mistake "the nearest name of a parameter's benchmark" 'did you mean memcpy' memcopy.max_bytes=1
mistake "a value out of range" 'memcpy.max_bytes' memcpy.max_bytes=-5
mistake_later() # as mistake, of what is found when the benchmark begins
{
    local name=$1 pattern=$2
    shift 2
    bench "$@"
    [ "$status" -eq 2 ] && says "$pattern"
    result $? "$name"
}
mistake_later "a shape that is none" 'codec.shape: shape .4x. is neither' codec codec.shape=4x
mistake_later "an update that is not there" 'codec.file: .*no/such' codec codec.dist=file \
    codec.file=no/such.safetensors
mistake "trailing junk" 'memcpy.max_bytes' memcpy.max_bytes=12x
mistake "a parameter of nobody" 'NAME.KEY=VALUE' max_bytes=12
mistake "a parameter of an unknown benchmark" 'no benchmark of that name' foo.max_bytes=12
mistake "a number that is none" '--samples many' memcpy --samples many
mistake "a time out of range" '--min-time 0' memcpy --min-time 0
mistake "a form that is none" '-o xml: it is text, md, csv' memcpy -o xml
mistake "an unknown option" 'wibble' --wibble
bench memcopy --samples x
[ "$(wc -l <"$scratch/err")" -eq 2 ]
result $? "all mistakes are reported at once"
# shellcheck disable=SC2086
bench memcpy $quick memcpy.max_bytes=4096 --json "$scratch/no/such/dir"
[ "$status" -eq 4 ] && says 'no/such/dir'
result $? "a JSON file that cannot be written"
echo "1..$n"
