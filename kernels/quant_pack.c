// Floats straight to packed codes and back: what quant.c and pack.c do in turn. With AVX2 and
// AVX-512 codes of most widths never leave the registers; elsewhere they pass through a tile in the
// first-level cache.
#include "kernels_codec.h"
#include "simd.h"

#include "base/half.h"

#include <string.h>
#if SIMD_X86
#include <immintrin.h>
#endif

#define TILE      1024 // values
#define SUM_BLOCK 1024 // of sums.c
#define AHEAD     1024 // values; what follows is fetched while what is here is worked on

static float reciprocal(float scale)
{
    return scale != 0 ? 1 / scale : 0;
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

// Everywhere.

// Values [at, end) of one group.
static void pack_rest(const float *x, const uint32_t *rnd, size_t at, size_t end, float inv, int q,
                      unsigned width, uint8_t *out)
{
    uint8_t code[TILE];
    for (; at < end; at += TILE) {
        size_t m = min_size(end - at, TILE);
        if (rnd)
            quant_stochastic_u8(x + at, rnd + at, m, inv, q, code);
        else
            quant_nearest_u8(x + at, m, inv, q, code);
        pack_u8(code, m, width, out + at / 8 * width);
    }
}

static void sign_rest(const float *x, size_t at, size_t n, uint8_t *out)
{
    uint8_t code[TILE];
    for (; at < n; at += TILE) {
        size_t m = min_size(n - at, TILE);
        quant_sign_u8(x + at, m, code);
        pack_u8(code, m, 1, out + at / 8);
    }
}

// What codes mean: (code - zero) * step, or the table where there is one.
struct meaning {
    const float *table;
    int zero;
    float step;
};

static void unpack_rest(const uint8_t *in, size_t at, size_t end, unsigned width,
                        const struct meaning *mean, struct quant_sink to)
{
    uint8_t code[TILE];
    for (; at < end; at += TILE) {
        size_t m = min_size(end - at, TILE);
        unpack_u8(in + at / 8 * width, m, width, code);
        if (mean->table)
            quant_table_from_u8(code, m, mean->table, quant_sink_at(to, at));
        else
            quant_linear_from_u8(code, m, mean->zero, mean->step, quant_sink_at(to, at));
    }
}

static void pack_base(const float *x, const float *next, const uint32_t *rnd, size_t n,
                      size_t group, const float *scale, int q, unsigned width, uint8_t *out)
{
    (void)next;
    for (size_t at = 0; at < n; at += group)
        pack_rest(x, rnd, at, min_size(n, at + group), reciprocal(*scale++), q, width, out);
}

static void sign_base(const float *x, size_t n, uint8_t *out)
{
    sign_rest(x, 0, n, out);
}

static void sign_abs_base(const float *x, size_t n, uint8_t *out, double *total)
{
    for (size_t at = 0; at < n; at += SUM_BLOCK) {
        size_t m = min_size(n - at, SUM_BLOCK);
        *total += quant_sum_abs(x + at, m);
        quant_pack_sign(x + at, m, out + at / 8);
    }
}

static void unpack_base(const uint8_t *in, size_t at, size_t end, unsigned width,
                        const struct meaning *mean, struct quant_sink to, bool stream)
{
    (void)stream;
    unpack_rest(in, at, end, width, mean, to);
}

#if SIMD_X86
#define LANES_256 TARGET_AVX2 static inline __attribute__((always_inline))
#define LANES_512 TARGET_AVX512 static inline __attribute__((always_inline))

enum give { GIVE_SET, GIVE_ADD, GIVE_STREAM };

// AVX2.

// Levels in [-q, q] of eight values.
LANES_256 __m256i nearest_8(const float *x, __m256 inv, __m256 most)
{
    __m256 v = _mm256_min_ps(_mm256_mul_ps(_mm256_loadu_ps(x), inv), most);
    return _mm256_cvtps_epi32(_mm256_max_ps(v, _mm256_sub_ps(_mm256_setzero_ps(), most)));
}
LANES_256 __m256i stochastic_8(const float *x, const uint32_t *rnd, __m256 inv, __m256 most)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x), inv);
    __m256i word = _mm256_loadu_si256((const __m256i *)(const void *)rnd);
    __m256 u = _mm256_cvtepi32_ps(_mm256_srli_epi32(word, 8));
    __m256 a = _mm256_add_ps(_mm256_andnot_ps(sign, v), _mm256_mul_ps(u, _mm256_set1_ps(0x1p-24f)));
    __m256i level = _mm256_cvttps_epi32(_mm256_min_ps(a, most));
    return _mm256_sign_epi32(level, _mm256_castps_si256(v)); // of 0 it is 0
}

