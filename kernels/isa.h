// One kernel body, three instruction sets. A body is written once as a KERNEL_BODY function;
// KERNEL_VARIANTS compiles it for each instruction set and makes the public function that picks
// one. Without fast-math and fused multiply-adds the compiler may only reorder what gives the same
// bits.
#ifndef FSTQ_KERNELS_ISA_H
#define FSTQ_KERNELS_ISA_H

#include "kernels/kernels_codec.h"

#define KERNEL_BODY static inline __attribute__((always_inline))

#if defined(__x86_64__)
#define KERNEL_X86  1
#define TARGET_AVX2 __attribute__((target("avx2,bmi,bmi2,f16c,lzcnt,popcnt")))
#define AVX512_SET  "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi,bmi2,f16c,lzcnt,popcnt"
#ifdef __clang__
#define TARGET_AVX512 __attribute__((target(AVX512_SET), min_vector_width(512)))
#else
#define TARGET_AVX512 __attribute__((target(AVX512_SET ",prefer-vector-width=512")))
#endif
#else
#define KERNEL_X86 0
#endif

// Calls NAME_avx512, NAME_avx2 or NAME_portable.
#if KERNEL_X86
#define KERNEL_PICK(name, args)                                                                    \
    (codec_isa() == CODEC_ISA_AVX512 ? name##_avx512 args                                          \
     : codec_isa() == CODEC_ISA_AVX2 ? name##_avx2 args                                            \
                                     : name##_portable args)
#else
#define KERNEL_PICK(name, args) name##_portable args
#endif

// params and args are parenthesised lists; NAME_body args is the body.
#if KERNEL_X86
#define KERNEL_VARIANTS_AS(give, link, ret, name, params, args)                                    \
    static ret name##_portable params                                                              \
    {                                                                                              \
        give name##_body args;                                                                     \
    }                                                                                              \
    TARGET_AVX2 static ret name##_avx2 params                                                      \
    {                                                                                              \
        give name##_body args;                                                                     \
    }                                                                                              \
    TARGET_AVX512 static ret name##_avx512 params                                                  \
    {                                                                                              \
        give name##_body args;                                                                     \
    }                                                                                              \
    link ret name params                                                                           \
    {                                                                                              \
        give KERNEL_PICK(name, args);                                                              \
    }
#else
#define KERNEL_VARIANTS_AS(give, link, ret, name, params, args)                                    \
    link ret name params                                                                           \
    {                                                                                              \
        give name##_body args;                                                                     \
    }
#endif
#define KERNEL_VARIANTS(ret, name, params, args)                                                   \
    KERNEL_VARIANTS_AS(return, , ret, name, params, args)
#define KERNEL_VARIANTS_INNER(name, params, args)                                                  \
    KERNEL_VARIANTS_AS(, static, void, name, params, args)
#define KERNEL_VARIANTS_VOID(name, params, args) KERNEL_VARIANTS_AS(, , void, name, params, args)

#endif
