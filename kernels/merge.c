// Token merging (Bolya et al. 2023, ToMe) between the attention and the MLP of a causal layer.
#ifdef SIMD_LANES // read for each instruction set

SIMD_KERNEL void SIMD_NAME(unit_keys)(const struct kernel_merge *g, const float *key, ptrdiff_t ldk,
                                      int32_t m, float *unit)
{
    int32_t dim = g->head_dim, wide = padded(dim);
    for (int32_t i = 0; i < m; i++) {
        float *u = unit + (ptrdiff_t)i * wide;
        simd_f squares[SIMD_PIECES] = {{0}};
        memset(u, 0, (size_t)wide * sizeof *u);
        for (int32_t h = 0; h < g->kv_heads; h++)
            for (int32_t c = 0; c < dim; c++)
                u[c] += key[i * ldk + h * dim + c];
        for (int32_t c = 0; c < wide; c += SIMD_WIDE)
            for (int p = 0; p < SIMD_PIECES; p++) {
                simd_f v = *simd_of(u + c + p * SIMD_LANES);
                squares[p] += v * v;
            }
        float length = sqrtf(simd_sum(squares)), by = length > 0 ? 1 / length : 0;
        for (int32_t c = 0; c < wide; c += SIMD_LANES)
            *simd_at(u + c) *= by;
    }
}

// The likest b of every a among the first m rows; rows without one stay with themselves.
SIMD_KERNEL void SIMD_NAME(best_pairs)(const float *unit, int32_t wide, int32_t m, int32_t window,
                                       float *score, int32_t *partner)
{
    for (int32_t a = 2; a < m; a += 2) {
        score[a] = -INFINITY; // and so it stays where keys are not finite
        for (int32_t b = a + 1; b < m && b - a <= window; b += 2) {
            const float *x = unit + (ptrdiff_t)a * wide, *y = unit + (ptrdiff_t)b * wide;
            simd_f sum[SIMD_PIECES] = {{0}};
            for (int32_t c = 0; c < wide; c += SIMD_WIDE)
                for (int p = 0; p < SIMD_PIECES; p++)
                    sum[p] += *simd_of(x + c + p * SIMD_LANES) * *simd_of(y + c + p * SIMD_LANES);
            float s = rintf(simd_sum(sum) * STEPS);
            if (s > score[a]) {
                score[a] = s;
                partner[a] = b;
            }
        }
    }
}

SIMD_KERNEL void SIMD_NAME(add_scaled)(const float *x, float by, int32_t cols, float *y)
{
    for (int32_t c = 0; c < cols; c++)
        y[c] += by * x[c];
}

#else

#include "act.h"
#include "simd.h"

#include <assert.h>
#include <math.h>
#include <string.h>

// Rows of the metric: keys summed over heads, scaled to length 1, with zeros up to whole vectors.
static int32_t padded(int32_t dim)
{
    return (dim + SIMD_WIDE - 1) / SIMD_WIDE * SIMD_WIDE;
}

// Likeness is told apart in steps of this, so that pairs of equal tokens tie and rounding does not
// choose among them.
#define STEPS 65536

#define SIMD_FILE "merge.c"
#include "simd_each.h"

// The first `most` pairs by score stay, ties to the earlier.
static void keep_best(const float *score, int32_t m, int32_t most, int32_t *partner)
{
    int32_t kept = 0;
    for (int32_t a = 2; a < m; a += 2)
        kept += partner[a] != a;
    for (int32_t a = m - 1 - (m - 1) % 2; a >= 2 && kept > most; a -= 2) {
        int32_t better = 0;
        for (int32_t i = 2; i < m; i += 2)
            better += score[i] > score[a] || (score[i] == score[a] && i < a);
        if (partner[a] != a && better >= most) {
            partner[a] = a;
            kept--;
        }
    }
}

void merge_match_cpu(const struct kernel_ctx *cx, const struct kernel_merge *g,
                     const struct kernel_seqs *seqs, const int32_t *free, const kernel_act *key_act,
                     ptrdiff_t ldk, int32_t *partner)
{
    const float *key = act_in(key_act);
    int32_t wide = padded(g->head_dim);
    for (int32_t q = 0; q < seqs->n; q++) {
        int32_t row = seqs->start[q], m = free[q], *own = partner + row;
        float *unit = cx->work, *score = unit + (ptrdiff_t)m * wide;
        assert((size_t)(score - unit) + (size_t)m <= cx->work_floats);
        for (int32_t i = 0; i < seqs->start[q + 1] - row; i++)
            own[i] = i;
        SIMD_PICK(unit_keys, (g, key + row * ldk, ldk, m, unit));
        SIMD_PICK(best_pairs, (unit, wide, m, g->window, score, own));
        keep_best(score, m, (int32_t)(g->ratio * m), own);
        for (int32_t i = 0; i < seqs->start[q + 1] - row; i++)
            own[i] += row;
    }
}

