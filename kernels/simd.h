// One file of kernels, several instruction sets, so that a baseline build runs anywhere. There are
// two ways to write the copies of a kernel, and one to call them:
//
// - once, as SIMD_KERNEL void SIMD_NAME(f)(...), in loops that the compiler makes into vectors or
//   with the types of simd_vec.h. Such a file is read again for each instruction set: these kernels
//   stand in its first part, #ifdef SIMD_LANES, and simd_each.h reads them.
// - by hand, as TARGET_AVX2 void f_avx2(...), TARGET_AVX512 void f_avx512(...) and f_base(...).
// - SIMD_PICK(f, (...)) calls the copy for this CPU.
//
// Without fast-math and fused multiply-adds the compiler may only reorder what gives the same bits:
// the codecs' kernels give the same ones with every instruction set.
#ifndef FSTQ_KERNELS_SIMD_H
#define FSTQ_KERNELS_SIMD_H

#include <stdatomic.h>
#include <stdbool.h>

// Sums and maxima have this many lanes on every machine, so that results do not depend on it.
#define SIMD_WIDE 16

enum simd_isa { SIMD_BASE, SIMD_AVX2, SIMD_AVX512, SIMD_ISA_COUNT };

// "base" ("neon" on aarch64), "avx2", "avx512"; ends with NULL.
extern const char *const simd_isa_name[SIMD_ISA_COUNT + 1];
extern atomic_int simd_now; // -1 = not yet known

// Finds out what this CPU runs: at most what the environment variable FSTQ_SIMD names.
enum simd_isa simd_detect(void);
const char *simd_text(void); // its name
// False where FSTQ_SIMD is set to what is no name.
bool simd_named(void);
// From now on at most this, and at most what FSTQ_SIMD names. Not while kernels run.
void simd_limit(enum simd_isa most);

// Whether this CPU multiplies pairs of bf16 (AVX-512 BF16), and AVX-512 is not forbidden.
bool simd_bf16(void);

// Whether it multiplies bytes in fours (AVX-512 VNNI), likewise.
bool simd_vnni(void);

// What the copies are picked by.
static inline enum simd_isa simd_isa(void)
{
    int isa = atomic_load_explicit(&simd_now, memory_order_relaxed);
    return isa >= 0 ? (enum simd_isa)isa : simd_detect();
}

#if defined(__x86_64__)
#define SIMD_X86    1
#define AVX2_SET    "avx2,fma,bmi,bmi2,f16c,lzcnt,popcnt"
#define AVX512_SET  "avx512f,avx512bw,avx512dq,avx512vl," AVX2_SET
#define TARGET_AVX2 __attribute__((target(AVX2_SET)))
#ifdef __clang__
#define TARGET_AVX512 __attribute__((target(AVX512_SET), min_vector_width(512)))
#else
#define TARGET_AVX512 __attribute__((target(AVX512_SET ",prefer-vector-width=512")))
#endif
#define SIMD_PICK(name, args)                                                                      \
    (simd_isa() == SIMD_AVX512 ? name##_avx512 args                                                \
     : simd_isa() == SIMD_AVX2 ? name##_avx2 args                                                  \
                               : name##_base args)
#ifdef __clang__
#define TARGET_AVX512BF16 __attribute__((target("avx512bf16," AVX512_SET), min_vector_width(512)))
#else
#define TARGET_AVX512BF16                                                                          \
    __attribute__((target("avx512bf16," AVX512_SET ",prefer-vector-width=512")))
#endif
#ifdef __clang__
#define TARGET_VNNI __attribute__((target("avx512vnni," AVX512_SET), min_vector_width(512)))
#else
#define TARGET_VNNI __attribute__((target("avx512vnni," AVX512_SET ",prefer-vector-width=512")))
#endif
#else
#define SIMD_X86              0
#define SIMD_PICK(name, args) name##_base args
#endif

// The copies of a kernel as an array, by instruction set.
#if SIMD_X86
#define SIMD_COPIES(name)                                                                          \
    {                                                                                              \
        [SIMD_BASE] = name##_base, [SIMD_AVX2] = name##_avx2, [SIMD_AVX512] = name##_avx512        \
    }
#else
#define SIMD_COPIES(name)                                                                          \
    {                                                                                              \
        [SIMD_BASE] = name##_base, [SIMD_AVX2] = name##_base, [SIMD_AVX512] = name##_base          \
    }
#endif

// A piece of kernels that becomes part of whatever copy calls it.
#define SIMD_PART static inline __attribute__((always_inline))

#endif