// 32 codes as bytes; meanwhile next is fetched, for the caller's next look.
// Packing works inside 128-bit lanes; the permutation puts the values back into order.
LANES_256 __m256i codes_32(const float *x, const float *next, const uint32_t *rnd, __m256 inv,
                           __m256 most, __m256i q)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i v[4];
    for (int k = 0; k < 2; k++)
        __builtin_prefetch(next + 16 * k, 0, 3);
    for (int k = 0; k < 4; k++)
        v[k] =
            rnd ? stochastic_8(x + 8 * k, rnd + 8 * k, inv, most) : nearest_8(x + 8 * k, inv, most);
    __m256i c = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    return _mm256_add_epi8(_mm256_permutevar8x32_epi32(c, order), q);
}

// Codes of 8, 4 or 2 bits: pairs, then pairs of pairs, are joined by a multiplication.
LANES_256 void store_32(__m256i c, unsigned width, uint8_t *out)
{
    if (width == 8) {
        _mm256_storeu_si256((__m256i *)(void *)out, c);
        return;
    }
    __m256i two = _mm256_maddubs_epi16(c, _mm256_set1_epi16((short)(1 | 1 << (8 + width))));
    if (width == 4) {
        __m128i bytes =
            _mm_packus_epi16(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1));
        _mm_storeu_si128((__m128i *)(void *)out, bytes);
        return;
    }
    __m256i four = _mm256_madd_epi16(two, _mm256_set1_epi32(1 | 1 << 20));
    __m128i words =
        _mm_packus_epi32(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
    _mm_storel_epi64((__m128i *)(void *)out, _mm_packus_epi16(words, words));
}

// A copy for each width whose codes are packed in registers, with random numbers and without.
#define PACK_BY_WIDTH(target, name, packed, other)                                                 \
    target static void name(const float *x, const float *next, const uint32_t *rnd, size_t n,      \
                            size_t group, const float *scale, int q, unsigned width, uint8_t *out) \
    {                                                                                              \
        if (width == 8 && rnd)                                                                     \
            packed(x, next, rnd, n, group, scale, q, 8, out);                                      \
        else if (width == 8)                                                                       \
            packed(x, next, NULL, n, group, scale, q, 8, out);                                     \
        else if (width == 4 && rnd)                                                                \
            packed(x, next, rnd, n, group, scale, q, 4, out);                                      \
        else if (width == 4)                                                                       \
            packed(x, next, NULL, n, group, scale, q, 4, out);                                     \
        else if (width == 2 && rnd)                                                                \
            packed(x, next, rnd, n, group, scale, q, 2, out);                                      \
        else if (width == 2)                                                                       \
            packed(x, next, NULL, n, group, scale, q, 2, out);                                     \
        else                                                                                       \
            other(x, next, rnd, n, group, scale, q, width, out);                                   \
    }

LANES_256 void pack_256(const float *x, const float *next, const uint32_t *rnd, size_t n,
                        size_t group, const float *scale, int q, unsigned width, uint8_t *out)
{
    const __m256 most = _mm256_set1_ps((float)q);
    const __m256i q8 = _mm256_set1_epi8((char)q);
    for (size_t at = 0; at < n;) {
        size_t end = min_size(n, at + group);
        float one = reciprocal(*scale++);
        __m256 inv = _mm256_set1_ps(one);
        for (; at + 32 <= end; at += 32)
            store_32(codes_32(x + at, next + at, rnd ? rnd + at : NULL, inv, most, q8), width,
                     out + at / 8 * width);
        if (at < end)
            pack_rest(x, rnd, at, end, one, q, width, out);
        at = end;
    }
}

PACK_BY_WIDTH(TARGET_AVX2, pack_avx2, pack_256, pack_base)

