// Projections with adapters: products of cuBLAS. The base product, then each target's own.
#include "multiply.h"

static __global__ void __launch_bounds__(256)
    copy_rows(const float *__restrict__ from, float *__restrict__ to, ptrdiff_t ld, int cols)
{
    for (int j = (int)threadIdx.x; j < cols; j += (int)blockDim.x)
        to[blockIdx.x * ld + j] = from[blockIdx.x * ld + j];
}

// What a result is added to goes where the result will be. Returns beta.
static float begin_sum(const struct kernel_ctx *cx, const kernel_act *from, kernel_act *to,
                       ptrdiff_t ld, int32_t m, int32_t cols)
{
    if (from && from != to)
        LAUNCH(copy_rows, (unsigned)m, (unsigned)gpu_threads(cols, 256), 0, cx->stream,
               act_in(from), act_out(to), ld, cols);
    return from ? 1.0f : 0.0f;
}

// y += u B' of each target
static void add_targets(const struct kernel_ctx *cx, const struct kernel_linear *l,
                        const float *adapter, int32_t m, const float *u, ptrdiff_t ldu, float *y,
                        ptrdiff_t ldy)
{
    int32_t rank0 = 0;
    for (int32_t t = 0; t < l->n_lora; rank0 += l->lora[t++].rank) {
        const struct kernel_lora *f = &l->lora[t];
        gpu_multiply(cx, m, f->rows, f->rank, 1, {u + rank0, ldu}, false, {adapter + f->b, f->rank},
                     true, 1, y + f->row0, ldy);
    }
}

extern "C" void GPU_OP(linear_fwd)(const struct kernel_ctx *cx, const struct kernel_linear *l,
                                   const float *adapter, const kernel_act *x, ptrdiff_t ldx,
                                   int32_t m, const kernel_act *y0, kernel_act *y, ptrdiff_t ldy,
                                   kernel_act *u, ptrdiff_t ldu)
{
    int32_t rows = l->w.rows, cols = l->w.cols, some = gpu_rows_at_a_time(&l->w, cx->work_floats);
    if (m <= 0)
        return;
    float beta = begin_sum(cx, y0, y, ldy, m, rows);
    for (int32_t r = 0; r < rows; r += some) {
        int32_t n = rows - r < some ? rows - r : some;
        gpu_multiply_weight(cx, m, n, cols, {act_in(x), ldx},
                            gpu_rows_of(cx, &l->w, r, n, cx->work), true, beta, act_out(y) + r,
                            ldy);
    }
    if (!adapter || l->ranks == 0)
        return;
    gpu_multiply(cx, m, l->ranks, cols, l->scale, {act_in(x), ldx}, false, {adapter + l->a, cols},
                 true, 0, act_out(u), ldu);
    add_targets(cx, l, adapter, m, act_in(u), ldu, act_out(y), ldy);
}

// du (m, ranks) = scale dy B, and from it dA += du' x, dB += dy' u, dx += du A
static void backward_targets(const struct kernel_ctx *cx, const struct kernel_linear *l,
                             const float *adapter, struct gpu_matrix dy, struct gpu_matrix x,
                             struct gpu_matrix u, int32_t m, float *dx, ptrdiff_t lddx, float *grad,
                             float *du)
{
    int32_t rank0 = 0, cols = l->w.cols;
    for (int32_t t = 0; t < l->n_lora; rank0 += l->lora[t++].rank) {
        const struct kernel_lora *f = &l->lora[t];
        struct gpu_matrix d = {dy.at + f->row0, dy.ld};
        gpu_multiply(cx, m, f->rank, f->rows, l->scale, d, false, {adapter + f->b, f->rank}, false,
                     0, du + rank0, l->ranks);
        if (grad)
            gpu_multiply(cx, f->rows, f->rank, m, 1, d, true, {u.at + rank0, u.ld}, false, 1,
                         grad + f->b, f->rank);
    }
    if (grad)
        gpu_multiply(cx, l->ranks, cols, m, 1, {du, l->ranks}, true, x, false, 1, grad + l->a,
                     cols);
    if (dx)
        gpu_multiply(cx, m, cols, l->ranks, 1, {du, l->ranks}, false, {adapter + l->a, cols}, false,
                     1, dx, lddx);
}

extern "C" void GPU_OP(linear_bwd)(const struct kernel_ctx *cx, const struct kernel_linear *l,
                                   const float *adapter, const kernel_act *dy, ptrdiff_t lddy,
                                   const kernel_act *x, ptrdiff_t ldx, const kernel_act *u,
                                   ptrdiff_t ldu, int32_t m, const kernel_act *dx0, kernel_act *dx,
                                   ptrdiff_t lddx, float *grad, float *dw)
{
    int32_t rows = l->w.rows, cols = l->w.cols;
    size_t du = (size_t)m * (size_t)l->ranks;
    assert(du < cx->work_floats);
    int32_t some = gpu_rows_at_a_time(&l->w, cx->work_floats - du);
    struct gpu_matrix d = {act_in(dy), lddy};
    if (m <= 0)
        return;
    float beta = dx ? begin_sum(cx, dx0, dx, lddx, m, cols) : 0;
    for (int32_t r = 0; r < rows && dx; r += some, beta = 1) {
        int32_t n = rows - r < some ? rows - r : some;
        gpu_multiply_weight(cx, m, cols, n, {d.at + r, lddy},
                            gpu_rows_of(cx, &l->w, r, n, cx->work + du), false, beta, act_out(dx),
                            lddx);
    }
    if (dw)
        gpu_multiply(cx, rows, cols, m, 1, d, true, {act_in(x), ldx}, false, 1, dw, cols);
    if (adapter && l->ranks > 0 && (dx || grad))
        backward_targets(cx, l, adapter, d, {act_in(x), ldx}, {act_in(u), ldu}, m,
                         dx ? act_out(dx) : nullptr, lddx, grad, cx->work);
}
