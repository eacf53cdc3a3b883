#include "net/xxh3_x86.h"

#ifdef __x86_64__

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

#include <immintrin.h>
#define XXH_VECTOR 2 // XXH_AVX2
#define XXH_INLINE_ALL
#include "net/xxh3_kit.h"

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const struct xxh3_kit *xxh3_avx2(void)
{
    return __builtin_cpu_supports("avx2") ? &xxh3_kit : NULL;
}

#else

const struct xxh3_kit *xxh3_avx2(void)
{
    return NULL;
}

#endif
