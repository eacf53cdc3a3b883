// Sums in double, extremes and counts of values. Value i of a block goes to lane i % 16, whatever
// the vectors' width, and a fixed tree adds the lanes; squares of floats neither overflow nor
// vanish in double.
#ifdef SIMD_LANES // read for each instruction set

#define DOUBLES (SIMD_LANES / 2)
#define PIECES  (SIMD_WIDE / DOUBLES)
#define sum_d   SIMD_NAME(sum_d)
#define sum_f   SIMD_NAME(sum_f)
#define sum_i   SIMD_NAME(sum_i)

typedef double sum_d __attribute__((vector_size(8 * DOUBLES)));
typedef float sum_f __attribute__((vector_size(4 * DOUBLES)));
typedef int64_t sum_i __attribute__((vector_size(8 * DOUBLES)));

// A register of values in double.
SIMD_INLINE void SIMD_NAME(widen)(sum_d *v, const float *p)
{
#if SIMD_LANES == 16
    *v = (sum_d)_mm512_cvtps_pd(_mm256_loadu_ps(p));
#elif SIMD_LANES == 8
    *v = (sum_d)_mm256_cvtps_pd(_mm_loadu_ps(p));
#else
    sum_f f;
    memcpy(&f, p, sizeof f);
    *v = __builtin_convertvector(f, sum_d);
#endif
}

SIMD_INLINE void SIMD_NAME(magnitude)(sum_d *v)
{
    *v = (sum_d)((sum_i)*v & INT64_MAX);
}

// sum += v w. Floats' product is exact in double, so that nothing depends on whether it is rounded
// before it is added.
SIMD_INLINE void SIMD_NAME(add_product)(sum_d *sum, const sum_d *v, const sum_d *w)
{
#if SIMD_LANES == 16
    *sum = (sum_d)_mm512_fmadd_pd((__m512d)*v, (__m512d)*w, (__m512d)*sum);
#elif SIMD_LANES == 8
    *sum = (sum_d)_mm256_fmadd_pd((__m256d)*v, (__m256d)*w, (__m256d)*sum);
#else
    *sum += *v * *w;
#endif
}

SIMD_INLINE void SIMD_NAME(add_term)(sum_d *sum, const float *x, const float *y, enum term term)
{
    sum_d v, w;
    SIMD_NAME(widen)(&v, x);
    switch (term) {
    case TERM_VALUE:
        *sum += v;
        break;
    case TERM_ABS:
        SIMD_NAME(magnitude)(&v);
        *sum += v;
        break;
    case TERM_SQ:
        SIMD_NAME(add_product)(sum, &v, &v);
        break;
    case TERM_PRODUCT:
        SIMD_NAME(widen)(&w, y);
        SIMD_NAME(add_product)(sum, &v, &w);
        break;
    case TERM_SQ_DIFF:
        SIMD_NAME(widen)(&w, y);
        v -= w;
        *sum += v * v;
        break;
    }
}

SIMD_INLINE double SIMD_NAME(total)(const sum_d *lanes)
{
    sum_d sum[PIECES];
    double lane[DOUBLES];
    memcpy(sum, lanes, sizeof sum);
    for (int step = PIECES / 2; step > 0; step /= 2)
        for (int p = 0; p < step; p++)
            sum[p] += sum[p + step];
    memcpy(lane, &sum[0], sizeof sum[0]);
    for (int step = DOUBLES / 2; step > 0; step /= 2)
        for (int l = 0; l < step; l++)
            lane[l] += lane[l + step];
    return lane[0];
}

