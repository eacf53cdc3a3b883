#include "simd.h"

#include <stdlib.h>
#include <string.h>

const char *const simd_isa_name[SIMD_ISA_COUNT + 1] = {
#if defined(__aarch64__)
    [SIMD_BASE] = "neon",
#else
    [SIMD_BASE] = "base",
#endif
    [SIMD_AVX2] = "avx2",
    [SIMD_AVX512] = "avx512",
};

atomic_int simd_now = -1;

static enum simd_isa of_cpu(void)
{
#if SIMD_X86
#define HAS(feature) __builtin_cpu_supports(feature)
    __builtin_cpu_init();
    // What has AVX2, BMI2 and FMA has F16C and LZCNT, too; old compilers cannot ask for these.
    bool avx2 = HAS("avx2") && HAS("fma") && HAS("bmi") && HAS("bmi2") && HAS("popcnt");
    if (avx2 && HAS("avx512f") && HAS("avx512bw") && HAS("avx512dq") && HAS("avx512vl"))
        return SIMD_AVX512;
    if (avx2)
        return SIMD_AVX2;
#undef HAS
#endif
    return SIMD_BASE;
}

bool simd_bf16(void)
{
#if SIMD_X86
    return simd_isa() == SIMD_AVX512 && __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

bool simd_vnni(void)
{
#if SIMD_X86
    return simd_isa() == SIMD_AVX512 && __builtin_cpu_supports("avx512vnni");
#else
    return false;
#endif
}

// What FSTQ_SIMD names; SIMD_ISA_COUNT where it is not set, -1 where it is no name.
static int of_environment(void)
{
    const char *text = getenv("FSTQ_SIMD");
    int isa = 0;
    if (!text || !*text)
        return SIMD_ISA_COUNT;
    while (isa < SIMD_ISA_COUNT && strcmp(text, simd_isa_name[isa]) != 0)
        isa++;
    return isa < SIMD_ISA_COUNT ? isa : -1;
}

bool simd_named(void)
{
    return of_environment() >= 0;
}

void simd_limit(enum simd_isa most)
{
    int isa = (int)of_cpu(), named = of_environment();
    isa = named >= 0 && named < isa ? named : isa;
    atomic_store_explicit(&simd_now, isa < (int)most ? isa : (int)most, memory_order_relaxed);
}

enum simd_isa simd_detect(void)
{
    simd_limit(SIMD_ISA_COUNT - 1);
    return (enum simd_isa)atomic_load_explicit(&simd_now, memory_order_relaxed);
}

const char *simd_text(void)
{
    return simd_isa_name[simd_isa()];
}
