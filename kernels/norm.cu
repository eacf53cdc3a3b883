// RMSNorm: a block a row, or a warp a head; and what goes over rows value by value.
#include "gpu_act.h"

enum { NORM_THREADS = 256, NORM_WARPS = NORM_THREADS / 32 };

template <class T>
static __global__ void __launch_bounds__(NORM_THREADS)
    norm_fwd(const T *__restrict__ x, ptrdiff_t ldx, const float *__restrict__ w, int cols,
             float eps, const T *__restrict__ y0, T *__restrict__ y, ptrdiff_t ldy,
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

template <class T>
static __global__ void __launch_bounds__(NORM_THREADS)
    norm_bwd(const T *__restrict__ dy, ptrdiff_t lddy, const T *__restrict__ x, ptrdiff_t ldx,
             const float *__restrict__ w, const float *__restrict__ rstd, int cols,
             T *__restrict__ dx, ptrdiff_t lddx)
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
template <class T>
static __global__ void norm_dw(const T *__restrict__ dy, ptrdiff_t lddy, const T *__restrict__ x,
                               ptrdiff_t ldx, const float *__restrict__ rstd, float by, int m,
                               int cols, float *__restrict__ dw)
{
    int j = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    float sum = 0;
    for (int i = 0; i < m && j < cols; i++)
        sum += dy[i * lddy + j] * x[i * ldx + j] * rstd[i];
    if (j < cols)
        dw[j] += sum * by;
}

// A warp a head of queries, keys and, which stay as they are, values.
struct norm_heads {
    int normed, all, dim, queries;
    float eps;
};
template <class T>
static __global__ void __launch_bounds__(NORM_THREADS)
    head_fwd(struct norm_heads h, const float *__restrict__ w, const T *__restrict__ x,
             ptrdiff_t ldx, T *__restrict__ y, ptrdiff_t ldy)
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

template <class T>
static __global__ void __launch_bounds__(NORM_THREADS)
    head_bwd(struct norm_heads h, const float *__restrict__ w, const T *__restrict__ x,
             ptrdiff_t ldx, T *__restrict__ dy, ptrdiff_t lddy)
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
template <class T>
static __global__ void __launch_bounds__(NORM_THREADS)
    move_rows(float by, const float *__restrict__ b, int cols, T *__restrict__ x, ptrdiff_t ldx)
{
    x += blockIdx.x * ldx;
    for (int j = (int)threadIdx.x; j < cols; j += (int)blockDim.x)
        x[j] = b ? x[j] + b[j] : x[j] * by;
}

static void norm(const struct kernel_ctx *cx, const kernel_act *x, ptrdiff_t ldx, const float *w,
                 int32_t m, int32_t cols, float eps, const kernel_act *y0, kernel_act *y,
                 ptrdiff_t ldy, float *rstd)
{
    if (m > 0)
        gpu_by_act(cx, [&](auto type) {
            typedef decltype(type) T;
            LAUNCH((norm_fwd<T>), (unsigned)m, (unsigned)gpu_threads(cols, NORM_THREADS), 0,
                   cx->stream, act_as<T>(x), ldx, w, cols, eps, act_as<T>(y0), act_as<T>(y), ldy,
                   rstd);
        });
}

extern "C" void GPU_OP(rmsnorm_fwd)(const struct kernel_ctx *cx, const kernel_act *x, ptrdiff_t ldx,
                                    const float *w, int32_t m, int32_t cols, float eps,
                                    kernel_act *y, ptrdiff_t ldy, float *rstd)
{
    norm(cx, x, ldx, w, m, cols, eps, nullptr, y, ldy, rstd);
}

extern "C" void GPU_OP(rmsnorm_bwd)(const struct kernel_ctx *cx, const kernel_act *dy,
                                    ptrdiff_t lddy, const kernel_act *x, ptrdiff_t ldx,
                                    const float *w, const float *rstd, int32_t m, int32_t cols,
                                    kernel_act *dx, ptrdiff_t lddx, float *dw)
{
    if (m <= 0)
        return;
    gpu_by_act(cx, [&](auto type) {
        typedef decltype(type) T;
        LAUNCH((norm_bwd<T>), (unsigned)m, (unsigned)gpu_threads(cols, NORM_THREADS), 0, cx->stream,
               act_as<T>(dy), lddy, act_as<T>(x), ldx, w, rstd, cols, act_as<T>(dx), lddx);
        if (dw)
            LAUNCH((norm_dw<T>), gpu_blocks((size_t)cols, 64), 64, 0, cx->stream, act_as<T>(dy),
                   lddy, act_as<T>(x), ldx, rstd, 1 / cx->grad_scale, m, cols, dw);
    });
}

extern "C" void GPU_OP(norm_sum_fwd)(const struct kernel_ctx *cx, const kernel_act *x,
                                     ptrdiff_t ldx, const float *w, int32_t m, int32_t cols,
                                     float eps, const kernel_act *y0, kernel_act *y, ptrdiff_t ldy,
                                     float *rstd)
{
    norm(cx, x, ldx, w, m, cols, eps, y0, y, ldy, rstd);
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
        gpu_by_act(cx, [&](auto type) {
            typedef decltype(type) T;
            LAUNCH((head_fwd<T>), dim3((unsigned)m, gpu_blocks((size_t)n.all, NORM_WARPS)),
                   NORM_THREADS, 0, cx->stream, n, w, act_as<T>(x), ldx, act_as<T>(y), ldy);
        });
}

extern "C" void GPU_OP(head_norm_bwd)(const struct kernel_ctx *cx, const struct kernel_heads *h,
                                      const float *w, const kernel_act *x, ptrdiff_t ldx, int32_t m,
                                      kernel_act *dy, ptrdiff_t lddy)
{
    struct norm_heads n = heads_of(h);
    if (m > 0)
        gpu_by_act(cx, [&](auto type) {
            typedef decltype(type) T;
            LAUNCH((head_bwd<T>), dim3((unsigned)m, gpu_blocks((size_t)n.normed, NORM_WARPS)),
                   NORM_THREADS, 0, cx->stream, n, w, act_as<T>(x), ldx, act_as<T>(dy), lddy);
        });
}

static void move(const struct kernel_ctx *cx, float by, const float *b, int32_t m, int32_t cols,
                 kernel_act *x, ptrdiff_t ldx)
{
    if (m > 0)
        gpu_by_act(cx, [&](auto type) {
            typedef decltype(type) T;
            LAUNCH((move_rows<T>), (unsigned)m, (unsigned)gpu_threads(cols, NORM_THREADS), 0,
                   cx->stream, by, b, cols, act_as<T>(x), ldx);
        });
}

extern "C" void GPU_OP(bias_rows)(const struct kernel_ctx *cx, const float *b, int32_t m,
                                  int32_t cols, kernel_act *x, ptrdiff_t ldx)
{
    move(cx, 1, b, m, cols, x, ldx);
}

extern "C" void GPU_OP(scale_rows)(const struct kernel_ctx *cx, float by, int32_t m, int32_t cols,
                                   kernel_act *x, ptrdiff_t ldx)
{
    move(cx, by, nullptr, m, cols, x, ldx);
}
