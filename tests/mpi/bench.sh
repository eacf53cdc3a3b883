#!/usr/bin/env bash
# fstq bench between ranks: every size is validated, rows look like OSU's, extra ranks wait.
# Alone: rates are measured.
set -u
fstq=${FSTQ:-build/release/fstq}
export ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
n=0
check() # name, then commands as one string
{
    n=$((n + 1))
    if eval "$2" >"$scratch/log" 2>&1; then
        echo "ok $n - $1"
    else
        echo "not ok $n - $1"
        sed 's/^/#   /' "$scratch/out" "$scratch/err"
    fi
}
quick="--min-time 0.0001 --samples 3"
# Ranks, largest size, how many sizes mpi and xfer have. Raw messages spin, so
# that with more ranks than cores on a busy machine each takes long; there a few small ones do.
for run in "2 1048576 12 12" "3 256 6 6"; do
    read -r np most n_mpi n_xfer <<<"$run"
    timeout 160 mpirun --oversubscribe -np $np "$fstq" bench mpi xfer memcpy $quick \
        mpi.max_bytes=$most xfer.max_bytes=$most memcpy.max_bytes=4096 \
        --json "$scratch/b.json" >"$scratch/out" 2>"$scratch/err" </dev/null
    status=$?
    check "$np ranks: status 0" '[ $status -eq 0 ]'
    check "$np ranks: one table each, from rank 0" \
        '[ "$(grep -c "^# fstq bench" "$scratch/out")" -eq 1 ]'
    check "$np ranks: mpi, every size" \
        '[ "$(sed "/^# xfer/,\$d" "$scratch/out" | grep -cE "^[0-9].*Pass\$")" -eq $n_mpi ]'
    check "$np ranks: xfer, every size" \
        '[ "$(sed -n "/^# xfer/,/^# memcpy/p" "$scratch/out" |
            grep -cE "^[0-9].*Pass\$")" -eq $n_xfer ]'
    check "$np ranks: nothing failed" '! grep -q Fail "$scratch/out"'
    check "$np ranks: JSON has every case" \
        '[ "$(grep -cE "\"name\": \"(mpi/pingpong/0|xfer/raw/64|xfer/frame(_xxh3)?/$most)\"," \
             "$scratch/b.json")" -eq 12 ]'
done
timeout 60 mpirun --oversubscribe -np 3 "$fstq" bench link --samples 1 link.max_s=0.05 \
    link.min_s=0.05 "link.links=lte-20;satellite:latency=1" --json "$scratch/b.json" \
    >"$scratch/out" 2>"$scratch/err" </dev/null
status=$?
check "link: every row carried what it sent, at its pace" \
    '[ $status -eq 0 ] && [ "$(grep -cE "^[0-9].*Pass\$" "$scratch/out")" -eq 2 ]'
check "link: no transfer beats its model" \
    'awk "/^[0-9]/ { n++; if (\$6 < -3) bad++ } END { exit !(n == 2 && !bad) }" "$scratch/out"'
check "link: JSON has the error of the pace" \
    '[ "$(grep -c "\"pace_error_percent\"" "$scratch/b.json")" -ge 2 ]'
timeout 60 mpirun --oversubscribe -np 2 "$fstq" bench nosuch \
    >"$scratch/out" 2>"$scratch/err" </dev/null
status=$?
check "a mistake is reported once, by rank 0" \
    '[ $status -eq 2 ] && [ "$(grep -c "no benchmark of that name" "$scratch/err")" -eq 1 ]'
echo "1..$n"
