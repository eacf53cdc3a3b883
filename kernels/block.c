#ifdef SIMD_LANES // read for each instruction set

// Defines a kernel for blocks that lie one after another from what follows: one block x to its
// values y.
#undef BLOCK_KERNEL
#define BLOCK_KERNEL(name, bytes, values)                                                          \
    SIMD_INLINE void SIMD_NAME(name##_one)(const uint8_t *restrict x, float *restrict y);          \
    SIMD_KERNEL void SIMD_NAME(name)(const uint8_t *x, size_t blocks, float *y)                    \
    {                                                                                              \
        for (size_t i = 0; i < blocks; i++)                                                        \
            SIMD_NAME(name##_one)(x + i * (bytes), y + i * (values));                              \
    }                                                                                              \
    SIMD_INLINE void SIMD_NAME(name##_one)(const uint8_t *restrict x, float *restrict y)

// y = d q + m of 16 signed bytes.
SIMD_INLINE void SIMD_NAME(scaled)(sixteen q, float d, float m, float *restrict y)
{
    int8_t b[16];
    *(sixteen *)b = q;
    NO_UNROLL
    for (int i = 0; i < 16; i++)
        y[i] = d * (float)b[i] + m;
}

// d, 16 bytes: value i is the low nibble of byte i, value 16 + i the high one. d (q - 8)
BLOCK_KERNEL(q4_0, 18, 32)
{
    const sixteen v = *(const sixteen *)(x + 2);
    float d = half_at(x);
    SIMD_NAME(scaled)((v & 15) - 8, d, -0.0f, y); // adding -0 changes nothing
    SIMD_NAME(scaled)((v >> 4) - 8, d, -0.0f, y + 16);
}

// d, m, 16 bytes as above. d q + m
BLOCK_KERNEL(q4_1, 20, 32)
{
    float d = half_at(x), m = half_at(x + 2);
    const sixteen v = *(const sixteen *)(x + 4);
    SIMD_NAME(scaled)(v & 15, d, m, y);
    SIMD_NAME(scaled)(v >> 4, d, m, y + 16);
}

// d, 32 fifth bits, 16 bytes. d (q - 16)
BLOCK_KERNEL(q5_0, 22, 32)
{
    float d = half_at(x);
    uint32_t high = u32_at(x + 2);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)((int)((x[6 + i] & 15u) | (high >> i & 1u) << 4) - 16);
        y[16 + i] = d * (float)((int)((x[6 + i] >> 4) | (high >> (16 + i) & 1u) << 4) - 16);
    }
}

// d, m, 32 fifth bits, 16 bytes. d q + m
BLOCK_KERNEL(q5_1, 24, 32)
{
    float d = half_at(x), m = half_at(x + 2);
    uint32_t high = u32_at(x + 4);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)((x[8 + i] & 15u) | (high >> i & 1u) << 4) + m;
        y[16 + i] = d * (float)((x[8 + i] >> 4u) | (high >> (16 + i) & 1u) << 4) + m;
    }
}

// d, 32 signed bytes. d q
BLOCK_KERNEL(q8_0, 34, 32)
{
    float d = half_at(x);
    for (int i = 0; i < 32; i++)
        y[i] = d * (float)(int8_t)x[2 + i];
}

// d, dmin, 12 bytes of scales, 128 bytes: groups 2k and 2k + 1 of 32 are the low and high nibbles
// of bytes 32 k on. (d scale) q - dmin min
BLOCK_KERNEL(q4_k, 144, 256)
{
    float d = half_at(x), dmin = half_at(x + 2), scale, min;
    for (int j = 0; j < 8; j++) {
        const uint8_t *q = x + 16 + 32 * (j / 2);
        block_scale_min(x + 4, j, &scale, &min);
        float a = d * scale, b = dmin * min;
        uint8_t n[32];
        for (int i = 0; i < 32; i++)
            n[i] = (uint8_t)(j % 2 ? q[i] >> 4 : q[i] & 15);
        for (int i = 0; i < 32; i++)
            y[32 * j + i] = a * (float)n[i] - b;
    }
}

