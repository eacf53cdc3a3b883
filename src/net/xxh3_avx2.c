// XXH3 with AVX2, for frames at the speed of memory: the distribution's library is built for any
// x86-64 and hashes at half the rate at which one core copies. Same function, same value (a unit
// test compares).
#include "net/xxh3_avx2.h"

#ifdef __x86_64__

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

#include <immintrin.h>
#define XXH_VECTOR 2 // AVX2
#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t xxh3_avx2(const void *bytes, size_t n)
{
    return XXH3_64bits(bytes, n);
}

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

bool xxh3_avx2_runs(void)
{
    return __builtin_cpu_supports("avx2");
}

#else

uint64_t xxh3_avx2(const void *bytes, size_t n)
{
    (void)bytes, (void)n;
    return 0;
}

bool xxh3_avx2_runs(void)
{
    return false;
}

#endif
