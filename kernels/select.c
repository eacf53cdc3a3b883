// The k largest magnitudes without sorting: three histograms of 11, 10 and 10 bits find the exact
// k-th value, one pass takes what lies above it, ties from the lowest index.
#include "kernels_codec.h"
#include "simd.h"

#include "base/half.h"

#include <string.h>
#if SIMD_X86
#include <immintrin.h>
#endif

// Bits of |x| order as the values do. A side that x is not on counts as zero.
SIMD_PART uint32_t magnitude(float x, enum select_side side)
{
    uint32_t u = f32_bits(x), a = u & 0x7fffffffu;
    if (side == SELECT_POSITIVE)
        return u >> 31 ? 0 : a;
    if (side == SELECT_NEGATIVE)
        return u >> 31 ? a : 0;
    return a;
}

static void count_top_base(const float *x, size_t n, enum select_side side, uint32_t floor_bin,
                           uint32_t count[SELECT_BINS])
{
    (void)floor_bin;                    // to count more than is asked for costs a branch less
    uint32_t second[SELECT_BINS] = {0}; // so that equal neighbours do not wait for each other
    size_t i = 0;
    for (; i + 2 <= n; i += 2) {
        count[magnitude(x[i], side) >> 20]++;
        second[magnitude(x[i + 1], side) >> 20]++;
    }
    if (i < n)
        count[magnitude(x[i], side) >> 20]++;
    for (int b = 0; b < SELECT_BINS; b++)
        count[b] += second[b];
}

size_t select_sample(const float *x, size_t n, enum select_side side, size_t stride,
                     uint32_t count[SELECT_BINS])
{
    size_t seen = 0;
    for (size_t at = 0; at + 16 <= n; at += 16 * stride, seen += 16)
        for (size_t i = at; i < at + 16; i++)
            count[magnitude(x[i], side) >> 20]++;
    return seen;
}

// Half as many again as are sought, and some more for small samples.
static double sample_wanted(size_t seen, size_t n, size_t k)
{
    return n ? 1.5 * (double)k * (double)seen / (double)n + 64 : 0;
}

uint32_t select_floor(const uint32_t count[SELECT_BINS], size_t seen, size_t n, size_t k)
{
    double want = sample_wanted(seen, n, k), have = 0;
    for (uint32_t b = SELECT_BINS - 1; b > 0; b--) {
        have += count[b];
        if (have >= want)
            return b;
    }
    return 0;
}

uint32_t select_least(const uint32_t count[SELECT_BINS], size_t seen, size_t n, size_t k)
{
    double want = sample_wanted(seen, n, k), have = 0;
    for (uint32_t b = SELECT_BINS - 1; b > 0; b--) {
        if (count[b] && have + count[b] >= want)
            return (uint32_t)((b + 1 - (want - have) / count[b]) * (1 << 20));
        have += count[b];
    }
    return 0;
}

// Bits [shift, shift + 10) of values whose upper bits are one of the prefixes.
static void count_within_base(const float *x, size_t n, enum select_side side, unsigned shift,
                              const uint32_t *prefix, int prefixes, uint32_t count[][SELECT_BINS])
{
    for (size_t i = 0; i < n; i++) {
        uint32_t a = magnitude(x[i], side);
        for (int k = 0; k < prefixes; k++)
            if (a >> (shift + 10) == prefix[k])
                count[k][a >> shift & 1023]++;
    }
}

static size_t collect_base(const float *x, size_t n, enum select_side side, uint32_t least,
                           uint32_t base, uint32_t *at, size_t room)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        if (magnitude(x[i], side) < least)
            continue;
        if (found < room)
            at[found] = base + (uint32_t)i;
        found++;
    }
    return found;
}

static size_t take_base(const float *x, size_t n, enum select_side side, uint32_t threshold,
                        size_t *ties, uint32_t base, uint32_t *at)
{
    size_t taken = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t a = magnitude(x[i], side);
        bool tie = a == threshold && *ties > 0;
        if (a > threshold || tie) {
            at[taken++] = base + (uint32_t)i;
            *ties -= tie;
        }
    }
    return taken;
}

