// Types that weights and activations are stored in.
#ifndef FSTQ_KERNELS_DTYPE_H
#define FSTQ_KERNELS_DTYPE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum kernel_dtype { KERNEL_F32, KERNEL_BF16, KERNEL_F16, KERNEL_DTYPES };

extern const char *const kernel_dtype_name[KERNEL_DTYPES]; // as safetensors has them
static inline size_t kernel_dtype_bytes(int32_t dtype)
{
    return dtype == KERNEL_F32 ? 4 : 2;
}
// n values of a stored type as floats, and back (round half to even).
void kernel_to_f32(int32_t dtype, const void *x, size_t n, float *y);
void kernel_from_f32(int32_t dtype, const float *x, size_t n, void *y);

#ifdef __cplusplus
}
#endif

#endif
