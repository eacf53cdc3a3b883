// RMSNorm: a block a row.
#include "gpu.h"

enum { NORM_THREADS = 256 };

static __global__ void __launch_bounds__(NORM_THREADS)
    norm_fwd(const float *__restrict__ x, ptrdiff_t ldx, const float *__restrict__ w, int cols,
             float eps, float *__restrict__ y, ptrdiff_t ldy, float *__restrict__ rstd)
{
    SHARED(float, part, [32]);
    x += blockIdx.x * ldx;
    y += blockIdx.x * ldy;
    float sum = 0;
    for (int j = (int)threadIdx.x; j < cols; j += (int)blockDim.x)
        sum += x[j] * x[j];
    float r = 1.0f / sqrtf(block_sum(sum, part) / (float)cols + eps);
    if (rstd && threadIdx.x == 0)
        rstd[blockIdx.x] = r;
    for (int j = (int)threadIdx.x; j < cols; j += (int)blockDim.x)
        y[j] = x[j] * r * w[j];
}

static __global__ void __launch_bounds__(NORM_THREADS)
    norm_bwd(const float *__restrict__ dy, ptrdiff_t lddy, const float *__restrict__ x,
             ptrdiff_t ldx, const float *__restrict__ w, const float *__restrict__ rstd, int cols,
             float *__restrict__ dx, ptrdiff_t lddx)
{
    SHARED(float, part, [32]);
    dy += blockIdx.x * lddy;
    x += blockIdx.x * ldx;
    dx += blockIdx.x * lddx;
    float sum = 0, r = rstd[blockIdx.x];
    for (int j = (int)threadIdx.x; j < cols; j += (int)blockDim.x)
        sum += dy[j] * w[j] * x[j];
    float pull = block_sum(sum, part) * r * r / (float)cols;
    for (int j = (int)threadIdx.x; j < cols; j += (int)blockDim.x)
        dx[j] += r * (dy[j] * w[j] - x[j] * pull);
}

// A thread a column, rows in their order: norms are trained with all weights alone.
static __global__ void norm_dw(const float *__restrict__ dy, ptrdiff_t lddy,
                               const float *__restrict__ x, ptrdiff_t ldx,
                               const float *__restrict__ rstd, int m, int cols,
                               float *__restrict__ dw)
{
    int j = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    float sum = 0;
    for (int i = 0; i < m && j < cols; i++)
        sum += dy[i * lddy + j] * x[i * ldx + j] * rstd[i];
    if (j < cols)
        dw[j] += sum;
}

extern "C" void GPU_OP(rmsnorm_fwd)(const struct kernel_ctx *cx, const kernel_act *x, ptrdiff_t ldx,
                                    const float *w, int32_t m, int32_t cols, float eps,
                                    kernel_act *y, ptrdiff_t ldy, float *rstd)
{
    if (m > 0)
        LAUNCH(norm_fwd, (unsigned)m, (unsigned)gpu_threads(cols, NORM_THREADS), 0, cx->stream,
               act_in(x), ldx, w, cols, eps, act_out(y), ldy, rstd);
}

extern "C" void GPU_OP(rmsnorm_bwd)(const struct kernel_ctx *cx, const kernel_act *dy,
                                    ptrdiff_t lddy, const kernel_act *x, ptrdiff_t ldx,
                                    const float *w, const float *rstd, int32_t m, int32_t cols,
                                    kernel_act *dx, ptrdiff_t lddx, float *dw)
{
    if (m <= 0)
        return;
    LAUNCH(norm_bwd, (unsigned)m, (unsigned)gpu_threads(cols, NORM_THREADS), 0, cx->stream,
           act_in(dy), lddy, act_in(x), ldx, w, rstd, cols, act_out(dx), lddx);
    if (dw)
        LAUNCH(norm_dw, gpu_blocks((size_t)cols, 64), 64, 0, cx->stream, act_in(dy), lddy,
               act_in(x), ldx, rstd, m, cols, dw);
}
