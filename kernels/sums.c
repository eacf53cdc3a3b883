// Sums in double, extremes and counts of values. Value i of a block goes to lane i % 16, whatever
// the vectors' width, and a fixed tree adds the lanes; squares of floats neither overflow nor
// vanish in double.
#ifdef SIMD_LANES // read for each instruction set

#define DOUBLES (SIMD_LANES / 2)
#define PIECES  (SIMD_WIDE / DOUBLES)
#define sum_d   SIMD_NAME(sum_d)
#define sum_f   SIMD_NAME(sum_f)
#define sum_u   SIMD_NAME(sum_u)

typedef double sum_d __attribute__((vector_size(8 * DOUBLES)));
typedef float sum_f __attribute__((vector_size(4 * DOUBLES)));
typedef uint32_t sum_u __attribute__((vector_size(4 * DOUBLES)));

// A register of values in double.
SIMD_INLINE void SIMD_NAME(widen)(sum_d *v, const float *p, uint32_t mask)
{
    sum_u bits;
    memcpy(&bits, p, sizeof bits);
    *v = __builtin_convertvector((sum_f)(bits & mask), sum_d);
}

SIMD_INLINE void SIMD_NAME(terms)(sum_d *v, const float *x, const float *y, enum term term)
{
    sum_d w;
    SIMD_NAME(widen)(v, x, term == TERM_ABS ? 0x7fffffffu : UINT32_MAX);
    if (term == TERM_SQ)
        *v *= *v;
    if (term != TERM_PRODUCT && term != TERM_SQ_DIFF)
        return;
    SIMD_NAME(widen)(&w, y, UINT32_MAX);
    if (term == TERM_PRODUCT) {
        *v *= w;
    } else {
        *v -= w;
        *v *= *v;
    }
}

// At most SUM_BLOCK terms.
SIMD_INLINE double SIMD_NAME(sum_block)(const float *x, const float *y, size_t n, enum term term)
{
    sum_d sum[PIECES], v;
    double lane[SIMD_WIDE];
    size_t i = 0;
    for (int p = 0; p < PIECES; p++)
        sum[p] = (sum_d){0};
    for (; i + SIMD_WIDE <= n; i += SIMD_WIDE) {
        __builtin_prefetch(x + i + SUM_BLOCK); // comes while this block is looked at once more
        for (int p = 0; p < PIECES; p++) {
            SIMD_NAME(terms)(&v, x + i + p * DOUBLES, y + i + p * DOUBLES, term);
            sum[p] += v;
        }
    }
    if (i < n) {
        for (int p = 0; p < PIECES; p++)
            memcpy(lane + p * DOUBLES, &sum[p], sizeof sum[p]);
        for (size_t l = 0; i + l < n; l++)
            lane[l] += term_of(x[i + l], y[i + l], term);
        for (int p = 0; p < PIECES; p++)
            memcpy(&sum[p], lane + p * DOUBLES, sizeof sum[p]);
    }
    for (int step = PIECES / 2; step > 0; step /= 2)
        for (int p = 0; p < step; p++)
            sum[p] += sum[p + step];
    memcpy(lane, &sum[0], sizeof sum[0]);
    for (int step = DOUBLES / 2; step > 0; step /= 2)
        for (int l = 0; l < step; l++)
            lane[l] += lane[l + step];
    return lane[0];
}

SIMD_INLINE double SIMD_NAME(sum)(const float *x, const float *y, size_t n, enum term term)
{
    double total = 0;
    for (size_t at = 0; at < n; at += SUM_BLOCK)
        total +=
            SIMD_NAME(sum_block)(x + at, y + at, n - at < SUM_BLOCK ? n - at : SUM_BLOCK, term);
    return total;
}

SIMD_KERNEL double SIMD_NAME(sum_one)(const float *x, size_t n)
{
    return SIMD_NAME(sum)(x, x, n, TERM_VALUE);
}
SIMD_KERNEL double SIMD_NAME(sum_abs)(const float *x, size_t n)
{
    return SIMD_NAME(sum)(x, x, n, TERM_ABS);
}
SIMD_KERNEL double SIMD_NAME(sum_sq)(const float *x, size_t n)
{
    return SIMD_NAME(sum)(x, x, n, TERM_SQ);
}
SIMD_KERNEL double SIMD_NAME(sum_sq_diff)(const float *x, const float *y, size_t n)
{
    return SIMD_NAME(sum)(x, y, n, TERM_SQ_DIFF);
}
SIMD_KERNEL double SIMD_NAME(sum_product)(const float *x, const float *y, size_t n)
{
    return SIMD_NAME(sum)(x, y, n, TERM_PRODUCT);
}

