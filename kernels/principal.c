// Tiles of a matrix whose rows are mixed by a small orthogonal matrix: sums of products of its
// rows, the mixing itself, codes of what comes out, and back. A row of a tile has KLT_TILE places;
// those behind its columns, up to the next multiple of 16, are zeros.
#ifdef SIMD_LANES // read for each instruction set

#define klt_products  SIMD_NAME(klt_products)
#define klt_rows      SIMD_NAME(klt_rows)
#define klt_gram_rows SIMD_NAME(klt_gram_rows)
#define KLT_OWN       (SIMD_REGISTERS > 16 && SIMD_PIECES == 1 ? 4 : 1) // rows at a time
#define klt_add       SIMD_NAME(klt_add)
#define klt_total     SIMD_NAME(klt_total)

// Of `own` rows from i and `many` rows from j on: 16 lanes a product, added by a fixed tree.
SIMD_INLINE void klt_products(const float *m, size_t i, const int own, size_t j, const int many,
                              size_t cols, double *out, size_t ld)
{
    simd_f sum[KLT_OWN][4][SIMD_PIECES];
    memset(sum, 0, sizeof sum);
    for (size_t c = 0; c < cols; c += SIMD_WIDE)
        for (int p = 0; p < SIMD_PIECES; p++) {
            simd_f row[KLT_OWN];
            for (int o = 0; o < own; o++)
                row[o] = *simd_of(m + (i + (size_t)o) * KLT_TILE + c + (size_t)p * SIMD_LANES);
            for (int k = 0; k < many; k++) {
                const simd_f other =
                    *simd_of(m + (j + (size_t)k) * KLT_TILE + c + (size_t)p * SIMD_LANES);
                for (int o = 0; o < own; o++)
                    sum[o][k][p] += row[o] * other;
            }
        }
    for (int o = 0; o < own; o++)
        for (int k = 0; k < many; k++)
            out[(size_t)o * ld + (size_t)k] += (double)simd_sum(sum[o][k]);
}

// Columns [j, end) of rows [i, i + own) of g.
SIMD_INLINE void klt_gram_rows(const float *m, size_t i, const int own, size_t j, size_t end,
                               size_t cols, double *g, size_t ld)
{
    for (; j + 4 <= end; j += 4)
        klt_products(m, i, own, j, 4, cols, g + i * ld + j, ld);
    for (; j < end; j++)
        klt_products(m, i, own, j, 1, cols, g + i * ld + j, ld);
}

SIMD_KERNEL void SIMD_NAME(klt_gram)(const float *m, size_t rows, size_t cols, double *g)
{
    size_t i = 0;
    for (; i + KLT_OWN <= rows && KLT_OWN > 1;
         i += KLT_OWN) { // the block on the diagonal, the rest
        for (size_t o = 0; o < KLT_OWN; o++)
            klt_gram_rows(m, i + o, 1, i + o, i + KLT_OWN, cols, g, rows);
        klt_gram_rows(m, i, KLT_OWN, i + KLT_OWN, rows, cols, g, rows);
    }
    for (; i < rows; i++)
        klt_gram_rows(m, i, 1, i, rows, cols, g, rows);
}

SIMD_KERNEL float SIMD_NAME(klt_column)(const float *m, size_t rows, size_t cols)
{
    float most = 0;
    for (size_t c = 0; c < cols; c += SIMD_WIDE) {
        simd_f sum[SIMD_PIECES];
        memset(sum, 0, sizeof sum);
        for (size_t i = 0; i < rows; i++)
            for (int p = 0; p < SIMD_PIECES; p++) {
                const simd_f v = *simd_of(m + i * KLT_TILE + c + (size_t)p * SIMD_LANES);
                sum[p] += v * v;
            }
        float top = simd_top(sum);
        most = top > most ? top : most;
    }
    return most;
}

// Rows [a, a + many) of what comes out, terms in the order of `from`'s rows.
SIMD_INLINE void klt_rows(const float *w, size_t a, const int many, size_t inner, const float *from,
                          size_t cols, float *to)
{
    for (size_t c = 0; c < cols; c += SIMD_WIDE) {
        simd_f sum[4][SIMD_PIECES];
        memset(sum, 0, sizeof sum);
        for (size_t b = 0; b < inner; b++)
            for (int p = 0; p < SIMD_PIECES; p++) {
                const simd_f v = *simd_of(from + b * KLT_TILE + c + (size_t)p * SIMD_LANES);
                for (int k = 0; k < many; k++)
                    sum[k][p] += w[(a + (size_t)k) * inner + b] * v;
            }
        for (int k = 0; k < many; k++)
            for (int p = 0; p < SIMD_PIECES; p++)
                *simd_at(to + (a + (size_t)k) * KLT_TILE + c + (size_t)p * SIMD_LANES) = sum[k][p];
    }
}

