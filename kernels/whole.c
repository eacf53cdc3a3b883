#ifdef SIMD_LANES // read for each instruction set

#undef CODES
#undef SCALES
#define CODES(name) SIMD_KERNEL void SIMD_NAME(name)(const uint8_t *restrict x, uint8_t *restrict q)
#define SCALES(name)                                                                               \
    SIMD_KERNEL void SIMD_NAME(name)(const uint8_t *restrict x, float *restrict d,                 \
                                     float *restrict m)

SIMD_INLINE float SIMD_NAME(half_at)(const uint8_t *x)
{
    const uint16_t h = (uint16_t)(x[0] | x[1] << 8);
#if SIMD_X86 && SIMD_LANES > 4
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
#else
    return f16_to_f32(h);
#endif
}

CODES(q5_0)
{
    const uint32_t high = u32_at(x + 2);
    for (int i = 0; i < 16; i++) {
        q[i] = (uint8_t)(((x[6 + i] & 15) | (high >> i & 1) << 4) - 16);
        q[16 + i] = (uint8_t)((x[6 + i] >> 4 | (high >> (16 + i) & 1) << 4) - 16);
    }
}

CODES(q5_1)
{
    const uint32_t high = u32_at(x + 4);
    for (int i = 0; i < 16; i++) {
        q[i] = (uint8_t)((x[8 + i] & 15) | (high >> i & 1) << 4);
        q[16 + i] = (uint8_t)(x[8 + i] >> 4 | (high >> (16 + i) & 1) << 4);
    }
}

// Groups 2 k and 2 k + 1 of 32 are the low and high nibbles of 32 bytes.
SIMD_INLINE void SIMD_NAME(nibbles)(const uint8_t *restrict x, uint8_t *restrict q)
{
    for (int i = 0; i < 32; i++)
        q[i] = x[i] & 15;
    for (int i = 0; i < 32; i++)
        q[32 + i] = x[i] >> 4;
}

// Eight scales and mins of 6 bits in 12 bytes, four to a word; see block_scale_min.
SCALES(k_scales)
{
    const float all = SIMD_NAME(half_at)(x), min = SIMD_NAME(half_at)(x + 2);
    const uint32_t a = u32_at(x + 4), b = u32_at(x + 8), c = u32_at(x + 12);
    const uint32_t scale[2] = {a & 0x3f3f3f3f, (c & 0x0f0f0f0f) | (a >> 2 & 0x30303030)};
    const uint32_t low[2] = {b & 0x3f3f3f3f, (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030)};
    uint8_t by[8], less[8];
    memcpy(by, scale, sizeof by);
    memcpy(less, low, sizeof less);
    for (int j = 0; j < 8; j++)
        d[j] = all * (float)by[j];
    for (int j = 0; j < 8; j++)
        m[j] = -(min * (float)less[j]);
}

CODES(q4_k)
{
    for (int j = 0; j < 4; j++)
        SIMD_NAME(nibbles)(x + 16 + 32 * j, q + 64 * j);
}

CODES(q5_k)
{
    for (int j = 0; j < 4; j++) {
        SIMD_NAME(nibbles)(x + 48 + 32 * j, q + 64 * j);
        for (int i = 0; i < 32; i++)
            q[64 * j + i] |= (uint8_t)((x[16 + i] >> 2 * j & 1) << 4);
        for (int i = 0; i < 32; i++)
            q[64 * j + 32 + i] |= (uint8_t)((x[16 + i] >> (2 * j + 1) & 1) << 4);
    }
}

SCALES(q6_k_scales)
{
    const float all = SIMD_NAME(half_at)(x + 208);
    (void)m;
    for (int j = 0; j < 16; j++)
        d[j] = all * (float)(int8_t)x[192 + j];
}

CODES(q6_k)
{
    for (int half = 0; half < 2; half++)
        for (int g = 0; g < 4; g++) {
            const uint8_t *low = x + 64 * half + 32 * (g % 2), *high = x + 128 + 32 * half;
            uint8_t *to = q + 128 * half + 32 * g;
            for (int i = 0; i < 32; i++)
                to[i] =
                    (uint8_t)(((low[i] >> 4 * (g / 2) & 15) | (high[i] >> 2 * g & 3) << 4) - 32);
        }
}

SCALES(q2_k_scales)
{
    const float all = SIMD_NAME(half_at)(x + 80), min = SIMD_NAME(half_at)(x + 82);
    for (int j = 0; j < 16; j++) {
        d[j] = all * (float)(x[j] & 15);
        m[j] = -(min * (float)(x[j] >> 4));
    }
}