void merge_rows_cpu(const struct kernel_ctx *cx, const kernel_act *x_act, ptrdiff_t ldx,
                    const int32_t *into, const float *share, int32_t m, int32_t cols,
                    kernel_act *y_act, ptrdiff_t ldy, int32_t rows)
{
    const float *x = act_in(x_act);
    float *y = act_out(y_act);
    (void)cx;
    for (int32_t i = 0; i < rows; i++)
        memset(y + i * ldy, 0, (size_t)cols * sizeof *y);
    for (int32_t i = 0; i < m; i++)
        SIMD_PICK(add_scaled, (x + i * ldx, share[i], cols, y + into[i] * ldy));
}

void merge_rows_bwd_cpu(const struct kernel_ctx *cx, const kernel_act *dy_act, ptrdiff_t lddy,
                        const int32_t *into, const float *share, int32_t m, int32_t cols,
                        kernel_act *dx_act, ptrdiff_t lddx)
{
    const float *dy = act_in(dy_act);
    float *dx = act_out(dx_act);
    (void)cx;
    for (int32_t i = 0; i < m; i++) {
        memset(dx + i * lddx, 0, (size_t)cols * sizeof *dx);
        SIMD_PICK(add_scaled, (dy + into[i] * lddy, share[i], cols, dx + i * lddx));
    }
}

static double likeness_ref(const struct kernel_merge *g, const float *a, const float *b)
{
    double ab = 0, aa = 0, bb = 0;
    for (int32_t c = 0; c < g->head_dim; c++) {
        double x = 0, y = 0;
        for (int32_t h = 0; h < g->kv_heads; h++) {
            x += (double)a[h * g->head_dim + c];
            y += (double)b[h * g->head_dim + c];
        }
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    return aa > 0 && bb > 0 ? rint(ab / sqrt(aa) / sqrt(bb) * STEPS) : 0;
}

// The pair to merge next: the best whose a is still alone.
static double next_pair_ref(const struct kernel_merge *g, const float *key, ptrdiff_t ldk,
                            int32_t m, const int32_t *partner, int32_t *a, int32_t *b)
{
    double top = -INFINITY;
    for (int32_t i = 2; i < m; i += 2)
        for (int32_t j = i + 1; j < m && j - i <= g->window && partner[i] == i; j += 2) {
            double s = likeness_ref(g, key + i * ldk, key + j * ldk);
            if (s > top) {
                top = s;
                *a = i;
                *b = j;
            }
        }
    return top;
}

void merge_match_ref(const struct kernel_ctx *cx, const struct kernel_merge *g,
                     const struct kernel_seqs *seqs, const int32_t *free, const kernel_act *key_act,
                     ptrdiff_t ldk, int32_t *partner)
{
    const float *key = act_in(key_act);
    (void)cx;
    for (int32_t q = 0; q < seqs->n; q++) {
        int32_t row = seqs->start[q], a, b;
        for (int32_t i = 0; i < seqs->start[q + 1] - row; i++)
            partner[row + i] = i;
        for (int32_t k = 0; k < (int32_t)(g->ratio * free[q]); k++)
            if (next_pair_ref(g, key + row * ldk, ldk, free[q], partner + row, &a, &b) > -INFINITY)
                partner[row + a] = b;
        for (int32_t i = 0; i < seqs->start[q + 1] - row; i++)
            partner[row + i] += row;
    }
}

void merge_rows_ref(const struct kernel_ctx *cx, const kernel_act *x_act, ptrdiff_t ldx,
                    const int32_t *into, const float *share, int32_t m, int32_t cols,
                    kernel_act *y_act, ptrdiff_t ldy, int32_t rows)
{
    const float *x = act_in(x_act);
    float *y = act_out(y_act);
    (void)cx;
    for (int32_t r = 0; r < rows; r++)
        for (int32_t c = 0; c < cols; c++) {
            double sum = 0;
            for (int32_t i = 0; i < m; i++)
                sum += into[i] == r ? (double)share[i] * (double)x[i * ldx + c] : 0;
            y[r * ldy + c] = (float)sum;
        }
}

void merge_rows_bwd_ref(const struct kernel_ctx *cx, const kernel_act *dy_act, ptrdiff_t lddy,
                        const int32_t *into, const float *share, int32_t m, int32_t cols,
                        kernel_act *dx_act, ptrdiff_t lddx)
{
    const float *dy = act_in(dy_act);
    float *dx = act_out(dx_act);
    (void)cx;
    for (int32_t i = 0; i < m; i++)
        for (int32_t c = 0; c < cols; c++)
            dx[i * lddx + c] = share[i] * dy[into[i] * lddy + c];
}

#endif
