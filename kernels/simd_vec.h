// Vectors of one instruction set, for simd_each.h: simd_f fills a register, since GCC keeps a wider
// vector in memory. Sums and maxima are kept in SIMD_PIECES of them.
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// Names of this instruction set's types and functions.
#ifndef FSTQ_KERNELS_SIMD_VEC_H
#define FSTQ_KERNELS_SIMD_VEC_H
#define SIMD_JOIN_(name, isa) name##_##isa
#define SIMD_JOIN(name, isa)  SIMD_JOIN_(name, isa)
#define SIMD_NAME(name)       SIMD_JOIN(name, SIMD_ISA)
#define SIMD_KERNEL           SIMD_TARGET static
#define SIMD_INLINE           SIMD_TARGET static inline __attribute__((always_inline))
#define SIMD_PIECES           (SIMD_WIDE / SIMD_LANES)
#define simd_f                SIMD_NAME(simd_f)
#define simd_i                SIMD_NAME(simd_i)
#define simd_at               SIMD_NAME(simd_at)
#define simd_of               SIMD_NAME(simd_of)
#define simd_max              SIMD_NAME(simd_max)
#define simd_min              SIMD_NAME(simd_min)
#define simd_keep             SIMD_NAME(simd_keep)
#define simd_load_part        SIMD_NAME(simd_load_part)
#define simd_store_part       SIMD_NAME(simd_store_part)
#define simd_sum              SIMD_NAME(simd_sum)
#define simd_top              SIMD_NAME(simd_top)
#define simd_exp              SIMD_NAME(simd_exp)
#endif

typedef float simd_f __attribute__((vector_size(4 * SIMD_LANES), aligned(4), may_alias));
typedef int32_t simd_i __attribute__((vector_size(4 * SIMD_LANES), aligned(4), may_alias));

SIMD_INLINE simd_f *simd_at(float *p)
{
    return (simd_f *)p;
}

SIMD_INLINE const simd_f *simd_of(const float *p)
{
    return (const simd_f *)p;
}

// Vectors pass by pointer: by value their calling convention would depend on the instruction set.
SIMD_INLINE void simd_max(simd_f *a, const simd_f *b)
{
    simd_i take = *b > *a;
    *a = (simd_f)(((simd_i)*a & ~take) | ((simd_i)*b & take));
}

SIMD_INLINE void simd_min(simd_f *a, const simd_f *b)
{
    simd_i take = *b < *a;
    *a = (simd_f)(((simd_i)*a & ~take) | ((simd_i)*b & take));
}

// Lanes from n on become fill.
SIMD_INLINE void simd_keep(simd_f *v, int32_t n, float fill)
{
    const int32_t lane[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    simd_i first;
    memcpy(&first, lane, sizeof first);
    simd_i keep = first < n;
    simd_f other = (simd_f){0} + fill;
    *v = (simd_f)(((simd_i)*v & keep) | ((simd_i)other & ~keep));
}

// The first n lanes of p, the others filled. n may be negative or more than a vector.
SIMD_INLINE void simd_load_part(simd_f *v, const float *p, ptrdiff_t n, float fill)
{
    float lane[SIMD_LANES];
    for (ptrdiff_t i = 0; i < SIMD_LANES; i++)
        lane[i] = i < n ? p[i] : fill;
    memcpy(v, lane, sizeof lane);
}

SIMD_INLINE void simd_store_part(float *p, const simd_f *v, ptrdiff_t n)
{
    float lane[SIMD_LANES];
    memcpy(lane, v, sizeof lane);
    for (ptrdiff_t i = 0; i < SIMD_LANES && i < n; i++)
        p[i] = lane[i];
}

// Lane i of what comes out is lane k_i of v.
#undef SIMD_TURN
#ifdef __clang__
#define SIMD_TURN(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#else
#define SIMD_TURN(v, ...) __builtin_shuffle(v, (simd_i){__VA_ARGS__})
#endif

// Of all pieces. A fixed tree: the same sum on every machine. Lane i gets lane i + 8, 4, 2 and 1;
// what comes to stand in the others is nobody's.
SIMD_INLINE float simd_sum(const simd_f *v)
{
    simd_f t[SIMD_PIECES];
    for (int p = 0; p < SIMD_PIECES; p++)
        t[p] = v[p];
    for (int step = SIMD_PIECES / 2; step > 0; step /= 2)
        for (int p = 0; p < step; p++)
            t[p] += t[p + step];
#if SIMD_LANES == 16
    t[0] += SIMD_TURN(t[0], 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    t[0] += SIMD_TURN(t[0], 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3);
    t[0] += SIMD_TURN(t[0], 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1);
    t[0] += SIMD_TURN(t[0], 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0);
#elif SIMD_LANES == 8
    t[0] += SIMD_TURN(t[0], 4, 5, 6, 7, 0, 1, 2, 3);
    t[0] += SIMD_TURN(t[0], 2, 3, 4, 5, 6, 7, 0, 1);
    t[0] += SIMD_TURN(t[0], 1, 2, 3, 4, 5, 6, 7, 0);
#else
    t[0] += SIMD_TURN(t[0], 2, 3, 0, 1);
    t[0] += SIMD_TURN(t[0], 1, 2, 3, 0);
#endif
    return t[0][0];
}

SIMD_INLINE float simd_top(const simd_f *v)
{
    simd_f t[SIMD_PIECES];
    for (int p = 0; p < SIMD_PIECES; p++)
        t[p] = v[p];
    for (int step = SIMD_PIECES / 2; step > 0; step /= 2)
        for (int p = 0; p < step; p++)
            simd_max(&t[p], &t[p + step]);
    float lane[SIMD_LANES];
    memcpy(lane, t, sizeof lane);
    for (int step = SIMD_LANES / 2; step > 0; step /= 2)
        for (int i = 0; i < step; i++)
            lane[i] = lane[i + step] > lane[i] ? lane[i + step] : lane[i];
    return lane[0];
}

// exp(x) to about 2 ulp for x in [-87, 88], clamped outside. x = n ln 2 + r, |r| <= ln 2 / 2;
// adding 1.5 * 2^23 rounds to the integer n and leaves it in the low bits, from where it is shifted
// into the exponent.
SIMD_INLINE void simd_exp(simd_f *v)
{
    const simd_f low = (simd_f){0} - 87.0f, high = (simd_f){0} + 88.0f;
    simd_f x = *v;
    simd_max(&x, &low);
    simd_min(&x, &high);
    simd_f t = x * 1.44269504f + 12582912.0f;
    simd_f n = t - 12582912.0f;
    simd_f r = x - n * 0.693359375f + n * 2.12194440e-4f;
    simd_f p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + (r + 1.0f);
    *v = (simd_f)((simd_i)p + ((simd_i)t << 23));
}