TARGET_AVX2 static void sign_avx2(const float *x, size_t n, uint8_t *out)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 plus = _mm256_cmp_ps(_mm256_loadu_ps(x + i), _mm256_setzero_ps(), _CMP_GE_OQ);
        out[i / 8] = (uint8_t)_mm256_movemask_ps(plus);
    }
    sign_rest(x, i, n, out);
}

// Sixteen lanes of double a block and a fixed tree, as in sums.c.
TARGET_AVX2 static void sign_abs_avx2(const float *x, size_t n, uint8_t *out, double *total)
{
    const __m256 sign = _mm256_set1_ps(-0.0f), zero = _mm256_setzero_ps();
    size_t at = 0;
    for (; at + SUM_BLOCK <= n; at += SUM_BLOCK) {
        __m256d sum[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(),
                          _mm256_setzero_pd()};
        for (size_t i = at; i < at + SUM_BLOCK; i += 16) {
            __builtin_prefetch(x + i + AHEAD, 0, 3);
            for (int k = 0; k < 2; k++) {
                __m256 v = _mm256_loadu_ps(x + i + 8 * k), a = _mm256_andnot_ps(sign, v);
                __m128 low = _mm256_castps256_ps128(a), high = _mm256_extractf128_ps(a, 1);
                int bits = _mm256_movemask_ps(_mm256_cmp_ps(v, zero, _CMP_GE_OQ));
                out[i / 8 + (size_t)k] = (uint8_t)bits;
                sum[2 * k] = _mm256_add_pd(sum[2 * k], _mm256_cvtps_pd(low));
                sum[2 * k + 1] = _mm256_add_pd(sum[2 * k + 1], _mm256_cvtps_pd(high));
            }
        }
        double lane[4];
        _mm256_storeu_pd(
            lane, _mm256_add_pd(_mm256_add_pd(sum[0], sum[2]), _mm256_add_pd(sum[1], sum[3])));
        *total += (lane[0] + lane[2]) + (lane[1] + lane[3]);
    }
    sign_avx2(x + at, n - at, out + at / 8);
    if (at < n)
        *total += quant_sum_abs(x + at, n - at);
}

// Streaming stores want whole registers of so many bytes.
static enum give way_of(const struct quant_sink *to, size_t at, bool stream, size_t bytes)
{
    if (to->add)
        return GIVE_ADD;
    return stream && (uintptr_t)(to->to + at) % bytes == 0 ? GIVE_STREAM : GIVE_SET;
}

// A copy of unpack for each way and width.
#define UNPACK_AS(how, unpack, w)                                                                  \
    ((how) == GIVE_ADD      ? unpack(in, at, end, w, mean, to, GIVE_ADD)                           \
     : (how) == GIVE_STREAM ? unpack(in, at, end, w, mean, to, GIVE_STREAM)                        \
                            : unpack(in, at, end, w, mean, to, GIVE_SET))

// v comes weighted already when it is to be added.
LANES_256 void give_8(float *to, __m256 v, enum give how)
{
    if (how == GIVE_STREAM)
        _mm256_stream_ps(to, v);
    else
        _mm256_storeu_ps(to, how == GIVE_ADD ? _mm256_add_ps(_mm256_loadu_ps(to), v) : v);
}

// The eight codes that begin at p. Where width divides 8 just their bytes are read, else eight.
LANES_256 __m256i load_codes_8(const uint8_t *p, unsigned width, __m256i from, __m256i shift,
                               __m256i mask)
{
    uint64_t bits = 0;
    memcpy(&bits, p, 8 % width ? 8 : width);
    __m256i c = _mm256_shuffle_epi8(_mm256_set1_epi64x((long long)bits), from);
    return _mm256_and_si256(_mm256_srlv_epi32(c, shift), mask);
}

