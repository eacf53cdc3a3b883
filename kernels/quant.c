// Floats to codes and back, values one by one.
#ifdef SIMD_LANES // read for each instruction set

// Largest magnitude. Bits of |x| order as the values do, Inf above every finite one and NaN above
// Inf: one integer maximum finds the scale and tells whether the input is finite.

SIMD_KERNEL uint32_t SIMD_NAME(quant_absmax_bits_le)(const uint8_t *x, size_t n)
{
    uint32_t max = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t a = load_u32(x + 4 * i) & 0x7fffffffu;
        max = a > max ? a : max;
    }
    return max;
}

SIMD_KERNEL uint32_t SIMD_NAME(quant_absmax_bits_f16)(const uint8_t *x, size_t n)
{
    uint16_t max = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t a = load_u16(x + 2 * i) & 0x7fffu;
        max = a > max ? a : max;
    }
    return max;
}

// Dense formats.

SIMD_KERNEL void SIMD_NAME(quant_f32_to_le)(const float *x, size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i++)
        store_u32(out + 4 * i, f32_bits(x[i]));
}

SIMD_KERNEL void SIMD_NAME(quant_f32_give)(const float *x, size_t n, struct quant_sink to)
{
    if (to.add)
        for (size_t i = 0; i < n; i++)
            to.to[i] += to.weight * x[i];
    else
        for (size_t i = 0; i < n; i++)
            to.to[i] = x[i];
}

SIMD_KERNEL void SIMD_NAME(quant_f32_from_le)(const uint8_t *in, size_t n, struct quant_sink to)
{
    if (to.add)
        for (size_t i = 0; i < n; i++)
            to.to[i] += to.weight * f32_from_bits(load_u32(in + 4 * i));
    else
        for (size_t i = 0; i < n; i++)
            to.to[i] = f32_from_bits(load_u32(in + 4 * i));
}

SIMD_KERNEL void SIMD_NAME(quant_bf16_to_le)(const float *x, size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t u = f32_bits(x[i]);
        store_u16(out + 2 * i, (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16));
    }
}

SIMD_KERNEL void SIMD_NAME(quant_bf16_from_le)(const uint8_t *in, size_t n, struct quant_sink to)
{
    if (to.add)
        for (size_t i = 0; i < n; i++)
            to.to[i] += to.weight * bf16_to_f32(load_u16(in + 2 * i));
    else
        for (size_t i = 0; i < n; i++)
            to.to[i] = bf16_to_f32(load_u16(in + 2 * i));
}

// Scalar quantisers.

SIMD_KERNEL void SIMD_NAME(quant_nearest_u8)(const float *x, size_t n, float inv, int q,
                                             uint8_t *code)
{
    for (size_t i = 0; i < n; i++)
        code[i] = (uint8_t)(nearest_int(clip(x[i] * inv, (float)q)) + q);
}

SIMD_KERNEL void SIMD_NAME(quant_stochastic_u8)(const float *x, const uint32_t *rnd, size_t n,
                                                float inv, int q, uint8_t *code)
{
    for (size_t i = 0; i < n; i++) {
        float v = x[i] * inv, a = (v < 0 ? -v : v) + unit_of(rnd[i]);
        int level = (int)(a < (float)q ? a : (float)q);
        code[i] = (uint8_t)(v < 0 ? q - level : q + level);
    }
}

SIMD_KERNEL void SIMD_NAME(quant_deadzone_u8)(const float *x, size_t n, float inv, float round,
                                              int q, uint8_t *code)
{
    for (size_t i = 0; i < n; i++) {
        float v = x[i] * inv, a = (v < 0 ? -v : v) + round;
        int level = (int)(a < (float)q ? a : (float)q);
        code[i] = (uint8_t)(v < 0 ? q - level : q + level);
    }
}

SIMD_KERNEL void SIMD_NAME(quant_dither_u8)(const float *x, const uint32_t *rnd, size_t n,
                                            float inv, int q, uint8_t *code)
{
    for (size_t i = 0; i < n; i++)
        code[i] = (uint8_t)(int)(clip(x[i] * inv, (float)q - 1) + unit_of(rnd[i]) + (float)q);
}

