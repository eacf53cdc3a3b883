#ifdef SIMD_LANES // read for each instruction set

SIMD_KERNEL void SIMD_NAME(embed_rows)(const float *dx, ptrdiff_t lddx, const int32_t *tokens,
                                       int32_t m, int32_t cols, float *token_sq, float *dtable)
{
    for (int32_t i = 0; i < m; i++) {
        const float *row = dx + i * lddx;
        float *to = dtable ? dtable + (ptrdiff_t)tokens[i] * cols : NULL;
        simd_f sum[SIMD_PIECES] = {{0}};
        int32_t j = 0;
        for (; j + SIMD_WIDE <= cols; j += SIMD_WIDE)
            for (int p = 0; p < SIMD_PIECES; p++) {
                simd_f v = *simd_of(row + j + p * SIMD_LANES);
                sum[p] += v * v;
                if (to)
                    *simd_at(to + j + p * SIMD_LANES) += v;
            }
        for (int32_t k = j; to && k < cols; k++)
            to[k] += row[k];
        for (int p = 0; p < SIMD_PIECES && j < cols; p++, j += SIMD_LANES) {
            simd_f v;
            simd_load_part(&v, row + j, cols - j, 0.0f);
            sum[p] += v * v;
        }
        if (token_sq)
            token_sq[i] = simd_sum(sum);
    }
}

#else

#include "act.h"
#include "simd.h"

#include <string.h>

#define SIMD_FILE "embed.c"
#include "simd_each.h"

void embed_fwd_cpu(const struct kernel_ctx *cx, const struct kernel_weight *table,
                   const int32_t *tokens, int32_t m, kernel_act *x_act, ptrdiff_t ldx)
{
    float *x = act_out(x_act);
    (void)cx;
    for (int32_t i = 0; i < m; i++)
        kernel_weight_row(table, tokens[i], x + i * ldx);
}

void embed_bwd_cpu(const struct kernel_ctx *cx, const kernel_act *dx, ptrdiff_t lddx,
                   const int32_t *tokens, int32_t m, int32_t cols, float *token_sq, float *dtable)
{
    (void)cx;
    SIMD_PICK(embed_rows, (act_in(dx), lddx, tokens, m, cols, token_sq, dtable));
}

void gather_rows_cpu(const struct kernel_ctx *cx, const kernel_act *x_act, ptrdiff_t ldx,
                     const int32_t *row, int32_t n, int32_t cols, kernel_act *y_act, ptrdiff_t ldy)
{
    const float *x = act_in(x_act);
    float *y = act_out(y_act);
    (void)cx;
    for (int32_t i = 0; i < n; i++)
        memcpy(y + i * ldy, x + row[i] * ldx, (size_t)cols * sizeof *y);
}

void scatter_rows_cpu(const struct kernel_ctx *cx, const kernel_act *y_act, ptrdiff_t ldy,
                      const int32_t *row, int32_t n, int32_t cols, kernel_act *x_act, ptrdiff_t ldx,
                      int32_t m)
{
    const float *y = act_in(y_act);
    float *x = act_out(x_act);
    (void)cx;
    int32_t next = 0;
    for (int32_t i = 0; i < m; i++) {
        if (next < n && row[next] == i)
            memcpy(x + i * ldx, y + next++ * ldy, (size_t)cols * sizeof *x);
        else
            memset(x + i * ldx, 0, (size_t)cols * sizeof *x);
    }
}

void widen_rows_cpu(const struct kernel_ctx *cx, const kernel_act *x, ptrdiff_t ldx, int32_t m,
                    int32_t cols, float *y)
{
    (void)cx;
    for (int32_t i = 0; i < m; i++)
        memcpy(y + (ptrdiff_t)i * cols, act_in(x) + i * ldx, (size_t)cols * sizeof *y);
}

void narrow_rows_cpu(const struct kernel_ctx *cx, const float *x, int32_t m, int32_t cols,
                     kernel_act *y, ptrdiff_t ldy)
{
    (void)cx;
    for (int32_t i = 0; i < m; i++)
        memcpy(act_out(y) + i * ldy, x + (ptrdiff_t)i * cols, (size_t)cols * sizeof *x);
}

void embed_fwd_ref(const struct kernel_ctx *cx, const struct kernel_weight *table,
                   const int32_t *tokens, int32_t m, kernel_act *x_act, ptrdiff_t ldx)
{
    float *x = act_out(x_act);
    (void)cx;
    for (int32_t i = 0; i < m; i++)
        for (int32_t j = 0; j < table->cols; j++)
            x[i * ldx + j] = kernel_weight_value(table, tokens[i], j);
}

void embed_bwd_ref(const struct kernel_ctx *cx, const kernel_act *dx_act, ptrdiff_t lddx,
                   const int32_t *tokens, int32_t m, int32_t cols, float *token_sq, float *dtable)
{
    const float *dx = act_in(dx_act);
    (void)cx;
    for (int32_t i = 0; i < m; i++) {
        double sum = 0;
        for (int32_t j = 0; j < cols; j++) {
            sum += (double)dx[i * lddx + j] * dx[i * lddx + j];
            if (dtable)
                dtable[(ptrdiff_t)tokens[i] * cols + j] += dx[i * lddx + j];
        }
        if (token_sq)
            token_sq[i] = (float)sum;
    }
}

void gather_rows_ref(const struct kernel_ctx *cx, const kernel_act *x_act, ptrdiff_t ldx,
                     const int32_t *row, int32_t n, int32_t cols, kernel_act *y_act, ptrdiff_t ldy)
{
    const float *x = act_in(x_act);
    float *y = act_out(y_act);
    (void)cx;
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < cols; j++)
            y[i * ldy + j] = x[row[i] * ldx + j];
}

void scatter_rows_ref(const struct kernel_ctx *cx, const kernel_act *y_act, ptrdiff_t ldy,
                      const int32_t *row, int32_t n, int32_t cols, kernel_act *x_act, ptrdiff_t ldx,
                      int32_t m)
{
    const float *y = act_in(y_act);
    float *x = act_out(x_act);
    (void)cx;
    for (int32_t i = 0; i < m; i++)
        for (int32_t j = 0; j < cols; j++)
            x[i * ldx + j] = 0.0f;
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < cols; j++)
            x[row[i] * ldx + j] = y[i * ldy + j];
}

void widen_rows_ref(const struct kernel_ctx *cx, const kernel_act *x, ptrdiff_t ldx, int32_t m,
                    int32_t cols, float *y)
{
    (void)cx;
    for (int32_t i = 0; i < m; i++)
        for (int32_t j = 0; j < cols; j++)
            y[i * cols + j] = act_in(x)[i * ldx + j];
}

void narrow_rows_ref(const struct kernel_ctx *cx, const float *x, int32_t m, int32_t cols,
                     kernel_act *y, ptrdiff_t ldy)
{
    (void)cx;
    for (int32_t i = 0; i < m; i++)
        for (int32_t j = 0; j < cols; j++)
            act_out(y)[i * ldy + j] = x[i * cols + j];
}

#endif
