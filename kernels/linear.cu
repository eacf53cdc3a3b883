// Projections with adapters: products of cuBLAS. The base product, then each target's own.
#include "multiply.h"

template <class T>
static __global__ void __launch_bounds__(256)
    copy_rows(const T *__restrict__ from, T *__restrict__ to, ptrdiff_t ld, int cols)
{
    for (int j = (int)threadIdx.x; j < cols; j += (int)blockDim.x)
        to[blockIdx.x * ld + j] = from[blockIdx.x * ld + j];
}

// What a result is added to goes where the result will be. Returns beta.
template <class T>
static float begin_sum(const struct kernel_ctx *cx, const T *from, T *to, ptrdiff_t ld, int32_t m,
                       int32_t cols)
{
    if (from && from != to)
        LAUNCH((copy_rows<T>), (unsigned)m, (unsigned)gpu_threads(cols, 256), 0, cx->stream, from,
               to, ld, cols);
    return from ? 1.0f : 0.0f;
}

// y += u B' of each target
template <class T>
static void add_targets(const struct kernel_ctx *cx, const struct kernel_linear *l,
                        const float *adapter, struct gpu_room room, int32_t m, const T *u,
                        ptrdiff_t ldu, T *y, ptrdiff_t ldy)
{
    int32_t rank0 = 0;
    for (int32_t t = 0; t < l->n_lora; rank0 += l->lora[t++].rank) {
        const struct kernel_lora *f = &l->lora[t];
        struct gpu_room own = room; // of this target alone
        struct gpu_matrix b = gpu_adapter<T>(cx, adapter + f->b, f->rows, f->rank, &own);
        gpu_multiply(cx, m, f->rows, f->rank, 1, gpu_matrix_of(u + rank0, ldu), false, b, true, 1,
                     y + f->row0, ldy);
    }
}

template <class T>
static void forward(const struct kernel_ctx *cx, const struct kernel_linear *l,
                    const float *adapter, const T *x, ptrdiff_t ldx, int32_t m, const T *y0, T *y,
                    ptrdiff_t ldy, T *u, ptrdiff_t ldu)
{
    int32_t rows = l->w.rows, cols = l->w.cols;
    int32_t some = gpu_rows_at_a_time<T>(&l->w, cx->work_floats);
    struct gpu_room room = {cx->work, cx->work_floats};
    struct gpu_matrix in = gpu_matrix_of(x, ldx);
    float beta = begin_sum(cx, y0, y, ldy, m, rows);
    for (int32_t r = 0; r < rows; r += some) {
        int32_t n = rows - r < some ? rows - r : some;
        gpu_multiply_weight(cx, m, n, cols, in, gpu_rows_of<T>(cx, &l->w, r, n, cx->work), true,
                            beta, y + r, ldy);
    }
    if (!adapter || l->ranks == 0)
        return;
    struct gpu_matrix a = gpu_adapter<T>(cx, adapter + l->a, l->ranks, cols, &room);
    gpu_multiply(cx, m, l->ranks, cols, l->scale, in, false, a, true, 0, u, ldu);
    add_targets(cx, l, adapter, room, m, u, ldu, y, ldy);
}

extern "C" void GPU_OP(linear_fwd)(const struct kernel_ctx *cx, const struct kernel_linear *l,
                                   const float *adapter, const kernel_act *x, ptrdiff_t ldx,
                                   int32_t m, const kernel_act *y0, kernel_act *y, ptrdiff_t ldy,
                                   kernel_act *u, ptrdiff_t ldu)
{
    if (m > 0)
        gpu_by_act(cx, [&](auto type) {
            typedef decltype(type) T;
            forward(cx, l, adapter, act_as<T>(x), ldx, m, act_as<T>(y0), act_as<T>(y), ldy,
                    act_as<T>(u), ldu);
        });
}

