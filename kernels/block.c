#include "block.h"

#include "base/half.h"

#include <string.h>

static float half_at(const uint8_t *x)
{
    return f16_to_f32((uint16_t)(x[0] | x[1] << 8));
}

static uint32_t u32_at(const uint8_t *x)
{
    return (uint32_t)x[0] | (uint32_t)x[1] << 8 | (uint32_t)x[2] << 16 | (uint32_t)x[3] << 24;
}

static void f32(const uint8_t *x, float *y)
{
    *y = f32_from_bits(u32_at(x));
}

static void f16(const uint8_t *x, float *y)
{
    *y = half_at(x);
}

static void bf16(const uint8_t *x, float *y)
{
    *y = bf16_to_f32((uint16_t)(x[0] | x[1] << 8));
}

// d, 16 bytes: value i is the low nibble of byte i, value 16 + i the high one. d (q - 8)
static void q4_0(const uint8_t *x, float *y)
{
    float d = half_at(x);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)((x[2 + i] & 15) - 8);
        y[16 + i] = d * (float)((x[2 + i] >> 4) - 8);
    }
}

// d, m, 16 bytes as above. d q + m
static void q4_1(const uint8_t *x, float *y)
{
    float d = half_at(x), m = half_at(x + 2);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)(x[4 + i] & 15) + m;
        y[16 + i] = d * (float)(x[4 + i] >> 4) + m;
    }
}

// d, 32 fifth bits, 16 bytes. d (q - 16)
static void q5_0(const uint8_t *x, float *y)
{
    float d = half_at(x);
    uint32_t high = u32_at(x + 2);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)((int)((x[6 + i] & 15u) | (high >> i & 1u) << 4) - 16);
        y[16 + i] = d * (float)((int)((x[6 + i] >> 4) | (high >> (16 + i) & 1u) << 4) - 16);
    }
}

// d, m, 32 fifth bits, 16 bytes. d q + m
static void q5_1(const uint8_t *x, float *y)
{
    float d = half_at(x), m = half_at(x + 2);
    uint32_t high = u32_at(x + 4);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)((x[8 + i] & 15u) | (high >> i & 1u) << 4) + m;
        y[16 + i] = d * (float)((x[8 + i] >> 4u) | (high >> (16 + i) & 1u) << 4) + m;
    }
}

// d, 32 signed bytes. d q
static void q8_0(const uint8_t *x, float *y)
{
    float d = half_at(x);
    for (int i = 0; i < 32; i++)
        y[i] = d * (float)(int8_t)x[2 + i];
}

// Eight scales and eight mins of 6 bits in 12 bytes.
static void scale_min(const uint8_t *s, int j, float *scale, float *min)
{
    if (j < 4) {
        *scale = (float)(s[j] & 63);
        *min = (float)(s[j + 4] & 63);
    } else {
        *scale = (float)((s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
        *min = (float)((s[j + 4] >> 4) | (s[j] >> 6) << 4);
    }
}

// d, dmin, 12 bytes of scales, 128 bytes: groups 2k and 2k + 1 of 32 are the low and high nibbles
// of bytes 32 k on. (d scale) q - dmin min
static void q4_k(const uint8_t *x, float *y)
{
    float d = half_at(x), dmin = half_at(x + 2), scale, min;
    for (int j = 0; j < 8; j++) {
        scale_min(x + 4, j, &scale, &min);
        float a = d * scale, b = dmin * min;
        for (int i = 0; i < 32; i++)
            y[32 * j + i] = a * (float)(x[16 + 32 * (j / 2) + i] >> 4 * (j % 2) & 15) - b;
    }
}

// As q4_k with a fifth bit: bit j of 32 bytes is that of group j.
static void q5_k(const uint8_t *x, float *y)
{
    float d = half_at(x), dmin = half_at(x + 2), scale, min;
    for (int j = 0; j < 8; j++) {
        scale_min(x + 4, j, &scale, &min);
        float a = d * scale, b = dmin * min;
        for (int i = 0; i < 32; i++) {
            int low = x[48 + 32 * (j / 2) + i] >> 4 * (j % 2) & 15, high = x[16 + i] >> j & 1;
            y[32 * j + i] = a * (float)(low | high << 4) - b;
        }
    }
}

// 128 bytes of low nibbles, 64 of high pairs, 16 signed scales, d. (d scale) (q - 32)
static void q6_k(const uint8_t *x, float *y)
{
    float d = half_at(x + 208);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, g = i % 128 / 32, w = i % 32;
        int low = x[64 * half + 32 * (g % 2) + w] >> 4 * (g / 2) & 15;
        int high = x[128 + 32 * half + w] >> 2 * g & 3;
        float a = d * (float)(int8_t)x[192 + i / 16];
        y[i] = a * (float)((low | high << 4) - 32);
    }
}

// 16 bytes of scale (low nibble) and min, 64 of pairs, d, dmin. (d scale) q - dmin min
static void q2_k(const uint8_t *x, float *y)
{
    float d = half_at(x + 80), dmin = half_at(x + 82);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, g = i % 128 / 32, w = i % 32, s = x[i / 16];
        float a = d * (float)(s & 15), b = dmin * (float)(s >> 4);
        y[i] = a * (float)(x[16 + 32 * half + w] >> 2 * g & 3) - b;
    }
}

