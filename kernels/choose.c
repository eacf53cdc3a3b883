// A width for every coordinate by rate and distortion, in one pass over the values.
#include "kernels_codec.h"
#include "simd.h"

#include "base/half.h"

#include <string.h>
#if SIMD_X86
#include <immintrin.h>
#endif

#define TILE     256  // values whose best cost so far lies in the first-level cache
#define AHEAD    1024 // values that come from memory meanwhile
#define F16_MOST 65504.0f

// (14), for coordinate i with weight w_i and level k of its group:
//
//     J_k = w_i e_k(x_i)^2 + cost_k,   cost_k = lambda (bits of level k - bits of level 0)
//
// tag_i = argmin_k J_k, the narrower of two equal ones. A level is never better by a NaN, nor where
// its cost alone is as much as the best so far.

// Halves below 2^-14 are multiples of 2^-24; above, 13 bits go, half to even.
SIMD_PART float half_of(float a)
{
    a = a < F16_MOST ? a : F16_MOST;
    uint32_t u = f32_bits(a);
    uint32_t normal = (u + 0xfffu + (u >> 13 & 1u)) & 0xffffe000u;
    uint32_t tiny = f32_bits((a + 0.75f) - 0.75f);
    uint32_t small = 0u - ((int32_t)u < 0x38800000); // a mask: no vectors otherwise
    return f32_from_bits((tiny & small) | (normal & ~small));
}

SIMD_PART void choose_tile(const float *x, const float *w, size_t n, const struct alloc_levels *l,
                           uint8_t *tag)
{
    float a[TILE], weight[TILE], best[TILE], e[TILE];
    int32_t at[TILE];
    memcpy(weight, w, n * sizeof *w);
    for (size_t i = 0; i < n; i++) {
        a[i] = f32_from_bits(f32_bits(x[i]) & 0x7fffffffu);
        best[i] = a[i] * a[i] * weight[i];
        at[i] = 0;
    }
    for (int k = 1; k < l->count; k++) {
        const float scale = l->scale[k], inv = l->inverse[k], q = l->q[k], cost = l->cost[k];
        if (l->kind[k] == ALLOC_FP16)
            for (size_t i = 0; i < n; i++)
                e[i] = a[i] - half_of(a[i]);
        else if (l->kind[k] == ALLOC_SIGN)
            for (size_t i = 0; i < n; i++)
                e[i] = a[i] - scale;
        else
            for (size_t i = 0; i < n; i++) {
                float v = a[i] * inv;
                v = (v < q ? v : q) + 8388608.0f; // to the nearest integer, ties to even
                e[i] = a[i] - (v - 8388608.0f) * scale;
            }
        for (size_t i = 0; i < n; i++) {
            float j = e[i] * e[i] * weight[i] + cost;
            int32_t better = j < best[i];
            best[i] = better ? j : best[i];
            at[i] = better ? k : at[i];
        }
    }
    for (size_t i = 0; i < n; i++)
        tag[i] = (uint8_t)at[i];
}

static void choose_base(const float *x, const struct alloc_weights *w, size_t n,
                        const struct alloc_levels *l, uint8_t *tag, int64_t *count)
{
    float weight[TILE];
    for (size_t at = 0; at < n; at += TILE) {
        size_t m = n - at < TILE ? n - at : TILE;
        if (w->roots >= 0)
            alloc_power(w->of + at, m, w->mul, 16 >> w->roots, weight);
        choose_tile(x + at, w->roots >= 0 ? weight : w->of + at, m, l, tag + at);
        alloc_count(tag + at, m, l->count, count);
    }
}

#if SIMD_X86
// Weights, or what they are made of (struct alloc_weights), from value i on.
static struct alloc_weights weights_from(const struct alloc_weights *w, size_t i)
{
    return (struct alloc_weights){w->of + i, w->roots, w->mul};
}

// Weights of 16 values.
TARGET_AVX512 static inline __attribute__((always_inline)) __m512 weight_16(__m512 v, __m512 mul,
                                                                            const int roots)
{
    if (roots >= 0)
        v = _mm512_max_ps(_mm512_mul_ps(v, mul), _mm512_setzero_ps());
    for (int r = 0; r < roots; r++)
        v = _mm512_sqrt_ps(v);
    return v;
}

// |x| of 16 values becomes what level k makes of it.
TARGET_AVX512 static inline __attribute__((always_inline)) __m512
level_16(__m512 a, const struct alloc_levels *l, int k)
{
#define TO_NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
    __m512 v;
    if (l->kind[k] == ALLOC_FP16) {
        v = _mm512_min_ps(a, _mm512_set1_ps(F16_MOST));
        return _mm512_cvtph_ps(_mm512_cvtps_ph(v, TO_NEAREST));
    }
    if (l->kind[k] == ALLOC_SIGN)
        return _mm512_set1_ps(l->scale[k]);
    v = _mm512_mul_ps(a, _mm512_set1_ps(l->inverse[k]));
    v = _mm512_roundscale_ps(_mm512_min_ps(v, _mm512_set1_ps(l->q[k])), TO_NEAREST);
    return _mm512_mul_ps(v, _mm512_set1_ps(l->scale[k]));
#undef TO_NEAREST
}

