#ifdef SIMD_LANES // read for each instruction set

// y = x r w, r = 1 / sqrt(mean(x^2) + eps).
SIMD_KERNEL void SIMD_NAME(norm_rows)(const float *x, ptrdiff_t ldx, const float *w, int32_t m,
                                      int32_t cols, float eps, float *y, ptrdiff_t ldy, float *rstd)
{
    for (int32_t i = 0; i < m; i++, x += ldx, y += ldy) {
        simd_f sum[SIMD_PIECES] = {{0}};
        int32_t j = 0;
        for (; j + SIMD_WIDE <= cols; j += SIMD_WIDE)
            for (int p = 0; p < SIMD_PIECES; p++) {
                simd_f v = *simd_of(x + j + p * SIMD_LANES);
                sum[p] += v * v;
            }
        for (int p = 0; p < SIMD_PIECES && j < cols; p++, j += SIMD_LANES) {
            simd_f v;
            simd_load_part(&v, x + j, cols - j, 0.0f);
            sum[p] += v * v;
        }
        float r = 1.0f / sqrtf(simd_sum(sum) / (float)cols + eps);
        if (rstd)
            rstd[i] = r;
        for (j = 0; j + SIMD_LANES <= cols; j += SIMD_LANES)
            *simd_at(y + j) = *simd_of(x + j) * r * *simd_of(w + j);
        for (; j < cols; j++)
            y[j] = x[j] * r * w[j];
    }
}

// dx += r (w dy - x r^2 mean(w dy x)), dw += sum over rows of dy x r.
SIMD_KERNEL void SIMD_NAME(norm_back)(const float *dy, ptrdiff_t lddy, const float *x,
                                      ptrdiff_t ldx, const float *w, const float *rstd, int32_t m,
                                      int32_t cols, float *dx, ptrdiff_t lddx, float *dw)
{
    for (int32_t i = 0; i < m; i++, dy += lddy, x += ldx, dx += lddx) {
        simd_f sum[SIMD_PIECES] = {{0}};
        int32_t j = 0;
        for (; j + SIMD_WIDE <= cols; j += SIMD_WIDE)
            for (int p = 0; p < SIMD_PIECES; p++) {
                ptrdiff_t at = j + p * SIMD_LANES;
                sum[p] += *simd_of(dy + at) * *simd_of(w + at) * *simd_of(x + at);
            }
        for (int p = 0; p < SIMD_PIECES && j < cols; p++, j += SIMD_LANES) {
            simd_f a, b, c;
            simd_load_part(&a, dy + j, cols - j, 0.0f);
            simd_load_part(&b, w + j, cols - j, 0.0f);
            simd_load_part(&c, x + j, cols - j, 0.0f);
            sum[p] += a * b * c;
        }
        float r = rstd[i], pull = simd_sum(sum) * r * r * r / (float)cols;
        for (j = 0; j + SIMD_LANES <= cols; j += SIMD_LANES) {
            *simd_at(dx + j) += *simd_of(dy + j) * *simd_of(w + j) * r - *simd_of(x + j) * pull;
            if (dw)
                *simd_at(dw + j) += *simd_of(dy + j) * *simd_of(x + j) * r;
        }
        for (; j < cols; j++) {
            dx[j] += dy[j] * w[j] * r - x[j] * pull;
            if (dw)
                dw[j] += dy[j] * x[j] * r;
        }
    }
}

SIMD_KERNEL void SIMD_NAME(add_rows)(const float *x, ptrdiff_t ldx, int32_t m, int32_t cols,
                                     float *y, ptrdiff_t ldy)
{
    for (int32_t i = 0; i < m; i++)
        for (int32_t j = 0; j < cols; j++)
            y[i * ldy + j] += x[i * ldx + j];
}

SIMD_KERNEL void SIMD_NAME(scaled_rows)(float by, int32_t m, int32_t cols, float *x, ptrdiff_t ldx)
{
    for (int32_t i = 0; i < m; i++)
        for (int32_t j = 0; j < cols; j++)
            x[i * ldx + j] *= by;
}

// One head of m rows: dy becomes r (w dy - x r^2 mean(w dy x)).
SIMD_KERNEL void SIMD_NAME(head_back)(const float *x, ptrdiff_t ldx, const float *w, int32_t m,
                                      int32_t cols, float eps, float *dy, ptrdiff_t lddy)
{
    for (int32_t i = 0; i < m; i++, x += ldx, dy += lddy) {
        simd_f square[SIMD_PIECES] = {{0}}, sum[SIMD_PIECES] = {{0}};
        for (int32_t j = 0; j < cols; j += SIMD_WIDE)
            for (int p = 0; p < SIMD_PIECES && j + p * SIMD_LANES < cols; p++) {
                int32_t at = j + p * SIMD_LANES;
                simd_f a, b, c;
                simd_load_part(&a, dy + at, cols - at, 0.0f);
                simd_load_part(&b, w + at, cols - at, 0.0f);
                simd_load_part(&c, x + at, cols - at, 0.0f);
                square[p] += c * c;
                sum[p] += a * b * c;
            }
        float r = 1.0f / sqrtf(simd_sum(square) / (float)cols + eps);
        float pull = simd_sum(sum) * r * r * r / (float)cols;
        for (int32_t j = 0; j < cols; j++)
            dy[j] = dy[j] * w[j] * r - x[j] * pull;
    }
}

