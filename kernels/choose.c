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
// tag_i = argmin_k J_k, the narrower of two equal ones. A level is never better by a NaN.

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

static void choose_base(const float *x, const float *w, size_t n, const struct alloc_levels *l,
                        uint8_t *tag)
{
    for (size_t at = 0; at < n; at += TILE)
        choose_tile(x + at, w + at, n - at < TILE ? n - at : TILE, l, tag + at);
}

#if SIMD_X86
// The level's constants stay in registers where the number of levels is a constant: loops unroll.
TARGET_AVX512 static inline __attribute__((always_inline)) void
choose_512(const float *x, const float *w, size_t n, const struct alloc_levels *l, const int levels,
           uint8_t *tag)
{
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 in = (__mmask16)(n - i < 16 ? (1u << (n - i)) - 1 : 0xffffu);
        const __m512 a = _mm512_abs_ps(_mm512_maskz_loadu_ps(in, x + i));
        const __m512 weight = _mm512_maskz_loadu_ps(in, w + i);
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

TARGET_AVX512 static void choose_avx512(const float *x, const float *w, size_t n,
                                        const struct alloc_levels *l, uint8_t *tag)
{
    if (l->count == 4)
        choose_512(x, w, n, l, 4, tag);
    else
        choose_512(x, w, n, l, l->count, tag);
}

TARGET_AVX2 static inline __attribute__((always_inline)) void
choose_256(const float *x, const float *w, size_t n, const struct alloc_levels *l, const int levels,
           uint8_t *tag)
{
    const __m256 no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    const __m256i low_bytes = _mm256_set1_epi32(0x0c080400);
    for (size_t i = 0; i < n; i += 8) {
        const __m256 a = _mm256_and_ps(_mm256_loadu_ps(x + i), no_sign);
        const __m256 weight = _mm256_loadu_ps(w + i);
        __m256 best = _mm256_mul_ps(_mm256_mul_ps(a, a), weight), at = _mm256_setzero_ps();
        for (int k = 1; k < levels; k++) {
            __m256 v;
            if (l->kind[k] == ALLOC_FP16) {
                v = _mm256_min_ps(a, _mm256_set1_ps(F16_MOST));
                v = _mm256_cvtph_ps(
                    _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
            } else if (l->kind[k] == ALLOC_SIGN) {
                v = _mm256_set1_ps(l->scale[k]);
            } else {
                v = _mm256_min_ps(_mm256_mul_ps(a, _mm256_set1_ps(l->inverse[k])),
                                  _mm256_set1_ps(l->q[k]));
                v = _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
                v = _mm256_mul_ps(v, _mm256_set1_ps(l->scale[k]));
            }
            __m256 e = _mm256_sub_ps(a, v);
            __m256 j = _mm256_add_ps(_mm256_mul_ps(_mm256_mul_ps(e, e), weight),
                                     _mm256_set1_ps(l->cost[k]));
            __m256 better = _mm256_cmp_ps(j, best, _CMP_LT_OQ);
            best = _mm256_blendv_ps(best, j, better);
            at = _mm256_blendv_ps(at, _mm256_castsi256_ps(_mm256_set1_epi32(k)), better);
        }
        __m256i to = _mm256_shuffle_epi8(_mm256_castps_si256(at), low_bytes);
        uint32_t half[2] = {(uint32_t)_mm256_extract_epi32(to, 0),
                            (uint32_t)_mm256_extract_epi32(to, 4)};
        memcpy(tag + i, half, sizeof half);
    }
}

TARGET_AVX2 static void choose_avx2(const float *x, const float *w, size_t n,
                                    const struct alloc_levels *l, uint8_t *tag)
{
    size_t whole = n & ~(size_t)7;
    if (l->count == 4)
        choose_256(x, w, whole, l, 4, tag);
    else
        choose_256(x, w, whole, l, l->count, tag);
    choose_base(x + whole, w + whole, n - whole, l, tag + whole);
}
#endif

void alloc_choose(const float *x, const float *w, size_t n, const struct alloc_levels *l,
                  uint8_t *tag)
{
    SIMD_PICK(choose, (x, w, n, l, tag));
}
