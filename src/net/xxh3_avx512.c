#include "net/xxh3_x86.h"

#ifdef __x86_64__

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f")
#endif

#include <immintrin.h>
#define XXH_VECTOR 3 // XXH_AVX512
#define XXH_INLINE_ALL
#include "net/xxh3_kit.h"

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const struct xxh3_kit *xxh3_avx512(void)
{
    return __builtin_cpu_supports("avx512f") ? &xxh3_kit : NULL;
}

#else

const struct xxh3_kit *xxh3_avx512(void)
{
    return NULL;
}

#endif
