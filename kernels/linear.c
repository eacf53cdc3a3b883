// Linear layers with low-rank adapters: y = x W^T + u B^T with u = scale x A^T, for several
// projections that share x. u B^T is added while a tile of y is in registers, and so is du A in dx
// = dy W + du A.
#include "act.h"
#include "gemm.h"

#include <assert.h>
#include <string.h>

static struct gemm_mat floats(const float *w, ptrdiff_t ld, bool trans, bool readable)
{
    return (struct gemm_mat){
        .w = w, .ld = ld, .dtype = KERNEL_F32, .trans = trans, .readable = readable};
}

// B^T for the panels of y: rows are the ranks of the targets that have columns in the panel, with
// zeros where a column belongs to another target. Returns the floats used.
static size_t expand_b(const struct kernel_linear *l, const float *adapter, float *e,
                       struct gemm_range *range)
{
    size_t used = 0;
    int32_t panels = gemm_panels(l->w.rows);
    for (int32_t p = 0; p < panels; p++) {
        int32_t n0 = p * GEMM_PANEL, n1 = n0 + GEMM_PANEL, lo = 0, hi = 0, rank0 = 0;
        if (n1 > l->w.rows)
            n1 = l->w.rows;
        ptrdiff_t width = gemm_width(l->w.rows, p);
        for (int32_t t = 0; t < l->n_lora; rank0 += l->lora[t++].rank)
            if (l->lora[t].row0 < n1 && l->lora[t].row0 + l->lora[t].rows > n0) {
                lo = hi == 0 ? rank0 : lo;
                hi = rank0 + l->lora[t].rank;
            }
        range[p] = (struct gemm_range){.lo = lo, .n = hi - lo, .at = used};
        float *to = e + used;
        memset(to, 0, (size_t)(hi - lo) * (size_t)width * sizeof *to);
        rank0 = 0;
        for (int32_t t = 0; t < l->n_lora; rank0 += l->lora[t++].rank) {
            const struct kernel_lora *f = &l->lora[t];
            int32_t from = n0 > f->row0 ? n0 : f->row0;
            int32_t end = n1 < f->row0 + f->rows ? n1 : f->row0 + f->rows;
            for (int32_t n = from; n < end; n++) {
                const float *row = adapter + f->b + (size_t)(n - f->row0) * (size_t)f->rank;
                for (int32_t i = 0; i < f->rank; i++)
                    to[(rank0 - lo + i) * width + n - n0] = row[i];
            }
        }
        used += (size_t)(hi - lo) * (size_t)width;
    }
    return used;
}

void linear_fwd_cpu(const struct kernel_ctx *cx, const struct kernel_linear *l,
                    const float *adapter, const kernel_act *x_act, ptrdiff_t ldx, int32_t m,
                    const kernel_act *y0_act, kernel_act *y_act, ptrdiff_t ldy, kernel_act *u_act,
                    ptrdiff_t ldu)
{
    const float *x = act_in(x_act), *y0 = act_in(y0_act);
    float *y = act_out(y_act), *u = act_out(u_act);
    struct gemm g = {.m = m,
                     .n = l->w.rows,
                     .k = l->w.cols,
                     .a = x,
                     .rsa = ldx,
                     .csa = 1,
                     .b = gemm_stored(&l->w, true),
                     .c0 = y0,
                     .ldc0 = ldy,
                     .c = y,
                     .ldc = ldy,
                     .alpha = 1.0f,
                     .bf16 = cx->math == KERNEL_MATH_BF16,
                     .int8 = cx->math == KERNEL_MATH_INT8,
                     .team = cx->team};
    float *work = cx->work;
    if (l->n_lora > 0 && adapter) {
        struct gemm down = {.m = m,
                            .n = l->ranks,
                            .k = l->w.cols,
                            .a = x,
                            .rsa = ldx,
                            .csa = 1,
                            .b = floats(adapter + l->a, l->w.cols, true, false),
                            .c = u,
                            .ldc = ldu,
                            .alpha = l->scale,
                            .team = cx->team};
        gemm(&down, work);
        size_t ranges = ((size_t)gemm_panels(l->w.rows) * sizeof *g.range + 63) / 64 * 16;
        struct gemm_range *range = (struct gemm_range *)(void *)work;
        work += ranges;
        size_t used = expand_b(l, adapter, work, range);
        g.u = u;
        g.ldu = ldu;
        g.e = work;
        g.range = range;
        work += used;
        assert((size_t)(work - cx->work) + GEMM_WORK <= cx->work_floats);
    }
    gemm(&g, work);
}

// c (rows, cols) += a^T b, a (m, rows), b (m, cols)
static void add_outer(const float *a, ptrdiff_t lda, int32_t rows, const float *b, ptrdiff_t ldb,
                      int32_t cols, int32_t m, float *c)
{
    struct gemm g = {.m = rows,
                     .n = cols,
                     .k = m,
                     .a = a,
                     .rsa = 1,
                     .csa = lda,
                     .b = floats(b, ldb, false, true),
                     .c0 = c,
                     .ldc0 = cols,
                     .c = c,
                     .ldc = cols,
                     .alpha = 1.0f};
    gemm(&g, NULL);
}

