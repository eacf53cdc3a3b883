#!/usr/bin/env bash
# Fuzzes every decoder with libFuzzer: tests/fuzz/run.sh [SECONDS [NAME ...]]. Needs clang; starts
# from the seeds in tests/fuzz/corpus and keeps what it finds under build/fuzz: NAME/ the grown
# corpus, crash-NAME-* what broke. Status 1 if anything did.
set -u
cd "$(dirname "$0")/../.." || exit 1
seconds=${1:-${FUZZ_SECONDS:-60}}
[ $# -gt 0 ] && shift
if ! command -v clang >/dev/null 2>&1; then
    echo "fuzz: skipped, there is no clang (make test replays the corpus with any compiler)"
    exit 0
fi
bin=build/fuzz/bin
make --no-print-directory -j"$(nproc)" BUILD=fuzz CUDA=0 CC=clang O=$bin fuzzers || exit 1
bad=()
for source in tests/fuzz/fuzz_*.c; do
    [ -f "$source" ] || continue
    target=$(basename "$source" .c)
    name=${target#fuzz_}
    if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then
        continue
    fi
    mkdir -p "build/fuzz/$name"
    echo "fuzz: $name for $seconds s"
    options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536
        -print_final_stats=1 -verbosity=0 -artifact_prefix="build/fuzz/crash-$name-")
    if ! "$bin/fuzz/$target" "${options[@]}" "build/fuzz/$name" "tests/fuzz/corpus/$name" \
        >"build/fuzz/$name.log" 2>&1; then
        bad+=("$name")
        tail -n 40 "build/fuzz/$name.log"
    fi
    grep -E 'stat::number_of_executed_units' "build/fuzz/$name.log" | sed 's/stat::/    /'
done
if [ ${#bad[@]} -gt 0 ]; then
    echo "fuzz: failed: ${bad[*]}; the inputs are build/fuzz/crash-*"
    exit 1
fi
echo "fuzz: nothing found"
