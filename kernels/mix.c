// Vectors mixed value by value: residuals, momentum, votes.
#ifdef SIMD_LANES // read for each instruction set

SIMD_KERNEL void SIMD_NAME(mix_sum)(float a, const float *x, float b, const float *y, size_t n,
                                    float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = a * x[i] + b * y[i];
}

SIMD_KERNEL void SIMD_NAME(mix_add_f64)(double a, const double *x, size_t n, double *to)
{
    for (size_t i = 0; i < n; i++)
        to[i] += a * x[i];
}

SIMD_KERNEL void SIMD_NAME(mix_scale)(float a, size_t n, float *x)
{
    for (size_t i = 0; i < n; i++)
        x[i] *= a;
}

SIMD_KERNEL void SIMD_NAME(mix_momentum)(const struct mix_momentum *m, const float *x,
                                         const float *u0, const float *v0, size_t n, float *u,
                                         float *v)
{
    const float mu = m->mu, scale = m->scale;
    for (size_t i = 0; i < n && m->nesterov; i++) {
        float step = x[i] * scale;
        u[i] = mu * (u0[i] + step);
        v[i] = v0[i] + (u[i] + step);
    }
    for (size_t i = 0; i < n && !m->nesterov; i++) {
        u[i] = mu * u0[i] + x[i] * scale;
        v[i] = v0[i] + u[i];
    }
}

SIMD_KERNEL void SIMD_NAME(mix_sign)(float step, size_t n, float *x)
{
    for (size_t i = 0; i < n; i++)
        x[i] = x[i] > 0 ? step : x[i] < 0 ? -step : 0;
}

SIMD_KERNEL void SIMD_NAME(mix_mean)(const uint32_t *senders, size_t n, float *sum)
{
    for (size_t i = 0; i < n; i++)
        sum[i] = senders[i] ? sum[i] / (float)senders[i] : 0;
}

SIMD_KERNEL void SIMD_NAME(mix_votes)(const uint8_t *code, size_t n, int32_t *sum)
{
    for (size_t i = 0; i < n; i++)
        sum[i] += 2 * (int32_t)code[i] - 1;
}

SIMD_KERNEL void SIMD_NAME(mix_majority)(const int32_t *sum, size_t n, float step, float tie,
                                         float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = sum[i] > 0 ? step : sum[i] < 0 ? -step : tie;
}

#else

#include "stages.h"

#define SIMD_FILE "mix.c"
#include "simd_each.h"

void mix_sum(float a, const float *x, float b, const float *y, size_t n, float *out)
{
    SIMD_PICK(mix_sum, (a, x, b, y, n, out));
}

void mix_add_f64(double a, const double *x, size_t n, double *to)
{
    SIMD_PICK(mix_add_f64, (a, x, n, to));
}

void mix_scale(float a, size_t n, float *x)
{
    SIMD_PICK(mix_scale, (a, n, x));
}

void mix_momentum(const struct mix_momentum *m, const float *x, const float *u0, const float *v0,
                  size_t n, float *u, float *v)
{
    SIMD_PICK(mix_momentum, (m, x, u0, v0, n, u, v));
}

void mix_sign(float step, size_t n, float *x)
{
    SIMD_PICK(mix_sign, (step, n, x));
}

void mix_mean(const uint32_t *senders, size_t n, float *sum)
{
    SIMD_PICK(mix_mean, (senders, n, sum));
}

bool mix_finite(const float *x, const float *y, size_t n)
{
    enum { TILE = 1024 };
    bool finite = true;
    for (size_t at = 0; at < n && finite; at += TILE) {
        float sum[TILE];
        size_t m = n - at < TILE ? n - at : TILE;
        mix_sum(1, x + at, 1, y + at, m, sum);
        finite = quant_absmax_bits(sum, m) < 0x7f800000u;
    }
    return finite;
}

void mix_fill(float v, size_t n, float *x)
{
    for (size_t i = 0; i < n; i++)
        x[i] = v;
}

void mix_votes(const uint8_t *code, size_t n, int32_t *sum)
{
    SIMD_PICK(mix_votes, (code, n, sum));
}

void mix_majority(const int32_t *sum, size_t n, float step, float tie, float *out)
{
    SIMD_PICK(mix_majority, (sum, n, step, tie, out));
}

static void sum(const struct kernel_ctx *cx, float a, const float *x, float b, const float *y,
                size_t n, float *out)
{
    (void)cx;
    mix_sum(a, x, b, y, n, out);
}

const struct mix_stages mix_stages_cpu = {sum};

#endif
