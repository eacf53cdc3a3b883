#!/usr/bin/env bash
# Runs every test program of a build and counts: tests/run.sh OUT [NAME ...], from any directory.
#   OUT    where the build is, e.g. build/release; NAME: only programs whose name contains it
#   FSTQ_TEST_LONG=1     also what takes minutes    FSTQ_TEST_TIMEOUT   seconds a program may take
#   FSTQ_TEST_JOBS=N     programs at a time (two more than cores, for many wait); those that say
#                        "# Alone:" and why run by themselves
# A program prints TAP. One that crashes, is silent, runs over its time or does not keep its plan
# has failed. The last line is "N passed, N failed, N skipped"; the status is 1 if any failed.
set -u
cd "$(dirname "$0")/.." || exit 1
out=${1:?usage: tests/run.sh OUT [NAME ...]}
shift
[ -x "$out/fstq" ] || {
    echo "tests/run.sh: no $out/fstq: run make first" >&2
    exit 1
}
out=$(cd "$out" && pwd)
export FSTQ=$out/fstq FSTQ_BUILD=$out CMOCKA_MESSAGE_OUTPUT=TAP
unset MAKEFLAGS MAKELEVEL MFLAGS
if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
# Ranks that wait give way: others may use this machine, too.
export OMPI_MCA_mpi_yield_when_idle=1
# What Open MPI chooses on one machine by itself, once it has loaded and asked everything else; that
# would be a quarter of the time of a small job.
export OMPI_MCA_pml=${OMPI_MCA_pml:-ob1,monitoring}
long=${FSTQ_TEST_LONG:-0}
limit=${FSTQ_TEST_TIMEOUT:-$([ "$long" = 0 ] && echo 180 || echo 3600)}
slots=${FSTQ_TEST_JOBS:-$(($(nproc) + 2))}
scratch=$(mktemp -d "${TMPDIR:-/tmp}/fstq-tests.XXXXXX") || exit 1
trap 'rm -rf "$scratch"' EXIT
trap 'trap - TERM; kill $(jobs -p) 2>/dev/null; exit 130' INT TERM