CODES(q2_k)
{
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 32; i++)
            q[32 * j + i] = x[16 + 32 * (j / 4) + i] >> 2 * (j % 4) & 3;
}

SCALES(q3_k_scales)
{
    const float all = SIMD_NAME(half_at)(x + 108);
    (void)m;
    for (int k = 0; k < 16; k++) {
        int low = x[96 + k % 8] >> 4 * (k / 8) & 15, high = x[104 + k % 4] >> 2 * (k / 4) & 3;
        d[k] = all * (float)((low | high << 4) - 32);
    }
}

CODES(q3_k)
{
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 32; i++)
            q[32 * j + i] =
                (uint8_t)((x[32 + 32 * (j / 4) + i] >> 2 * (j % 4) & 3) - 4 + 4 * (x[i] >> j & 1));
}

CODES(iq4_nl)
{
    for (int i = 0; i < 16; i++) {
        q[i] = x[2 + i] & 15;
        q[16 + i] = x[2 + i] >> 4;
    }
}

SCALES(iq4_xs_scales)
{
    const float all = SIMD_NAME(half_at)(x);
    const unsigned high = (unsigned)(x[2] | x[3] << 8);
    (void)m;
    for (int j = 0; j < 8; j++) {
        int low = x[4 + j / 2] >> 4 * (j % 2) & 15;
        d[j] = all * (float)((low | (int)(high >> 2 * j & 3) << 4) - 32);
    }
}

CODES(iq4_xs)
{
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 16; i++) {
            q[32 * j + i] = x[8 + 16 * j + i] & 15;
            q[32 * j + 16 + i] = x[8 + 16 * j + i] >> 4;
        }
}

CODES(nf4)
{
    SIMD_NAME(nibbles)(x + 2, q);
}

#else

#include "whole.h"

#include "simd.h"

#include "base/half.h"

#if SIMD_X86
#include <immintrin.h>
#endif

#include <stddef.h>
#include <string.h>

static inline uint32_t u32_at(const uint8_t *x)
{
    return (uint32_t)x[0] | (uint32_t)x[1] << 8 | (uint32_t)x[2] << 16 | (uint32_t)x[3] << 24;
}

#define SIMD_FILE "whole.c"
#include "simd_each.h"

// block_nf4 in 127ths, at most half of one off: as rows of A are rounded.
static const int8_t nf4_level[16] = {-127, -88, -67, -50, -36, -23, -12, 0,
                                     10,   20,  31,  43,  56,  71,  92,  127};

#define ROW(name, wide_, has_m_, halves_, level_, nibbles_, id_)                                   \
    .id = id_, .wide = wide_, .has_m = has_m_, .halves = halves_, .level = level_,                 \
    .nibbles_at = nibbles_, .codes = SIMD_COPIES(name)

#define OWN(scales_) .scales = SIMD_COPIES(scales_)

// clang-format off
static const struct whole_row rows[] = {
    {.id = BLOCK_Q4_0, .has_m = true, .by = 1, .m_of_d = -8},
    {.id = BLOCK_Q4_1, .has_m = true, .by = 1},
    {.id = BLOCK_Q8_0, .wide = true, .by = 1},
    //          wide   m      halves level            nibbles
    {ROW(q5_0,   true,  false, false, NULL,            0,  BLOCK_Q5_0),   .by = 1},
    {ROW(q5_1,   false, true,  false, NULL,            0,  BLOCK_Q5_1),   .by = 1},
    {ROW(q2_k,   false, true,  true,  NULL,            0,  BLOCK_Q2_K),   OWN(q2_k_scales)},
    {ROW(q3_k,   true,  false, true,  NULL,            0,  BLOCK_Q3_K),   OWN(q3_k_scales)},
    {ROW(q4_k,   false, true,  false, NULL,            16, BLOCK_Q4_K),   OWN(k_scales)},
    {ROW(q5_k,   false, true,  false, NULL,            0,  BLOCK_Q5_K),   OWN(k_scales)},
    {ROW(q6_k,   true,  false, true,  NULL,            0,  BLOCK_Q6_K),   OWN(q6_k_scales)},
    {ROW(iq4_nl, true,  false, false, block_iq4_level, 0,  BLOCK_IQ4_NL), .by = 1},
    {ROW(iq4_xs, true,  false, false, block_iq4_level, 0,  BLOCK_IQ4_XS), OWN(iq4_xs_scales)},
    {ROW(nf4,    true,  false, false, nf4_level,       2,  BLOCK_NF4),    .by = 1.0f / 127},
};
// clang-format on

const struct whole_row *whole_find(int32_t id)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].id == id)
            return &rows[i];
    return NULL;
}

#endif