// du (m, ranks) = scale dy B, and from it dA += du' x, dB += dy' u, dx += du A
template <class T>
static void backward_targets(const struct kernel_ctx *cx, const struct kernel_linear *l,
                             const float *adapter, const T *dy, ptrdiff_t lddy,
                             struct gpu_matrix x, const T *u, ptrdiff_t ldu, int32_t m, T *dx,
                             ptrdiff_t lddx, float *grad)
{
    struct gpu_room room = {cx->work, cx->work_floats};
    T *du = gpu_take<T>(&room, (size_t)m * (size_t)l->ranks);
    struct gpu_matrix d_in = gpu_matrix_of(du, l->ranks);
    const float by = 1 / cx->grad_scale;
    int32_t rank0 = 0, cols = l->w.cols;
    for (int32_t t = 0; t < l->n_lora; rank0 += l->lora[t++].rank) {
        const struct kernel_lora *f = &l->lora[t];
        struct gpu_room own = room;
        struct gpu_matrix d = gpu_matrix_of(dy + f->row0, lddy);
        struct gpu_matrix b = gpu_adapter<T>(cx, adapter + f->b, f->rows, f->rank, &own);
        gpu_multiply(cx, m, f->rank, f->rows, l->scale, d, false, b, false, 0, du + rank0,
                     l->ranks);
        if (grad)
            gpu_multiply(cx, f->rows, f->rank, m, by, d, true, gpu_matrix_of(u + rank0, ldu), false,
                         1, grad + f->b, f->rank);
    }
    if (grad)
        gpu_multiply(cx, l->ranks, cols, m, by, d_in, true, x, false, 1, grad + l->a, cols);
    if (dx)
        gpu_multiply(cx, m, cols, l->ranks, 1, d_in, false,
                     gpu_adapter<T>(cx, adapter + l->a, l->ranks, cols, &room), false, 1, dx, lddx);
}

template <class T>
static void backward(const struct kernel_ctx *cx, const struct kernel_linear *l,
                     const float *adapter, const T *dy, ptrdiff_t lddy, const T *x, ptrdiff_t ldx,
                     const T *u, ptrdiff_t ldu, int32_t m, const T *dx0, T *dx, ptrdiff_t lddx,
                     float *grad, float *dw)
{
    int32_t rows = l->w.rows, cols = l->w.cols;
    int32_t some = gpu_rows_at_a_time<T>(&l->w, cx->work_floats);
    struct gpu_matrix in = gpu_matrix_of(x, ldx);
    float beta = dx ? begin_sum(cx, dx0, dx, lddx, m, cols) : 0;
    for (int32_t r = 0; r < rows && dx; r += some, beta = 1) {
        int32_t n = rows - r < some ? rows - r : some;
        gpu_multiply_weight(cx, m, cols, n, gpu_matrix_of(dy + r, lddy),
                            gpu_rows_of<T>(cx, &l->w, r, n, cx->work), false, beta, dx, lddx);
    }
    if (dw)
        gpu_multiply(cx, rows, cols, m, 1 / cx->grad_scale, gpu_matrix_of(dy, lddy), true, in,
                     false, 1, dw, cols);
    if (adapter && l->ranks > 0 && (dx || grad))
        backward_targets(cx, l, adapter, dy, lddy, in, u, ldu, m, dx, lddx, grad);
}

extern "C" void GPU_OP(linear_bwd)(const struct kernel_ctx *cx, const struct kernel_linear *l,
                                   const float *adapter, const kernel_act *dy, ptrdiff_t lddy,
                                   const kernel_act *x, ptrdiff_t ldx, const kernel_act *u,
                                   ptrdiff_t ldu, int32_t m, const kernel_act *dx0, kernel_act *dx,
                                   ptrdiff_t lddx, float *grad, float *dw)
{
    if (m > 0)
        gpu_by_act(cx, [&](auto type) {
            typedef decltype(type) T;
            backward(cx, l, adapter, act_as<T>(dy), lddy, act_as<T>(x), ldx, act_as<T>(u), ldu, m,
                     act_as<T>(dx0), act_as<T>(dx), lddx, grad, dw);
        });
}
