// The optimizer: a thread a value. What changes from step to step lies in kernel_step.
#include "gpu.h"

#include <assert.h>

enum { OPTIM_THREADS = 256, SQUARES_EACH = 4096 };

// Is value i trained? Ranges ascend.
static __device__ __forceinline__ bool trained(struct kernel_ranges r, size_t i)
{
    int low = 0, high = r.n;
    while (r.range && low < high) {
        int middle = (low + high) / 2;
        if (r.range[middle].to <= i)
            low = middle + 1;
        else
            high = middle;
    }
    return !r.range || (low < r.n && r.range[low].from <= i);
}

// Of so many values each, whichever of them are trained: the sum does not depend on the grid.
static __global__ void __launch_bounds__(OPTIM_THREADS)
    squares_of(struct kernel_ranges r, const float *__restrict__ x, size_t n,
               double *__restrict__ sums)
{
    SHARED(double, part, [32]);
    size_t from = (size_t)blockIdx.x * SQUARES_EACH, to = min(n, from + (size_t)SQUARES_EACH);
    double sum = 0;
    for (size_t i = from + threadIdx.x; i < to; i += blockDim.x)
        sum += trained(r, i) ? (double)x[i] * (double)x[i] : 0.0;
    sum = block_sum(sum, part);
    if (threadIdx.x == 0)
        sums[blockIdx.x] = sum;
}

static __global__ void __launch_bounds__(OPTIM_THREADS)
    add_squares(const double *__restrict__ sums, int n, kernel_step *s)
{
    SHARED(double, part, [32]);
    double sum = 0;
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x)
        sum += sums[i];
    sum = block_sum(sum, part);
    if (threadIdx.x == 0)
        s->squares = sum;
}

static __global__ void begin_step(struct kernel_optim h, kernel_step *s)
{
    s->norm = sqrt(s->squares);
    s->steps++;
    s->scale = (float)(h.clip > 0 && s->norm > h.clip ? h.clip / (s->norm + 1e-6) : 1.0);
    s->correct1 = s->correct2 = 1;
    if (h.kind == KERNEL_ADAMW) {
        s->correct1 = (float)(1.0 / (1.0 - pow(h.beta1, (double)s->steps)));
        s->correct2 = (float)(1.0 / (1.0 - pow(h.beta2, (double)s->steps)));
    }
}

static __device__ __forceinline__ void average(struct kernel_fisher f, float g, size_t i)
{
    float rest = 1.0f - f.rho;
    if (f.ema)
        f.ema[i] = f.rho * f.ema[i] + rest * (g * g);
    if (f.sum)
        f.sum[i] += g * g;
    if (f.grad)
        f.grad[i] = f.rho * f.grad[i] + rest * g;
}

struct optim_rates {
    float beta1, beta2, eps, decay, momentum;
};

static __global__ void __launch_bounds__(OPTIM_THREADS)
    adamw_step(struct optim_rates h, const kernel_step *__restrict__ s, struct kernel_ranges r,
               size_t from, size_t to, float *__restrict__ w, float *__restrict__ mean,
               float *__restrict__ var, const float *__restrict__ grad, struct kernel_fisher f)
{
    size_t i = from + (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= to || !trained(r, i))
        return;
    float raw = grad[i], g = raw * s->scale;
    float m = h.beta1 * mean[i] + (1.0f - h.beta1) * g;
    float v = h.beta2 * var[i] + (1.0f - h.beta2) * (g * g);
    mean[i] = m;
    var[i] = v;
    w[i] = (1.0f - s->lr * h.decay) * w[i] -
           s->lr * s->correct1 * m / (sqrtf(v * s->correct2) + h.eps);
    average(f, raw, i);
}

static __global__ void __launch_bounds__(OPTIM_THREADS)
    sgd_step(struct optim_rates h, const kernel_step *__restrict__ s, struct kernel_ranges r,
             size_t from, size_t to, float *__restrict__ w, float *__restrict__ velocity,
             const float *__restrict__ grad, struct kernel_fisher f)
{
    size_t i = from + (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= to || !trained(r, i))
        return;
    float raw = grad[i], v = h.momentum * velocity[i] + (raw * s->scale + h.decay * w[i]);
    velocity[i] = v;
    w[i] -= s->lr * v;
    average(f, raw, i);
}

static __global__ void __launch_bounds__(OPTIM_THREADS)
    averages(struct kernel_fisher f, const float *__restrict__ grad, size_t n)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        average(f, grad[i], i);
}

static __global__ void __launch_bounds__(OPTIM_THREADS)
    add_values(const float *__restrict__ x, size_t n, float *__restrict__ y)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        y[i] += x[i];
}

extern "C" void GPU_OP(sum_squares)(const struct kernel_ctx *cx, const struct kernel_ranges *r,
                                    const float *x, size_t n, kernel_step *s)
{
    unsigned blocks = gpu_blocks(n, SQUARES_EACH);
    double *sums = reinterpret_cast<double *>(cx->work);
    assert(2 * (size_t)blocks <= cx->work_floats);
    if (blocks > 0)
        LAUNCH(squares_of, blocks, OPTIM_THREADS, 0, cx->stream, *r, x, n, sums);
    LAUNCH(add_squares, 1, OPTIM_THREADS, 0, cx->stream, sums, (int)blocks, s);
}

extern "C" void GPU_OP(next_step)(const struct kernel_ctx *cx, const struct kernel_optim *h,
                                  kernel_step *s)
{
    LAUNCH(begin_step, 1, 1, 0, cx->stream, *h, s);
}

extern "C" void GPU_OP(update)(const struct kernel_ctx *cx, const struct kernel_optim *h,
                               const kernel_step *s, const struct kernel_ranges *r, size_t from,
                               size_t n, float *w, float *mean, float *var, const float *grad,
                               const struct kernel_fisher *f)
{
    struct optim_rates rates = {(float)h->beta1, (float)h->beta2, (float)h->eps,
                                (float)h->weight_decay, (float)h->momentum};
    struct kernel_fisher kept = {};
    unsigned blocks = gpu_blocks(n, OPTIM_THREADS);
    if (f)
        kept = *f;
    if (n > 0 && h->kind == KERNEL_ADAMW)
        LAUNCH(adamw_step, blocks, OPTIM_THREADS, 0, cx->stream, rates, s, *r, from, from + n, w,
               mean, var, grad, kept);
    else if (n > 0)
        LAUNCH(sgd_step, blocks, OPTIM_THREADS, 0, cx->stream, rates, s, *r, from, from + n, w,
               mean, grad, kept);
}

extern "C" void GPU_OP(fisher)(const struct kernel_ctx *cx, const struct kernel_fisher *f,
                               const float *grad, size_t n)
{
    if (n > 0)
        LAUNCH(averages, gpu_blocks(n, OPTIM_THREADS), OPTIM_THREADS, 0, cx->stream, *f, grad, n);
}

extern "C" void GPU_OP(add)(const struct kernel_ctx *cx, const float *x, size_t n, float *y)
{
    if (n > 0)
        LAUNCH(add_values, gpu_blocks(n, OPTIM_THREADS), OPTIM_THREADS, 0, cx->stream, x, n, y);
}
