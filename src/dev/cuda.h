// What the files of the row `cuda` share. They are built twice, as the row `emu` with CUDA_EMULATED
// for tests (tests/emu).
#ifndef FSTQ_DEV_CUDA_H
#define FSTQ_DEV_CUDA_H

#include "kernels/gpu_stages.h"

#ifdef CUDA_EMULATED
#define GPU(name) name##_emu
#else
#define GPU(name) name##_cuda
#endif
#define gpu_move      GPU(gpu_move)
#define gpu_settle    GPU(gpu_settle)
#define gpu_alloc_row GPU(gpu_alloc_row)

// dev_cuda.c: a codec's copy, queued; and whatever is queued is done, or the program ends with what
// went wrong.
void gpu_move(const struct kernel_ctx *cx, void *to, const void *from, size_t n, bool there);
void gpu_settle(const struct kernel_ctx *cx);

extern const struct alloc_stages gpu_alloc_row; // cuda_alloc.c

#endif