SIMD_KERNEL void SIMD_NAME(quant_sign_u8)(const float *x, size_t n, uint8_t *code)
{
    for (size_t i = 0; i < n; i++)
        code[i] = x[i] >= 0;
}

SIMD_KERNEL void SIMD_NAME(quant_coin_u8)(const float *x, const uint32_t *rnd, size_t n, float inv,
                                          uint8_t *code)
{
    for (size_t i = 0; i < n; i++)
        code[i] = unit_of(rnd[i]) < x[i] * inv * 0.5f + 0.5f;
}

SIMD_KERNEL void SIMD_NAME(quant_bounds_u8)(const float *x, size_t n, float inv, const float *bound,
                                            int n_bounds, uint8_t *code)
{
    for (size_t begin = 0; begin < n; begin += 256) {
        size_t m = n - begin < 256 ? n - begin : 256;
        float v[256];
        uint8_t c[256] = {0};
        for (size_t i = 0; i < m; i++)
            v[i] = x[begin + i] * inv;
        for (int b = 0; b < n_bounds; b++)
            for (size_t i = 0; i < m; i++)
                c[i] = (uint8_t)(c[i] + (v[i] >= bound[b]));
        memcpy(code + begin, c, m);
    }
}

// In units of the least level: below 1 it is a coin, above it the random word decides whether the
// mantissa carries into the exponent, P(up) = (|x| - 2^a) / 2^a. Both are unbiased.
SIMD_KERNEL void SIMD_NAME(quant_powers_u8)(const float *x, const uint32_t *rnd, size_t n,
                                            float inv, int q, uint8_t *code)
{
    const float up = f32_from_bits((uint32_t)(q - 1 + 127) << 23);
    for (size_t i = 0; i < n; i++) {
        float t = f32_from_bits(f32_bits(x[i]) & 0x7fffffffu) * inv * up;
        int coin = unit_of(rnd[i]) < t;
        int octave = (int)((f32_bits(t) + (rnd[i] >> 9)) >> 23) - 126;
        octave = octave < q ? octave : q;
        int level = t < 1 ? coin : octave;
        code[i] = (uint8_t)(f32_bits(x[i]) >> 31 ? q - level : q + level);
    }
}

SIMD_KERNEL void SIMD_NAME(quant_linear_from_u8)(const uint8_t *code, size_t n, int zero,
                                                 float step, struct quant_sink to)
{
    if (to.add)
        for (size_t i = 0; i < n; i++)
            to.to[i] += to.weight * ((float)((int)code[i] - zero) * step);
    else
        for (size_t i = 0; i < n; i++)
            to.to[i] = (float)((int)code[i] - zero) * step;
}

// sign m step + sign offset, the offset being 0, first or rest.
SIMD_KERNEL void SIMD_NAME(quant_centred_from_u8)(const uint8_t *code, size_t n, int zero,
                                                  const float *scale, struct quant_sink to)
{
    const float step = scale[0], first = scale[1], rest = scale[2];
#define OFFSET(m) ((m) > 1 ? rest : (m) > 0 ? first : (m) == 0 ? 0 : (m) == -1 ? -first : -rest)
    if (to.add)
        for (size_t i = 0; i < n; i++) {
            int m = (int)code[i] - zero;
            to.to[i] += to.weight * ((float)m * step + OFFSET(m));
        }
    else
        for (size_t i = 0; i < n; i++) {
            int m = (int)code[i] - zero;
            to.to[i] = (float)m * step + OFFSET(m);
        }
#undef OFFSET
}

SIMD_KERNEL void SIMD_NAME(quant_dither_from_u8)(const uint8_t *code, const uint32_t *rnd, size_t n,
                                                 int zero, float step, struct quant_sink to)
{
#define VALUE ((float)((int)code[i] - zero) + (0.5f - unit_of(rnd[i]))) * step
    if (to.add)
        for (size_t i = 0; i < n; i++)
            to.to[i] += to.weight * (VALUE);
    else
        for (size_t i = 0; i < n; i++)
            to.to[i] = VALUE;
#undef VALUE
}