// Each lane takes the two bytes that hold its code, shifts and looks up or multiplies.
LANES_256 size_t unpack_256(const uint8_t *in, size_t i, size_t end, unsigned width,
                            const struct meaning *mean, struct quant_sink to, enum give how)
{
    const __m256i bit = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                                           _mm256_set1_epi32((int)width));
    const __m256i from =
        _mm256_add_epi32(_mm256_mullo_epi32(_mm256_srli_epi32(bit, 3), _mm256_set1_epi32(0x0101)),
                         _mm256_set1_epi32((int)0x80800100u));
    const __m256i shift = _mm256_and_si256(bit, _mm256_set1_epi32(7));
    const __m256i mask = _mm256_set1_epi32((1 << width) - 1), zero = _mm256_set1_epi32(mean->zero);
    const __m256 step = _mm256_set1_ps(mean->step), w = _mm256_set1_ps(to.weight);
    const bool table = mean->table;
    const __m256 low = table ? _mm256_loadu_ps(mean->table) : step;
    const __m256 high = table ? _mm256_loadu_ps(mean->table + 8) : step;
    size_t spare = 8 % width ? 8 : width; // bytes a load reads
    for (; (end - i) / 8 * width >= spare; i += 8) {
        __m256i c = load_codes_8(in + i / 8 * width, width, from, shift, mask);
        __m256 v;
        if (table) {
            v = _mm256_permutevar8x32_ps(low, c);
            if (width > 3) // bit 3 to the sign
                v = _mm256_blendv_ps(v, _mm256_permutevar8x32_ps(high, c),
                                     _mm256_castsi256_ps(_mm256_slli_epi32(c, 28)));
        } else {
            v = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(c, zero)), step);
        }
        give_8(to.to + i, how == GIVE_ADD ? _mm256_mul_ps(w, v) : v, how);
    }
    return i;
}

TARGET_AVX2 static void unpack_avx2(const uint8_t *in, size_t at, size_t end, unsigned width,
                                    const struct meaning *mean, struct quant_sink to, bool stream)
{
    enum give how = way_of(&to, at, stream, 32);
    size_t i = at;
#define GIVE(w) UNPACK_AS(how, unpack_256, w)
    switch (width) {
    case 1:
        i = GIVE(1);
        break;
    case 2:
        i = GIVE(2);
        break;
    case 4:
        i = GIVE(4);
        break;
    case 8:
        i = GIVE(8);
        break;
    default:
        i = GIVE(width);
        break;
    }
#undef GIVE
    if (i < end)
        unpack_rest(in, i, end, width, mean, to);
}

// Levels in [-q, q] of sixteen values.
LANES_512 __m512i nearest_16(const float *x, __m512 inv)
{
    return _mm512_cvt_roundps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), inv),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
LANES_512 __m512i stochastic_16(const float *x, const uint32_t *rnd, __m512 inv, __m512 most)
{
    __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x), inv);
    __m512 u = _mm512_cvtepi32_ps(_mm512_srli_epi32(_mm512_loadu_si512(rnd), 8));
    __m512 a = _mm512_add_ps(_mm512_abs_ps(v), _mm512_mul_ps(u, _mm512_set1_ps(0x1p-24f)));
    __m512i level = _mm512_cvttps_epi32(_mm512_min_ps(a, most));
    __mmask16 below = _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_LT_OQ);
    return _mm512_mask_sub_epi32(level, below, _mm512_setzero_si512(), level);
}

// 64 codes as bytes; meanwhile next is fetched, for the caller's next look.
// Packing with saturation works inside 128-bit lanes; the permutation puts the values back into
// order.
LANES_512 __m512i codes_64(const float *x, const float *next, const uint32_t *rnd, __m512 inv,
                           __m512 most, __m512i q)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i v[4];
    for (int k = 0; k < 4; k++)
        __builtin_prefetch(next + 16 * k, 0, 3);
    for (int k = 0; k < 4; k++)
        v[k] =
            rnd ? stochastic_16(x + 16 * k, rnd + 16 * k, inv, most) : nearest_16(x + 16 * k, inv);
    __m512i c = _mm512_packs_epi16(_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3]));
    c = _mm512_permutexvar_epi32(order, c);
    if (!rnd) // a scale that was rounded down leaves levels beyond q
        c = _mm512_max_epi8(_mm512_min_epi8(c, q), _mm512_sub_epi8(_mm512_setzero_si512(), q));
    return _mm512_add_epi8(c, q);
}

// Codes of 8, 4 or 2 bits: pairs, then pairs of pairs, are joined by a multiplication.
LANES_512 void store_64(__m512i c, unsigned width, uint8_t *out)
{
    if (width == 8) {
        _mm512_storeu_si512(out, c);
        return;
    }
    __m512i two = _mm512_maddubs_epi16(c, _mm512_set1_epi16((short)(1 | 1 << (8 + width))));
    if (width == 4) {
        _mm256_storeu_si256((__m256i *)(void *)out, _mm512_cvtepi16_epi8(two));
        return;
    }
    __m512i four = _mm512_madd_epi16(two, _mm512_set1_epi32(1 | 1 << 20));
    _mm_storeu_si128((__m128i *)(void *)out, _mm512_cvtepi32_epi8(four));
}