// Of 16 values the ones for which a level is better than all before it.
TARGET_AVX512 static inline __attribute__((always_inline)) void
better_16(__m512 a, __m512 weight, const struct alloc_levels *l, const int levels,
          __mmask16 better[ALLOC_LEVELS])
{
    __m512 best = _mm512_mul_ps(_mm512_mul_ps(a, a), weight);
    for (int k = 1; k < levels; k++) {
        const __m512 cost = _mm512_set1_ps(l->cost[k]);
        better[k] = 0;
        if (l->kind[k] == ALLOC_FP16 && !_mm512_cmp_ps_mask(best, cost, _CMP_NLE_UQ))
            continue; // as nearly always
        __m512 e = _mm512_sub_ps(a, level_16(a, l, k));
        __m512 j = _mm512_add_ps(_mm512_mul_ps(_mm512_mul_ps(e, e), weight), cost);
        better[k] = _mm512_cmp_ps_mask(j, best, _CMP_LT_OQ);
        best = _mm512_min_ps(j, best);
    }
}

// Tags of 64 values, of which `in` are there, and their counts. The values and weights that are
// next are on their way while these are looked at.
TARGET_AVX512 static inline __attribute__((always_inline)) void
choose_64(const float *x, const float *of, __m512 mul, __mmask64 in, const struct alloc_levels *l,
          const int levels, const int roots, uint8_t *tag, int64_t count[ALLOC_LEVELS])
{
    __mmask16 better[4][ALLOC_LEVELS];
    __mmask64 here[ALLOC_LEVELS], wider = 0;
    __m512i t = _mm512_setzero_si512();
    for (int h = 0; h < 4; h++) {
        const __mmask16 some = (__mmask16)(in >> 16 * h);
        _mm_prefetch((const char *)(x + 16 * h + AHEAD), _MM_HINT_T0);
        _mm_prefetch((const char *)(of + 16 * h + AHEAD), _MM_HINT_T0);
        __m512 a = _mm512_abs_ps(_mm512_maskz_loadu_ps(some, x + 16 * h));
        __m512 weight = weight_16(_mm512_maskz_loadu_ps(some, of + 16 * h), mul, roots);
        better_16(a, weight, l, levels, better[h]);
    }
    for (int k = 1; k < levels; k++) {
        here[k] = _mm512_kunpackd(_mm512_kunpackw(better[3][k], better[2][k]),
                                  _mm512_kunpackw(better[1][k], better[0][k]));
        t = _mm512_mask_mov_epi8(t, here[k], _mm512_set1_epi8((char)k));
    }
    for (int k = levels - 1; k > 0; k--) {
        count[k] += __builtin_popcountll(here[k] & in & ~wider);
        wider |= here[k];
    }
    _mm512_mask_storeu_epi8(tag, in, t);
}

// The level's constants stay in registers where the number of levels is a constant: loops unroll.
TARGET_AVX512 static inline __attribute__((always_inline)) void
choose_512(const float *x, const struct alloc_weights *w, size_t n, const struct alloc_levels *l,
           const int levels, const int roots, uint8_t *tag, int64_t *count)
{
    const struct alloc_levels own = *l; // what tags cannot be thought to lie in
    const __m512 mul = _mm512_set1_ps(w->mul);
    const float *of = w->of;
    int64_t found[ALLOC_LEVELS] = {0};
    size_t i = 0;
    for (; i + 64 <= n; i += 64)
        choose_64(x + i, of + i, mul, UINT64_MAX, &own, levels, roots, tag + i, found);
    if (i < n) {
        const __mmask64 in = (UINT64_C(1) << (n - i)) - 1;
        choose_64(x + i, of + i, mul, in, &own, levels, roots, tag + i, found);
    }
    count[0] += (int64_t)n;
    for (int k = 1; k < levels; k++) {
        count[k] += found[k];
        count[0] -= found[k];
    }
}

TARGET_AVX512 static void choose_avx512(const float *x, const struct alloc_weights *w, size_t n,
                                        const struct alloc_levels *l, uint8_t *tag, int64_t *count)
{
    if (l->count == 4 && w->roots == 2)
        choose_512(x, w, n, l, 4, 2, tag, count);
    else if (l->count == 4 && w->roots < 0)
        choose_512(x, w, n, l, 4, -1, tag, count);
    else
        choose_512(x, w, n, l, l->count, w->roots, tag, count);
}