#else

#include "kernels_codec.h"
#include "simd.h"

#include "base/half.h"

#include <string.h>
#if SIMD_X86
#include <immintrin.h>
#endif

SIMD_PART uint16_t load_u16(const uint8_t *p)
{
    uint16_t u;
    memcpy(&u, p, sizeof u);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    u = __builtin_bswap16(u);
#endif
    return u;
}
SIMD_PART void store_u16(uint8_t *p, uint16_t u)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    u = __builtin_bswap16(u);
#endif
    memcpy(p, &u, sizeof u);
}
SIMD_PART uint32_t load_u32(const uint8_t *p)
{
    uint32_t u;
    memcpy(&u, p, sizeof u);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    u = __builtin_bswap32(u);
#endif
    return u;
}
SIMD_PART void store_u32(uint8_t *p, uint32_t u)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    u = __builtin_bswap32(u);
#endif
    memcpy(p, &u, sizeof u);
}

// Adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bits of a float: the same
// with every instruction set, and no conversion that could differ.
#define ROUND_MAGIC      12582912.0f
#define ROUND_MAGIC_BITS 0x4b400000

SIMD_PART int nearest_int(float v) // |v| < 2^22
{
    return (int)(f32_bits(v + ROUND_MAGIC)) - ROUND_MAGIC_BITS;
}
SIMD_PART float clip(float v, float most)
{
    v = v < most ? v : most;
    return v > -most ? v : -most;
}
SIMD_PART float unit_of(uint32_t word)
{
    return (float)(int32_t)(word >> 8) * 0x1p-24f;
}

#define SIMD_FILE "quant.c"
#include "simd_each.h"

#define F16_MAX 65504.0f

static void f16_to_le_tail(const float *x, size_t begin, size_t end, float scale, uint8_t *out)
{
    for (size_t i = begin; i < end; i++) {
        float v = x[i] * scale;
        v = v > F16_MAX ? F16_MAX : v < -F16_MAX ? -F16_MAX : v;
        store_u16(out + 2 * i, f16_from_f32(v));
    }
}

static void f16_from_le_tail(const uint8_t *in, size_t begin, size_t end, float scale,
                             struct quant_sink to)
{
    for (size_t i = begin; i < end; i++) {
        float v = f16_to_f32(load_u16(in + 2 * i)) * scale;
        to.to[i] = to.add ? to.to[i] + to.weight * v : v;
    }
}

static void quant_f16_to_le_base(const float *x, size_t n, float scale, uint8_t *out)
{
    f16_to_le_tail(x, 0, n, scale, out);
}
static void quant_f16_from_le_base(const uint8_t *in, size_t n, float scale, struct quant_sink to)
{
    f16_from_le_tail(in, 0, n, scale, to);
}