LANES_512 void pack_512(const float *x, const float *next, const uint32_t *rnd, size_t n,
                        size_t group, const float *scale, int q, unsigned width, uint8_t *out)
{
    const __m512 most = _mm512_set1_ps((float)q);
    const __m512i q8 = _mm512_set1_epi8((char)q);
    for (size_t at = 0; at < n;) {
        size_t end = min_size(n, at + group);
        float one = reciprocal(*scale++);
        __m512 inv = _mm512_set1_ps(one);
        for (; at + 64 <= end; at += 64)
            store_64(codes_64(x + at, next + at, rnd ? rnd + at : NULL, inv, most, q8), width,
                     out + at / 8 * width);
        if (at < end)
            pack_rest(x, rnd, at, end, one, q, width, out);
        at = end;
    }
}

// Other widths: whole tiles of bytes first.
TARGET_AVX512 static void pack_tiles_512(const float *x, const float *next, const uint32_t *rnd,
                                         size_t n, size_t group, const float *scale, int q,
                                         unsigned width, uint8_t *out)
{
    uint8_t code[TILE];
    const __m512 most = _mm512_set1_ps((float)q);
    const __m512i q8 = _mm512_set1_epi8((char)q);
    for (size_t at = 0; at < n;) {
        size_t end = min_size(n, at + group);
        float one = reciprocal(*scale++);
        __m512 inv = _mm512_set1_ps(one);
        while (end - at >= 64) {
            size_t m = min_size(end - at, TILE) & ~(size_t)63;
            for (size_t i = 0; i < m; i += 64)
                store_64(
                    codes_64(x + at + i, next + at + i, rnd ? rnd + at + i : NULL, inv, most, q8),
                    8, code + i);
            pack_u8(code, m, width, out + at / 8 * width);
            at += m;
        }
        if (at < end)
            pack_rest(x, rnd, at, end, one, q, width, out);
        at = end;
    }
}

PACK_BY_WIDTH(TARGET_AVX512, pack_avx512, pack_512, pack_tiles_512)

TARGET_AVX512 static void sign_avx512(const float *x, size_t n, uint8_t *out)
{
    const __m512 zero = _mm512_setzero_ps();
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
        uint64_t bits = 0;
        for (unsigned k = 0; k < 4; k++) {
            __m512 v = _mm512_loadu_ps(x + i + 16 * k);
            bits |= (uint64_t)_mm512_cmp_ps_mask(v, zero, _CMP_GE_OQ) << (16 * k);
        }
        memcpy(out + i / 8, &bits, sizeof bits);
    }
    sign_rest(x, i, n, out);
}

// Sixteen lanes of double a block and a fixed tree, as in sums.c.
TARGET_AVX512 static void sign_abs_avx512(const float *x, size_t n, uint8_t *out, double *total)
{
    const __m512 zero = _mm512_setzero_ps();
    size_t at = 0;
    for (; at + SUM_BLOCK <= n; at += SUM_BLOCK) {
        __m512d low = _mm512_setzero_pd(), high = low;
        for (size_t i = at; i < at + SUM_BLOCK; i += 32) {
            uint32_t bits = 0;
            for (unsigned k = 0; k < 2; k++) {
                const float *p = x + i + 16 * k;
                __builtin_prefetch(p + AHEAD, 0, 3);
                __m512 v = _mm512_loadu_ps(p), a = _mm512_abs_ps(v);
                bits |= (uint32_t)_mm512_cmp_ps_mask(v, zero, _CMP_GE_OQ) << (16 * k);
                low = _mm512_add_pd(low, _mm512_cvtps_pd(_mm512_castps512_ps256(a)));
                high = _mm512_add_pd(high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)));
            }
            memcpy(out + i / 8, &bits, sizeof bits);
        }
        double lane[8];
        _mm512_storeu_pd(lane, _mm512_add_pd(low, high));
        for (int half = 4; half; half /= 2)
            for (int l = 0; l < half; l++)
                lane[l] += lane[l + half];
        *total += lane[0];
    }
    sign_avx512(x + at, n - at, out + at / 8);
    if (at < n)
        *total += quant_sum_abs(x + at, n - at);
}

