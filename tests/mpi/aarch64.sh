#!/usr/bin/env bash
# Boards are aarch64: compiled for them here, the unit tests run under qemu-user. In make test-long,
# where FSTQ_AARCH64_ROOT names a folder that scripts/aarch64-root.sh made.
set -u
. "$(dirname "$0")/../tap.bash"
root=$(cd "$(dirname "$0")/../.." && pwd)
libs=${FSTQ_AARCH64_ROOT:-$root/build/aarch64-root}
lib=$libs/usr/lib/aarch64-linux-gnu
missing=$(for p in aarch64-linux-gnu-gcc aarch64-linux-gnu-g++ qemu-aarch64; do
    command -v "$p" >/dev/null || echo "$p"
done)
if [ "${FSTQ_TEST_LONG:-0}" = 0 ] || [ -n "$missing" ] || [ ! -d "$lib" ]; then
    skip "unit tests on aarch64" "in make test-long, with qemu-user, the cross compilers and \
FSTQ_AARCH64_ROOT of scripts/aarch64-root.sh"
    finish
fi
# What is the same on any processor, for its time under emulation: bytes of codecs, kernels against
# the plain ones, random numbers, frames, choices.
tests=(test_base test_base_rng test_base_text test_codec test_codec_bits test_codec_golden
    test_codec_values test_wire test_partition test_policy test_schemes test_tokenizer)
out=$root/build/aarch64
PKG_CONFIG_LIBDIR=$lib/pkgconfig:$libs/usr/share/pkgconfig PKG_CONFIG_SYSROOT_DIR=$libs \
    make -C "$root" --no-print-directory -j"$(nproc)" CC=aarch64-linux-gnu-gcc \
    CXX=aarch64-linux-gnu-g++ CUDA=0 O=build/aarch64 \
    CPPFLAGS="-isystem $libs/usr/include/aarch64-linux-gnu" \
    LDFLAGS="--sysroot=$libs -L$lib -Wl,-rpath-link,$lib -Wl,-rpath-link,$lib/openblas-pthread" \
    build/aarch64/fstq "${tests[@]/#/build/aarch64/tests/}" >built.log 2>&1
check "it builds for aarch64" equal "$?" 0 || tail -n 20 built.log | sed 's/^/#   /'
rm -f built.log
run() { qemu-aarch64 -L "$libs" -E LD_LIBRARY_PATH="$lib" -E OPENBLAS_NUM_THREADS=1 "$@"; }
check "it starts" eval "run '$out/fstq' --version | grep -q aarch64"
for name in "${tests[@]}"; do
    log=$(run "$out/tests/$name" 2>&1)
    check "$name" equal "$?" 0 || grep -E '^not ok|FAILED' <<<"$log" | sed 's/^/#   /'
done
# Choices and sums of a federation without products are those of x86-64.
quadratic=(run configs/quadratic.ini fed.rounds=3 trace.file=)
one=$(cd "$root" && "${FSTQ:-build/release/fstq}" "${quadratic[@]}" | sed -n 's/^# adapter //p')
two=$(cd "$root" && run "$out/fstq" "${quadratic[@]}" | sed -n 's/^# adapter //p')
check "a federation comes to the adapter of this machine" equal "$two" "${one:-none}"
finish
