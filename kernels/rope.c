// Rotary positions: pair (a, b) at angle t becomes (a cos t - b sin t, b cos t + a sin t). A
// Hugging Face checkpoint pairs column i with i + d/2, llama2.c pairs 2i with 2i + 1.
#ifdef SIMD_LANES // read for each instruction set

SIMD_INLINE void SIMD_NAME(turn_half)(float *restrict a, float *restrict b, const float *restrict c,
                                      const float *restrict s, int32_t half, float sign)
{
    int32_t j = 0;
    for (; j + SIMD_LANES <= half; j += SIMD_LANES) {
        simd_f x = *simd_of(a + j), y = *simd_of(b + j);
        simd_f t = *simd_of(s + j) * sign, u = *simd_of(c + j);
        *simd_at(a + j) = x * u - y * t;
        *simd_at(b + j) = y * u + x * t;
    }
    for (; j < half; j++) {
        float x = a[j], y = b[j], t = s[j] * sign;
        a[j] = x * c[j] - y * t;
        b[j] = y * c[j] + x * t;
    }
}

SIMD_INLINE void SIMD_NAME(turn_pairs)(float *restrict v, const float *restrict c,
                                       const float *restrict s, int32_t half, float sign)
{
    for (int32_t j = 0; j < half; j++) {
        float x = v[2 * j], y = v[2 * j + 1], t = s[j] * sign;
        v[2 * j] = x * c[j] - y * t;
        v[2 * j + 1] = y * c[j] + x * t;
    }
}

SIMD_KERNEL void SIMD_NAME(rope_rows)(const struct kernel_rope *r, const int32_t *pos, int32_t m,
                                      float *x, ptrdiff_t ldx)
{
    int32_t half = r->head_dim / 2;
    for (int32_t i = 0; i < m; i++) {
        const float *c = r->cosine + (ptrdiff_t)pos[i] * half;
        const float *s = r->sine + (ptrdiff_t)pos[i] * half;
        for (int32_t h = 0; h < r->heads; h++) {
            float *v = x + i * ldx + h * r->head_dim;
            if (r->style == KERNEL_ROPE_HALF)
                SIMD_NAME(turn_half)(v, v + half, c, s, half, r->sign);
            else
                SIMD_NAME(turn_pairs)(v, c, s, half, r->sign);
        }
    }
}

#else

#include "act.h"
#include "simd.h"

#define SIMD_FILE "rope.c"
#include "simd_each.h"

void rope_cpu(const struct kernel_ctx *cx, const struct kernel_rope *r, const int32_t *pos,
              int32_t m, kernel_act *x, ptrdiff_t ldx)
{
    (void)cx;
    SIMD_PICK(rope_rows, (r, pos, m, act_out(x), ldx));
}

void rope_ref(const struct kernel_ctx *cx, const struct kernel_rope *r, const int32_t *pos,
              int32_t m, kernel_act *x_act, ptrdiff_t ldx)
{
    float *x = act_out(x_act);
    (void)cx;
    int32_t half = r->head_dim / 2;
    for (int32_t i = 0; i < m; i++)
        for (int32_t h = 0; h < r->heads; h++)
            for (int32_t j = 0; j < half; j++) {
                float *v = x + i * ldx + h * r->head_dim;
                float *a = r->style == KERNEL_ROPE_HALF ? v + j : v + 2 * j;
                float *b = r->style == KERNEL_ROPE_HALF ? v + j + half : v + 2 * j + 1;
                double c = r->cosine[pos[i] * half + j], s = r->sign * r->sine[pos[i] * half + j];
                double p = *a, q = *b;
                *a = (float)(p * c - q * s);
                *b = (float)(q * c + p * s);
            }
}

#endif