#if SIMD_X86
TARGET_AVX2 static void quant_f16_to_le_avx2(const float *x, size_t n, float scale, uint8_t *out)
{
    const __m256 s = _mm256_set1_ps(scale), hi = _mm256_set1_ps(F16_MAX),
                 lo = _mm256_set1_ps(-F16_MAX);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), s);
        v = _mm256_max_ps(_mm256_min_ps(v, hi), lo);
        __m128i h = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *)(void *)(out + 2 * i), h);
    }
    f16_to_le_tail(x, i, n, scale, out);
}
TARGET_AVX2 static void quant_f16_from_le_avx2(const uint8_t *in, size_t n, float scale,
                                               struct quant_sink to)
{
    const __m256 s = _mm256_set1_ps(scale), w = _mm256_set1_ps(to.weight);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m128i h = _mm_loadu_si128((const __m128i *)(const void *)(in + 2 * i));
        __m256 v = _mm256_mul_ps(_mm256_cvtph_ps(h), s);
        if (to.add)
            v = _mm256_add_ps(_mm256_loadu_ps(to.to + i), _mm256_mul_ps(w, v));
        _mm256_storeu_ps(to.to + i, v);
    }
    f16_from_le_tail(in, i, n, scale, to);
}
TARGET_AVX512 static void quant_f16_to_le_avx512(const float *x, size_t n, float scale,
                                                 uint8_t *out)
{
    const __m512 s = _mm512_set1_ps(scale), hi = _mm512_set1_ps(F16_MAX),
                 lo = _mm512_set1_ps(-F16_MAX);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x + i), s);
        v = _mm512_max_ps(_mm512_min_ps(v, hi), lo);
        __m256i h = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
        _mm256_storeu_si256((__m256i *)(void *)(out + 2 * i), h);
    }
    f16_to_le_tail(x, i, n, scale, out);
}
TARGET_AVX512 static void quant_f16_from_le_avx512(const uint8_t *in, size_t n, float scale,
                                                   struct quant_sink to)
{
    const __m512 s = _mm512_set1_ps(scale), w = _mm512_set1_ps(to.weight);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256i h = _mm256_loadu_si256((const __m256i *)(const void *)(in + 2 * i));
        __m512 v = _mm512_mul_ps(_mm512_cvtph_ps(h), s);
        if (to.add)
            v = _mm512_add_ps(_mm512_loadu_ps(to.to + i), _mm512_mul_ps(w, v));
        _mm512_storeu_ps(to.to + i, v);
    }
    f16_from_le_tail(in, i, n, scale, to);
}
#endif

static void table_tail(const uint8_t *code, size_t begin, size_t n, const float table[16],
                       struct quant_sink to)
{
    for (size_t i = begin; i < n; i++) {
        float v = table[code[i] & 15];
        to.to[i] = to.add ? to.to[i] + to.weight * v : v;
    }
}
static void quant_table_from_u8_base(const uint8_t *code, size_t n, const float table[16],
                                     struct quant_sink to)
{
    table_tail(code, 0, n, table, to);
}
#if SIMD_X86
TARGET_AVX2 static void quant_table_from_u8_avx2(const uint8_t *code, size_t n,
                                                 const float table[16], struct quant_sink to)
{
    const __m256 low = _mm256_loadu_ps(table), high = _mm256_loadu_ps(table + 8);
    const __m256 w = _mm256_set1_ps(to.weight);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i c =
            _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(code + i)));
        __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(c, 28)); // bit 3 to the sign
        __m256 v = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, c),
                                    _mm256_permutevar8x32_ps(high, c), upper);
        if (to.add)
            v = _mm256_add_ps(_mm256_loadu_ps(to.to + i), _mm256_mul_ps(w, v));
        _mm256_storeu_ps(to.to + i, v);
    }
    table_tail(code, i, n, table, to);
}
TARGET_AVX512 static void quant_table_from_u8_avx512(const uint8_t *code, size_t n,
                                                     const float table[16], struct quant_sink to)
{
    const __m512 t = _mm512_loadu_ps(table), w = _mm512_set1_ps(to.weight);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512i c =
            _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(code + i)));
        __m512 v = _mm512_permutexvar_ps(c, t);
        if (to.add)
            v = _mm512_add_ps(_mm512_loadu_ps(to.to + i), _mm512_mul_ps(w, v));
        _mm512_storeu_ps(to.to + i, v);
    }
    table_tail(code, i, n, table, to);
}
#endif

uint32_t quant_absmax_bits_le(const uint8_t *x, size_t n)
{
    return SIMD_PICK(quant_absmax_bits_le, (x, n));
}

uint32_t quant_absmax_bits_f16(const uint8_t *x, size_t n)
{
    return SIMD_PICK(quant_absmax_bits_f16, (x, n));
}

uint32_t quant_absmax_bits_bf16(const uint8_t *x, size_t n)
{
    return quant_absmax_bits_f16(x, n); // both keep the sign in the top bit
}

void quant_f32_to_le(const float *x, size_t n, uint8_t *out)
{
    SIMD_PICK(quant_f32_to_le, (x, n, out));
}

void quant_f32_give(const float *x, size_t n, struct quant_sink to)
{
    SIMD_PICK(quant_f32_give, (x, n, to));
}