SIMD_KERNEL void SIMD_NAME(klt_mix)(const float *w, size_t rows, size_t inner, const float *from,
                                    size_t cols, float *to)
{
    size_t a = 0;
    for (; a + 4 <= rows; a += 4)
        klt_rows(w, a, 4, inner, from, cols, to);
    for (; a < rows; a++)
        klt_rows(w, a, 1, inner, from, cols, to);
}

// What codes' magnitudes m and the values a they stand for add to the sums.
SIMD_INLINE void klt_add(const simd_f *m, const simd_f *a, simd_f sum[4])
{
    const simd_i one = *m == 1, two = *m == 2, more = *m > 2;
    const simd_f big = (simd_f)((simd_i)*a & more);
    sum[0] += (simd_f)((simd_i)*a & one);
    sum[1] += (simd_f)((simd_i)*a & two);
    sum[2] += big;
    sum[3] += big * *m;
}

// sum: 16 lanes each, piece by piece.
SIMD_INLINE void klt_total(simd_f (*sum)[4], struct klt_means *s)
{
    double *const to[4] = {&s->one, &s->two, &s->more, &s->by};
    for (int k = 0; k < 4; k++) {
        simd_f lanes[SIMD_PIECES];
        for (int p = 0; p < SIMD_PIECES; p++)
            lanes[p] = sum[p][k];
        *to[k] += (double)simd_sum(lanes);
    }
}

SIMD_KERNEL void SIMD_NAME(klt_code)(const float *y, size_t n, float round, uint8_t *code,
                                     struct klt_means *s)
{
    const simd_f most = (simd_f){0} + KLT_MOST;
    simd_f sum[SIMD_PIECES][4];
    int32_t wide[KLT_TILE];
    memset(sum, 0, sizeof sum);
    for (size_t c = 0; c < n; c += SIMD_WIDE)
        for (int p = 0; p < SIMD_PIECES; p++) {
            const size_t at = c + (size_t)p * SIMD_LANES;
            const simd_f v = *simd_of(y + at), a = (simd_f)((simd_i)v & 0x7fffffff);
            simd_f t = a + round;
            simd_min(&t, &most);
            const simd_i m = __builtin_convertvector(t, simd_i), sign = (simd_i)v >> 31;
            const simd_f level = __builtin_convertvector(m, simd_f);
            const simd_i own = KLT_MOST + ((m ^ sign) - sign);
            memcpy(wide + at, &own, sizeof own);
            klt_add(&level, &a, sum[p]);
        }
    for (size_t i = 0; i < n; i++)
        code[i] = (uint8_t)wide[i];
    klt_total(sum, s);
}

SIMD_KERNEL void SIMD_NAME(klt_means)(const float *y, const uint8_t *code, size_t n,
                                      struct klt_means *s)
{
    simd_f sum[SIMD_PIECES][4];
    float level[KLT_TILE + SIMD_WIDE] = {0};
    memset(sum, 0, sizeof sum);
    for (size_t i = 0; i < n; i++)
        level[i] = (float)(code[i] < KLT_MOST ? KLT_MOST - code[i] : code[i] - KLT_MOST);
    for (size_t c = 0; c < n; c += SIMD_WIDE)
        for (int p = 0; p < SIMD_PIECES; p++) {
            const size_t at = c + (size_t)p * SIMD_LANES;
            const simd_f a = (simd_f)(*(const simd_i *)simd_of(y + at) & 0x7fffffff);
            klt_add(simd_of(level + at), &a, sum[p]);
        }
    klt_total(sum, s);
}

