// A randomised Hadamard rotation: random signs, then the fast Walsh-Hadamard transform. Every
// output is made by the same additions in the same order whatever the vector width.
#ifdef SIMD_LANES // read for each instruction set

SIMD_KERNEL void SIMD_NAME(rotate_signs)(const float *x, const uint32_t *bits, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = f32_from_bits(f32_bits(x[i]) ^ (bits[i / 32] >> (i % 32) & 1u) << 31);
}

// Strides from n / 2 down to 1; n is a power of two.
SIMD_KERNEL void SIMD_NAME(rotate_fwht)(float *x, size_t n)
{
    size_t len = n;
    for (; len >= 64; len /= 4)
        for (size_t at = 0; at < n; at += len)
            stage_quad(x + at, len / 4);
    if (n < 16) {
        for (size_t h = n / 2; h; h /= 2)
            for (size_t at = 0; at < n; at += 2 * h)
                stage_pair(x + at, h);
        return;
    }
    if (len == 32)
        for (size_t at = 0; at < n; at += 32)
            stage_pair(x + at, 16);
    for (size_t at = 0; at < n; at += 16)
        fwht_16(x + at);
}

#else

#include "kernels_codec.h"
#include "simd.h"

#include "base/half.h"

#include <string.h>

typedef float floats16 __attribute__((vector_size(64)));

// GCC knows clang's name for it since version 12.
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#else
typedef int32_t ints16 __attribute__((vector_size(64)));
#define SHUFFLE(v, ...) __builtin_shuffle(v, (ints16){__VA_ARGS__})
#endif

// One stage inside sixteen values: x[i] and x[i ^ h] become their sum and difference.
#define STAGE(v, SWAP, SIGNS)                                                                      \
    do {                                                                                           \
        const floats16 signs_ = {SIGNS};                                                           \
        (v) = SHUFFLE(v, SWAP) + (v)*signs_;                                                       \
    } while (0)
#define SWAP8  8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7
#define SWAP4  4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11
#define SWAP2  2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13
#define SWAP1  1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14
#define SIGNS8 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1
#define SIGNS4 1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1
#define SIGNS2 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1
#define SIGNS1 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1

SIMD_PART void fwht_16(float *x)
{
    floats16 v;
    memcpy(&v, x, sizeof v);
    STAGE(v, SWAP8, SIGNS8);
    STAGE(v, SWAP4, SIGNS4);
    STAGE(v, SWAP2, SIGNS2);
    STAGE(v, SWAP1, SIGNS1);
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

// Stages of stride 2 q and q over 4 q values in one pass.
SIMD_PART void stage_quad(float *x, size_t q)
{
    for (size_t j = 0; j < q; j++) {
        float a = x[j], b = x[j + q], c = x[j + 2 * q], d = x[j + 3 * q];
        float ac = a + c, a_c = a - c, bd = b + d, b_d = b - d;
        x[j] = ac + bd;
        x[j + q] = ac - bd;
        x[j + 2 * q] = a_c + b_d;
        x[j + 3 * q] = a_c - b_d;
    }
}

#define SIMD_FILE "rotate.c"
#include "simd_each.h"

void rotate_signs(const float *x, const uint32_t *bits, size_t n, float *out)
{
    SIMD_PICK(rotate_signs, (x, bits, n, out));
}

void rotate_fwht(float *x, size_t n)
{
    SIMD_PICK(rotate_fwht, (x, n));
}

#endif