// At most SUM_BLOCK terms. No lane is ever -0, which zeros at the end would change.
SIMD_INLINE double SIMD_NAME(sum_block)(const float *x, const float *y, size_t n, enum term term)
{
    sum_d sum[PIECES] = {{0}};
    size_t i = 0;
    for (; i + SIMD_WIDE <= n; i += SIMD_WIDE) {
        __builtin_prefetch(x + i + SUM_BLOCK); // comes while this block is looked at once more
        for (int p = 0; p < PIECES; p++)
            SIMD_NAME(add_term)(&sum[p], x + i + p * DOUBLES, y + i + p * DOUBLES, term);
    }
    if (i < n) {
        float end[2][SIMD_WIDE] = {{0}};
        memcpy(end[0], x + i, (n - i) * sizeof *x);
        memcpy(end[1], y + i, (n - i) * sizeof *y);
        for (int p = 0; p < PIECES; p++)
            SIMD_NAME(add_term)(&sum[p], end[0] + p * DOUBLES, end[1] + p * DOUBLES, term);
    }
    return SIMD_NAME(total)(sum);
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

SIMD_INLINE void SIMD_NAME(raise)(simd_i *max, simd_i v)
{
#if SIMD_LANES == 16
    *max = (simd_i)_mm512_max_epi32((__m512i)*max, (__m512i)v);
#elif SIMD_LANES == 8
    *max = (simd_i)_mm256_max_epi32((__m256i)*max, (__m256i)v);
#else
    const simd_i take = v > *max;
    *max = (v & take) | (*max & ~take);
#endif
}

SIMD_INLINE uint32_t SIMD_NAME(highest)(const simd_i *max)
{
    simd_i top = max[0];
    int32_t lane[SIMD_LANES], most = 0;
    for (int p = 1; p < SIMD_PIECES; p++)
        SIMD_NAME(raise)(&top, max[p]);
    memcpy(lane, &top, sizeof lane);
    for (int i = 0; i < SIMD_LANES; i++)
        most = lane[i] > most ? lane[i] : most;
    return (uint32_t)most;
}

// What is wanted of sixteen values, into lanes.
SIMD_INLINE void SIMD_NAME(look)(const float *x, unsigned wanted, simd_i *max, sum_d *sum,
                                 sum_d *abs, sum_d *sq)
{
    for (int p = 0; p < SIMD_PIECES && !(wanted & QUANT_NO_MAX); p++) {
        simd_i bits;
        memcpy(&bits, x + p * SIMD_LANES, sizeof bits);
        SIMD_NAME(raise)(&max[p], bits & 0x7fffffff);
    }
    for (int p = 0; p < PIECES; p++) {
        sum_d v;
        SIMD_NAME(widen)(&v, x + p * DOUBLES);
        if (wanted & QUANT_SUM)
            sum[p] += v;
        if (wanted & QUANT_SQ)
            SIMD_NAME(add_product)(&sq[p], &v, &v);
        SIMD_NAME(magnitude)(&v);
        if (wanted & QUANT_ABS)
            abs[p] += v;
    }
}

// At most SUM_BLOCK values.
SIMD_INLINE void SIMD_NAME(stats_block)(const float *x, size_t n, unsigned wanted, simd_i *max,
                                        struct quant_stats *s)
{
    sum_d sum[PIECES] = {{0}}, abs[PIECES] = {{0}}, sq[PIECES] = {{0}};
    size_t i = 0;
    for (; i + SIMD_WIDE <= n; i += SIMD_WIDE) {
        __builtin_prefetch(x + i + SUM_BLOCK);
        SIMD_NAME(look)(x + i, wanted, max, sum, abs, sq);
    }
    if (i < n) {
        float rest[SIMD_WIDE] = {0};
        memcpy(rest, x + i, (n - i) * sizeof *x);
        SIMD_NAME(look)(rest, wanted, max, sum, abs, sq);
    }
    if (wanted & QUANT_SUM)
        s->sum += SIMD_NAME(total)(sum);
    if (wanted & QUANT_ABS)
        s->abs += SIMD_NAME(total)(abs);
    if (wanted & QUANT_SQ)
        s->sq += SIMD_NAME(total)(sq);
}

SIMD_INLINE void SIMD_NAME(stats_of)(const float *x, size_t n, unsigned wanted,
                                     struct quant_stats *s)
{
    simd_i max[SIMD_PIECES] = {{0}};
    for (size_t at = 0; at < n; at += SUM_BLOCK)
        SIMD_NAME(stats_block)(x + at, n - at < SUM_BLOCK ? n - at : SUM_BLOCK, wanted, max, s);
    const uint32_t most = SIMD_NAME(highest)(max);
    s->max_bits = most > s->max_bits ? most : s->max_bits;
}

// A copy of the loop for what quantisers want most.
SIMD_KERNEL void SIMD_NAME(stats)(const float *x, size_t n, unsigned wanted, struct quant_stats *s)
{
    struct quant_stats t = *s;
    if (wanted & QUANT_NONNEG)
        t.nonneg += SIMD_NAME(count_nonneg)(x, n);
    wanted &= ~(unsigned)QUANT_NONNEG;
    if (wanted == 0)
        SIMD_NAME(stats_of)(x, n, 0, &t);
    else if (wanted == QUANT_SQ)
        SIMD_NAME(stats_of)(x, n, QUANT_SQ, &t);
    else if (wanted == QUANT_ABS)
        SIMD_NAME(stats_of)(x, n, QUANT_ABS, &t);
    else if (wanted == (QUANT_ABS | QUANT_NO_MAX))
        SIMD_NAME(stats_of)(x, n, QUANT_ABS | QUANT_NO_MAX, &t);
    else if (wanted == (QUANT_SUM | QUANT_SQ))
        SIMD_NAME(stats_of)(x, n, QUANT_SUM | QUANT_SQ, &t);
    else
        SIMD_NAME(stats_of)(x, n, wanted, &t);
    *s = t;
}

#undef DOUBLES
#undef PIECES

#else

#include "kernels_codec.h"
#include "simd.h"

#include "base/half.h"

#include <string.h>
#if SIMD_X86
#include <immintrin.h>
#endif

#define SUM_BLOCK 1024

enum term { TERM_VALUE, TERM_ABS, TERM_SQ, TERM_SQ_DIFF, TERM_PRODUCT };

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