#if SIMD_X86
TARGET_AVX512 static inline __attribute__((always_inline)) __m512i magnitudes(const float *x,
                                                                              enum select_side side)
{
    __m512i u = _mm512_loadu_si512(x);
    __m512i a = _mm512_and_si512(u, _mm512_set1_epi32(0x7fffffff));
    if (side == SELECT_ABS)
        return a;
    __mmask16 negative = _mm512_movepi32_mask(u);
    return _mm512_maskz_mov_epi32(side == SELECT_NEGATIVE ? negative : (__mmask16)~negative, a);
}

TARGET_AVX512 static void count_top_avx512(const float *x, size_t n, enum select_side side,
                                           uint32_t floor_bin, uint32_t count[SELECT_BINS])
{
    if (floor_bin == 0) {
        count_top_base(x, n, side, 0, count);
        return;
    }
    const __m512i limit = _mm512_set1_epi32((int)(floor_bin << 20));
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512i a = magnitudes(x + i, side);
        unsigned hits = _mm512_cmpge_epu32_mask(a, limit);
        for (; hits; hits &= hits - 1)
            count[magnitude(x[i + (unsigned)__builtin_ctz(hits)], side) >> 20]++;
    }
    count_top_base(x + i, n - i, side, 0, count);
}

TARGET_AVX512 static void count_within_avx512(const float *x, size_t n, enum select_side side,
                                              unsigned shift, const uint32_t *prefix, int prefixes,
                                              uint32_t count[][SELECT_BINS])
{
    const __m128i by = _mm_cvtsi32_si128((int)shift + 10);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512i key = _mm512_srl_epi32(magnitudes(x + i, side), by);
        for (int k = 0; k < prefixes; k++) {
            unsigned hits = _mm512_cmpeq_epi32_mask(key, _mm512_set1_epi32((int)prefix[k]));
            for (; hits; hits &= hits - 1)
                count[k][magnitude(x[i + (unsigned)__builtin_ctz(hits)], side) >> shift & 1023]++;
        }
    }
    count_within_base(x + i, n - i, side, shift, prefix, prefixes, count);
}

TARGET_AVX512 static size_t collect_avx512(const float *x, size_t n, enum select_side side,
                                           uint32_t least, uint32_t base, uint32_t *at, size_t room)
{
    const __m512i limit = _mm512_set1_epi32((int)least);
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    size_t found = 0, i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512i a = magnitudes(x + i, side);
        __mmask16 hits = _mm512_cmpge_epu32_mask(a, limit);
        if (!hits)
            continue;
        unsigned new = (unsigned)__builtin_popcount(hits);
        if (found + new <= room) {
            __m512i index = _mm512_add_epi32(lane, _mm512_set1_epi32((int)(base + (uint32_t)i)));
            _mm512_mask_storeu_epi32(at + found, (__mmask16)((1u << new) - 1),
                                     _mm512_maskz_compress_epi32(hits, index));
        }
        found += new;
    }
    size_t left = found < room ? room - found : 0;
    return found + collect_base(x + i, n - i, side, least, base + (uint32_t)i,
                                left ? at + found : at, left);
}

TARGET_AVX512 static size_t take_avx512(const float *x, size_t n, enum select_side side,
                                        uint32_t threshold, size_t *ties, uint32_t base,
                                        uint32_t *at)
{
    const __m512i limit = _mm512_set1_epi32((int)threshold);
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    size_t taken = 0, i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512i a = magnitudes(x + i, side);
        __mmask16 hits = _mm512_cmpge_epu32_mask(a, limit);
        if (!hits)
            continue;
        if (_mm512_mask_cmpeq_epi32_mask(hits, a, limit)) {
            taken += take_base(x + i, 16, side, threshold, ties, base + (uint32_t)i, at + taken);
            continue;
        }
        __m512i index = _mm512_add_epi32(lane, _mm512_set1_epi32((int)(base + (uint32_t)i)));
        unsigned found = (unsigned)__builtin_popcount(hits);
        _mm512_mask_storeu_epi32(at + taken, (__mmask16)((1u << found) - 1),
                                 _mm512_maskz_compress_epi32(hits, index));
        taken += found;
    }
    return taken + take_base(x + i, n - i, side, threshold, ties, base + (uint32_t)i, at + taken);
}

