// RMSNorm: a block a row, or a warp a head; and what goes over rows value by value.
#include "gpu.h"

enum { NORM_THREADS = 256, NORM_WARPS = NORM_THREADS / 32 };

static __global__ void __launch_bounds__(NORM_THREADS)
    norm_fwd(const float *__restrict__ x, ptrdiff_t ldx, const float *__restrict__ w, int cols,
             float eps, const float *__restrict__ y0, float *__restrict__ y, ptrdiff_t ldy,
             float *__restrict__ rstd)
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
        y[j] = y0 ? y0[blockIdx.x * ldy + j] + x[j] * r * w[j] : x[j] * r * w[j];
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

// A warp a head of queries, keys and, which stay as they are, values.
struct norm_heads {
    int normed, all, dim, queries;
    float eps;
};
static __global__ void __launch_bounds__(NORM_THREADS)
    head_fwd(struct norm_heads h, const float *__restrict__ w, const float *__restrict__ x,
             ptrdiff_t ldx, float *__restrict__ y, ptrdiff_t ldy)
{
    int head = (int)(blockIdx.y * NORM_WARPS + threadIdx.x / 32), lane = (int)(threadIdx.x % 32);
    if (head >= h.all)
        return;
    x += blockIdx.x * ldx + head * h.dim;
    y += blockIdx.x * ldy + head * h.dim;
    w += head < h.queries ? 0 : h.dim;
    float sum = 0;
    for (int j = lane; j < h.dim && head < h.normed; j += 32)
        sum += x[j] * x[j];
    float r = 1.0f / sqrtf(warp_sum(sum) / (float)h.dim + h.eps);
    for (int j = lane; j < h.dim; j += 32)
        y[j] = head < h.normed ? x[j] * r * w[j] : x[j];
}

static __global__ void __launch_bounds__(NORM_THREADS)
    head_bwd(struct norm_heads h, const float *__restrict__ w, const float *__restrict__ x,
             ptrdiff_t ldx, float *__restrict__ dy, ptrdiff_t lddy)
{
    int head = (int)(blockIdx.y * NORM_WARPS + threadIdx.x / 32), lane = (int)(threadIdx.x % 32);
    if (head >= h.normed)
        return;
    x += blockIdx.x * ldx + head * h.dim;
    dy += blockIdx.x * lddy + head * h.dim;
    w += head < h.queries ? 0 : h.dim;
    float square = 0, sum = 0;
    for (int j = lane; j < h.dim; j += 32) {
        square += x[j] * x[j];
        sum += dy[j] * w[j] * x[j];
    }
    float r = 1.0f / sqrtf(warp_sum(square) / (float)h.dim + h.eps);
    float pull = warp_sum(sum) * r * r * r / (float)h.dim;
    for (int j = lane; j < h.dim; j += 32)
        dy[j] = dy[j] * w[j] * r - x[j] * pull;
}

// x + b, or by x where b is NULL.
static __global__ void __launch_bounds__(NORM_THREADS)
    move_rows(float by, const float *__restrict__ b, int cols, float *__restrict__ x, ptrdiff_t ldx)
{
    x += blockIdx.x * ldx;
    for (int j = (int)threadIdx.x; j < cols; j += (int)blockDim.x)
        x[j] = b ? x[j] + b[j] : x[j] * by;
}

extern "C" void GPU_OP(rmsnorm_fwd)(const struct kernel_ctx *cx, const kernel_act *x, ptrdiff_t ldx,
                                    const float *w, int32_t m, int32_t cols, float eps,
                                    kernel_act *y, ptrdiff_t ldy, float *rstd)
{
    if (m > 0)
        LAUNCH(norm_fwd, (unsigned)m, (unsigned)gpu_threads(cols, NORM_THREADS), 0, cx->stream,
               act_in(x), ldx, w, cols, eps, nullptr, act_out(y), ldy, rstd);
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

extern "C" void GPU_OP(norm_sum_fwd)(const struct kernel_ctx *cx, const kernel_act *x,
                                     ptrdiff_t ldx, const float *w, int32_t m, int32_t cols,
                                     float eps, const kernel_act *y0, kernel_act *y, ptrdiff_t ldy,
                                     float *rstd)
{
    if (m > 0)
        LAUNCH(norm_fwd, (unsigned)m, (unsigned)gpu_threads(cols, NORM_THREADS), 0, cx->stream,
               act_in(x), ldx, w, cols, eps, act_in(y0), act_out(y), ldy, rstd);
}

static struct norm_heads heads_of(const struct kernel_heads *h)
{
    return {h->heads + h->kv_heads, h->heads + 2 * h->kv_heads, h->head_dim, h->heads, h->eps};
}

extern "C" void GPU_OP(head_norm_fwd)(const struct kernel_ctx *cx, const struct kernel_heads *h,
                                      const float *w, const kernel_act *x, ptrdiff_t ldx, int32_t m,
                                      kernel_act *y, ptrdiff_t ldy)
{
    struct norm_heads n = heads_of(h);
    if (m > 0)
        LAUNCH(head_fwd, dim3((unsigned)m, gpu_blocks((size_t)n.all, NORM_WARPS)), NORM_THREADS, 0,
               cx->stream, n, w, act_in(x), ldx, act_out(y), ldy);
}

extern "C" void GPU_OP(head_norm_bwd)(const struct kernel_ctx *cx, const struct kernel_heads *h,
                                      const float *w, const kernel_act *x, ptrdiff_t ldx, int32_t m,
                                      kernel_act *dy, ptrdiff_t lddy)
{
    struct norm_heads n = heads_of(h);
    if (m > 0)
        LAUNCH(head_bwd, dim3((unsigned)m, gpu_blocks((size_t)n.normed, NORM_WARPS)), NORM_THREADS,
               0, cx->stream, n, w, act_in(x), ldx, act_out(dy), lddy);
}

extern "C" void GPU_OP(bias_rows)(const struct kernel_ctx *cx, const float *b, int32_t m,
                                  int32_t cols, kernel_act *x, ptrdiff_t ldx)
{
    if (m > 0)
        LAUNCH(move_rows, (unsigned)m, (unsigned)gpu_threads(cols, NORM_THREADS), 0, cx->stream, 1,
               b, cols, act_out(x), ldx);
}

extern "C" void GPU_OP(scale_rows)(const struct kernel_ctx *cx, float by, int32_t m, int32_t cols,
                                   kernel_act *x, ptrdiff_t ldx)
{
    if (m > 0)
        LAUNCH(move_rows, (unsigned)m, (unsigned)gpu_threads(cols, NORM_THREADS), 0, cx->stream, by,
               nullptr, cols, act_out(x), ldx);
}
