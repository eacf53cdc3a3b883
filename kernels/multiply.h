// Products, as launchers ask cuBLAS for them: for .cu files alone.
#ifndef FSTQ_KERNELS_MULTIPLY_H
#define FSTQ_KERNELS_MULTIPLY_H

#include "blas.h"
#include "gpu.h"
#include "stored.h"

#include <assert.h>

// A product of row-major matrices: C (m, n) = alpha A (m, k) B' + beta C, where B' is B (k, n), or
// for `turned` the transpose of B (n, k). cuBLAS sees all of them transposed.
struct gpu_matrix {
    const float *at;
    ptrdiff_t ld;
};
static inline void gpu_product(const struct kernel_ctx *cx, int compute, int m, int n, int k,
                               float alpha, struct gpu_matrix a, bool turned_a, struct gpu_matrix b,
                               bool turned_b, float beta, float *c, ptrdiff_t ldc)
{
    struct kernel_blas *blas = cx->blas;
    if (m <= 0 || n <= 0)
        return;
    int rc = blas->gemm(blas->handle, turned_b ? BLAS_T : BLAS_N, turned_a ? BLAS_T : BLAS_N, n, m,
                        k, &alpha, b.at, BLAS_F32, (int)b.ld, a.at, BLAS_F32, (int)a.ld, &beta, c,
                        BLAS_F32, (int)ldc, compute, BLAS_ALGORITHM_DEFAULT);
    if (rc && !blas->status)
        blas->status = rc;
}
static inline void gpu_multiply(const struct kernel_ctx *cx, int m, int n, int k, float alpha,
                                struct gpu_matrix a, bool turned_a, struct gpu_matrix b,
                                bool turned_b, float beta, float *c, ptrdiff_t ldc)
{
    gpu_product(cx, BLAS_COMPUTE_F32, m, n, k, alpha, a, turned_a, b, turned_b, beta, c, ldc);
}
// By a frozen weight b: as cx->math says.
static inline void gpu_multiply_weight(const struct kernel_ctx *cx, int m, int n, int k,
                                       struct gpu_matrix a, struct gpu_matrix b, bool turned_b,
                                       float beta, float *c, ptrdiff_t ldc)
{
    int compute = cx->math == KERNEL_MATH_BF16   ? BLAS_COMPUTE_BF16
                  : cx->math == KERNEL_MATH_TF32 ? BLAS_COMPUTE_TF32
                                                 : BLAS_COMPUTE_F32;
    gpu_product(cx, compute, m, n, k, 1, a, false, b, turned_b, beta, c, ldc);
}

static __global__ void widen(const void *__restrict__ w, int dtype, ptrdiff_t ld, int cols,
                             float *__restrict__ to)
{
    for (int j = (int)threadIdx.x; j < cols; j += (int)blockDim.x)
        to[(ptrdiff_t)blockIdx.x * cols + j] =
            stored_value(w, dtype, (ptrdiff_t)blockIdx.x * ld + j);
}

// How many rows of a weight are multiplied by at a time: all in fp32, else as many as there is room
// to widen them in.
static inline int32_t gpu_rows_at_a_time(const struct kernel_weight *w, size_t room_floats)
{
    size_t fit = room_floats / (size_t)w->cols;
    if (w->dtype == KERNEL_F32 || fit >= (size_t)w->rows)
        return w->rows;
    assert(fit > 0); // dev_row.work_floats is for more than a row
    return (int32_t)fit;
}
// Rows [from, from + n) in fp32: where they lie, or in the room.
static inline struct gpu_matrix gpu_rows_of(const struct kernel_ctx *cx,
                                            const struct kernel_weight *w, int32_t from, int32_t n,
                                            float *room)
{
    const char *at = static_cast<const char *>(w->w) +
                     (size_t)from * (size_t)w->ld * kernel_dtype_bytes(w->dtype);
    if (w->dtype == KERNEL_F32)
        return {reinterpret_cast<const float *>(at), w->ld};
    LAUNCH(widen, (unsigned)n, (unsigned)gpu_threads(w->cols, 256), 0, cx->stream,
           static_cast<const void *>(at), w->dtype, w->ld, w->cols, room);
    return {room, w->cols};
}

#endif