// grad B (rows, rank) += dy^T u. The product is made transposed when the rank would leave lanes
// idle.
static void grad_b(const struct kernel_lora *f, const float *dy, ptrdiff_t lddy, const float *u,
                   ptrdiff_t ldu, int32_t m, float *grad, float *work)
{
    bool wide = f->rank % 16 == 0;
    struct gemm g = {.m = wide ? f->rows : f->rank,
                     .n = wide ? f->rank : f->rows,
                     .k = m,
                     .a = wide ? dy : u,
                     .rsa = 1,
                     .csa = wide ? lddy : ldu,
                     .b = floats(wide ? u : dy, wide ? ldu : lddy, false, true),
                     .c0 = wide ? grad : NULL,
                     .ldc0 = f->rank,
                     .c = wide ? grad : work,
                     .ldc = wide ? f->rank : f->rows,
                     .alpha = 1.0f};
    gemm(&g, NULL);
    for (int32_t n = 0; n < f->rows && !wide; n++)
        for (int32_t i = 0; i < f->rank; i++)
            grad[n * f->rank + i] += work[i * f->rows + n];
}

// du = scale dy B, and the gradients of A and B or neither.
static void lora_back(const struct kernel_linear *l, const float *adapter, const float *dy,
                      ptrdiff_t lddy, const float *x, ptrdiff_t ldx, const float *u, ptrdiff_t ldu,
                      int32_t m, float *du, ptrdiff_t lddu, float *grad, float *work)
{
    int32_t cols = l->w.cols, rank0 = 0;
    for (int32_t t = 0; t < l->n_lora; rank0 += l->lora[t++].rank) {
        const struct kernel_lora *f = &l->lora[t];
        struct gemm g = {.m = m,
                         .n = f->rank,
                         .k = f->rows,
                         .a = dy + f->row0,
                         .rsa = lddy,
                         .csa = 1,
                         .b = floats(adapter + f->b, f->rank, false, false),
                         .c = du + rank0,
                         .ldc = lddu,
                         .alpha = l->scale};
        gemm(&g, work);
        if (grad)
            grad_b(f, dy + f->row0, lddy, u + rank0, ldu, m, grad + f->b, work);
    }
    if (grad && l->n_lora > 0)
        add_outer(du, lddu, l->ranks, x, ldx, cols, m, grad + l->a);
}

// dx = dx0 + dy W + du A
static void input_back(const struct kernel_linear *l, const float *adapter, int32_t math,
                       const float *dy, ptrdiff_t lddy, const float *du, ptrdiff_t lddu, int32_t m,
                       const float *dx0, float *dx, ptrdiff_t lddx, struct gemm_range *range,
                       float *work)
{
    int32_t cols = l->w.cols;
    struct gemm g = {.m = m,
                     .n = cols,
                     .k = l->w.rows,
                     .a = dy,
                     .rsa = lddy,
                     .csa = 1,
                     .b = gemm_stored(&l->w, false),
                     .c0 = dx0,
                     .ldc0 = lddx,
                     .c = dx,
                     .ldc = lddx,
                     .alpha = 1.0f,
                     .bf16 = math == KERNEL_MATH_BF16};
    // A weight that fits in L2 is used where it lies; a larger one has rows too far apart and is
    // packed.
    g.b.readable = (size_t)l->w.rows * (size_t)cols <= 1u << 17;
    if (l->n_lora > 0) {
        for (int32_t p = 0; p < gemm_panels(cols); p++)
            range[p] = (struct gemm_range){.n = l->ranks, .at = (size_t)p * GEMM_PANEL};
        g.u = du;
        g.ldu = lddu;
        g.e = adapter + l->a;
        g.lde = cols;
        g.range = range;
    }
    gemm(&g, work);
}

void linear_bwd_cpu(const struct kernel_ctx *cx, const struct kernel_linear *l,
                    const float *adapter, const kernel_act *dy_act, ptrdiff_t lddy,
                    const kernel_act *x_act, ptrdiff_t ldx, const kernel_act *u, ptrdiff_t ldu,
                    int32_t m, const kernel_act *dx0, kernel_act *dx, ptrdiff_t lddx, float *grad,
                    float *dw)
{
    const float *dy = act_in(dy_act), *x = act_in(x_act);
    // At least a full vector may be read from each row of du.
    ptrdiff_t lddu = (l->ranks + 15) / 16 * 16;
    float *du = cx->work, *work = du + (ptrdiff_t)m * lddu + 16;
    struct gemm_range *range = (struct gemm_range *)(void *)work;
    work += ((size_t)gemm_panels(l->w.cols) * sizeof *range + 63) / 64 * 16;
    assert((size_t)(work - cx->work) + GEMM_WORK <= cx->work_floats);
    lora_back(l, adapter, dy, lddy, x, ldx, act_in(u), ldu, m, du, lddu, grad, work);
    if (dw)
        add_outer(dy, lddy, l->w.rows, x, ldx, l->w.cols, m, dw);
    if (dx)
        input_back(l, adapter, cx->math, dy, lddy, du, lddu, m, act_in(dx0), act_out(dx), lddx,
                   range, work);
}