// 32 bytes of third bits (set: do not take 4), 64 of pairs, 12 of scales of 6 bits, d.
// (d (scale - 32)) q
static void q3_k(const uint8_t *x, float *y)
{
    float d = half_at(x + 108);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, g = i % 128 / 32, w = i % 32, k = i / 16;
        int low = x[96 + k % 8] >> 4 * (k / 8) & 15, high = x[104 + k % 4] >> 2 * (k / 4) & 3;
        int q = (x[32 + 32 * half + w] >> 2 * g & 3) - (x[w] >> (4 * half + g) & 1 ? 0 : 4);
        float a = d * (float)((low | high << 4) - 32);
        y[i] = a * (float)q;
    }
}

// The levels of IQ4, close to those of normal values.
static const int8_t iq4_level[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};

static void iq4_nl(const uint8_t *x, float *y)
{
    float d = half_at(x);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)iq4_level[x[2 + i] & 15];
        y[16 + i] = d * (float)iq4_level[x[2 + i] >> 4];
    }
}

// d, 16 high scale bits, 4 bytes of low nibbles, 128 bytes: group j has 16 of them, as iq4_nl.
static void iq4_xs(const uint8_t *x, float *y)
{
    float d = half_at(x);
    unsigned high = (unsigned)(x[2] | x[3] << 8);
    for (int j = 0; j < 8; j++) {
        int low = x[4 + j / 2] >> 4 * (j % 2) & 15;
        float a = d * (float)((low | (int)(high >> 2 * j & 3u) << 4) - 32);
        for (int i = 0; i < 16; i++) {
            y[32 * j + i] = a * (float)iq4_level[x[8 + 16 * j + i] & 15];
            y[32 * j + 16 + i] = a * (float)iq4_level[x[8 + 16 * j + i] >> 4];
        }
    }
}

// clang-format off
const struct block_row block_table[] = {
    {"F32",    0,  1,   4,   f32},    {"F16",    1,  1,   2,   f16},
    {"BF16",   30, 1,   2,   bf16},   {"Q4_0",   2,  32,  18,  q4_0},
    {"Q4_1",   3,  32,  20,  q4_1},   {"Q5_0",   6,  32,  22,  q5_0},
    {"Q5_1",   7,  32,  24,  q5_1},   {"Q8_0",   8,  32,  34,  q8_0},
    {"Q2_K",   10, 256, 84,  q2_k},   {"Q3_K",   11, 256, 110, q3_k},
    {"Q4_K",   12, 256, 144, q4_k},   {"Q5_K",   13, 256, 176, q5_k},
    {"Q6_K",   14, 256, 210, q6_k},   {"IQ4_NL", 20, 32,  18,  iq4_nl},
    {"IQ4_XS", 23, 256, 136, iq4_xs}, {NULL,     0,  0,   0,   NULL},
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
    for (size_t i = 0; i < blocks; i++)
        row->decode(x + i * (size_t)row->bytes, y + i * (size_t)row->values);
}