SIMD_KERNEL void SIMD_NAME(klt_give)(const uint8_t *code, size_t n, const struct klt_worth *w,
                                     float *v)
{
    int32_t wide[KLT_TILE];
    for (size_t i = 0; i < n; i++)
        wide[i] = code[i];
    memset(wide + n, 0, (size_t)(KLT_TILE - n) * sizeof *wide);
    for (size_t i = 0; i < n; i += SIMD_LANES) {
        simd_i c, one, two, more, sign;
        memcpy(&c, wide + i, sizeof c);
        c -= KLT_MOST;
        sign = c >> 31;
        one = ((c ^ sign) - sign) == 1;
        two = ((c ^ sign) - sign) == 2;
        more = ((c ^ sign) - sign) > 2;
        const simd_f base = (simd_f){0};
        simd_i off = ((simd_i)(base + w->one) & one) | ((simd_i)(base + w->two) & two) |
                     ((simd_i)(base + w->more) & more);
        off ^= sign & INT32_MIN;
        *simd_at(v + i) = __builtin_convertvector(c, simd_f) * w->step + (simd_f)off;
    }
}

#undef klt_products
#undef klt_gram_rows
#undef KLT_OWN
#undef klt_rows
#undef klt_add
#undef klt_total

#else

#include "kernels_codec.h"
#include "simd.h"

#include <string.h>

#define SIMD_FILE "principal.c"
#include "simd_each.h"

static size_t padded(size_t cols)
{
    return (cols + SIMD_WIDE - 1) / SIMD_WIDE * SIMD_WIDE;
}

void klt_load(const float *x, const struct klt_tile *t, float scale, float *m)
{
    const size_t end = padded(t->cols);
    if (t->turned) {
        for (size_t c = 0; c < t->cols; c++)
            for (size_t r = 0; r < t->rows; r++)
                m[r * KLT_TILE + c] = x[(t->at + c) * t->rows + r] * scale;
    } else {
        for (size_t r = 0; r < t->rows; r++)
            for (size_t c = 0; c < t->cols; c++)
                m[r * KLT_TILE + c] = x[r * t->length + t->at + c] * scale;
    }
    for (size_t r = 0; r < t->rows && end > t->cols; r++)
        memset(m + r * KLT_TILE + t->cols, 0, (end - t->cols) * sizeof *m);
}

void klt_store(const float *m, const struct klt_tile *t, struct quant_sink to)
{
    float *x = to.to + t->at * (t->turned ? t->rows : 1);
    if (!t->turned) {
        for (size_t r = 0; r < t->rows; r++)
            quant_f32_give(m + r * KLT_TILE, t->cols,
                           (struct quant_sink){x + r * t->length, to.weight, to.add});
        return;
    }
    for (size_t c = 0; c < t->cols; c++, x += t->rows)
        for (size_t r = 0; r < t->rows; r++)
            x[r] = to.add ? x[r] + to.weight * m[r * KLT_TILE + c] : m[r * KLT_TILE + c];
}

void klt_gram(const float *m, size_t rows, size_t cols, double *g)
{
    SIMD_PICK(klt_gram, (m, rows, padded(cols), g));
}

float klt_column(const float *m, size_t rows, size_t cols)
{
    return SIMD_PICK(klt_column, (m, rows, padded(cols)));
}

void klt_mix(const float *w, size_t rows, size_t inner, const float *from, size_t cols, float *to)
{
    SIMD_PICK(klt_mix, (w, rows, inner, from, padded(cols), to));
}

void klt_code(const float *y, size_t n, float round, uint8_t *code, struct klt_means *s)
{
    SIMD_PICK(klt_code, (y, n, round, code, s));
}

// Of the magnitude c that klt_code takes, c - 1 and 0.
void klt_code_rd(const float *y, size_t n, float round, const struct klt_cost *k, uint8_t *code,
                 struct klt_means *s)
{
    for (size_t i = 0; i < n; i++) {
        float a = y[i] < 0 ? -y[i] : y[i], t = a + round;
        int top = (int)(t < KLT_MOST ? t : KLT_MOST), best = 0;
        float least = a * a + k->cost[0];
        for (int m = top; m > 0 && m >= top - 1; m--) {
            float e = a - ((float)m + k->off[m < 3 ? m : 3]), cost = e * e + k->cost[m];
            if (cost < least) {
                least = cost;
                best = m;
            }
        }
        code[i] = (uint8_t)(y[i] < 0 ? KLT_MOST - best : KLT_MOST + best);
    }
    SIMD_PICK(klt_means, (y, code, n, s));
}

void klt_give(const uint8_t *code, size_t n, const struct klt_worth *w, float *v)
{
    SIMD_PICK(klt_give, (code, n, w, v));
}

#endif
