#!/usr/bin/env bash
# What nvcc made of the kernels, where the program was built with CUDA, and whether the page about
# them still says so; in the long tests also whether NVRTC takes them for other architectures.
set -u
scripts=$(cd "$(dirname "$0")/../../scripts" && pwd)
python3 "$scripts/check_gpu_code.py" "$FSTQ_BUILD"
status=$?
python3 "$scripts/gpu_static.py" "$FSTQ_BUILD" --check "$scripts/../bench/results/gpu-static.md" ||
    status=1
if [ "${FSTQ_TEST_LONG:-0}" != 0 ]; then
    python3 "$scripts/check_nvrtc.py" || status=1
fi
exit "$status"