TARGET_AVX2 static inline __attribute__((always_inline)) __m256i magnitudes_8(const float *x,
                                                                              enum select_side side)
{
    __m256i u = _mm256_loadu_si256((const __m256i *)(const void *)x);
    __m256i a = _mm256_and_si256(u, _mm256_set1_epi32(0x7fffffff));
    if (side == SELECT_ABS)
        return a;
    __m256i negative = _mm256_srai_epi32(u, 31);
    return side == SELECT_NEGATIVE ? _mm256_and_si256(negative, a)
                                   : _mm256_andnot_si256(negative, a);
}

// A bit for each of 32 values whose magnitude is above below, a signed number.
TARGET_AVX2 static inline __attribute__((always_inline)) uint32_t
above_32(const float *x, enum select_side side, __m256i below)
{
    uint32_t hits = 0;
    for (int k = 0; k < 4; k++) {
        __m256i more = _mm256_cmpgt_epi32(magnitudes_8(x + 8 * k, side), below);
        hits |= (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(more)) << (8 * k);
    }
    return hits;
}

TARGET_AVX2 static void count_top_avx2(const float *x, size_t n, enum select_side side,
                                       uint32_t floor_bin, uint32_t count[SELECT_BINS])
{
    size_t i = 0;
    if (floor_bin > 0) {
        const __m256i below = _mm256_set1_epi32((int)(floor_bin << 20) - 1);
        for (; i + 32 <= n; i += 32)
            for (uint32_t hits = above_32(x + i, side, below); hits; hits &= hits - 1)
                count[magnitude(x[i + (unsigned)__builtin_ctz(hits)], side) >> 20]++;
    }
    count_top_base(x + i, n - i, side, 0, count);
}

TARGET_AVX2 static void count_within_avx2(const float *x, size_t n, enum select_side side,
                                          unsigned shift, const uint32_t *prefix, int prefixes,
                                          uint32_t count[][SELECT_BINS])
{
    const __m128i by = _mm_cvtsi32_si128((int)shift + 10);
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i key[4];
        for (int q = 0; q < 4; q++)
            key[q] = _mm256_srl_epi32(magnitudes_8(x + i + 8 * q, side), by);
        for (int k = 0; k < prefixes; k++) {
            const __m256i want = _mm256_set1_epi32((int)prefix[k]);
            uint32_t hits = 0;
            for (int q = 0; q < 4; q++) {
                __m256i same = _mm256_cmpeq_epi32(key[q], want);
                hits |= (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(same)) << (8 * q);
            }
            for (; hits; hits &= hits - 1)
                count[k][magnitude(x[i + (unsigned)__builtin_ctz(hits)], side) >> shift & 1023]++;
        }
    }
    count_within_base(x + i, n - i, side, shift, prefix, prefixes, count);
}

TARGET_AVX2 static size_t collect_avx2(const float *x, size_t n, enum select_side side,
                                       uint32_t least, uint32_t base, uint32_t *at, size_t room)
{
    const __m256i below = _mm256_set1_epi32((int)(least - 1)); // least 0: all are above -1
    size_t found = 0, i = 0;
    for (; i + 32 <= n; i += 32) {
        uint32_t hits = above_32(x + i, side, below);
        if (found + (unsigned)__builtin_popcount(hits) > room) {
            found += (unsigned)__builtin_popcount(hits);
            continue;
        }
        for (; hits; hits &= hits - 1)
            at[found++] = base + (uint32_t)i + (unsigned)__builtin_ctz(hits);
    }
    size_t left = found < room ? room - found : 0;
    return found + collect_base(x + i, n - i, side, least, base + (uint32_t)i,
                                left ? at + found : at, left);
}

