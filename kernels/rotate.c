// A randomised Hadamard rotation: random signs, then the fast Walsh-Hadamard transform. Every
// output is made by the same additions in the same order whatever the vector width.
#ifdef SIMD_LANES // read for each instruction set

SIMD_KERNEL void SIMD_NAME(rotate_signs)(const float *x, const uint32_t *bits, size_t n,
                                         struct quant_sink to)
{
    size_t i = 0;
    for (; i + 32 <= n && to.add; i += 32)
        for (unsigned j = 0; j < 32; j++)
            to.to[i + j] += to.weight * turned(x[i + j], bits[i / 32], j);
    for (; i + 32 <= n; i += 32)
        for (unsigned j = 0; j < 32; j++)
            to.to[i + j] = turned(x[i + j], bits[i / 32], j);
    for (; i < n; i++) {
        float v = turned(x[i], bits[i / 32], i % 32);
        to.to[i] = to.add ? to.to[i] + to.weight * v : v;
    }
}

SIMD_KERNEL void SIMD_NAME(rotate_sides)(const float *y, size_t n, float inv, float below,
                                         float above, float *restrict v, float *restrict level)
{
    for (size_t i = 0; i < n; i++) {
        v[i] = y[i] * inv;
        level[i] = v[i] >= 0 ? above : below;
    }
}

// Stages inside a register: x[i] and x[i ^ h] become their sum and difference.
SIMD_INLINE void SIMD_NAME(fwht_inside)(simd_f *v)
{
#if SIMD_LANES == 16
    INSIDE(*v, LIST(SWAP8), LIST(SIGNS8));
    INSIDE(*v, LIST(SWAP4), LIST(SIGNS4));
    INSIDE(*v, LIST(SWAP2), LIST(SIGNS2));
    INSIDE(*v, LIST(SWAP1), LIST(SIGNS1));
#elif SIMD_LANES == 8
    INSIDE(*v, LIST(4, 5, 6, 7, 0, 1, 2, 3), LIST(1, 1, 1, 1, -1, -1, -1, -1));
    INSIDE(*v, LIST(2, 3, 0, 1, 6, 7, 4, 5), LIST(1, 1, -1, -1, 1, 1, -1, -1));
    INSIDE(*v, LIST(1, 0, 3, 2, 5, 4, 7, 6), LIST(1, -1, 1, -1, 1, -1, 1, -1));
#else
    INSIDE(*v, LIST(2, 3, 0, 1), LIST(1, 1, -1, -1));
    INSIDE(*v, LIST(1, 0, 3, 2), LIST(1, -1, 1, -1));
#endif
}

// Stages between eight rows of q values, strides from four rows down to one; with `within`, rows
// being a register each, those inside a register, too. Named one by one, for an array would lie in
// memory.
SIMD_INLINE void SIMD_NAME(fwht_eight)(float *x, size_t q, bool within)
{
    for (size_t j = 0; j < q; j += SIMD_LANES, x += SIMD_LANES) {
        simd_f a = *simd_of(x), b = *simd_of(x + q), c = *simd_of(x + 2 * q);
        simd_f d = *simd_of(x + 3 * q), e = *simd_of(x + 4 * q), f = *simd_of(x + 5 * q);
        simd_f g = *simd_of(x + 6 * q), h = *simd_of(x + 7 * q);
        PAIRS(a, e, b, f, c, g, d, h);
        PAIRS(a, c, b, d, e, g, f, h);
        PAIRS(a, b, c, d, e, f, g, h);
        if (within) {
            EACH(SIMD_NAME(fwht_inside), a, b, c, d);
            EACH(SIMD_NAME(fwht_inside), e, f, g, h);
        }
        *simd_at(x) = a;
        *simd_at(x + q) = b;
        *simd_at(x + 2 * q) = c;
        *simd_at(x + 3 * q) = d;
        *simd_at(x + 4 * q) = e;
        *simd_at(x + 5 * q) = f;
        *simd_at(x + 6 * q) = g;
        *simd_at(x + 7 * q) = h;
    }
}

SIMD_INLINE void SIMD_NAME(fwht_four)(float *x, size_t q)
{
    for (size_t j = 0; j < q; j += SIMD_LANES, x += SIMD_LANES) {
        simd_f a = *simd_of(x), b = *simd_of(x + q), c = *simd_of(x + 2 * q);
        simd_f d = *simd_of(x + 3 * q);
        PAIR(a, c);
        PAIR(b, d);
        PAIR(a, b);
        PAIR(c, d);
        *simd_at(x) = a;
        *simd_at(x + q) = b;
        *simd_at(x + 2 * q) = c;
        *simd_at(x + 3 * q) = d;
    }
}