// |x| of eight values becomes what level k makes of it.
TARGET_AVX2 static inline __attribute__((always_inline)) __m256
level_8(__m256 a, const struct alloc_levels *l, int k)
{
#define TO_NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
    __m256 v;
    if (l->kind[k] == ALLOC_FP16) {
        v = _mm256_min_ps(a, _mm256_set1_ps(F16_MOST));
        return _mm256_cvtph_ps(_mm256_cvtps_ph(v, TO_NEAREST));
    }
    if (l->kind[k] == ALLOC_SIGN)
        return _mm256_set1_ps(l->scale[k]);
    v = _mm256_mul_ps(a, _mm256_set1_ps(l->inverse[k]));
    v = _mm256_round_ps(_mm256_min_ps(v, _mm256_set1_ps(l->q[k])), TO_NEAREST);
    return _mm256_mul_ps(v, _mm256_set1_ps(l->scale[k]));
#undef TO_NEAREST
}

TARGET_AVX2 static inline __attribute__((always_inline)) __m256
weight_8(const struct alloc_weights *w, size_t i, const int roots)
{
    __m256 v = _mm256_loadu_ps(w->of + i);
    if (roots >= 0)
        v = _mm256_max_ps(_mm256_mul_ps(v, _mm256_set1_ps(w->mul)), _mm256_setzero_ps());
    for (int r = 0; r < roots; r++)
        v = _mm256_sqrt_ps(v);
    return v;
}

// The tags of 16 values from value i on, of four and four by turns: 0 to 3, 8 to 11, 4 to 7, 12 to
// 15. A later level that is better has the larger number.
TARGET_AVX2 static inline __attribute__((always_inline)) __m256i
choose_16(const float *x, const struct alloc_weights *w, size_t i, const struct alloc_levels *l,
          const int levels, const int roots)
{
    const __m256 no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 a[2], weight[2], best[2], better[2];
    __m256i at = _mm256_setzero_si256();
    for (int h = 0; h < 2; h++) {
        a[h] = _mm256_and_ps(_mm256_loadu_ps(x + i + 8 * h), no_sign);
        weight[h] = weight_8(w, i + 8 * (size_t)h, roots);
        best[h] = _mm256_mul_ps(_mm256_mul_ps(a[h], a[h]), weight[h]);
    }
    for (int k = 1; k < levels; k++) {
        const __m256 cost = _mm256_set1_ps(l->cost[k]);
        __m256 worth = _mm256_cmp_ps(_mm256_max_ps(best[0], best[1]), cost, _CMP_NLE_UQ);
        if (l->kind[k] == ALLOC_FP16 && _mm256_testz_ps(worth, worth)) // as nearly always
            continue;
        for (int h = 0; h < 2; h++) {
            __m256 e = _mm256_sub_ps(a[h], level_8(a[h], l, k));
            __m256 j = _mm256_add_ps(_mm256_mul_ps(_mm256_mul_ps(e, e), weight[h]), cost);
            better[h] = _mm256_cmp_ps(j, best[h], _CMP_LT_OQ);
            best[h] = _mm256_min_ps(j, best[h]);
        }
        __m256i both =
            _mm256_packs_epi32(_mm256_castps_si256(better[0]), _mm256_castps_si256(better[1]));
        at = _mm256_max_epi16(at, _mm256_and_si256(both, _mm256_set1_epi16((short)k)));
    }
    return at;
}

TARGET_AVX2 static inline __attribute__((always_inline)) void
choose_256(const float *x, const struct alloc_weights *w, size_t n, const struct alloc_levels *l,
           const int levels, const int roots, uint8_t *tag)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (size_t i = 0; i < n; i += 32) {
        __m256i low = choose_16(x, w, i, l, levels, roots);
        __m256i high = choose_16(x, w, i + 16, l, levels, roots);
        __m256i t = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
        _mm256_storeu_si256((__m256i *)(void *)(tag + i), t);
    }
}

TARGET_AVX2 static void choose_avx2(const float *x, const struct alloc_weights *w, size_t n,
                                    const struct alloc_levels *l, uint8_t *tag, int64_t *count)
{
    const size_t whole = n & ~(size_t)31;
    const struct alloc_weights rest = weights_from(w, whole);
    if (l->count == 4 && w->roots == 2)
        choose_256(x, w, whole, l, 4, 2, tag);
    else if (l->count == 4 && w->roots < 0)
        choose_256(x, w, whole, l, 4, -1, tag);
    else
        choose_256(x, w, whole, l, l->count, w->roots, tag);
    alloc_count(tag, whole, l->count, count);
    choose_base(x + whole, &rest, n - whole, l, tag + whole, count);
}
#endif

void alloc_choose(const float *x, const struct alloc_weights *w, size_t n,
                  const struct alloc_levels *l, uint8_t *tag, int64_t *count)
{
    SIMD_PICK(choose, (x, w, n, l, tag, count));
}
