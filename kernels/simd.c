#include "simd.h"

#include "kernels.h"

#include <stdatomic.h>

const char *const simd_isa_name[SIMD_ISA_COUNT] = {
#if defined(__aarch64__)
    [SIMD_BASE] = "neon",
#else
    [SIMD_BASE] = "base",
#endif
    [SIMD_AVX2] = "avx2",
    [SIMD_AVX512] = "avx512",
};

static _Atomic int chosen = -1;

static enum simd_isa detect(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return SIMD_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return SIMD_AVX2;
#endif
    return SIMD_BASE;
}

enum simd_isa simd_isa(void)
{
    int isa = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (isa < 0) {
        isa = (int)detect();
        atomic_store_explicit(&chosen, isa, memory_order_relaxed);
    }
    return (enum simd_isa)isa;
}

void simd_limit(enum simd_isa most)
{
    enum simd_isa isa = detect();
    atomic_store(&chosen, (int)(isa < most ? isa : most));
}

const char *kernel_isa_text(void)
{
    return simd_isa_name[simd_isa()];
}