// v comes weighted already when it is to be added.
LANES_512 void give_16(float *to, __m512 v, enum give how)
{
    if (how == GIVE_STREAM)
        _mm512_stream_ps(to, v);
    else
        _mm512_storeu_ps(to, how == GIVE_ADD ? _mm512_add_ps(_mm512_loadu_ps(to), v) : v);
}

// Up to 4 bits: sixteen codes lie within 64 bits. Even ones are shifted, odd ones rotated into
// place, and a permutation looks them up: it reads four bits of each lane, so the table repeats.
LANES_512 size_t unpack_table_512(const uint8_t *in, size_t i, size_t end, unsigned width,
                                  __m512 table, float *to, enum give how)
{
    const __m512i step = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
    const __m512i even = _mm512_mullo_epi64(step, _mm512_set1_epi64(width));
    const __m512i odd = _mm512_sub_epi64(even, _mm512_set1_epi64(32 - (long long)width));
    const __m512i lane =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    // Three-bit codes are read eight bytes at a time, of which six are theirs.
    size_t most = width == 3 ? (end - i < 32 ? i : end - 16) : end;
    for (; i + 16 <= most; i += 16) {
        const uint8_t *p = in + i / 8 * width;
        __m512i c;
        if (width == 1) {
            uint16_t bits;
            memcpy(&bits, p, sizeof bits);
            c = _mm512_maskz_set1_epi32(bits, 1);
        } else if (width == 2) {
            int32_t bits;
            memcpy(&bits, p, sizeof bits);
            c = _mm512_srlv_epi32(_mm512_set1_epi32(bits), lane);
        } else {
            int64_t bits;
            memcpy(&bits, p, sizeof bits);
            __m512i b = _mm512_set1_epi64(bits);
            c = _mm512_mask_blend_epi32(0xaaaa, _mm512_srlv_epi64(b, even),
                                        _mm512_rorv_epi64(b, odd));
        }
        give_16(to + i, _mm512_permutexvar_ps(c, table), how);
    }
    return i;
}

// 5 to 8 bits: eight codes of each half lie within 64 bits.
LANES_512 size_t unpack_linear_512(const uint8_t *in, size_t i, size_t end, unsigned width,
                                   const struct meaning *mean, float weight, float *to,
                                   enum give how)
{
    const __m512i shift =
        _mm512_mullo_epi64(_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7), _mm512_set1_epi64(width));
    const __m512i low =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i mask = _mm512_set1_epi32((1 << width) - 1), zero = _mm512_set1_epi32(mean->zero);
    const __m512 step = _mm512_set1_ps(mean->step), w = _mm512_set1_ps(weight);
    size_t most = width == 8 ? end : end - i < 32 ? i : end - 16;
    for (; i + 16 <= most; i += 16) {
        const uint8_t *p = in + i / 8 * width;
        __m512i c;
        if (width == 8) {
            c = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
        } else {
            int64_t first, second;
            memcpy(&first, p, sizeof first);
            memcpy(&second, p + width, sizeof second);
            c = _mm512_permutex2var_epi32(_mm512_srlv_epi64(_mm512_set1_epi64(first), shift), low,
                                          _mm512_srlv_epi64(_mm512_set1_epi64(second), shift));
            c = _mm512_and_si512(c, mask);
        }
        __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(c, zero)), step);
        give_16(to + i, how == GIVE_ADD ? _mm512_mul_ps(w, v) : v, how);
    }
    return i;
}

LANES_512 size_t unpack_512(const uint8_t *in, size_t at, size_t end, unsigned width,
                            const struct meaning *mean, struct quant_sink to, enum give how)
{
    if (width > 4)
        return unpack_linear_512(in, at, end, width, mean, to.weight, to.to, how);
    const __m512i code =
        _mm512_and_si512(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                         _mm512_set1_epi32((1 << width) - 1));
    __m512 table;
    if (mean->table)
        table = _mm512_permutexvar_ps(code, _mm512_loadu_ps(mean->table));
    else
        table =
            _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(code, _mm512_set1_epi32(mean->zero))),
                          _mm512_set1_ps(mean->step));
    if (how == GIVE_ADD)
        table = _mm512_mul_ps(_mm512_set1_ps(to.weight), table);
    return unpack_table_512(in, at, end, width, table, to.to, how);
}