void linear_fwd_ref(const struct kernel_ctx *cx, const struct kernel_linear *l,
                    const float *adapter, const kernel_act *x_act, ptrdiff_t ldx, int32_t m,
                    const kernel_act *y0_act, kernel_act *y_act, ptrdiff_t ldy, kernel_act *u_act,
                    ptrdiff_t ldu)
{
    const float *x = act_in(x_act), *y0 = act_in(y0_act);
    float *y = act_out(y_act), *u = act_out(u_act);
    (void)cx;
    for (int32_t i = 0; i < m; i++)
        for (int32_t n = 0; n < l->w.rows; n++) {
            double sum = y0 ? y0[i * ldy + n] : 0.0;
            for (int32_t k = 0; k < l->w.cols; k++)
                sum += (double)x[i * ldx + k] * kernel_weight_value(&l->w, n, k);
            y[i * ldy + n] = (float)sum;
        }
    int32_t rank0 = 0;
    for (int32_t t = 0; t < l->n_lora && adapter; rank0 += l->lora[t++].rank) {
        const struct kernel_lora *f = &l->lora[t];
        for (int32_t i = 0; i < m; i++) {
            for (int32_t r = 0; r < f->rank; r++) {
                const float *row = adapter + l->a + (ptrdiff_t)(rank0 + r) * l->w.cols;
                double sum = 0;
                for (int32_t k = 0; k < l->w.cols; k++)
                    sum += (double)x[i * ldx + k] * row[k];
                u[i * ldu + rank0 + r] = (float)(l->scale * sum);
            }
            for (int32_t n = 0; n < f->rows; n++) {
                double sum = 0;
                for (int32_t r = 0; r < f->rank; r++)
                    sum +=
                        (double)u[i * ldu + rank0 + r] * adapter[f->b + (size_t)(n * f->rank + r)];
                y[i * ldy + f->row0 + n] += (float)sum;
            }
        }
    }
}

// The adapter's share of linear_bwd_ref for one row and one target: du, its gradients, and dx += du
// A.
static void lora_bwd_ref(const struct kernel_linear *l, const struct kernel_lora *f, int32_t rank0,
                         const float *adapter, const float *dy, const float *x, const float *u,
                         float *dx, float *grad)
{
    for (int32_t r = 0; r < f->rank; r++) {
        double du = 0;
        for (int32_t n = 0; n < f->rows; n++)
            du += (double)dy[f->row0 + n] * adapter[f->b + (size_t)(n * f->rank + r)];
        du *= l->scale;
        size_t a = l->a + (size_t)(rank0 + r) * (size_t)l->w.cols;
        for (int32_t n = 0; n < f->rows && grad; n++)
            grad[f->b + (size_t)(n * f->rank + r)] += dy[f->row0 + n] * u[rank0 + r];
        for (int32_t k = 0; k < l->w.cols; k++) {
            if (grad)
                grad[a + (size_t)k] += (float)(du * x[k]);
            if (dx)
                dx[k] += (float)(du * adapter[a + (size_t)k]);
        }
    }
}

void linear_bwd_ref(const struct kernel_ctx *cx, const struct kernel_linear *l,
                    const float *adapter, const kernel_act *dy_act, ptrdiff_t lddy,
                    const kernel_act *x_act, ptrdiff_t ldx, const kernel_act *u_act, ptrdiff_t ldu,
                    int32_t m, const kernel_act *dx0_act, kernel_act *dx_act, ptrdiff_t lddx,
                    float *grad, float *dw)
{
    const float *dy = act_in(dy_act), *x = act_in(x_act), *u = act_in(u_act),
                *dx0 = act_in(dx0_act);
    float *dx = act_out(dx_act);
    (void)cx;
    for (int32_t i = 0; i < m; i++) {
        const float *d = dy + i * lddy;
        for (int32_t k = 0; k < l->w.cols; k++) {
            double sum = dx && dx0 ? dx0[i * lddx + k] : 0.0;
            for (int32_t n = 0; n < l->w.rows; n++) {
                sum += (double)d[n] * kernel_weight_value(&l->w, n, k);
                if (dw)
                    dw[(ptrdiff_t)n * l->w.cols + k] += d[n] * x[i * ldx + k];
            }
            if (dx)
                dx[i * lddx + k] = (float)sum;
        }
        int32_t rank0 = 0;
        for (int32_t t = 0; t < l->n_lora; rank0 += l->lora[t++].rank)
            lora_bwd_ref(l, &l->lora[t], rank0, adapter, d, x + i * ldx, u + i * ldu,
                         dx ? dx + i * lddx : NULL, grad);
    }
}
