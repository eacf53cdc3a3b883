// Cross-entropy fused with the output head: logits exist one tile of the vocabulary at a time. The
// softmax is taken online: with running maximum M and sum S, a new tile adds exp(logit - M) E_tile
// to dx, and dx and S shrink by exp(M_old - M_new) whenever M grows; at the end dx / S - E_target
// is the gradient.
#ifdef SIMD_LANES // read for each instruction set

// One tile of logits (m, n) at vocabulary v0: updates the running softmax, leaves exp(logit - M).
SIMD_KERNEL void SIMD_NAME(tile_softmax)(const struct rows *r, float *tile, ptrdiff_t ld,
                                         int32_t v0, int32_t n)
{
    for (int32_t i = 0; i < r->m; i++) {
        float *t = tile + i * ld;
        simd_f most[SIMD_PIECES];
        for (int p = 0; p < SIMD_PIECES; p++)
            most[p] = (simd_f){0} - INFINITY;
        int32_t j = 0;
        for (; j + SIMD_WIDE <= n; j += SIMD_WIDE)
            for (int p = 0; p < SIMD_PIECES; p++)
                simd_max(&most[p], simd_of(t + j + p * SIMD_LANES));
        float top = simd_top(most);
        for (; j < n; j++)
            top = t[j] > top ? t[j] : top;
        if (r->target[i] >= v0 && r->target[i] < v0 + n)
            r->picked[i] = t[r->target[i] - v0];
        if (top > r->top[i] || v0 == 0) {
            if (r->best)
                for (j = 0; j < n; j++)
                    if (t[j] == top) {
                        r->best[i] = v0 + j;
                        break;
                    }
            if (v0 > 0) {
                simd_f shrink = (simd_f){0} + (r->top[i] - top);
                simd_exp(&shrink);
                r->sum[i] *= shrink[0];
                for (j = 0; j < r->cols && r->dx; j++)
                    r->dx[i * r->lddx + j] *= shrink[0];
            }
            r->top[i] = top;
        } else {
            top = r->top[i];
        }
        simd_f sum[SIMD_PIECES] = {{0}};
        for (j = 0; j + SIMD_WIDE <= n; j += SIMD_WIDE)
            for (int p = 0; p < SIMD_PIECES; p++) {
                simd_f v = *simd_of(t + j + p * SIMD_LANES) - top;
                simd_exp(&v);
                *simd_at(t + j + p * SIMD_LANES) = v;
                sum[p] += v;
            }
        for (; j < n; j += SIMD_LANES) {
            simd_f v;
            simd_load_part(&v, t + j, n - j, -INFINITY);
            v -= top;
            simd_exp(&v);
            simd_store_part(t + j, &v, n - j);
            for (int32_t c = j; c < n && c < j + SIMD_LANES; c++)
                r->sum[i] += t[c];
        }
        r->sum[i] += simd_sum(sum);
    }
}

#else

#include "act.h"
#include "gemm.h"
#include "simd.h"

#include <assert.h>
#include <math.h>

enum { TILE_FLOATS = 1 << 18, TILE_VOCAB = 512, TILE_WHOLE = 1024 };

// Columns of a tile depend on the vocabulary alone: results must not depend on the batch.
static int32_t tile_vocab(int32_t vocab)
{
    return vocab <= TILE_WHOLE ? vocab : TILE_VOCAB;
}

struct rows { // a block of rows on its way through the tiles
    int32_t m;
    const int32_t *target;
    float *top, *sum, *picked; // (m): running maximum and sum, the target's logit
    int32_t *best;
    float *dx;
    ptrdiff_t lddx;
    int32_t cols, math;
    const struct kernel_team *team;
};

#define SIMD_FILE "ce.c"
#include "simd_each.h"

static struct kernel_weight part(const struct kernel_weight *w, int32_t row0, int32_t rows)
{
    struct kernel_weight p = *w;
    if (w->blocks)
        p.row0 += row0;
    else
        p.w = (const char *)w->w + (size_t)row0 * (size_t)w->ld * kernel_dtype_bytes(w->dtype);
    p.packed = w->packed ? w->packed + (size_t)row0 * (size_t)w->cols : NULL;
    p.rows = rows;
    return p;
}

