// Rotary positions: pair (a, b) at angle t becomes (a cos t - b sin t, b cos t + a sin t). A
// Hugging Face checkpoint pairs column i with i + d/2, llama2.c pairs 2i with 2i + 1.
#include "kernels.h"
#include "simd.h"

SIMD_INLINE void rope_rows_body(const struct kernel_rope *r, const int32_t *pos, int32_t m,
                                float *x, ptrdiff_t ldx)
{
    int32_t half = r->head_dim / 2;
    float sign = r->sign;
    for (int32_t i = 0; i < m; i++) {
        const float *restrict c = r->cosine + (ptrdiff_t)pos[i] * half;
        const float *restrict s = r->sine + (ptrdiff_t)pos[i] * half;
        for (int32_t h = 0; h < r->heads; h++) {
            float *restrict v = x + i * ldx + h * r->head_dim;
            if (r->style == KERNEL_ROPE_HALF) {
                for (int32_t j = 0; j < half; j++) {
                    float a = v[j], b = v[j + half], t = s[j] * sign;
                    v[j] = a * c[j] - b * t;
                    v[j + half] = b * c[j] + a * t;
                }
            } else {
                for (int32_t j = 0; j < half; j++) {
                    float a = v[2 * j], b = v[2 * j + 1], t = s[j] * sign;
                    v[2 * j] = a * c[j] - b * t;
                    v[2 * j + 1] = b * c[j] + a * t;
                }
            }
        }
    }
}
SIMD_CLONES_STATIC(rope_rows,
                   (const struct kernel_rope *r, const int32_t *pos, int32_t m, float *x,
                    ptrdiff_t ldx),
                   (r, pos, m, x, ldx))

void rope_cpu(const struct kernel_ctx *cx, const struct kernel_rope *r, const int32_t *pos,
              int32_t m, float *x, ptrdiff_t ldx)
{
    (void)cx;
    rope_rows(r, pos, m, x, ldx);
}

void rope_ref(const struct kernel_ctx *cx, const struct kernel_rope *r, const int32_t *pos,
              int32_t m, float *x, ptrdiff_t ldx)
{
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