TARGET_AVX2 static size_t take_avx2(const float *x, size_t n, enum select_side side,
                                    uint32_t threshold, size_t *ties, uint32_t base, uint32_t *at)
{
    const __m256i below = _mm256_set1_epi32((int)threshold - 1);
    size_t taken = 0, i = 0;
    for (; i + 32 <= n; i += 32)
        for (uint32_t hits = above_32(x + i, side, below); hits; hits &= hits - 1) {
            size_t pos = i + (unsigned)__builtin_ctz(hits);
            if (magnitude(x[pos], side) == threshold) {
                if (*ties == 0)
                    continue;
                --*ties;
            }
            at[taken++] = base + (uint32_t)pos;
        }
    return taken + take_base(x + i, n - i, side, threshold, ties, base + (uint32_t)i, at + taken);
}
#endif

void select_count(const float *x, size_t n, enum select_side side, int level, uint32_t prefix,
                  uint32_t count[SELECT_BINS])
{
    if (level == 0)
        SIMD_PICK(count_top, (x, n, side, prefix, count));
    else
        select_count_many(x, n, side, level, &prefix, 1, (uint32_t(*)[SELECT_BINS])count);
}

void select_count_many(const float *x, size_t n, enum select_side side, int level,
                       const uint32_t *prefix, int prefixes, uint32_t count[][SELECT_BINS])
{
    unsigned shift = level == 1 ? 10 : 0;
    SIMD_PICK(count_within, (x, n, side, shift, prefix, prefixes, count));
}

size_t select_collect(const float *x, size_t n, enum select_side side, uint32_t least,
                      uint32_t base, uint32_t *at, size_t room)
{
    return SIMD_PICK(collect, (x, n, side, least, base, at, room));
}

size_t select_take(const float *x, size_t n, enum select_side side, uint32_t threshold,
                   size_t *ties, uint32_t base, uint32_t *at)
{
    return SIMD_PICK(take, (x, n, side, threshold, ties, base, at));
}

// The threshold takes what is above it, and ties while they last.
static bool takes(struct select_threshold *threshold, uint32_t a)
{
    bool tie = a == threshold->prefix && threshold->left > 0;
    threshold->left -= tie;
    return a > threshold->prefix || tie;
}

size_t select_reach(const float *v, size_t n, enum select_side side, uint32_t least)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++)
        found += magnitude(v[i], side) >= least;
    return found;
}

size_t select_sum(const float *v, size_t n, enum select_side side,
                  struct select_threshold *threshold, double *sum)
{
    size_t taken = 0;
    for (size_t i = 0; i < n; i++)
        if (takes(threshold, magnitude(v[i], side))) {
            *sum += (double)f32_from_bits(f32_bits(v[i]) & 0x7fffffffu);
            taken++;
        }
    return taken;
}

size_t select_thin(uint32_t *at, float *v, size_t n, enum select_side side,
                   struct select_threshold *threshold)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        at[kept] = at[i];
        v[kept] = v[i];
        kept += takes(threshold, magnitude(v[i], side));
    }
    return kept;
}

void select_threshold_begin(struct select_threshold *c, size_t k)
{
    *c = (struct select_threshold){.left = k};
}

// Walks the bins from the top; what is left of k after the full ones is sought in the next level.
void select_threshold_next(struct select_threshold *c, const uint32_t count[SELECT_BINS])
{
    int bins = c->level == 0 ? SELECT_BINS : 1024, b = bins - 1;
    for (; b > 0 && count[b] < c->left; b--)
        c->left -= count[b];
    c->prefix = c->prefix << (c->level == 0 ? 11 : 10) | (uint32_t)b;
    c->level++;
}
