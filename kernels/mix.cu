// Vectors added value by value: the bits of mix.c. Compiled without fused multiply-adds.
#include "gpu.h"
#include "gpu_stages.h"

enum { MIX_THREADS = 256 };

static __global__ void __launch_bounds__(MIX_THREADS)
    add_scaled(float a, const float *x, float b, const float *y, size_t n, float *out)
{
    size_t i = (size_t)blockIdx.x * MIX_THREADS + threadIdx.x;
    if (i < n)
        out[i] = a * x[i] + b * y[i];
}

void GPU_OP(gpu_mix_sum)(void *stream, float a, const float *x, float b, const float *y, size_t n,
                      float *out)
{
    if (n)
        LAUNCH(add_scaled, gpu_blocks(n, MIX_THREADS), MIX_THREADS, 0, stream, a, x, b, y, n, out);
}
