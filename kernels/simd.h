// Sixteen floats at a time, whatever the machine: GCC and clang lower these vectors to AVX-512,
// AVX2, SSE2 or NEON registers. A kernel is written once as an inlined body and compiled once for
// each instruction set; SIMD_CLONES picks the copy at run time, so that a baseline build runs
// anywhere.
#ifndef FSTQ_KERNELS_SIMD_H
#define FSTQ_KERNELS_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef float simd_f __attribute__((vector_size(64), aligned(4), may_alias));
typedef float simd_h __attribute__((vector_size(32), aligned(4), may_alias)); // half as many
typedef float simd_q __attribute__((vector_size(16), aligned(4), may_alias)); // a quarter
typedef int32_t simd_i __attribute__((vector_size(64), aligned(4), may_alias));

#define SIMD_LANES  16
#define SIMD_INLINE static inline __attribute__((always_inline))

enum simd_isa { SIMD_BASE, SIMD_AVX2, SIMD_AVX512, SIMD_ISA_COUNT };

// What this CPU runs, at most what simd_limit allows. Tests lower the limit to compare the copies.
enum simd_isa simd_isa(void);
void simd_limit(enum simd_isa most);
extern const char *const simd_isa_name[SIMD_ISA_COUNT];

#if defined(__x86_64__)
#define SIMD_TARGET_AVX512                                                                         \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define SIMD_TARGET_AVX2 __attribute__((target("avx2,fma,f16c")))
#define SIMD_CLONES_AS(scope, name, params, args)                                                  \
    SIMD_TARGET_AVX512 static void name##_avx512 params                                            \
    {                                                                                              \
        name##_body args;                                                                          \
    }                                                                                              \
    SIMD_TARGET_AVX2 static void name##_avx2 params                                                \
    {                                                                                              \
        name##_body args;                                                                          \
    }                                                                                              \
    static void name##_base params                                                                 \
    {                                                                                              \
        name##_body args;                                                                          \
    }                                                                                              \
    scope void name params                                                                         \
    {                                                                                              \
        enum simd_isa isa = simd_isa();                                                            \
        if (isa == SIMD_AVX512)                                                                    \
            name##_avx512 args;                                                                    \
        else if (isa == SIMD_AVX2)                                                                 \
            name##_avx2 args;                                                                      \
        else                                                                                       \
            name##_base args;                                                                      \
    }
#else
#define SIMD_CLONES_AS(scope, name, params, args)                                                  \
    scope void name params                                                                         \
    {                                                                                              \
        name##_body args;                                                                          \
    }
#endif
#define SIMD_CLONES(name, params, args)        SIMD_CLONES_AS(, name, params, args)
#define SIMD_CLONES_STATIC(name, params, args) SIMD_CLONES_AS(static, name, params, args)

SIMD_INLINE simd_f *simd_at(float *p)
{
    return (simd_f *)p;
}

SIMD_INLINE const simd_f *simd_of(const float *p)
{
    return (const simd_f *)p;
}

SIMD_INLINE simd_h *simd_half_at(float *p)
{
    return (simd_h *)p;
}

SIMD_INLINE const simd_h *simd_half_of(const float *p)
{
    return (const simd_h *)p;
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
    const simd_i lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    simd_i keep = lane < n;
    simd_f other = (simd_f){0} + fill;
    *v = (simd_f)(((simd_i)*v & keep) | ((simd_i)other & ~keep));
}

// The first n lanes of p, the others filled.
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
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] = lane[i];
}

// A fixed tree: the same sum on every machine.
SIMD_INLINE float simd_sum(const simd_f *v)
{
    float lane[SIMD_LANES];
    memcpy(lane, v, sizeof lane);
    for (int step = SIMD_LANES / 2; step > 0; step /= 2)
        for (int i = 0; i < step; i++)
            lane[i] += lane[i + step];
    return lane[0];
}

SIMD_INLINE float simd_top(const simd_f *v)
{
    float lane[SIMD_LANES];
    memcpy(lane, v, sizeof lane);
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

#endif
