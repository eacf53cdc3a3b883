// Stored types to float and back.
#ifdef SIMD_LANES // read for each instruction set

SIMD_KERNEL void SIMD_NAME(widen_bf16)(const uint16_t *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = bf16_to_f32(x[i]);
}

// As f16_to_f32, without branches. Subnormals are converted as whole numbers, so that it makes no
// difference whether the CPU treats subnormal floats as zero.
SIMD_KERNEL void SIMD_NAME(widen_f16)(const uint16_t *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t h = x[i], magnitude = (h & 0x7fffu) << 13, sign = (h & 0x8000u) << 16;
        uint32_t special = 0u - (uint32_t)(magnitude >= 0x0f800000u);
        uint32_t small = 0u - (uint32_t)(magnitude < 0x00800000u);
        uint32_t normal = (magnitude + (112u << 23)) | (special & 0x7f800000u);
        uint32_t whole = f32_bits((float)(int32_t)(h & 0x3ffu) * 0x1p-24f);
        y[i] = f32_from_bits(sign | (small & whole) | (~small & normal));
    }
}

#else

#include "dtype.h"

#include "base/half.h"
#include "simd.h"

#include <assert.h>
#include <string.h>

#define SIMD_FILE "dtype.c"
#include "simd_each.h"

const char *const kernel_dtype_name[KERNEL_DTYPES] = {
    [KERNEL_F32] = "F32", [KERNEL_BF16] = "BF16", [KERNEL_F16] = "F16"};

void kernel_to_f32(int32_t dtype, const void *x, size_t n, float *y)
{
    assert(dtype >= 0 && dtype < KERNEL_DTYPES);
    if (dtype == KERNEL_F32)
        memcpy(y, x, n * sizeof *y);
    else if (dtype == KERNEL_BF16)
        SIMD_PICK(widen_bf16, ((const uint16_t *)x, n, y));
    else
        SIMD_PICK(widen_f16, ((const uint16_t *)x, n, y));
}

void kernel_from_f32(int32_t dtype, const float *x, size_t n, void *y)
{
    assert(dtype >= 0 && dtype < KERNEL_DTYPES);
    if (dtype == KERNEL_F32) {
        memcpy(y, x, n * sizeof *x);
        return;
    }
    uint16_t *h = (uint16_t *)y;
    for (size_t i = 0; i < n; i++)
        h[i] = dtype == KERNEL_BF16 ? bf16_from_f32(x[i]) : f16_from_f32(x[i]);
}

#endif
