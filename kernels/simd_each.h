// Reads SIMD_FILE once for each instruction set. In these readings SIMD_LANES is defined: floats a
// register holds.
#ifndef FSTQ_KERNELS_SIMD_EACH_H
#define FSTQ_KERNELS_SIMD_EACH_H

#include "simd.h"

#if SIMD_X86

#define SIMD_ISA       avx512
#define SIMD_LANES     16
#define SIMD_REGISTERS 32
#define SIMD_TARGET    TARGET_AVX512
#include "simd_vec.h"
#include SIMD_FILE
#undef SIMD_ISA
#undef SIMD_LANES
#undef SIMD_REGISTERS
#undef SIMD_TARGET

#define SIMD_ISA       avx2
#define SIMD_LANES     8
#define SIMD_REGISTERS 16
#define SIMD_TARGET    TARGET_AVX2
#include "simd_vec.h"
#include SIMD_FILE
#undef SIMD_ISA
#undef SIMD_LANES
#undef SIMD_REGISTERS
#undef SIMD_TARGET

#endif

#define SIMD_ISA   base
#define SIMD_LANES 4
#if defined(__aarch64__)
#define SIMD_REGISTERS 32
#else
#define SIMD_REGISTERS 16
#endif
#define SIMD_TARGET
#include "simd_vec.h"
#include SIMD_FILE
#undef SIMD_ISA
#undef SIMD_LANES
#undef SIMD_REGISTERS
#undef SIMD_TARGET

#endif