#else

#include "act.h"
#include "simd.h"

#include <math.h>
#include <string.h>

#define SIMD_FILE "norm.c"
#include "simd_each.h"

void rmsnorm_fwd_cpu(const struct kernel_ctx *cx, const kernel_act *x, ptrdiff_t ldx,
                     const float *w, int32_t m, int32_t cols, float eps, kernel_act *y,
                     ptrdiff_t ldy, float *rstd)
{
    (void)cx;
    SIMD_PICK(norm_rows, (act_in(x), ldx, w, m, cols, eps, act_out(y), ldy, rstd));
}

void rmsnorm_bwd_cpu(const struct kernel_ctx *cx, const kernel_act *dy, ptrdiff_t lddy,
                     const kernel_act *x, ptrdiff_t ldx, const float *w, const float *rstd,
                     int32_t m, int32_t cols, kernel_act *dx, ptrdiff_t lddx, float *dw)
{
    (void)cx;
    SIMD_PICK(norm_back,
              (act_in(dy), lddy, act_in(x), ldx, w, rstd, m, cols, act_out(dx), lddx, dw));
}

void rmsnorm_fwd_ref(const struct kernel_ctx *cx, const kernel_act *x_act, ptrdiff_t ldx,
                     const float *w, int32_t m, int32_t cols, float eps, kernel_act *y_act,
                     ptrdiff_t ldy, float *rstd)
{
    const float *x = act_in(x_act);
    float *y = act_out(y_act);
    (void)cx;
    for (int32_t i = 0; i < m; i++) {
        double sum = 0;
        for (int32_t j = 0; j < cols; j++)
            sum += (double)x[i * ldx + j] * x[i * ldx + j];
        double r = 1.0 / sqrt(sum / cols + eps);
        if (rstd)
            rstd[i] = (float)r;
        for (int32_t j = 0; j < cols; j++)
            y[i * ldy + j] = (float)(x[i * ldx + j] * r * w[j]);
    }
}

void rmsnorm_bwd_ref(const struct kernel_ctx *cx, const kernel_act *dy_act, ptrdiff_t lddy,
                     const kernel_act *x_act, ptrdiff_t ldx, const float *w, const float *rstd,
                     int32_t m, int32_t cols, kernel_act *dx_act, ptrdiff_t lddx, float *dw)
{
    const float *dy = act_in(dy_act), *x = act_in(x_act);
    float *dx = act_out(dx_act);
    (void)cx;
    for (int32_t i = 0; i < m; i++) {
        double r = rstd[i], sum = 0;
        for (int32_t j = 0; j < cols; j++)
            sum += (double)dy[i * lddy + j] * w[j] * x[i * ldx + j];
        for (int32_t j = 0; j < cols; j++) {
            double d = dy[i * lddy + j], v = x[i * ldx + j];
            dx[i * lddx + j] += (float)(r * (w[j] * d - v * r * r * sum / cols));
            if (dw)
                dw[j] += (float)(d * v * r);
        }
    }
}

void norm_sum_fwd_cpu(const struct kernel_ctx *cx, const kernel_act *x, ptrdiff_t ldx,
                      const float *w, int32_t m, int32_t cols, float eps, const kernel_act *y0,
                      kernel_act *y, ptrdiff_t ldy, float *rstd)
{
    rmsnorm_fwd_cpu(cx, x, ldx, w, m, cols, eps, y, ldy, rstd);
    SIMD_PICK(add_rows, (act_in(y0), ldy, m, cols, act_out(y), ldy));
}

void norm_sum_fwd_ref(const struct kernel_ctx *cx, const kernel_act *x, ptrdiff_t ldx,
                      const float *w, int32_t m, int32_t cols, float eps, const kernel_act *y0,
                      kernel_act *y, ptrdiff_t ldy, float *rstd)
{
    rmsnorm_fwd_ref(cx, x, ldx, w, m, cols, eps, y, ldy, rstd);
    for (int32_t i = 0; i < m; i++)
        for (int32_t j = 0; j < cols; j++)
            act_out(y)[i * ldy + j] += act_in(y0)[i * ldy + j];
}

// Queries and keys are heads side by side: the weight of head n.
static const float *head_weight(const struct kernel_heads *h, const float *w, int32_t n)
{
    return n < h->heads ? w : w + h->head_dim;
}

