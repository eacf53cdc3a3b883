#ifdef SIMD_LANES // read for each instruction set

// s = 1 / (1 + exp(-g))
SIMD_INLINE void SIMD_NAME(sigmoid)(const simd_f *g, simd_f *s)
{
    simd_f e = -*g;
    simd_exp(&e);
    *s = 1.0f / (1.0f + e);
}

// GELU by tanh is g s, too: of z = 2 sqrt(2 / pi) (g + 0.044715 g^3); slope: z'.
#define GELU_A 1.5957691216057308f
#define GELU_B 0.044715f
SIMD_INLINE void SIMD_NAME(gate_of)(const bool gelu, const simd_f *g, simd_f *s, simd_f *slope)
{
    if (gelu) {
        simd_f square = *g * *g, z = GELU_A * *g * (1.0f + GELU_B * square);
        *slope = GELU_A * (1.0f + 3.0f * GELU_B * square);
        SIMD_NAME(sigmoid)(&z, s);
    } else {
        SIMD_NAME(sigmoid)(g, s);
    }
}

SIMD_INLINE void SIMD_NAME(gated)(const bool gelu, const float *gu, ptrdiff_t ldg, int32_t m,
                                  int32_t hidden, float *h, ptrdiff_t ldh)
{
    for (int32_t i = 0; i < m; i++) {
        const float *g = gu + i * ldg, *u = g + hidden;
        float *y = h + i * ldh;
        for (int32_t j = 0; j < hidden; j += SIMD_LANES) {
            int32_t n = hidden - j;
            simd_f a, b, s, slope;
            if (n >= SIMD_LANES) {
                a = *simd_of(g + j);
                b = *simd_of(u + j);
            } else {
                simd_load_part(&a, g + j, n, 0.0f);
                simd_load_part(&b, u + j, n, 0.0f);
            }
            SIMD_NAME(gate_of)(gelu, &a, &s, &slope);
            b *= a * s;
            if (n >= SIMD_LANES)
                *simd_at(y + j) = b;
            else
                simd_store_part(y + j, &b, n);
        }
    }
}

// dgate = dh up s (1 + gate (1 - s) z'), dup = dh gate s; z' = 1 for SiLU
SIMD_INLINE void SIMD_NAME(gated_back)(const bool gelu, const float *gu, ptrdiff_t ldg,
                                       const float *dh, ptrdiff_t ldh, int32_t m, int32_t hidden,
                                       float *dgu)
{
    for (int32_t i = 0; i < m; i++) {
        const float *g = gu + i * ldg, *u = g + hidden, *d = dh + i * ldh;
        float *dg = dgu + i * ldg, *du = dg + hidden;
        for (int32_t j = 0; j < hidden; j += SIMD_LANES) {
            int32_t n = hidden - j;
            simd_f a, b, v, s, slope;
            if (n >= SIMD_LANES) {
                a = *simd_of(g + j);
                b = *simd_of(u + j);
                v = *simd_of(d + j);
            } else {
                simd_load_part(&a, g + j, n, 0.0f);
                simd_load_part(&b, u + j, n, 0.0f);
                simd_load_part(&v, d + j, n, 0.0f);
            }
            SIMD_NAME(gate_of)(gelu, &a, &s, &slope);
            simd_f more = gelu ? a * (1.0f - s) * slope : a * (1.0f - s);
            simd_f x = v * b * s * (1.0f + more), y = v * a * s;
            if (n >= SIMD_LANES) {
                *simd_at(dg + j) = x;
                *simd_at(du + j) = y;
            } else {
                simd_store_part(dg + j, &x, n);
                simd_store_part(du + j, &y, n);
            }
        }
    }
}

SIMD_KERNEL void SIMD_NAME(swiglu_rows)(const float *gu, ptrdiff_t ldg, int32_t m, int32_t hidden,
                                        float *h, ptrdiff_t ldh)
{
    SIMD_NAME(gated)(false, gu, ldg, m, hidden, h, ldh);
}

SIMD_KERNEL void SIMD_NAME(swiglu_back)(const float *gu, ptrdiff_t ldg, const float *dh,
                                        ptrdiff_t ldh, int32_t m, int32_t hidden, float *dgu)
{
    SIMD_NAME(gated_back)(false, gu, ldg, dh, ldh, m, hidden, dgu);
}

SIMD_KERNEL void SIMD_NAME(geglu_rows)(const float *gu, ptrdiff_t ldg, int32_t m, int32_t hidden,
                                       float *h, ptrdiff_t ldh)
{
    SIMD_NAME(gated)(true, gu, ldg, m, hidden, h, ldh);
}

SIMD_KERNEL void SIMD_NAME(geglu_back)(const float *gu, ptrdiff_t ldg, const float *dh,
                                       ptrdiff_t ldh, int32_t m, int32_t hidden, float *dgu)
{
    SIMD_NAME(gated_back)(true, gu, ldg, dh, ldh, m, hidden, dgu);
}

#else

#include "act.h"
#include "simd.h"

#include <math.h>
#include <stdbool.h>