// As q4_k with a fifth bit: bit j of 32 bytes is that of group j.
BLOCK_KERNEL(q5_k, 176, 256)
{
    float d = half_at(x), dmin = half_at(x + 2), scale, min;
    for (int j = 0; j < 8; j++) {
        const uint8_t *q = x + 48 + 32 * (j / 2);
        block_scale_min(x + 4, j, &scale, &min);
        float a = d * scale, b = dmin * min;
        uint8_t n[32];
        for (int i = 0; i < 32; i++)
            n[i] = (uint8_t)((j % 2 ? q[i] >> 4 : q[i] & 15) | (x[16 + i] >> j & 1) << 4);
        for (int i = 0; i < 32; i++)
            y[32 * j + i] = a * (float)n[i] - b;
    }
}

// 128 bytes of low nibbles, 64 of high pairs, 16 signed scales, d. (d scale) (q - 32)
BLOCK_KERNEL(q6_k, 210, 256)
{
    float d = half_at(x + 208);
    for (int i = 0; i < 256; i += 16) {
        int half = i / 128, g = i % 128 / 32, w = i % 32;
        const uint8_t *low = x + 64 * half + 32 * (g % 2) + w, *high = x + 128 + 32 * half + w;
        float a = d * (float)(int8_t)x[192 + i / 16];
        for (int j = 0; j < 16; j++)
            y[i + j] =
                a * (float)(((low[j] >> 4 * (g / 2) & 15) | (high[j] >> 2 * g & 3) << 4) - 32);
    }
}

// 16 bytes of scale (low nibble) and min, 64 of pairs, d, dmin. (d scale) q - dmin min
BLOCK_KERNEL(q2_k, 84, 256)
{
    float d = half_at(x + 80), dmin = half_at(x + 82);
    for (int i = 0; i < 256; i += 16) {
        const uint8_t *q = x + 16 + 32 * (i / 128) + i % 32;
        float a = d * (float)(x[i / 16] & 15), b = dmin * (float)(x[i / 16] >> 4);
        for (int j = 0; j < 16; j++)
            y[i + j] = a * (float)(q[j] >> 2 * (i % 128 / 32) & 3) - b;
    }
}

// 32 bytes of third bits (set: do not take 4), 64 of pairs, 12 of scales of 6 bits, d.
// (d (scale - 32)) q
BLOCK_KERNEL(q3_k, 110, 256)
{
    float d = half_at(x + 108);
    for (int i = 0; i < 256; i += 16) {
        int half = i / 128, g = i % 128 / 32, k = i / 16;
        const uint8_t *mask = x + i % 32, *q = x + 32 + 32 * half + i % 32;
        int low = x[96 + k % 8] >> 4 * (k / 8) & 15, high = x[104 + k % 4] >> 2 * (k / 4) & 3;
        float a = d * (float)((low | high << 4) - 32);
        for (int j = 0; j < 16; j++)
            y[i + j] = a * (float)((q[j] >> 2 * g & 3) - 4 + 4 * (mask[j] >> (4 * half + g) & 1));
    }
}

BLOCK_KERNEL(iq4_nl, 18, 32)
{
    float d = half_at(x);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)block_iq4_level[x[2 + i] & 15];
        y[16 + i] = d * (float)block_iq4_level[x[2 + i] >> 4];
    }
}

// d, 32 bytes: value i is the low nibble of byte i, value 32 + i the high one. d level(q)
BLOCK_KERNEL(nf4, 34, 64)
{
    float d = half_at(x);
    for (int i = 0; i < 32; i++) {
        y[i] = d * block_nf4[x[2 + i] & 15];
        y[32 + i] = d * block_nf4[x[2 + i] >> 4];
    }
}

