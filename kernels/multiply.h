// Products, as launchers ask cuBLAS for them: for .cu files alone.
#ifndef FSTQ_KERNELS_MULTIPLY_H
#define FSTQ_KERNELS_MULTIPLY_H

#include "blas.h"
#include "gpu_act.h"

#include <assert.h>

// A product of row-major matrices: C (m, n) = alpha A (m, k) B' + beta C, where B' is B (k, n), or
// for `turned` the transpose of B (n, k). cuBLAS sees all of them transposed. A and B are of one
// type, C of the same or in fp32.
struct gpu_matrix {
    const void *at;
    int type; // of cuBLAS
    ptrdiff_t ld;
};
template <class T> static inline int gpu_blas_type()
{
    const int dtype = gpu_dtype((const T *)nullptr);
    return dtype == KERNEL_BF16 ? BLAS_BF16 : dtype == KERNEL_F16 ? BLAS_F16 : BLAS_F32;
}
template <class T> static inline struct gpu_matrix gpu_matrix_of(const T *at, ptrdiff_t ld)
{
    return {at, gpu_blas_type<T>(), ld};
}

template <class C>
static inline void gpu_product(const struct kernel_ctx *cx, int compute, int m, int n, int k,
                               float alpha, struct gpu_matrix a, bool turned_a, struct gpu_matrix b,
                               bool turned_b, float beta, C *c, ptrdiff_t ldc)
{
    struct kernel_blas *blas = cx->blas;
    if (m <= 0 || n <= 0)
        return;
    int rc = blas->gemm(blas->handle, turned_b ? BLAS_T : BLAS_N, turned_a ? BLAS_T : BLAS_N, n, m,
                        k, &alpha, b.at, b.type, (int)b.ld, a.at, a.type, (int)a.ld, &beta, c,
                        gpu_blas_type<C>(), (int)ldc, compute, BLAS_ALGORITHM_DEFAULT);
    if (rc && !blas->status)
        blas->status = rc;
}
template <class C>
static inline void gpu_multiply(const struct kernel_ctx *cx, int m, int n, int k, float alpha,
                                struct gpu_matrix a, bool turned_a, struct gpu_matrix b,
                                bool turned_b, float beta, C *c, ptrdiff_t ldc)
{
    gpu_product(cx, BLAS_COMPUTE_F32, m, n, k, alpha, a, turned_a, b, turned_b, beta, c, ldc);
}
// By a frozen weight b: as cx->math says.
template <class C>
static inline void gpu_multiply_weight(const struct kernel_ctx *cx, int m, int n, int k,
                                       struct gpu_matrix a, struct gpu_matrix b, bool turned_b,
                                       float beta, C *c, ptrdiff_t ldc)
{
    int compute = cx->math == KERNEL_MATH_TF32 ? BLAS_COMPUTE_TF32 : BLAS_COMPUTE_F32;
    gpu_product(cx, compute, m, n, k, 1, a, false, b, turned_b, beta, c, ldc);
}

// Work memory, handed out from its beginning.
struct gpu_room {
    float *at;
    size_t floats;
};
template <class T> static inline T *gpu_take(struct gpu_room *r, size_t n)
{
    T *p = reinterpret_cast<T *>(r->at);
    size_t floats = (n * sizeof(T) + 15) / 16 * 4;
    assert(floats <= r->floats);
    *r = {r->at + floats, r->floats - floats};
    return p;
}

// Rows of a stored weight, or values in fp32, as activations are.
template <class T>
static __global__ void convert(const void *__restrict__ w, int dtype, ptrdiff_t ld, int cols,
                               T *__restrict__ to)
{
    for (int j = (int)threadIdx.x; j < cols; j += (int)blockDim.x)
        to[(ptrdiff_t)blockIdx.x * cols + j] =
            stored_value(w, dtype, (ptrdiff_t)blockIdx.x * ld + j);
}

// How many rows of a weight are multiplied by at a time: all that are of the activations' type,
// else as many as there is room to convert them in.
template <class T>
static inline int32_t gpu_rows_at_a_time(const struct kernel_weight *w, size_t room_floats)
{
    size_t fit = room_floats * sizeof(float) / sizeof(T) / (size_t)w->cols;
    if (w->dtype == gpu_dtype((const T *)nullptr) || fit >= (size_t)w->rows)
        return w->rows;
    assert(fit > 0); // dev_row.work_floats is for more than a row
    return (int32_t)fit;
}
// Rows [from, from + n): where they lie, or converted in the room.
template <class T>
static inline struct gpu_matrix gpu_rows_of(const struct kernel_ctx *cx,
                                            const struct kernel_weight *w, int32_t from, int32_t n,
                                            float *room)
{
    const void *at = static_cast<const char *>(w->w) +
                     (size_t)from * (size_t)w->ld * kernel_dtype_bytes(w->dtype);
    T *to = reinterpret_cast<T *>(room);
    if (w->dtype == gpu_dtype(to))
        return gpu_matrix_of(static_cast<const T *>(at), w->ld);
    LAUNCH((convert<T>), (unsigned)n, (unsigned)gpu_threads(w->cols, 256), 0, cx->stream, at,
           w->dtype, w->ld, w->cols, to);
    return gpu_matrix_of(to, w->cols);
}
// An adapter's matrix (rows, cols): where it lies in fp32, else rounded in the room.
template <class T>
static inline struct gpu_matrix gpu_adapter(const struct kernel_ctx *cx, const float *x,
                                            int32_t rows, int32_t cols, struct gpu_room *r)
{
    if (sizeof(T) == sizeof *x)
        return gpu_matrix_of(x, cols);
    T *to = gpu_take<T>(r, (size_t)rows * (size_t)cols);
    LAUNCH((convert<T>), (unsigned)rows, (unsigned)gpu_threads(cols, 256), 0, cx->stream,
           static_cast<const void *>(x), +KERNEL_F32, cols, cols, to);
    return gpu_matrix_of(to, cols);
}

#endif