#define SIMD_FILE "swiglu.c"
#include "simd_each.h"

void swiglu_fwd_cpu(const struct kernel_ctx *cx, const kernel_act *gu, ptrdiff_t ldg, int32_t m,
                    int32_t hidden, kernel_act *h, ptrdiff_t ldh)
{
    (void)cx;
    SIMD_PICK(swiglu_rows, (act_in(gu), ldg, m, hidden, act_out(h), ldh));
}

void swiglu_bwd_cpu(const struct kernel_ctx *cx, const kernel_act *gu, ptrdiff_t ldg,
                    const kernel_act *dh, ptrdiff_t ldh, int32_t m, int32_t hidden, kernel_act *dgu)
{
    (void)cx;
    SIMD_PICK(swiglu_back, (act_in(gu), ldg, act_in(dh), ldh, m, hidden, act_out(dgu)));
}

void swiglu_fwd_ref(const struct kernel_ctx *cx, const kernel_act *gu_act, ptrdiff_t ldg, int32_t m,
                    int32_t hidden, kernel_act *h_act, ptrdiff_t ldh)
{
    const float *gu = act_in(gu_act);
    float *h = act_out(h_act);
    (void)cx;
    for (int32_t i = 0; i < m; i++)
        for (int32_t j = 0; j < hidden; j++) {
            double g = gu[i * ldg + j];
            h[i * ldh + j] = (float)(g / (1.0 + exp(-g)) * gu[i * ldg + hidden + j]);
        }
}

void swiglu_bwd_ref(const struct kernel_ctx *cx, const kernel_act *gu_act, ptrdiff_t ldg,
                    const kernel_act *dh_act, ptrdiff_t ldh, int32_t m, int32_t hidden,
                    kernel_act *dgu_act)
{
    const float *gu = act_in(gu_act), *dh = act_in(dh_act);
    float *dgu = act_out(dgu_act);
    (void)cx;
    for (int32_t i = 0; i < m; i++)
        for (int32_t j = 0; j < hidden; j++) {
            double g = gu[i * ldg + j], u = gu[i * ldg + hidden + j], d = dh[i * ldh + j];
            double s = 1.0 / (1.0 + exp(-g));
            dgu[i * ldg + j] = (float)(d * u * s * (1.0 + g * (1.0 - s)));
            dgu[i * ldg + hidden + j] = (float)(d * g * s);
        }
}

void geglu_fwd_cpu(const struct kernel_ctx *cx, const kernel_act *gu, ptrdiff_t ldg, int32_t m,
                   int32_t hidden, kernel_act *h, ptrdiff_t ldh)
{
    (void)cx;
    SIMD_PICK(geglu_rows, (act_in(gu), ldg, m, hidden, act_out(h), ldh));
}

void geglu_bwd_cpu(const struct kernel_ctx *cx, const kernel_act *gu, ptrdiff_t ldg,
                   const kernel_act *dh, ptrdiff_t ldh, int32_t m, int32_t hidden, kernel_act *dgu)
{
    (void)cx;
    SIMD_PICK(geglu_back, (act_in(gu), ldg, act_in(dh), ldh, m, hidden, act_out(dgu)));
}

static double gelu_z(double g)
{
    return 2.0 * sqrt(2.0 / 3.14159265358979323846) * (g + 0.044715 * g * g * g);
}

void geglu_fwd_ref(const struct kernel_ctx *cx, const kernel_act *gu_act, ptrdiff_t ldg, int32_t m,
                   int32_t hidden, kernel_act *h_act, ptrdiff_t ldh)
{
    const float *gu = act_in(gu_act);
    float *h = act_out(h_act);
    (void)cx;
    for (int32_t i = 0; i < m; i++)
        for (int32_t j = 0; j < hidden; j++) {
            double g = gu[i * ldg + j];
            h[i * ldh + j] =
                (float)(0.5 * g * (1.0 + tanh(gelu_z(g) / 2)) * gu[i * ldg + hidden + j]);
        }
}

void geglu_bwd_ref(const struct kernel_ctx *cx, const kernel_act *gu_act, ptrdiff_t ldg,
                   const kernel_act *dh_act, ptrdiff_t ldh, int32_t m, int32_t hidden,
                   kernel_act *dgu_act)
{
    const float *gu = act_in(gu_act), *dh = act_in(dh_act);
    float *dgu = act_out(dgu_act);
    (void)cx;
    for (int32_t i = 0; i < m; i++)
        for (int32_t j = 0; j < hidden; j++) {
            double g = gu[i * ldg + j], u = gu[i * ldg + hidden + j], d = dh[i * ldh + j];
            double t = tanh(gelu_z(g) / 2);
            double slope = sqrt(2.0 / 3.14159265358979323846) * (1.0 + 3 * 0.044715 * g * g);
            dgu[i * ldg + j] = (float)(d * u * (0.5 * (1.0 + t) + 0.5 * g * (1.0 - t * t) * slope));
            dgu[i * ldg + hidden + j] = (float)(d * 0.5 * g * (1.0 + t));
        }
}

#endif