TARGET_AVX512 static void unpack_avx512(const uint8_t *in, size_t at, size_t end, unsigned width,
                                        const struct meaning *mean, struct quant_sink to,
                                        bool stream)
{
    enum give how = way_of(&to, at, stream, 64);
    size_t i = at;
#define GIVE(w) UNPACK_AS(how, unpack_512, w)
    switch (width) {
    case 1:
        i = GIVE(1);
        break;
    case 2:
        i = GIVE(2);
        break;
    case 3:
        i = GIVE(3);
        break;
    case 4:
        i = GIVE(4);
        break;
    case 8:
        i = mean->table ? at : GIVE(8);
        break;
    default:
        i = mean->table ? at : GIVE(width);
        break;
    }
#undef GIVE
    if (i < end)
        unpack_rest(in, i, end, width, mean, to);
}
#endif

static void copy_base(const float *x, size_t n, float *to)
{
    memcpy(to, x, n * sizeof *to);
}

#if SIMD_X86
TARGET_AVX2 static void copy_avx2(const float *x, size_t n, float *to)
{
    size_t i = min_size(((0 - (uintptr_t)to) & 31) / 4, n);
    copy_base(x, i, to);
    for (; i + 8 <= n; i += 8)
        _mm256_stream_ps(to + i, _mm256_loadu_ps(x + i));
    copy_base(x + i, n - i, to + i);
}

TARGET_AVX512 static void copy_avx512(const float *x, size_t n, float *to)
{
    size_t i = min_size(((0 - (uintptr_t)to) & 63) / 4, n);
    copy_base(x, i, to);
    for (; i + 16 <= n; i += 16)
        _mm512_stream_ps(to + i, _mm512_loadu_ps(x + i));
    copy_base(x + i, n - i, to + i);
}
#endif

static void settle(bool stream)
{
#if SIMD_X86
    if (stream)
        _mm_sfence(); // other threads read what was written past the caches
#else
    (void)stream;
#endif
}

#define I16_MOST 32767

void quant_i16_to_le(const float *x, size_t n, float inv, uint8_t *out)
{
    const float most = I16_MOST;
    for (size_t i = 0; i < n; i++) {
        float s = x[i] * inv;
        s = s > most ? most : s < -most ? -most : s;
        int code = (int)((s + 12582912.0f) - 12582912.0f) + I16_MOST; // to nearest, ties to even
        out[2 * i] = (uint8_t)code;
        out[2 * i + 1] = (uint8_t)(code >> 8);
    }
}

void quant_i16_from_le(const uint8_t *in, size_t n, float step, float *v)
{
    for (size_t i = 0; i < n; i++)
        v[i] = (float)((in[2 * i] | in[2 * i + 1] << 8) - I16_MOST) * step;
}

void quant_pack(const float *x, const float *next, const uint32_t *rnd, size_t n, size_t group,
                const float *scale, int q, unsigned width, uint8_t *out)
{
    SIMD_PICK(pack, (x, next, rnd, n, group, scale, q, width, out));
}

void quant_pack_sign(const float *x, size_t n, uint8_t *out)
{
    SIMD_PICK(sign, (x, n, out));
}

void quant_pack_sign_abs(const float *x, size_t n, uint8_t *out, double *total)
{
    SIMD_PICK(sign_abs, (x, n, out, total));
}

void quant_stream(const float *x, size_t n, float *to)
{
    SIMD_PICK(copy, (x, n, to));
    settle(true);
}

void quant_unpack(const uint8_t *in, size_t n, unsigned width, size_t group, const float *scale,
                  int zero, struct quant_sink to, bool stream)
{
    for (size_t at = 0; at < n; at += group) {
        const struct meaning mean = {NULL, zero, *scale++};
        SIMD_PICK(unpack, (in, at, min_size(n, at + group), width, &mean, to, stream));
    }
    settle(stream);
}

void quant_unpack_table(const uint8_t *in, size_t n, unsigned width, const float table[16],
                        struct quant_sink to, bool stream)
{
    const struct meaning mean = {table, 0, 0};
    SIMD_PICK(unpack, (in, 0, n, width, &mean, to, stream));
    settle(stream);
}