void head_norm_fwd_cpu(const struct kernel_ctx *cx, const struct kernel_heads *h, const float *w,
                       const kernel_act *x, ptrdiff_t ldx, int32_t m, kernel_act *y, ptrdiff_t ldy)
{
    int32_t n = h->heads + h->kv_heads, values = h->kv_heads * h->head_dim;
    (void)cx;
    for (int32_t i = 0; i < n; i++)
        SIMD_PICK(norm_rows, (act_in(x) + i * h->head_dim, ldx, head_weight(h, w, i), m,
                              h->head_dim, h->eps, act_out(y) + i * h->head_dim, ldy, NULL));
    for (int32_t i = 0; i < m; i++)
        memcpy(act_out(y) + i * ldy + n * h->head_dim, act_in(x) + i * ldx + n * h->head_dim,
               (size_t)values * sizeof(float));
}

void head_norm_bwd_cpu(const struct kernel_ctx *cx, const struct kernel_heads *h, const float *w,
                       const kernel_act *x, ptrdiff_t ldx, int32_t m, kernel_act *dy,
                       ptrdiff_t lddy)
{
    (void)cx;
    for (int32_t i = 0; i < h->heads + h->kv_heads; i++)
        SIMD_PICK(head_back, (act_in(x) + i * h->head_dim, ldx, head_weight(h, w, i), m,
                              h->head_dim, h->eps, act_out(dy) + i * h->head_dim, lddy));
}

void head_norm_fwd_ref(const struct kernel_ctx *cx, const struct kernel_heads *h, const float *w,
                       const kernel_act *x_act, ptrdiff_t ldx, int32_t m, kernel_act *y_act,
                       ptrdiff_t ldy)
{
    int32_t n = h->heads + h->kv_heads, d = h->head_dim;
    (void)cx;
    for (int32_t i = 0; i < m; i++)
        for (int32_t k = 0; k < n + h->kv_heads; k++) {
            const float *x = act_in(x_act) + i * ldx + k * d, *by = head_weight(h, w, k);
            float *y = act_out(y_act) + i * ldy + k * d;
            double sum = 0;
            for (int32_t j = 0; j < d; j++)
                sum += (double)x[j] * x[j];
            double r = 1.0 / sqrt(sum / d + h->eps);
            for (int32_t j = 0; j < d; j++)
                y[j] = k < n ? (float)(x[j] * r * by[j]) : x[j];
        }
}

void head_norm_bwd_ref(const struct kernel_ctx *cx, const struct kernel_heads *h, const float *w,
                       const kernel_act *x_act, ptrdiff_t ldx, int32_t m, kernel_act *dy_act,
                       ptrdiff_t lddy)
{
    int32_t d = h->head_dim;
    (void)cx;
    for (int32_t i = 0; i < m; i++)
        for (int32_t k = 0; k < h->heads + h->kv_heads; k++) {
            const float *x = act_in(x_act) + i * ldx + k * d, *by = head_weight(h, w, k);
            float *dy = act_out(dy_act) + i * lddy + k * d;
            double square = 0, sum = 0;
            for (int32_t j = 0; j < d; j++) {
                square += (double)x[j] * x[j];
                sum += (double)dy[j] * by[j] * x[j];
            }
            double r = 1.0 / sqrt(square / d + h->eps);
            for (int32_t j = 0; j < d; j++)
                dy[j] = (float)(r * ((double)by[j] * dy[j] - x[j] * r * r * sum / d));
        }
}

void bias_rows_cpu(const struct kernel_ctx *cx, const float *b, int32_t m, int32_t cols,
                   kernel_act *x, ptrdiff_t ldx)
{
    (void)cx;
    SIMD_PICK(add_rows, (b, 0, m, cols, act_out(x), ldx));
}

void bias_rows_ref(const struct kernel_ctx *cx, const float *b, int32_t m, int32_t cols,
                   kernel_act *x, ptrdiff_t ldx)
{
    (void)cx;
    for (int32_t i = 0; i < m; i++)
        for (int32_t j = 0; j < cols; j++)
            act_out(x)[i * ldx + j] += b[j];
}

void scale_rows_cpu(const struct kernel_ctx *cx, float by, int32_t m, int32_t cols, kernel_act *x,
                    ptrdiff_t ldx)
{
    (void)cx;
    SIMD_PICK(scaled_rows, (by, m, cols, act_out(x), ldx));
}

void scale_rows_ref(const struct kernel_ctx *cx, float by, int32_t m, int32_t cols, kernel_act *x,
                    ptrdiff_t ldx)
{
    (void)cx;
    for (int32_t i = 0; i < m; i++)
        for (int32_t j = 0; j < cols; j++)
            act_out(x)[i * ldx + j] *= by;
}

#endif
