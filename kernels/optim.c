#ifdef SIMD_LANES // read for each instruction set

SIMD_KERNEL void SIMD_NAME(adamw_all)(const struct adamw *h, float *w, float *mean, float *var,
                                      const float *grad, size_t n)
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

SIMD_KERNEL void SIMD_NAME(sgd_all)(const struct sgd *h, float *w, float *velocity,
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
#include <stdbool.h>
#include <time.h>

enum {
    PIECE = 1024,    // squares summed in single precision
    PART = 1 << 16,  // squares of the vector summed apart, whatever of them is trained
    STRIP = 1 << 13, // values stepped at a time: they and their averages stay in L2
};

// Of one step.
struct adamw {
    float lr, beta1, beta2, eps, weight_decay, correct1, correct2, grad_scale;
};
struct sgd {
    float lr, momentum, weight_decay, grad_scale;
};

#define SIMD_FILE "optim.c"
#include "simd_each.h"

static struct adamw adamw_of(const struct kernel_optim *h, const kernel_step *s)
{
    return (struct adamw){.lr = s->lr,
                          .beta1 = (float)h->beta1,
                          .beta2 = (float)h->beta2,
                          .eps = (float)h->eps,
                          .weight_decay = (float)h->weight_decay,
                          .correct1 = s->correct1,
                          .correct2 = s->correct2,
                          .grad_scale = s->scale};
}

static struct sgd sgd_of(const struct kernel_optim *h, const kernel_step *s)
{
    return (struct sgd){.lr = s->lr,
                        .momentum = (float)h->momentum,
                        .weight_decay = (float)h->weight_decay,
                        .grad_scale = s->scale};
}

// What is trained of [from, to), stretch by stretch; some are empty. False: there is no i-th one.
static bool stretch(const struct kernel_ranges *r, int32_t i, size_t from, size_t to, size_t *a,
                    size_t *b)
{
    *a = from;
    *b = to;
    if (!r->range)
        return i == 0;
    if (i >= r->n)
        return false;
    *a = r->range[i].from > from ? r->range[i].from : from;
    *b = r->range[i].to < to ? r->range[i].to : to;
    return true;
}

void sum_squares_cpu(const struct kernel_ctx *cx, const struct kernel_ranges *r, const float *x,
                     size_t n, kernel_step *s)
{
    double sum = 0, part;
    (void)cx;
    for (size_t at = 0, a, b; at < n; at += PART)
        for (int32_t i = 0; stretch(r, i, at, n - at < PART ? n : at + PART, &a, &b); i++)
            if (a < b) {
                SIMD_PICK(sum_squares_all, (x + a, b - a, &part));
                sum += part;
            }
    s->squares = sum;
}

static void next_step(const struct kernel_optim *h, kernel_step *s)
{
    s->norm = sqrt(s->squares);
    s->steps++;
    s->scale = (float)(h->clip > 0 && s->norm > h->clip ? h->clip / (s->norm + 1e-6) : 1.0);
    s->correct1 = s->correct2 = 1;
    if (h->kind == KERNEL_ADAMW) {
        s->correct1 = (float)(1.0 / (1.0 - pow(h->beta1, s->steps)));
        s->correct2 = (float)(1.0 / (1.0 - pow(h->beta2, s->steps)));
    }
}

void next_step_cpu(const struct kernel_ctx *cx, const struct kernel_optim *h, kernel_step *s)
{
    (void)cx;
    next_step(h, s);
}

// Averages come from memory while the optimizer divides and takes roots.
static void fetch_averages(const struct kernel_fisher *f, size_t at, size_t n)
{
    const float *const x[] = {f->ema, f->sum, f->grad};
    for (size_t k = 0; k < sizeof x / sizeof *x; k++)
        for (size_t i = 0; x[k] && i < n; i += 16)
            __builtin_prefetch(x[k] + at + i, 1, 2);
}

static struct kernel_fisher averages_at(const struct kernel_fisher *f, size_t at)
{
    return (struct kernel_fisher){.ema = f->ema ? f->ema + at : NULL,
                                  .sum = f->sum ? f->sum + at : NULL,
                                  .grad = f->grad ? f->grad + at : NULL,
                                  .rho = f->rho};
}

static void update_strip(const struct kernel_optim *h, const kernel_step *s, float *w, float *mean,
                         float *var, const float *grad, size_t n)
{
    if (h->kind == KERNEL_ADAMW) {
        struct adamw step = adamw_of(h, s);
        SIMD_PICK(adamw_all, (&step, w, mean, var, grad, n));
    } else {
        struct sgd step = sgd_of(h, s);
        SIMD_PICK(sgd_all, (&step, w, mean, grad, n));
    }
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void update_cpu(const struct kernel_ctx *cx, const struct kernel_optim *h, const kernel_step *s,
                const struct kernel_ranges *r, size_t from, size_t n, float *w, float *mean,
                float *var, const float *grad, const struct kernel_fisher *f)
{
    for (size_t i = 0, at, end; stretch(r, (int32_t)i, from, from + n, &at, &end); i++)
        for (; at < end; at += STRIP) {
            size_t some = end - at < STRIP ? end - at : STRIP;
            if (f)
                fetch_averages(f, at, some);
            update_strip(h, s, w + at, mean + at, var ? var + at : NULL, grad + at, some);
            if (!f)
                continue;
            int64_t t = cx->apart_ns ? now_ns() : 0;
            struct kernel_fisher here = averages_at(f, at);
            SIMD_PICK(fisher_all, (&here, grad + at, some));
            if (cx->apart_ns)
                *cx->apart_ns += now_ns() - t;
        }
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

static void adamw_ref(const struct adamw *h, float *w, float *mean, float *var, const float *grad,
                      size_t n)
{
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

static void sgd_ref(const struct sgd *h, float *w, float *velocity, const float *grad, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double g = (double)grad[i] * h->grad_scale + (double)h->weight_decay * w[i];
        double v = (double)h->momentum * velocity[i] + g;
        velocity[i] = (float)v;
        w[i] = (float)(w[i] - h->lr * v);
    }
}

void sum_squares_ref(const struct kernel_ctx *cx, const struct kernel_ranges *r, const float *x,
                     size_t n, kernel_step *s)
{
    double sum = 0;
    (void)cx;
    for (size_t i = 0, a, b; stretch(r, (int32_t)i, 0, n, &a, &b); i++)
        for (; a < b; a++)
            sum += (double)x[a] * x[a];
    s->squares = sum;
}

void next_step_ref(const struct kernel_ctx *cx, const struct kernel_optim *h, kernel_step *s)
{
    (void)cx;
    next_step(h, s);
}

void update_ref(const struct kernel_ctx *cx, const struct kernel_optim *h, const kernel_step *s,
                const struct kernel_ranges *r, size_t from, size_t n, float *w, float *mean,
                float *var, const float *grad, const struct kernel_fisher *f)
{
    struct adamw adamw = adamw_of(h, s);
    struct sgd sgd = sgd_of(h, s);
    for (size_t i = 0, a, b; stretch(r, (int32_t)i, from, from + n, &a, &b); i++) {
        if (a >= b)
            continue;
        if (h->kind == KERNEL_ADAMW)
            adamw_ref(&adamw, w + a, mean + a, var + a, grad + a, b - a);
        else
            sgd_ref(&sgd, w + a, mean + a, grad + a, b - a);
        if (f) {
            struct kernel_fisher here = averages_at(f, a);
            fisher_ref(cx, &here, grad + a, b - a);
        }
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

#endif