// dx (m, cols) = [dx +] tile (m, n) times rows of the head.
static void tile_times_head(const struct kernel_weight *w, int32_t math, const float *tile,
                            ptrdiff_t ld, int32_t m, bool accumulate, float *dx, ptrdiff_t lddx,
                            float *work)
{
    struct gemm g = {.m = m,
                     .n = w->cols,
                     .k = w->rows,
                     .a = tile,
                     .rsa = ld,
                     .csa = 1,
                     .b = gemm_stored(w, false),
                     .c0 = accumulate ? dx : NULL,
                     .ldc0 = lddx,
                     .c = dx,
                     .ldc = lddx,
                     .alpha = 1.0f,
                     .bf16 = math == KERNEL_MATH_BF16};
    g.b.readable = m <= 64;
    gemm(&g, work);
}

// dw rows of the tile += tile^T x, tile scaled to the final gradient of the logits.
static void tile_times_x(const struct rows *r, const float *weight, float *tile, ptrdiff_t ld,
                         int32_t v0, int32_t n, const float *x, ptrdiff_t ldx, float *dw)
{
    for (int32_t i = 0; i < r->m; i++) {
        float by = r->target[i] < 0 ? 0.0f : weight[i] / r->sum[i];
        for (int32_t j = 0; j < n; j++)
            tile[i * ld + j] *= by;
        if (r->target[i] >= v0 && r->target[i] < v0 + n)
            tile[i * ld + r->target[i] - v0] -= weight[i];
    }
    struct gemm g = {.m = n,
                     .n = r->cols,
                     .k = r->m,
                     .a = tile,
                     .rsa = 1,
                     .csa = ld,
                     .b = {.w = x, .ld = ldx, .dtype = KERNEL_F32, .readable = true},
                     .c0 = dw + (ptrdiff_t)v0 * r->cols,
                     .ldc0 = r->cols,
                     .c = dw + (ptrdiff_t)v0 * r->cols,
                     .ldc = r->cols,
                     .alpha = 1.0f};
    gemm(&g, NULL);
}

// dx = weight (dx / S - E_target)
static void finish_dx(const struct rows *r, const struct kernel_weight *head, const float *weight,
                      float *row)
{
    for (int32_t i = 0; i < r->m; i++) {
        float *dx = r->dx + i * r->lddx;
        if (r->target[i] < 0) {
            memset(dx, 0, (size_t)r->cols * sizeof *dx);
            continue;
        }
        kernel_weight_row(head, r->target[i], row);
        float by = weight[i] / r->sum[i], w = weight[i];
        for (int32_t j = 0; j < r->cols; j++)
            dx[j] = dx[j] * by - w * row[j];
    }
}

static void block_rows(const struct kernel_weight *head, struct rows *r, const float *x,
                       ptrdiff_t ldx, const float *weight, float *loss, float *dw, float *tile,
                       float *work)
{
    struct kernel_ctx cx = {
        .work = work, .work_floats = GEMM_WORK, .math = r->math, .team = r->team};
    int32_t step = tile_vocab(head->rows);
    ptrdiff_t ld = (step + 15) / 16 * 16;
    for (int32_t i = 0; i < r->m; i++) {
        r->sum[i] = r->picked[i] = 0.0f;
        if (r->best)
            r->best[i] = 0; // and so it stays where no logit is a number
    }
    for (int32_t v0 = 0; v0 < head->rows; v0 += step) {
        int32_t n = head->rows - v0 < step ? head->rows - v0 : step;
        struct kernel_weight w = part(head, v0, n);
        kernel_gemm(&cx, r->m, x, ldx, &w, tile, ld);
        SIMD_PICK(tile_softmax, (r, tile, ld, v0, n));
        if (r->dx)
            tile_times_head(&w, r->math, tile, ld, r->m, v0 > 0, r->dx, r->lddx, work);
    }
    for (int32_t i = 0; i < r->m && loss; i++)
        loss[i] = r->target[i] < 0 ? 0.0f : logf(r->sum[i]) + r->top[i] - r->picked[i];
    // The head's own gradient needs final probabilities: a second pass unless one tile held
    // everything.
    for (int32_t v0 = 0; v0 < head->rows && dw; v0 += step) {
        int32_t n = head->rows - v0 < step ? head->rows - v0 : step;
        if (step < head->rows) {
            struct kernel_weight w = part(head, v0, n);
            kernel_gemm(&cx, r->m, x, ldx, &w, tile, ld);
            for (int32_t i = 0; i < r->m; i++)
                for (int32_t j = 0; j < n; j++)
                    tile[i * ld + j] = expf(tile[i * ld + j] - r->top[i]);
        }
        tile_times_x(r, weight, tile, ld, v0, n, x, ldx, dw);
    }
    if (r->dx)
        finish_dx(r, head, weight, work);
}

