#!/usr/bin/env bash
# The test runner itself, on a tree of programs that pass, fail, crash, hang and keep silent.
set -u
. "$(dirname "$0")/../tap.bash"
here=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-runner.XXXXXX")
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir"/tests/{unit,cli,mpi,fuzz} "$dir/out/tests"
cp "$here/tests/run.sh" "$dir/tests/"
cd "$dir" || exit 1
unset FSTQ FSTQ_BUILD FSTQ_REPLAY FSTQ_TEST_LONG

program() # name lines...: a shell test that prints them
{
    local name=$1
    shift
    printf '%s\n' "$@" >"tests/cli/$name.sh"
}
run() # expected status, args...: the runner's output in $dir/log
{
    local want=$1 got
    shift
    FSTQ_TEST_TIMEOUT=2 tests/run.sh out "$@" >log 2>&1
    got=$?
    equal "$got" "$want"
}
last() { equal "$(tail -n 1 log)" "$1"; }
count() { equal "$(grep -cE "$1" log)" "$2"; }

program good 'echo 1..3' 'echo ok 1 - a' 'echo "ok 2 - b # SKIP no data"' 'echo ok 3 - c'
program cmocka 'printf "1..2\nnot ok 1 # SKIP left_out\n"' \
    'printf "no newline ok 2 - b\n# ok - g\n"'
program env 'set -- "$FSTQ" "$FSTQ_BUILD" "$CMOCKA_MESSAGE_OUTPUT"' \
    'case $*:${OMPI_MCA_x-none}:${MAKEFLAGS-none} in' \
    '/*/out/fstq\ /*/out\ TAP:none:none) echo "ok 1 - environment" ;;' \
    '*) echo "not ok 1 - $*" ;; esac'
printf '#!/bin/sh\necho 1..1; echo ok 1 - in C\n' >out/tests/test_c
printf '#!/bin/sh\n' >out/fstq
chmod +x out/tests/test_c out/fstq
touch tests/unit/test_c.c
MAKEFLAGS=-j2 check "all pass: status 0" run 0
check "all pass: the counts" last "5 passed, 0 failed, 2 skipped"
check "skips are shown with their reason" contains log "ok 2 - b # SKIP no data"
check "exactly one line of counts" count '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' 1
check "a name selects programs" run 0 goo
check "a name selects programs: the counts" last "2 passed, 0 failed, 1 skipped"
check "a name that selects nothing fails" run 1 nonesuch

expect_failure() # what counts words lines...
{
    local what=$1 counts=$2 words=$3
    shift 3
    program bad "$@"
    check "$what: status 1" run 1 bad
    check "$what: the counts" last "$counts"
    check "$what: why" contains log "$words"
    check "$what: it is named at the end" contains log "failed: tests/cli/bad.sh"
}
expect_failure "a failed check" "1 passed, 1 failed, 0 skipped" "# because" \
    'echo 1..2' 'echo not ok 1 - a' 'echo "# because"' 'echo ok 2 - b' 'exit 1'
expect_failure "a crash" "1 passed, 1 failed, 0 skipped" "ended by signal 11" \
    'echo ok 1 - a' 'kill -SEGV $$'
expect_failure "silence" "0 passed, 1 failed, 0 skipped" "printed no TAP" 'echo hello'
expect_failure "a broken plan" "1 passed, 1 failed, 0 skipped" "planned 2 tests, ran 1" \
    'echo 1..2' 'echo ok 1 - a'
expect_failure "a bad status" "1 passed, 1 failed, 0 skipped" "exit status 3" \
    'echo 1..1' 'echo ok 1 - a' 'exit 3'
expect_failure "a hang" "1 passed, 1 failed, 0 skipped" "stopped after 2 s" \
    'echo ok 1 - a' 'sleep 60'
rm tests/cli/bad.sh

touch tests/unit/test_gone.c
check "a program that was not built fails" run 1 test_gone
check "a program that was not built is named" contains log "test_gone (not built)"
rm -r out
check "without a build: status 1" run 1
check "without a build: what to do" contains log "run make first"
finish
