// Weights as .cu files read them: any stored type, as floats.
#ifndef FSTQ_KERNELS_STORED_H
#define FSTQ_KERNELS_STORED_H

#include "gpu.h"

static __device__ __forceinline__ float half_value(unsigned h)
{
    unsigned sign = (h & 0x8000u) << 16, e = h >> 10 & 31, m = h & 0x3ffu;
    if (e == 0) // m * 2^-24, exact in fp32
        return __uint_as_float(__float_as_uint((float)m * 5.9604644775390625e-8f) | sign);
    return __uint_as_float(sign | (e == 31 ? 0x7f800000u : (e + 112) << 23) | m << 13);
}

static __device__ __forceinline__ float stored_value(const void *w, int dtype, ptrdiff_t i)
{
    if (dtype == KERNEL_F32)
        return static_cast<const float *>(w)[i];
    unsigned h = static_cast<const uint16_t *>(w)[i];
    return dtype == KERNEL_BF16 ? __uint_as_float(h << 16) : half_value(h);
}

#endif