void ce_head_cpu(const struct kernel_ctx *cx, const struct kernel_weight *head,
                 const kernel_act *x_act, ptrdiff_t ldx, int32_t m, const int32_t *target,
                 const float *weight, float *loss, int32_t *best, kernel_act *dx_act,
                 ptrdiff_t lddx, float *dw)
{
    const float *x = act_in(x_act);
    float *dx = act_out(dx_act);
    int32_t wide = (tile_vocab(head->rows) + 15) / 16 * 16, most = TILE_FLOATS / wide;
    float *tile = cx->work, *state = tile + TILE_FLOATS, *work = state + (ptrdiff_t)3 * most;
    work += (16 - ((work - cx->work) & 15)) & 15;
    assert((size_t)(work - cx->work) + GEMM_WORK <= cx->work_floats &&
           head->cols <= (int)GEMM_WORK);
    for (int32_t i = 0; i < m; i += most) {
        struct rows r = {.m = m - i < most ? m - i : most,
                         .target = target + i,
                         .top = state,
                         .sum = state + most,
                         .picked = state + (ptrdiff_t)2 * most,
                         .best = best ? best + i : NULL,
                         .dx = dx ? dx + i * lddx : NULL,
                         .lddx = lddx,
                         .cols = head->cols,
                         .math = cx->math,
                         .team = cx->team};
        block_rows(head, &r, x + i * ldx, ldx, weight ? weight + i : NULL, loss ? loss + i : NULL,
                   dw, tile, work);
    }
}

static double logit_ref(const struct kernel_weight *head, const float *x, int32_t v)
{
    double sum = 0;
    for (int32_t c = 0; c < head->cols; c++)
        sum += (double)x[c] * kernel_weight_value(head, v, c);
    return sum;
}

void ce_head_ref(const struct kernel_ctx *cx, const struct kernel_weight *head,
                 const kernel_act *x_act, ptrdiff_t ldx, int32_t m, const int32_t *target,
                 const float *weight, float *loss, int32_t *best, kernel_act *dx_act,
                 ptrdiff_t lddx, float *dw)
{
    const float *x = act_in(x_act);
    float *dx = act_out(dx_act);
    (void)cx;
    for (int32_t i = 0; i < m; i++) {
        const float *row = x + i * ldx;
        double top = -INFINITY, sum = 0;
        if (best)
            best[i] = 0;
        for (int32_t v = 0; v < head->rows; v++) {
            double l = logit_ref(head, row, v);
            if (best && l > top)
                best[i] = v;
            top = fmax(top, l);
        }
        for (int32_t v = 0; v < head->rows; v++)
            sum += exp(logit_ref(head, row, v) - top);
        if (loss)
            loss[i] =
                target[i] < 0 ? 0.0f : (float)(log(sum) + top - logit_ref(head, row, target[i]));
        for (int32_t c = 0; c < head->cols && dx; c++)
            dx[i * lddx + c] = 0.0f;
        for (int32_t v = 0; v < head->rows && target[i] >= 0 && (dx || dw); v++) {
            double p = exp(logit_ref(head, row, v) - top) / sum - (v == target[i]);
            for (int32_t c = 0; c < head->cols; c++) {
                float w = kernel_weight_value(head, v, c);
                if (dx)
                    dx[i * lddx + c] += (float)(weight[i] * p * w);
                if (dw)
                    dw[(ptrdiff_t)v * head->cols + c] += (float)(weight[i] * p * row[c]);
            }
        }
    }
}

size_t kernel_work_floats(int32_t tokens, int32_t longest, int32_t widest, int32_t ranks,
                          int32_t head_dim)
{
    size_t keys = (size_t)(longest + GEMM_PANEL), wide = (size_t)(widest + GEMM_PANEL);
    size_t r = (size_t)(ranks + 16);
    size_t attention = 2 * keys * ((size_t)head_dim + 48);
    size_t ce = TILE_FLOATS + 3 * (TILE_FLOATS / 16) + 16 + GEMM_WORK;
    // Adapters: du, B^T of all panels (a panel may span all targets), and the ranges.
    size_t linear =
        ((size_t)tokens + 1) * r + wide * r + wide * sizeof(struct gemm_range) + GEMM_WORK + 64;
    size_t most = attention > ce ? attention : ce;
    return (most > linear ? most : linear) + KERNEL_SLACK;
}

#endif