// Of a block that the first-level cache holds: down to eight registers, in which the rest is done.
SIMD_INLINE void SIMD_NAME(fwht_block)(float *x, size_t n)
{
    enum { HELD = 8 * SIMD_LANES };
    size_t len = n;
    while (len > HELD) {
        const size_t left = len / HELD, rows = left == 2 ? 2 : left == 4 || left == 16 ? 4 : 8;
        for (size_t at = 0; at < n; at += len) {
            if (rows == 8)
                SIMD_NAME(fwht_eight)(x + at, len / 8, false);
            else if (rows == 4)
                SIMD_NAME(fwht_four)(x + at, len / 4);
            else
                stage_pair(x + at, len / 2);
        }
        len /= rows;
    }
    for (size_t at = 0; at < n && len == HELD; at += HELD)
        SIMD_NAME(fwht_eight)(x + at, SIMD_LANES, true);
    if (len == HELD)
        return;
    for (; len > 16 || (len > 1 && n < 16); len /= 2)
        for (size_t at = 0; at < n; at += len)
            stage_pair(x + at, len / 2);
    for (size_t at = 0; at < n && n >= 16; at += 16)
        fwht_16(x + at);
}

// Strides from n / 2 down to 1; n is a power of two.
SIMD_KERNEL void SIMD_NAME(rotate_fwht)(float *x, size_t n)
{
    size_t len = n;
    for (; len > SMALL; len /= 8)
        for (size_t at = 0; at < n; at += len)
            SIMD_NAME(fwht_eight)(x + at, len / 8, false);
    for (size_t at = 0; at < n; at += len)
        SIMD_NAME(fwht_block)(x + at, len);
}

#else

#include "kernels_codec.h"
#include "simd.h"

#include "base/half.h"

#include <string.h>

#define SIGN  0x80000000u
#define SMALL 4096 // values that the first-level cache holds

typedef float floats16 __attribute__((vector_size(64)));

// GCC knows clang's name for it since version 12.
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#else
typedef int32_t ints16 __attribute__((vector_size(64)));
#define SHUFFLE(v, ...) __builtin_shuffle(v, (ints16){__VA_ARGS__})
#endif

// One stage inside a vector.
#define LIST(...) __VA_ARGS__
#define STAGE(v, turned, SIGNS)                                                                    \
    do {                                                                                           \
        const __typeof__(v) signs_ = {SIGNS};                                                      \
        (v) = (turned) + (v)*signs_;                                                               \
    } while (0)
#define INSIDE(v, SWAP, SIGNS) STAGE(v, SIMD_TURN(v, SWAP), LIST(SIGNS))
#define PAIR(a, b)                                                                                 \
    do {                                                                                           \
        const simd_f sum_ = (a) + (b);                                                             \
        (b) = (a) - (b);                                                                           \
        (a) = sum_;                                                                                \
    } while (0)
#define PAIRS(a, b, c, d, e, f, g, h)                                                              \
    do {                                                                                           \
        PAIR(a, b);                                                                                \
        PAIR(c, d);                                                                                \
        PAIR(e, f);                                                                                \
        PAIR(g, h);                                                                                \
    } while (0)
#define EACH(does, a, b, c, d)                                                                     \
    do {                                                                                           \
        does(&(a));                                                                                \
        does(&(b));                                                                                \
        does(&(c));                                                                                \
        does(&(d));                                                                                \
    } while (0)
#define SWAP8  8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7
#define SWAP4  4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11
#define SWAP2  2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13
#define SWAP1  1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14
#define SIGNS8 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1
#define SIGNS4 1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1
#define SIGNS2 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1
#define SIGNS1 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1

SIMD_PART float turned(float x, uint32_t bits, size_t j)
{
    return f32_from_bits(f32_bits(x) ^ (bits << (31 - j) & SIGN));
}

SIMD_PART void fwht_16(float *x)
{
    floats16 v;
    memcpy(&v, x, sizeof v);
    STAGE(v, SHUFFLE(v, SWAP8), LIST(SIGNS8));
    STAGE(v, SHUFFLE(v, SWAP4), LIST(SIGNS4));
    STAGE(v, SHUFFLE(v, SWAP2), LIST(SIGNS2));
    STAGE(v, SHUFFLE(v, SWAP1), LIST(SIGNS1));
    memcpy(x, &v, sizeof v);
}

SIMD_PART void stage_pair(float *x, size_t h)
{
    for (size_t j = 0; j < h; j++) {
        float a = x[j], b = x[j + h];
        x[j] = a + b;
        x[j + h] = a - b;
    }
}

#define SIMD_FILE "rotate.c"
#include "simd_each.h"

void rotate_signs(const float *x, const uint32_t *bits, size_t n, struct quant_sink to)
{
    SIMD_PICK(rotate_signs, (x, bits, n, to));
}

void rotate_sides(const float *y, size_t n, float inv, float below, float above, float *v,
                  float *level)
{
    SIMD_PICK(rotate_sides, (y, n, inv, below, above, v, level));
}

void rotate_fwht(float *x, size_t n)
{
    SIMD_PICK(rotate_fwht, (x, n));
}

#endif