// d, 16 high scale bits, 4 bytes of low nibbles, 128 bytes: group j has 16 of them, as iq4_nl.
BLOCK_KERNEL(iq4_xs, 136, 256)
{
    float d = half_at(x);
    unsigned high = (unsigned)(x[2] | x[3] << 8);
    for (int j = 0; j < 8; j++) {
        int low = x[4 + j / 2] >> 4 * (j % 2) & 15;
        float a = d * (float)((low | (int)(high >> 2 * j & 3u) << 4) - 32);
        for (int i = 0; i < 16; i++) {
            y[32 * j + i] = a * (float)block_iq4_level[x[8 + 16 * j + i] & 15];
            y[32 * j + 16 + i] = a * (float)block_iq4_level[x[8 + 16 * j + i] >> 4];
        }
    }
}

#else

#include "block.h"

#include "dtype.h"
#include "simd.h"

#include "base/half.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static float half_at(const uint8_t *x)
{
    return f16_to_f32((uint16_t)(x[0] | x[1] << 8));
}

static uint32_t u32_at(const uint8_t *x)
{
    return (uint32_t)x[0] | (uint32_t)x[1] << 8 | (uint32_t)x[2] << 16 | (uint32_t)x[3] << 24;
}

// The levels of IQ4, close to those of normal values.
const int8_t block_iq4_level[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                    1,    13,   25,  38,  53,  69,  89,  113};

// NormalFloat (Dettmers et al. 2023, appendix E): quantiles of normal values that reach from -1 to
// 1 and have a zero.
const float block_nf4[16] = {-1.0f,        -0.69619280f, -0.52507305f,  -0.39491749f,
                             -0.28444138f, -0.18477343f, -0.091050036f, 0.0f,
                             0.079580300f, 0.16093020f,  0.24611230f,   0.33791524f,
                             0.44070983f,  0.56261700f,  0.72295684f,   1.0f};

// Sixteen steps that GCC writes out one by one do not become vectors.
#if defined(__clang__)
#define NO_UNROLL
#else
#define NO_UNROLL _Pragma("GCC unroll 1")
#endif
typedef uint8_t sixteen __attribute__((vector_size(16), aligned(1), may_alias));

#define SIMD_FILE "block.c"
#include "simd_each.h"

// Plain values: little-endian, as every machine that this runs on holds them.
static void f32(const uint8_t *x, size_t n, float *y)
{
    memcpy(y, x, n * sizeof *y);
}

static void f16(const uint8_t *x, size_t n, float *y)
{
    kernel_to_f32(KERNEL_F16, x, n, y);
}

static void bf16(const uint8_t *x, size_t n, float *y)
{
    kernel_to_f32(KERNEL_BF16, x, n, y);
}

// Encoders, by the reference's rules: the scale that the largest value asks for, codes rounded to
// the nearest.

static void put_half(uint8_t *y, float x)
{
    uint16_t h = f16_from_f32(x);
    y[0] = (uint8_t)h;
    y[1] = (uint8_t)(h >> 8);
}

// A whole number within [low, high]; halves go away from zero.
static int32_t nearest(float x, int32_t low, int32_t high)
{
    int32_t n = (int32_t)(x < 0 ? x - 0.5f : x + 0.5f);
    return n < low ? low : n > high ? high : n;
}