void quant_f32_from_le(const uint8_t *in, size_t n, struct quant_sink to)
{
    SIMD_PICK(quant_f32_from_le, (in, n, to));
}

void quant_bf16_to_le(const float *x, size_t n, uint8_t *out)
{
    SIMD_PICK(quant_bf16_to_le, (x, n, out));
}

void quant_bf16_from_le(const uint8_t *in, size_t n, struct quant_sink to)
{
    SIMD_PICK(quant_bf16_from_le, (in, n, to));
}

void quant_f16_to_le(const float *x, size_t n, float scale, uint8_t *out)
{
    SIMD_PICK(quant_f16_to_le, (x, n, scale, out));
}

void quant_f16_from_le(const uint8_t *in, size_t n, float scale, struct quant_sink to)
{
    SIMD_PICK(quant_f16_from_le, (in, n, scale, to));
}

void quant_nearest_u8(const float *x, size_t n, float inv, int q, uint8_t *code)
{
    SIMD_PICK(quant_nearest_u8, (x, n, inv, q, code));
}

void quant_stochastic_u8(const float *x, const uint32_t *rnd, size_t n, float inv, int q,
                         uint8_t *code)
{
    SIMD_PICK(quant_stochastic_u8, (x, rnd, n, inv, q, code));
}

void quant_deadzone_u8(const float *x, size_t n, float inv, float round, int q, uint8_t *code)
{
    SIMD_PICK(quant_deadzone_u8, (x, n, inv, round, q, code));
}

void quant_centred_from_u8(const uint8_t *code, size_t n, int zero, const float scale[3],
                           struct quant_sink to)
{
    SIMD_PICK(quant_centred_from_u8, (code, n, zero, scale, to));
}

void quant_dither_u8(const float *x, const uint32_t *rnd, size_t n, float inv, int q, uint8_t *code)
{
    SIMD_PICK(quant_dither_u8, (x, rnd, n, inv, q, code));
}

void quant_sign_u8(const float *x, size_t n, uint8_t *code)
{
    SIMD_PICK(quant_sign_u8, (x, n, code));
}

void quant_coin_u8(const float *x, const uint32_t *rnd, size_t n, float inv, uint8_t *code)
{
    SIMD_PICK(quant_coin_u8, (x, rnd, n, inv, code));
}

void quant_bounds_u8(const float *x, size_t n, float inv, const float *bound, int n_bounds,
                     uint8_t *code)
{
    SIMD_PICK(quant_bounds_u8, (x, n, inv, bound, n_bounds, code));
}

void quant_powers_u8(const float *x, const uint32_t *rnd, size_t n, float inv, int q, uint8_t *code)
{
    SIMD_PICK(quant_powers_u8, (x, rnd, n, inv, q, code));
}

// For any CPU: vectors of loads from where lanes say are slower on many machines.
void quant_lookup_from_u8(const uint8_t *code, size_t n, const float table[restrict 256],
                          struct quant_sink to)
{
    float *restrict y = to.to;
    if (to.add)
        for (size_t i = 0; i < n; i++)
            y[i] += to.weight * table[code[i]];
    else
        for (size_t i = 0; i < n; i++)
            y[i] = table[code[i]];
}

void quant_linear_from_u8(const uint8_t *code, size_t n, int zero, float step, struct quant_sink to)
{
    SIMD_PICK(quant_linear_from_u8, (code, n, zero, step, to));
}

void quant_dither_from_u8(const uint8_t *code, const uint32_t *rnd, size_t n, int zero, float step,
                          struct quant_sink to)
{
    SIMD_PICK(quant_dither_from_u8, (code, rnd, n, zero, step, to));
}

void quant_table_from_u8(const uint8_t *code, size_t n, const float table[16], struct quant_sink to)
{
    SIMD_PICK(quant_table_from_u8, (code, n, table, to));
}

void quant_signs_from_bits(const uint8_t *bits, size_t first, size_t n, float mean, float *v)
{
    for (size_t i = 0; i < n; i++)
        v[i] = bits[(first + i) / 8] >> ((first + i) % 8) & 1 ? mean : -mean;
}

#endif
