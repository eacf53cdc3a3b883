// A width for every coordinate by rate and distortion, in one pass over the values.
#include "kernels_codec.h"
#include "simd.h"

#include "base/half.h"

#include <string.h>
#if SIMD_X86
#include <immintrin.h>
#endif

#define TILE     256 // values whose best cost so far lies in the first-level cache
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

// Weights, or what they are made of (struct alloc_weights), from value i on.
static struct alloc_weights weights_from(const struct alloc_weights *w, size_t i)
{
    return (struct alloc_weights){w->of + i, w->roots, w->mul};
}

static void choose_base(const float *x, const struct alloc_weights *w, size_t n,
                        const struct alloc_levels *l, uint8_t *tag)
{
    float weight[TILE];
    for (size_t at = 0; at < n; at += TILE) {
        size_t m = n - at < TILE ? n - at : TILE;
        if (w->roots >= 0)
            alloc_power(w->of + at, m, w->mul, 16 >> w->roots, weight);
        choose_tile(x + at, w->roots >= 0 ? weight : w->of + at, m, l, tag + at);
    }
}

#if SIMD_X86
// The level's constants stay in registers where the number of levels is a constant: loops unroll.
TARGET_AVX512 static inline __attribute__((always_inline)) void
choose_512(const float *x, const struct alloc_weights *w, size_t n, const struct alloc_levels *l,
           const int levels, const int roots, uint8_t *tag)
{
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 in = (__mmask16)(n - i < 16 ? (1u << (n - i)) - 1 : 0xffffu);
        const __m512 a = _mm512_abs_ps(_mm512_maskz_loadu_ps(in, x + i));
        __m512 weight = _mm512_maskz_loadu_ps(in, w->of + i);
        if (roots >= 0)
            weight =
                _mm512_max_ps(_mm512_mul_ps(weight, _mm512_set1_ps(w->mul)), _mm512_setzero_ps());
        for (int r = 0; r < roots; r++)
            weight = _mm512_sqrt_ps(weight);
        __m512 best = _mm512_mul_ps(_mm512_mul_ps(a, a), weight);
        __m512i at = _mm512_setzero_si512();
        for (int k = 1; k < levels; k++) {
            __m512 v;
            if (l->kind[k] == ALLOC_FP16) {
                v = _mm512_min_ps(a, _mm512_set1_ps(F16_MOST));
                v = _mm512_cvtph_ps(
                    _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
            } else if (l->kind[k] == ALLOC_SIGN) {
                v = _mm512_set1_ps(l->scale[k]);
            } else {
                v = _mm512_min_ps(_mm512_mul_ps(a, _mm512_set1_ps(l->inverse[k])),
                                  _mm512_set1_ps(l->q[k]));
                v = _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
                v = _mm512_mul_ps(v, _mm512_set1_ps(l->scale[k]));
            }
            __m512 e = _mm512_sub_ps(a, v);
            __m512 j = _mm512_add_ps(_mm512_mul_ps(_mm512_mul_ps(e, e), weight),
                                     _mm512_set1_ps(l->cost[k]));
            __mmask16 better = _mm512_cmp_ps_mask(j, best, _CMP_LT_OQ);
            best = _mm512_mask_mov_ps(best, better, j);
            at = _mm512_mask_mov_epi32(at, better, _mm512_set1_epi32(k));
        }
        _mm_mask_storeu_epi8(tag + i, in, _mm512_cvtepi32_epi8(at));
    }
}

TARGET_AVX512 static void choose_avx512(const float *x, const struct alloc_weights *w, size_t n,
                                        const struct alloc_levels *l, uint8_t *tag)
{
    if (l->count == 4 && w->roots == 2)
        choose_512(x, w, n, l, 4, 2, tag);
    else if (l->count == 4 && w->roots < 0)
        choose_512(x, w, n, l, 4, -1, tag);
    else
        choose_512(x, w, n, l, l->count, w->roots, tag);
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
                                    const struct alloc_levels *l, uint8_t *tag)
{
    const size_t whole = n & ~(size_t)31;
    const struct alloc_weights rest = weights_from(w, whole);
    if (l->count == 4 && w->roots == 2)
        choose_256(x, w, whole, l, 4, 2, tag);
    else if (l->count == 4 && w->roots < 0)
        choose_256(x, w, whole, l, 4, -1, tag);
    else
        choose_256(x, w, whole, l, l->count, w->roots, tag);
    choose_base(x + whole, &rest, n - whole, l, tag + whole);
}
#endif

void alloc_choose(const float *x, const struct alloc_weights *w, size_t n,
                  const struct alloc_levels *l, uint8_t *tag)
{
    SIMD_PICK(choose, (x, w, n, l, tag));
}
