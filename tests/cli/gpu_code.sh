#!/usr/bin/env bash
# What nvcc made of the kernels, where the program was built with CUDA.
exec python3 "$(dirname "$0")/../../scripts/check_gpu_code.py" "$FSTQ_BUILD"
