// Kernels in vectors as wide as the registers: GCC and clang lower the vector types of simd_vec.h
// to AVX-512, AVX2, SSE2 or NEON. A file with such kernels is read once more for each instruction
// set (simd_each.h), and SIMD_PICK calls the copy for this CPU, so that a baseline build runs
// anywhere.
#ifndef FSTQ_KERNELS_SIMD_H
#define FSTQ_KERNELS_SIMD_H

// Sums and maxima have this many lanes on every machine, so that results do not depend on it.
#define SIMD_WIDE 16

enum simd_isa { SIMD_BASE, SIMD_AVX2, SIMD_AVX512, SIMD_ISA_COUNT };

// What this CPU runs, at most what simd_limit allows. Tests lower the limit to compare the copies.
enum simd_isa simd_isa(void);
void simd_limit(enum simd_isa most);
extern const char *const simd_isa_name[SIMD_ISA_COUNT];

// Defines name, which calls its copy for this CPU. params and args are parenthesised lists.
#if defined(__x86_64__)
#define SIMD_PICK(name, params, args)                                                              \
    static void name params                                                                        \
    {                                                                                              \
        enum simd_isa isa = simd_isa();                                                            \
        if (isa == SIMD_AVX512)                                                                    \
            name##_avx512 args;                                                                    \
        else if (isa == SIMD_AVX2)                                                                 \
            name##_avx2 args;                                                                      \
        else                                                                                       \
            name##_portable args;                                                                  \
    }
#else
#define SIMD_PICK(name, params, args)                                                              \
    static void name params                                                                        \
    {                                                                                              \
        name##_portable args;                                                                      \
    }
#endif

#endif
