#ifdef SIMD_LANES // read for each instruction set

// s = 1 / (1 + exp(-g))
SIMD_INLINE void SIMD_NAME(sigmoid)(const simd_f *g, simd_f *s)
{
    simd_f e = -*g;
    simd_exp(&e);
    *s = 1.0f / (1.0f + e);
}

SIMD_KERNEL void SIMD_NAME(swiglu_rows)(const float *gu, ptrdiff_t ldg, int32_t m, int32_t hidden,
                                        float *h, ptrdiff_t ldh)
{
    for (int32_t i = 0; i < m; i++) {
        const float *g = gu + i * ldg, *u = g + hidden;
        float *y = h + i * ldh;
        for (int32_t j = 0; j < hidden; j += SIMD_LANES) {
            int32_t n = hidden - j;
            simd_f a, b, s;
            if (n >= SIMD_LANES) {
                a = *simd_of(g + j);
                b = *simd_of(u + j);
            } else {
                simd_load_part(&a, g + j, n, 0.0f);
                simd_load_part(&b, u + j, n, 0.0f);
            }
            SIMD_NAME(sigmoid)(&a, &s);
            b *= a * s;
            if (n >= SIMD_LANES)
                *simd_at(y + j) = b;
            else
                simd_store_part(y + j, &b, n);
        }
    }
}

// dgate = dh up s (1 + gate (1 - s)), dup = dh gate s, s = sigmoid(gate)
SIMD_KERNEL void SIMD_NAME(swiglu_back)(const float *gu, ptrdiff_t ldg, const float *dh,
                                        ptrdiff_t ldh, int32_t m, int32_t hidden, float *dgu)
{
    for (int32_t i = 0; i < m; i++) {
        const float *g = gu + i * ldg, *u = g + hidden, *d = dh + i * ldh;
        float *dg = dgu + i * ldg, *du = dg + hidden;
        for (int32_t j = 0; j < hidden; j += SIMD_LANES) {
            int32_t n = hidden - j;
            simd_f a, b, v, s;
            if (n >= SIMD_LANES) {
                a = *simd_of(g + j);
                b = *simd_of(u + j);
                v = *simd_of(d + j);
            } else {
                simd_load_part(&a, g + j, n, 0.0f);
                simd_load_part(&b, u + j, n, 0.0f);
                simd_load_part(&v, d + j, n, 0.0f);
            }
            SIMD_NAME(sigmoid)(&a, &s);
            simd_f x = v * b * s * (1.0f + a * (1.0f - s)), y = v * a * s;
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

#else

#include "act.h"
#include "simd.h"

#include <math.h>

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

#endif
