#!/usr/bin/env bash
# The GPU's kernels with every access of theirs watched, in one order of their threads: races, reads
# of what nothing wrote, and accesses outside of blocks show in any. test_kernels has the others.
set -u
check=$FSTQ_BUILD/tests/emu
if [ -x "$check/check_kernels" ]; then
    "$check/check_kernels" emu seed1
    bad=$?
    "$check/check_codecs" emu && exit "$bad"
    exit 1
fi
echo "1..0 # SKIP kernels are not checked in this kind of build"