// d = max |x| / 127
static void to_q8_0(const float *x, uint8_t *y)
{
    float most = 0;
    for (int i = 0; i < 32; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    float d = most / 127.0f, by = d > 0 ? 1.0f / d : 0.0f;
    put_half(y, d);
    for (int i = 0; i < 32; i++)
        y[2 + i] = (uint8_t)nearest(x[i] * by, -127, 127);
}

// m = min x, d = (max x - m) / 15
static void to_q4_1(const float *x, uint8_t *y)
{
    float low = x[0], high = x[0];
    for (int i = 1; i < 32; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    float d = (high - low) / 15.0f, by = d > 0 ? 1.0f / d : 0.0f;
    put_half(y, d);
    put_half(y + 2, low);
    for (int i = 0; i < 16; i++)
        y[4 + i] = (uint8_t)(nearest((x[i] - low) * by, 0, 15) |
                             nearest((x[16 + i] - low) * by, 0, 15) << 4);
}

// d = max |x|, and of each value the level nearest to x / d; between two the lower one.
static void to_nf4(const float *x, uint8_t *y)
{
    float most = 0;
    uint8_t q[64];
    for (int i = 0; i < 64; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    float by = most > 0 ? 1.0f / most : 0.0f;
    put_half(y, most);
    for (int i = 0; i < 64; i++) {
        q[i] = 0;
        while (q[i] < 15 && x[i] * by > (block_nf4[q[i]] + block_nf4[q[i] + 1]) / 2)
            q[i]++;
    }
    for (int i = 0; i < 32; i++)
        y[2 + i] = (uint8_t)(q[i] | q[32 + i] << 4);
}

#define ALL(name)                                                                                  \
    {                                                                                              \
        name, name, name                                                                           \
    }

// clang-format off
const struct block_row block_table[] = {
    {"F32",    0,  1,   4,   ALL(f32),     NULL},
    {"F16",    1,  1,   2,   ALL(f16),     NULL},
    {"BF16",   30, 1,   2,   ALL(bf16),    NULL},
    {"Q4_0",   2,  32,  18,  SIMD_COPIES(q4_0),   NULL},
    {"Q4_1",   3,  32,  20,  SIMD_COPIES(q4_1),   to_q4_1},
    {"Q5_0",   6,  32,  22,  SIMD_COPIES(q5_0),   NULL},
    {"Q5_1",   7,  32,  24,  SIMD_COPIES(q5_1),   NULL},
    {"Q8_0",   8,  32,  34,  SIMD_COPIES(q8_0),   to_q8_0},
    {"Q2_K",   10, 256, 84,  SIMD_COPIES(q2_k),   NULL},
    {"Q3_K",   11, 256, 110, SIMD_COPIES(q3_k),   NULL},
    {"Q4_K",   12, 256, 144, SIMD_COPIES(q4_k),   NULL},
    {"Q5_K",   13, 256, 176, SIMD_COPIES(q5_k),   NULL},
    {"Q6_K",   14, 256, 210, SIMD_COPIES(q6_k),   NULL},
    {"IQ4_NL", 20, 32,  18,  SIMD_COPIES(iq4_nl), NULL},
    {"IQ4_XS", 23, 256, 136, SIMD_COPIES(iq4_xs), NULL},
    {"NF4",    BLOCK_NF4, 64, 34, SIMD_COPIES(nf4), to_nf4},
    {NULL,     0,  0,   0,   {NULL},       NULL},
};
// clang-format on

const struct block_row *block_find(int32_t id)
{
    for (const struct block_row *r = block_table; r->name; r++)
        if (r->id == id)
            return r;
    return NULL;
}

void block_decode(const struct block_row *row, const uint8_t *x, size_t blocks, float *y)
{
    row->decode[simd_isa()](x, blocks, y);
}

void block_encode(const struct block_row *row, const float *x, size_t blocks, uint8_t *y)
{
    for (size_t i = 0; i < blocks; i++)
        row->encode(x + i * (size_t)row->values, y + i * (size_t)row->bytes);
}

void block_columns(const struct block_rows *part, int32_t row, int32_t col, int32_t n, float *y)
{
    for (; row >= part->rows; part++)
        row -= part->rows;
    const struct block_row *t = part->type;
    assert(col % t->values == 0 && n % t->values == 0 && col + n <= part->cols);
    const uint8_t *x = part->at + (size_t)row * block_row_bytes(part);
    block_decode(t, x + (size_t)(col / t->values) * (size_t)t->bytes, (size_t)(n / t->values), y);
}

#endif
