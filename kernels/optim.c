#ifdef SIMD_LANES // read for each instruction set

SIMD_KERNEL void SIMD_NAME(adamw_all)(const struct kernel_adamw *h, float *w, float *mean,
                                      float *var, const float *grad, size_t n)
{
    float b1 = h->beta1, b2 = h->beta2, r1 = 1.0f - b1, r2 = 1.0f - b2, eps = h->eps;
    float step = h->lr * h->correct1, c2 = h->correct2, decay = 1.0f - h->lr * h->weight_decay;
    float scale = h->grad_scale;
    float *restrict x = w, *restrict m = mean, *restrict v = var;
    const float *restrict d = grad;
    for (size_t i = 0; i < n; i++) {
        float g = d[i] * scale;
        m[i] = b1 * m[i] + r1 * g;
        v[i] = b2 * v[i] + r2 * (g * g);
        x[i] = decay * x[i] - step * m[i] / (sqrtf(v[i] * c2) + eps);
    }
}

SIMD_KERNEL void SIMD_NAME(sgd_all)(const struct kernel_sgd *h, float *w, float *velocity,
                                    const float *grad, size_t n)
{
    float lr = h->lr, momentum = h->momentum, decay = h->weight_decay, scale = h->grad_scale;
    float *restrict x = w, *restrict v = velocity;
    const float *restrict d = grad;
    for (size_t i = 0; i < n; i++) {
        float g = d[i] * scale + decay * x[i];
        v[i] = momentum * v[i] + g;
        x[i] -= lr * v[i];
    }
}

SIMD_KERNEL void SIMD_NAME(fisher_all)(const struct kernel_fisher *f, const float *grad, size_t n)
{
    float rho = f->rho, rest = 1.0f - f->rho;
    const float *restrict d = grad;
    float *restrict ema = f->ema, *restrict sum = f->sum, *restrict mean = f->grad;
    if (ema)
        for (size_t i = 0; i < n; i++)
            ema[i] = rho * ema[i] + rest * (d[i] * d[i]);
    if (sum)
        for (size_t i = 0; i < n; i++)
            sum[i] += d[i] * d[i];
    if (mean)
        for (size_t i = 0; i < n; i++)
            mean[i] = rho * mean[i] + rest * d[i];
}

SIMD_KERNEL void SIMD_NAME(add_all)(const float *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] += x[i];
}

SIMD_KERNEL void SIMD_NAME(sum_squares_all)(const float *x, size_t n, double *out)
{
    double total = 0;
    for (size_t at = 0; at < n; at += PIECE) {
        size_t some = n - at < PIECE ? n - at : PIECE, i = 0;
        simd_f sum[SIMD_PIECES] = {{0}};
        for (; i + SIMD_WIDE <= some; i += SIMD_WIDE)
            for (int p = 0; p < SIMD_PIECES; p++) {
                simd_f v = *simd_of(x + at + i + p * SIMD_LANES);
                sum[p] += v * v;
            }
        for (int p = 0; p < SIMD_PIECES && i < some; p++, i += SIMD_LANES) {
            simd_f v;
            simd_load_part(&v, x + at + i, (ptrdiff_t)(some - i), 0.0f);
            sum[p] += v * v;
        }
        total += (double)simd_sum(sum);
    }
    *out = total;
}

#else

#include "kernels.h"
#include "simd.h"

#include <math.h>

enum { PIECE = 1024 }; // summed in single precision

#define SIMD_FILE "optim.c"
#include "simd_each.h"

void adamw_cpu(const struct kernel_ctx *cx, const struct kernel_adamw *h, float *w, float *mean,
               float *var, const float *grad, size_t n)
{
    (void)cx;
    SIMD_PICK(adamw_all, (h, w, mean, var, grad, n));
}

void sgd_cpu(const struct kernel_ctx *cx, const struct kernel_sgd *h, float *w, float *velocity,
             const float *grad, size_t n)
{
    (void)cx;
    SIMD_PICK(sgd_all, (h, w, velocity, grad, n));
}

void fisher_cpu(const struct kernel_ctx *cx, const struct kernel_fisher *f, const float *grad,
                size_t n)
{
    (void)cx;
    SIMD_PICK(fisher_all, (f, grad, n));
}

void add_cpu(const struct kernel_ctx *cx, const float *x, size_t n, float *y)
{
    (void)cx;
    SIMD_PICK(add_all, (x, n, y));
}

void sum_squares_cpu(const struct kernel_ctx *cx, const float *x, size_t n, double *out)
{
    (void)cx;
    SIMD_PICK(sum_squares_all, (x, n, out));
}

void adamw_ref(const struct kernel_ctx *cx, const struct kernel_adamw *h, float *w, float *mean,
               float *var, const float *grad, size_t n)
{
    (void)cx;
    for (size_t i = 0; i < n; i++) {
        double g = (double)grad[i] * h->grad_scale;
        double m = h->beta1 * (double)mean[i] + (1.0 - h->beta1) * g;
        double v = h->beta2 * (double)var[i] + (1.0 - h->beta2) * g * g;
        mean[i] = (float)m;
        var[i] = (float)v;
        double step = m * h->correct1 / (sqrt(v * h->correct2) + h->eps);
        w[i] = (float)(w[i] - h->lr * (step + h->weight_decay * (double)w[i]));
    }
}

void sgd_ref(const struct kernel_ctx *cx, const struct kernel_sgd *h, float *w, float *velocity,
             const float *grad, size_t n)
{
    (void)cx;
    for (size_t i = 0; i < n; i++) {
        double g = (double)grad[i] * h->grad_scale + (double)h->weight_decay * w[i];
        double v = (double)h->momentum * velocity[i] + g;
        velocity[i] = (float)v;
        w[i] = (float)(w[i] - h->lr * v);
    }
}

void fisher_ref(const struct kernel_ctx *cx, const struct kernel_fisher *f, const float *grad,
                size_t n)
{
    (void)cx;
    for (size_t i = 0; i < n; i++) {
        double g = grad[i], rho = f->rho;
        if (f->ema)
            f->ema[i] = (float)(rho * f->ema[i] + (1 - rho) * g * g);
        if (f->sum)
            f->sum[i] = (float)(f->sum[i] + g * g);
        if (f->grad)
            f->grad[i] = (float)(rho * f->grad[i] + (1 - rho) * g);
    }
}

void add_ref(const struct kernel_ctx *cx, const float *x, size_t n, float *y)
{
    (void)cx;
    for (size_t i = 0; i < n; i++)
        y[i] += x[i];
}

void sum_squares_ref(const struct kernel_ctx *cx, const float *x, size_t n, double *out)
{
    (void)cx;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    *out = sum;
}

#endif