# Counts of one TAP log: passed failed skipped, then what is wrong with the log as a whole. cmocka
# says "not ok N # SKIP name" for a skipped test, "not ok 0" for a group that cannot be set up.
count() # log status
{
    awk -v status="$2" -v limit="$limit" '
        /^#/ { next }
        /^1\.\.[0-9]+/ { planned += substr($0, 4) + 0; plans++; next }
        {
            # What a program prints without a newline may stand before its result.
            if (!match($0, /^(not )?ok( |$)/) && !match($0, /(not )?ok [0-9]+ (- |# SKIP)/))
                next
            line = substr($0, RSTART)
            if (line ~ /# *[Ss][Kk][Ii][Pp]/) skipped++
            else if (line ~ /^not/) failed++
            else passed++
        }
        END {
            n = passed + failed + skipped
            why = ""
            if (status == 124 || status == 137) why = "stopped after " limit " s"
            else if (status > 128) why = "ended by signal " status - 128
            else if (n == 0 && !(plans && planned == 0)) why = "printed no TAP"
            else if (plans && n < planned) why = "planned " planned " tests, ran " n
            else if (status != 0 && !failed) why = "exit status " status
            if (why != "") failed++
            print passed + 0, failed + 0, skipped + 0, why
        }' "$1"
}

# Runs one program and leaves its log, status and time in the scratch directory.
run_one() # number name command...
{
    local n=$1 start=${EPOCHREALTIME/./} status
    shift 2
    # The braces keep bash's own word about a crash out of the output.
    { timeout -k 10 "$limit" "$@" >"$scratch/$n.log" 2>&1 </dev/null; } 2>/dev/null
    status=$?
    # In a shell of its own, whose children's time is the program's.
    times >"$scratch/$n.cpu"
    echo "$status $((${EPOCHREALTIME/./} - start)) $(awk 'NR == 2 {
        for (i = 1; i <= 2; i++) { split($i, t, /[ms]/); s += t[1] * 60 + t[2] }
        printf "%.2f", s }' "$scratch/$n.cpu")" >"$scratch/$n.end"
}

passed=0 failed=0 skipped=0 programs=0 broken=() failures=
# Says how a program ended; the whole log of one that failed.
report() # number name
{
    local n=$1 name=$2 status time_us cpu ok bad skip why time
    read -r status time_us cpu <"$scratch/$n.end"
    read -r ok bad skip why <<<"$(count "$scratch/$n.log" "$status")"
    passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skip))
    time=$((time_us / 1000000)).$(printf '%02d' $((time_us / 10000 % 100)))
    echo "$time $cpu $name" >>"$scratch/times"
    if [ "$bad" -gt 0 ]; then
        broken+=("$name")
        printf 'FAIL  %-40s %4d passed, %d failed%s  %s s\n' "$name" "$ok" "$bad" \
            "${why:+ ($why)}" "$time"
        sed 's/^/    /' "$scratch/$n.log"
        failures+=$'\n'"$name:"$'\n'$(grep -aA 20 '^not ok' "$scratch/$n.log" | grep -av '^ok' |
            cut -c 1-150 | head -n 40)$'\n'
    else
        printf 'ok    %-40s %4d passed%s  %s s\n' "$name" "$ok" \
            "$([ "$skip" -gt 0 ] && echo ", $skip skipped")" "$time"
        grep -E '^(not )?ok.*# *[Ss][Kk][Ii][Pp]' "$scratch/$n.log" | sed 's/^/    /'
    fi
}

# Runs the programs of a list, `slots` at a time; reports each as it ends, its output in one piece.
batch() # slots, then lines of "name<TAB>command" on stdin
{
    local most=$1 name command n i
    local -A running=()
    while :; do
        while [ "${#running[@]}" -lt "$most" ] && IFS=$'\t' read -r name command; do
            programs=$((programs + 1))
            # shellcheck disable=SC2086 # a command and its arguments, without blanks in either
            run_one "$programs" "$name" $command &
            running[$programs]=$name
        done
        [ "${#running[@]}" -gt 0 ] || break
        wait -n 2>/dev/null
        for n in "${!running[@]}"; do
            [ -s "$scratch/$n.end" ] || continue
            report "$n" "${running[$n]}"
            unset "running[$n]"
        done
    done
}

wanted=("$@")
# Prints "name<TAB>command" for each program that exists and was asked for.
add() # command-prefix files...
{
    local prefix=$1 file name hit w
    shift
    for file in "$@"; do
        [[ $file == *'*'* ]] && continue # a pattern without a match
        name=${file#"$PWD/"}
        name=${name#"${out#"$PWD/"}/"}
        hit=$([ ${#wanted[@]} -eq 0 ] && echo 1)
        for w in "${wanted[@]}"; do
            [[ $name == *"$w"* ]] && hit=1
        done
        [ -n "$hit" ] || continue
        if [ -f "$file" ]; then
            printf '%s\t%s%s\n' "$name" "${prefix:+$prefix }" "$file"
        else
            printf '%s\tfalse\n' "$name (not built)" # fails: it prints no TAP
        fi
    done
}

start=$SECONDS
replay=${FSTQ_REPLAY:-$PWD/build/replay/fuzz}
# Only what has a source: programs of tests that were renamed may lie about in the build directory.
unit=()
for source in tests/unit/*.c; do
    unit+=("$out/tests/$(basename "$source" .c)")
done
fuzz=()
for source in tests/fuzz/fuzz_*.c; do
    [ -f "$source" ] && fuzz+=("$replay/$(basename "$source" .c)")
done
{
    # Scripts first: they take longest, and short programs fill the end.
    mapfile -t scripts < <(grep -L '^# Alone:' tests/mpi/*.sh tests/cli/*.sh)
    add bash "${scripts[@]}"
    add "/usr/bin/env python3" tests/*.py
    add "" "${unit[@]}" "${fuzz[@]}"
} >"$scratch/list"
batch "$slots" <"$scratch/list"
mapfile -t scripts < <(grep -l '^# Alone:' tests/cli/*.sh tests/mpi/*.sh)
add bash "${scripts[@]}" >"$scratch/list"
batch 1 <"$scratch/list"

echo
echo "slowest:"
sort -rn "$scratch/times" 2>/dev/null | head -n 5 |
    awk '{ printf "  %s s, %s s of the processors  %s\n", $1, $2, $3 }'
echo "$programs programs in $((SECONDS - start)) s, $(awk '{ s += $2 } END { printf "%d", s }' \
    "$scratch/times" 2>/dev/null) s of the processors"
if [ ${#broken[@]} -gt 0 ]; then
    # Once more at the end, where whoever sees only the last page finds it.
    printf '%s' "$failures"
    echo "failed: ${broken[*]}"
fi
[ "$programs" -gt 0 ] || failed=$((failed + 1))
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
