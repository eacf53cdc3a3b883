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

static __global__ void __launch_bounds__(MIX_THREADS)
    add_momentum(struct mix_momentum m, const float *x, const float *u0, const float *v0, size_t n,
                 float *u, float *v)
{
    size_t i = (size_t)blockIdx.x * MIX_THREADS + threadIdx.x;
    if (i >= n)
        return;
    float step = x[i] * m.scale, sum = m.nesterov ? m.mu * (u0[i] + step) : m.mu * u0[i] + step;
    v[i] = v0[i] + (m.nesterov ? sum + step : sum);
    u[i] = sum;
}

extern "C" void GPU_OP(gpu_mix_sum)(void *stream, float a, const float *x, float b,
                                    const float *y, size_t n, float *out)
{
    if (n)
        LAUNCH(add_scaled, gpu_blocks(n, MIX_THREADS), MIX_THREADS, 0, stream, a, x, b, y, n, out);
}

extern "C" void GPU_OP(gpu_mix_momentum)(void *stream, const struct mix_momentum *m, const float *x,
                                         const float *u0, const float *v0, size_t n, float *u,
                                         float *v)
{
    if (n)
        LAUNCH(add_momentum, gpu_blocks(n, MIX_THREADS), MIX_THREADS, 0, stream, *m, x, u0, v0, n,
               u, v);
}