SIMD_KERNEL uint32_t SIMD_NAME(absmax_bits)(const float *x, size_t n)
{
    uint32_t max = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t a = f32_bits(x[i]) & 0x7fffffffu;
        max = a > max ? a : max;
    }
    return max;
}

SIMD_KERNEL size_t SIMD_NAME(count_nonneg)(const float *x, size_t n)
{
    size_t count = 0;
    for (size_t at = 0; at < n; at += SUM_BLOCK) {
        int32_t c = 0;
        for (size_t i = at; i < n && i < at + SUM_BLOCK; i++)
            c += x[i] >= 0;
        count += (size_t)c;
    }
    return count;
}

// Block by block, so that all but the first look into the first-level cache.
SIMD_KERNEL void SIMD_NAME(stats)(const float *x, size_t n, unsigned wanted, struct quant_stats *s)
{
    struct quant_stats t = *s;
    for (size_t at = 0; at < n; at += SUM_BLOCK) {
        const float *p = x + at;
        size_t m = n - at < SUM_BLOCK ? n - at : SUM_BLOCK;
        uint32_t max = wanted & QUANT_NO_MAX ? 0 : SIMD_NAME(absmax_bits)(p, m);
        t.max_bits = max > t.max_bits ? max : t.max_bits;
        if (wanted & QUANT_SUM)
            t.sum += SIMD_NAME(sum_block)(p, p, m, TERM_VALUE);
        if (wanted & QUANT_ABS)
            t.abs += SIMD_NAME(sum_block)(p, p, m, TERM_ABS);
        if (wanted & QUANT_SQ)
            t.sq += SIMD_NAME(sum_block)(p, p, m, TERM_SQ);
        if (wanted & QUANT_NONNEG)
            t.nonneg += SIMD_NAME(count_nonneg)(p, m);
    }
    *s = t;
}

#undef DOUBLES
#undef PIECES

#else

#include "kernels_codec.h"
#include "simd.h"

#include "base/half.h"

#include <string.h>

#define SUM_BLOCK 1024

enum term { TERM_VALUE, TERM_ABS, TERM_SQ, TERM_SQ_DIFF, TERM_PRODUCT };

static inline double term_of(float x, float y, enum term term)
{
    double a = x, b = y;
    switch (term) {
    case TERM_VALUE:
        return a;
    case TERM_ABS:
        return (double)f32_from_bits(f32_bits(x) & 0x7fffffffu);
    case TERM_SQ:
        return a * a;
    case TERM_SQ_DIFF:
        return (a - b) * (a - b);
    default:
        return a * b;
    }
}

#define SIMD_FILE "sums.c"
#include "simd_each.h"

double quant_sum(const float *x, size_t n)
{
    return SIMD_PICK(sum_one, (x, n));
}

double quant_sum_abs(const float *x, size_t n)
{
    return SIMD_PICK(sum_abs, (x, n));
}

double quant_sum_sq(const float *x, size_t n)
{
    return SIMD_PICK(sum_sq, (x, n));
}

double quant_sum_sq_diff(const float *x, const float *y, size_t n)
{
    return SIMD_PICK(sum_sq_diff, (x, y, n));
}

double quant_dot(const float *x, const float *y, size_t n)
{
    return SIMD_PICK(sum_product, (x, y, n));
}

uint32_t quant_absmax_bits(const float *x, size_t n)
{
    return SIMD_PICK(absmax_bits, (x, n));
}

size_t quant_count_nonneg(const float *x, size_t n)
{
    return SIMD_PICK(count_nonneg, (x, n));
}

void quant_stats(const float *x, size_t n, unsigned wanted, struct quant_stats *s)
{
    SIMD_PICK(stats, (x, n, wanted, s));
}

#endif
